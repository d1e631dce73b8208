"""Pictures of a sweep: error over parameters or by arm, error over the grid's value, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import offset_copy

from lrsms.scoring.pictures import STYLE, name_legend, save

KINDS = {
    "parameters": "WER over parameters",
    "arms": "WER of each arm",
    "values": "WER over the grid's value",
    "curves": "learning curves",
}
_REFERENCE = ("0.15", "D")
_LOOKS = [  # color and mark, so that neither has to be told apart alone
    *(("#1f77b4", "o"), ("#ff7f0e", "s"), ("#2ca02c", "^"), ("#d62728", "v"), ("#9467bd", "P"), ("#8c564b", "X")),
    *(("#e377c2", "<"), ("#17becf", ">"), ("#bcbd22", "p"), ("#1a3e72", "h"), ("#f2b800", "*"), ("#7a9a01", "d")),
]
_BESIDE_LOSS = {  # what ESPnet may have measured on dev: a model without decoder has no accuracy
    "acc": "dev accuracy, %",
    "cer_ctc": "dev error rate of tokens (CTC), %",
}
_MARKS = "mean with 95 % interval, one dot per seed"
_APART = 0.018  # of the axis: two arms of equal size would hide each other
_ONE_SIZE = 1.05  # arms whose parameters differ by less are drawn by name, not by size


class _Line(NamedTuple):
    """The combinations of a grid that differ in its first key alone: value as text -> row."""

    name: str
    rows: dict[str, dict]


def draw(content: Mapping, curves: Mapping[str, Sequence[Mapping]], folder: Path, stem: str) -> dict[str, str]:
    """Draw what a sweep's results allow of ``<stem>_{parameters,arms,values,curves}.png``, and remove the others.

    Args:
        content: the sweep's JSON; its first split is drawn.
        curves: dev values by epoch (``curves.json``'s ``valid``) of each seed, by arm.
        folder: where the pictures go.
        stem: how their names begin.

    Returns:
        What each picture shows, by its file name.
    """
    rows = [row for row in content["arms"] if row["split"] == content["arms"][0]["split"]]
    looks = _looks([row["arm"] for row in rows], content["reference"])
    sizes = [row["parameters"] for row in rows]
    of_one_size = max(sizes) < _ONE_SIZE * min(sizes)
    wanted = {
        "parameters": (lambda path: _over_parameters(rows, looks, content, path), not of_one_size),
        "arms": (lambda path: _by_arm(rows, looks, content, path), of_one_size),
        # Of a tuned sweep, each arm has values of its own.
        "values": (lambda path: _over_value(rows, content, path), _has_grid(rows) and not content.get("tuning")),
        "curves": (lambda path: _learning_curves(curves, looks, content, path), _has_curves(curves)),
    }
    drawn = {}
    for path, (kind, title) in zip(picture_files(folder, stem), KINDS.items(), strict=True):
        path.unlink(missing_ok=True)
        draw_one, is_wanted = wanted[kind]
        if is_wanted:
            with plt.rc_context(STYLE):
                draw_one(path)
            drawn[path.name] = title
    return drawn


def picture_files(folder: Path, stem: str) -> list[Path]:
    """Every picture that may be drawn."""
    return [folder / f"{stem}_{kind}.png" for kind in KINDS]


def _figure(labels: Sequence[str], panels: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """Room for panels of one height above a legend of these labels."""
    columns = max(1, 110 // (6 + max(map(len, labels))))  # as name_legend counts them
    height = 4.4 + 0.2 * -(-len(labels) // columns)
    figure, axes = plt.subplots(1, panels, figsize=(10, height), layout="constrained", squeeze=False)
    return figure, axes[0]


def _title(content: Mapping, *parts: str) -> str:
    return "\n".join([content["title"], ", ".join(parts)])


def _looks(names: Sequence[str], reference: str) -> dict[str, tuple[str, str]]:
    others = [name for name in names if name != reference]
    return {reference: _REFERENCE} | {name: _LOOKS[i % len(_LOOKS)] for i, name in enumerate(others)}


def _over_parameters(rows: Sequence[dict], looks: Mapping, content: Mapping, path: Path) -> None:
    """A mark at the mean with its 95 % interval, a dot per seed; arms of one size stand beside each other."""
    handles = [_handle(row["arm"], looks, content["reference"]) for row in rows]
    figure, (axis,) = _figure([handle.get_label() for handle in handles])
    sizes = [row["parameters"] / 1e6 for row in rows]
    left = 0.0 if min(sizes) < 0.5 * max(sizes) else min(sizes) - 0.1 * (max(sizes) - min(sizes))
    span = max(sizes) - left
    placed = _beside_each_other(sizes, _APART * span)
    for x, row in zip(placed, rows, strict=True):
        color, marker = looks[row["arm"]]
        _mean_and_seeds(axis, x, row, color, marker)
    _reference_line(axis.axhline, rows, content["reference"])
    xlabel = "parameters, million" + ("" if placed == sizes else "; arms of about one size stand beside each other")
    axis.set(title=_title(content, rows[0]["split"], _MARKS), xlabel=xlabel, ylabel="WER, %")
    axis.set_xlim(min(left, min(placed) - 0.03 * span), max(placed) + 0.05 * span)
    axis.set_ylim(0, _top(rows))
    name_legend(figure, handles)
    save(figure, path)


def _beside_each_other(places: Sequence[float], apart: float) -> list[float]:
    """``places``, moved as little as leaves ``apart`` between them; those moved keep their mean."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    groups: list[list[int]] = []

    def first(group: list[int]) -> float:
        return fmean(places[i] for i in group) - apart * (len(group) - 1) / 2

    for index in order:
        groups.append([index])
        while len(groups) > 1 and first(groups[-1]) < first(groups[-2]) + apart * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    moved = {i: first(group) + apart * k for group in groups for k, i in enumerate(group) if len(group) > 1}
    return [moved.get(i, place) for i, place in enumerate(places)]


def _by_arm(rows: Sequence[dict], looks: Mapping, content: Mapping, path: Path) -> None:
    """Draw one line per arm, if all arms have the same size."""
    figure, axis = plt.subplots(figsize=(10, 1.4 + 0.4 * len(rows)), layout="constrained")
    for y, row in enumerate(rows):
        color, marker = looks[row["arm"]]
        _mean_and_seeds(axis, y, row, color, marker, upright=False)
    _reference_line(axis.axvline, rows, content["reference"])
    names = [f"{row['arm']} (reference)" if row["arm"] == content["reference"] else row["arm"] for row in rows]
    axis.set_yticks(range(len(rows)), names)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    size = f"{rows[0]['parameters'] / 1e6:.2f} million parameters"
    axis.set(title=_title(content, rows[0]["split"], size, _MARKS), xlabel="WER, %")
    axis.set_xlim(0, _top(rows))
    save(figure, path)


def _mean_and_seeds(axis: Axes, place: float, row: dict, color: str, marker: str, upright: bool = True) -> None:
    """The seeds' dots stand a few points beside the mean, which would hide them."""
    mean, low, high = row["wer_mean"]
    seeds, places = row["wer"], [place] * len(row["wer"])
    bar = None if low is None else [[mean - low], [high - mean]]
    look = {"color": color, "marker": marker, "markersize": 9, "elinewidth": 1.2}
    look |= {"markeredgecolor": "white", "markeredgewidth": 0.5}
    dots = {"color": color, "marker": "o", "markersize": 3.5, "linestyle": "none", "alpha": 0.6, "zorder": 4}
    beside = {"x": 8, "y": 0} if upright else {"x": 0, "y": -8}
    dots["transform"] = offset_copy(axis.transData, axis.figure, units="points", **beside)
    if upright:
        axis.errorbar(place, mean, yerr=bar, capsize=3, zorder=3, **look)
        axis.plot(places, seeds, **dots)
    else:
        axis.errorbar(mean, place, xerr=bar, capsize=3, zorder=3, **look)
        axis.plot(seeds, places, **dots)


def _reference_line(line, rows: Sequence[dict], reference: str) -> None:
    for row in rows:
        if row["arm"] == reference:
            line(row["wer_mean"][0], color="0.5", linestyle="--", linewidth=1, zorder=0)


def _top(rows: Sequence[dict]) -> float:
    """The axis shows every seed, and most of the intervals: those of two seeds know no bounds."""
    seeds = max(error for row in rows for error in row["wer"])
    bounds = max((row["wer_mean"][2] or 0.0 for row in rows), default=0.0)
    return 1.05 * max(seeds, min(bounds, 1.5 * seeds)) or 1.0


def _handle(name: str, looks: Mapping, reference: str) -> Line2D:
    color, marker = looks[name]
    label = f"{name} (reference)" if name == reference else name
    return Line2D([], [], color=color, marker=marker, linestyle="none", markersize=7, label=label)


def _lines(rows: Sequence[dict]) -> list[_Line]:
    lines: dict[str, dict] = {}
    for row in rows:
        if row["values"]:
            first, *others = row["values"].items()
            name = ", ".join(f"{key} {value}" for key, value in others) or str(first[0])
            lines.setdefault(name, {})[str(first[1])] = row
    return [_Line(name, points_of_line) for name, points_of_line in lines.items()]


def _has_grid(rows: Sequence[dict]) -> bool:
    return len({value for line in _lines(rows) for value in line.rows}) > 1


def _over_value(rows: Sequence[dict], content: Mapping, path: Path) -> None:
    """Draw WER over the first key of the grid, one line per combination of the others; the values evenly spaced."""
    lines = _lines(rows)
    key = next(iter(next(row["values"] for row in rows if row["values"])))
    numbers = {text: row["values"][key] for line in lines for text, row in line.rows.items()}
    values = list(numbers)
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers.values()):
        values.sort(key=lambda text: numbers[text])
    handles = []
    figure, (axis,) = _figure([line.name for line in lines])
    for index, line in enumerate(lines):
        color, marker = _LOOKS[index % len(_LOOKS)]
        shift = 0.5 * (index - (len(lines) - 1) / 2) / max(4, len(lines))
        places = [(place + shift, line.rows[value]) for place, value in enumerate(values) if value in line.rows]
        axis.plot([x for x, _ in places], [row["wer_mean"][0] for _, row in places], color=color, alpha=0.6)
        for x, row in places:
            _mean_and_seeds(axis, x, row, color, marker)
        handles.append(Line2D([], [], color=color, marker=marker, markersize=7, label=line.name))
    for row in rows:
        if row["arm"] == content["reference"]:
            axis.axhline(row["wer_mean"][0], color="0.5", linestyle="--", linewidth=1, zorder=0)
            handles.append(Line2D([], [], color="0.5", linestyle="--", linewidth=1, label=f"{row['arm']} (reference)"))
    axis.set_xticks(range(len(values)), values)
    axis.set(title=_title(content, rows[0]["split"], _MARKS), xlabel=key.replace("_", " "), ylabel="WER, %")
    axis.set_xlim(-0.5, len(values) - 0.5)
    axis.set_ylim(0, _top(rows))
    name_legend(figure, handles)
    save(figure, path)


