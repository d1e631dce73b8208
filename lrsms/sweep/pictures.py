"""Pictures of a sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt

from lrsms.scoring.pictures import STYLE, name_legend, save


def error_over_parameters(arms: Sequence[tuple[str, int, list[float]]], reference: str, picture: Path) -> bool:
    """WER over parameters: one colour per arm, a dot per seed, a bar at the mean, dashes at the reference's mean.

    Args:
        arms: name, parameters, and WER of each seed in percent.
        reference: name of the arm the others are compared with.
        picture: file to write.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(10, 5), layout="constrained")
        handles = []
        for index, (name, parameters, errors) in enumerate(arms):
            color = f"C{index % 10}" if index < 10 else plt.get_cmap("tab20b")(index % 20)
            x = parameters / 1e6
            axis.plot([x] * len(errors), errors, ".", color=color, alpha=0.6)
            handles += axis.plot(x, fmean(errors), "_", markersize=18, markeredgewidth=2.5, color=color, label=name)
            if name == reference:
                axis.axhline(fmean(errors), color="0.5", linestyle="--", linewidth=1, zorder=0)
        axis.set(xlabel="parameters, million", ylabel="WER, %")
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        name_legend(figure, handles)
        save(figure, picture)
    return True


def error_over_value(arms: Sequence[tuple[Mapping, list[float]]], picture: Path) -> bool:
    """WER over the first key of the grid, one line per combination of the others.

    Returns:
        Whether there was a grid of at least two values; where not, ``picture`` does not exist afterwards.
    """
    lines: dict[str, list[tuple[object, list[float]]]] = {}
    for values, errors in arms:
        if values:
            (_, first), *others = values.items()
            lines.setdefault(", ".join(f"{key}={value}" for key, value in others), []).append((first, errors))
    firsts = list(dict.fromkeys(str(first) for line in lines.values() for first, _ in line))
    if len(firsts) < 2:
        picture.unlink(missing_ok=True)
        return False
    axis_name = next(iter(next(values for values, _ in arms if values)))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(10, 5), layout="constrained")
        handles = []
        for index, (name, line) in enumerate(lines.items()):
            places = [firsts.index(str(first)) for first, _ in line]
            shift = 0.06 * (index - (len(lines) - 1) / 2)
            places = [place + shift for place in places]
            handles += axis.plot(places, [fmean(errors) for _, errors in line], "-o", color=f"C{index}", label=name)
            for place, (_, errors) in zip(places, line, strict=True):
                axis.plot([place] * len(errors), errors, ".", color=f"C{index}", alpha=0.5)
        axis.set_xticks(range(len(firsts)), firsts)
        axis.set(xlabel=axis_name.replace("_", " "), ylabel="WER, %")
        axis.set_ylim(bottom=0)
        if len(lines) > 1:
            name_legend(figure, handles)
        save(figure, picture)
    return True


def learning_curves(arms: Mapping[str, Sequence[Path]], picture: Path) -> bool:
    """Dev accuracy and loss over epochs, mean over seeds with their range as a band.

    Args:
        arms: ``curves.json`` of every seed by the arm's name.
        picture: file to write.
    """
    panels = [("loss", "dev loss", 1.0), ("acc", "dev accuracy, %", 100.0)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(10, 5), layout="constrained")
        handles = []
        for index, (name, files) in enumerate(arms.items()):
            color = f"C{index % 10}" if index < 10 else plt.get_cmap("tab20b")(index % 20)
            curves = [json.loads(file.read_text(encoding="utf-8"))["valid"] for file in files]
            for axis, (key, title, scale) in zip(axes, panels, strict=True):
                seeds = [[scale * value for value in curve.get(key, []) if value is not None] for curve in curves]
                columns = list(zip(*seeds))
                if not columns:
                    continue
                epochs = range(1, len(columns) + 1)
                (line,) = axis.plot(epochs, [fmean(column) for column in columns], color=color, label=name)
                if len(seeds) > 1:
                    axis.fill_between(epochs, *zip(*((min(c), max(c)) for c in columns)), color=color, alpha=0.15, lw=0)
                axis.set(title=title, xlabel="epoch")
                axis.set_ylim(bottom=0)
            handles.append(line)
        name_legend(figure, handles)
        save(figure, picture)
    return True