def _has_curves(curves: Mapping[str, Sequence[Mapping]]) -> bool:
    return any(curve.get("epoch") for seeds in curves.values() for curve in seeds)


def _learning_curves(curves: Mapping, looks: Mapping, content: Mapping, path: Path) -> None:
    """Loss, and accuracy or else an error: means over seeds; with few arms also the range of the seeds."""
    handles = [_handle(name, looks, content["reference"]) for name in curves]
    measured = [key for key in _BESIDE_LOSS if any(_by_epoch(seeds, key, 1.0) for seeds in curves.values())][:1]
    figure, (loss, *others) = _figure([handle.get_label() for handle in handles], panels=1 + len(measured))
    for axis, key, scale in ((loss, "loss", 1.0), *((axis, key, 100.0) for axis, key in zip(others, measured))):
        late = []
        for name, seeds in curves.items():
            by_epoch = _by_epoch(seeds, key, scale)
            if by_epoch:
                late += _draw_curve(axis, by_epoch, looks[name], name == content["reference"], len(curves) <= 4)
        if key == "acc" and late:
            axis.set_ylim(max(0, min(late) - 3), None)  # the first epochs would leave no room for the others
            axis.set_ylim(top=min(100, axis.get_ylim()[1]))
        elif key != "loss" and late:
            axis.set_ylim(0, min(2 * max(late), axis.get_ylim()[1]))
        axis.set(xlabel="epoch", ylabel=_BESIDE_LOSS.get(key, "dev loss"))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    loss.set(yscale="log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    loss.yaxis.set_minor_locator(NullLocator())
    band = " with their range" if len(curves) <= 4 else ""
    figure.suptitle(_title(content, f"mean over seeds{band}"), fontsize=10)
    name_legend(figure, handles)
    save(figure, path)


def _draw_curve(axis: Axes, by_epoch: Mapping, look: tuple[str, str], is_reference: bool, band: bool) -> list[float]:
    """Draw the curves; returns the means after the first third of the epochs."""
    means = [fmean(values) for values in by_epoch.values()]
    color, marker = look
    emphasis = {"linewidth": 2.4, "zorder": 3} if is_reference else {"linewidth": 1.4}
    axis.plot(list(by_epoch), means, color=color, marker=marker, markersize=4, markevery=0.12, **emphasis)
    if band:
        low, high = zip(*((min(values), max(values)) for values in by_epoch.values()), strict=True)
        axis.fill_between(list(by_epoch), low, high, color=color, alpha=0.15, linewidth=0)
    return means[len(means) // 3 :]


def _by_epoch(seeds: Sequence[Mapping], key: str, scale: float) -> dict[int, list[float]]:
    """Values of all seeds by epoch, as far as every seed has come."""
    values_by_epoch: dict[int, list[float]] = {}
    for curve in seeds:
        for epoch, value in zip(curve.get("epoch", []), curve.get(key, []), strict=False):
            if value is not None:
                values_by_epoch.setdefault(epoch, []).append(scale * value)
    return {epoch: values for epoch, values in sorted(values_by_epoch.items()) if len(values) == len(seeds)}
