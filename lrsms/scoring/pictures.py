"""Pictures beside RESULTS.md: learning curves, and the rank of every layer."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lrsms.errors import LrsmsError
from lrsms.training_yaml import read_yaml

STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.6,
}
_ROLES = {  # fixed colors and marks, so that pictures of different experiments can be compared
    "attention": ("C0", "o"),
    "attention_pos": ("C9", "P"),
    "cross_attention": ("C8", "<"),
    "feed_forward": ("C1", "s"),
    "convolution": ("C2", "^"),
    "subsampling": ("C3", "D"),
    "embedding": ("C4", "v"),
    "output": ("C5", "X"),
    "recurrent": ("C6", "d"),
    "recurrent_input": ("navy", "<"),
    "frontend": ("k", "p"),
    "fusion": ("C8", "h"),
    "explicit": ("C7", "*"),
}
_OUTSIDE_BLOCKS = {"frontend": "in", "subsampling": "in", "embedding": "in", "output": "out", "fusion": "out"}
_ERRORS = {  # what ESPnet may have measured on the dev set; the first found is drawn
    "cer_ctc": "dev CER (CTC), %",
    "cer": "dev CER (decoder), %",
    "wer": "dev WER (decoder), %",
}


def learning_curves(experiments: Mapping[str, Path], picture: Path) -> bool:
    """Draw loss (train, valid), accuracy and error over epochs, one color per experiment.

    Args:
        experiments: folder of each experiment by the name to show; one without ``curves.json`` is not drawn. The
            epochs of a dense warm-up come before the others.

    Returns:
        Whether there was anything to draw; if not, ``picture`` does not exist afterwards.
    """
    curves = {name: _curves(folder) for name, folder in experiments.items() if (folder / "curves.json").exists()}
    if not any(curve["valid"]["epoch"] or curve["train"]["epoch"] for curve in curves.values()):
        picture.unlink(missing_ok=True)
        return False
    panels = [("loss", "loss", 1.0)]
    panels += [("acc", "dev accuracy, %", 100.0)] if _measured(curves, "acc") else []
    panels += [(key, title, 100.0) for key, title in _ERRORS.items() if _measured(curves, key)][:1]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(10, 4.5), layout="constrained", squeeze=False)
        for axis, (key, title, scale) in zip(axes[0], panels, strict=True):
            for i, curve in enumerate(curves.values()):
                _draw_curve(axis, curve["valid"], key, scale, color=f"C{i}")
                if key == "loss":
                    _draw_curve(axis, curve["train"], key, scale, color=f"C{i}", linestyle="--", alpha=0.7)
            axis.set(title=title, xlabel="epoch")
            axis.set_ylim(bottom=0)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes[0][0].legend(
            handles=[Line2D([], [], color="0.3", label="dev"), Line2D([], [], color="0.3", ls="--", label="train")],
            frameon=False,
        )
        name_legend(figure, [Line2D([], [], color=f"C{i}", label=name) for i, name in enumerate(curves)])
        save(figure, picture)
    return True


def _curves(folder: Path) -> dict[str, dict]:
    curves = json.loads((folder / "curves.json").read_text(encoding="utf-8"))
    if (folder / "warmup" / "curves.json").exists():
        warmup = json.loads((folder / "warmup" / "curves.json").read_text(encoding="utf-8"))
        curves = {phase: after_warmup(warmup[phase], curve) for phase, curve in curves.items()}
    return curves


def after_warmup(warmup: Mapping[str, list], curve: Mapping[str, list]) -> dict[str, list]:
    """One curve of a dense warm-up and what came after it, epochs counted on; of what both have measured."""
    epochs = [*warmup["epoch"], *(len(warmup["epoch"]) + epoch for epoch in curve["epoch"])]
    return {key: warmup[key] + curve[key] for key in warmup.keys() & curve.keys()} | {"epoch": epochs}


def _measured(curves: Mapping[str, dict], key: str) -> bool:
    return any(value is not None for curve in curves.values() for value in curve["valid"].get(key, []))


def _draw_curve(axis: Axes, curve: dict, key: str, scale: float, **look) -> None:
    points = [(x, scale * y) for x, y in zip(curve["epoch"], curve.get(key, []), strict=False) if y is not None]
    if points:
        axis.plot(*zip(*points, strict=True), marker="." if len(points) <= 12 else None, **look)


def name_legend(figure: Figure, handles: list) -> None:
    """Put the legend below the panels, in as many columns as the longest name and the figure's width allow."""
    columns = max(1, int(11 * figure.get_figwidth()) // (6 + max(len(handle.get_label()) for handle in handles)))
    ncols = min(len(handles), columns)
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)


def rank_per_layer(experiments: Mapping[str, Path], picture: Path) -> bool:
    """Draw rank over depth for each role, encoder and decoder side by side, one row of panels per plan.

    Hollow marks are dense layers, at their full rank. Experiments of one plan, such as its seeds, share a row. Those
    whose plan keeps every layer dense, or that have no ``rank_plan.yaml``, are not drawn. Returns as
    :func:`learning_curves` does.
    """
    names: dict[str, str] = {}  # of each plan, by its layers
    others: Counter[str] = Counter()
    for name, folder in experiments.items():
        if (folder / "rank_plan.yaml").exists():
            layers = read_yaml(folder / "rank_plan.yaml")["layers"]
            if any(layer["rank"] is not None for layer in layers):
                key = json.dumps(layers, sort_keys=True)
                others[key] += key in names
                names.setdefault(key, name)
    plans = {
        name + (f" and {others[key]} more" if others[key] else ""): _by_side(json.loads(key))
        for key, name in names.items()
    }
    if not plans:
        picture.unlink(missing_ok=True)
        return False
    sides = [side for side in ("encoder", "decoder") if any(plan[side] for plan in plans.values())]
    present = {layer["role"] for plan in plans.values() for side in sides for layer in plan[side]}
    roles = [role for role in _ROLES if role in present]
    with plt.rc_context(STYLE):
        size = (10, 4.5 if len(plans) == 1 else 0.9 + 2.8 * len(plans))
        figure, axes = plt.subplots(
            len(plans), len(sides), figsize=size, layout="constrained", squeeze=False, sharey="row", sharex="col"
        )
        for row, (name, plan) in zip(axes, plans.items(), strict=True):
            for axis, side in zip(row, sides, strict=True):
                _draw_ranks(axis, plan[side], roles)
                axis.set_title(f"{name}: {side}")
            row[0].set_ylim(bottom=0)  # last, for it fixes the top as well
            row[0].set_ylabel("rank")
        for axis, side in zip(axes[-1], sides, strict=True):
            axis.set_xlabel(f"{side} block")
        handles = [
            Line2D([], [], color=color, marker=marker, label=role.replace("_", " "))
            for role, (color, marker) in ((role, _ROLES[role]) for role in roles)
        ]
        hollow = {"color": "0.3", "marker": "o", "markerfacecolor": "none", "linestyle": "none"}
        handles.append(Line2D([], [], label="hollow: dense", **hollow))
        name_legend(figure, handles)
        save(figure, picture)
    return True


def _by_side(layers: Sequence[dict]) -> dict[str, list[dict]]:
    unknown = sorted({layer["role"] for layer in layers} - _ROLES.keys())
    if unknown:
        raise LrsmsError(f"rank_plan.yaml: unknown role {', '.join(unknown)}; known: {', '.join(_ROLES)}")
    sides: dict[str, list[dict]] = {"encoder": [], "decoder": []}
    for layer in layers:
        sides["decoder" if layer["module"].startswith("decoder.") else "encoder"].append(layer)
    return sides


def _draw_ranks(axis: Axes, layers: Sequence[dict], roles: Sequence[str]) -> None:
    """Modules of one role and depth share a mark if their ranks agree; the line runs through their mean."""
    in_blocks = [role for role in roles if role not in _OUTSIDE_BLOCKS and any(x["role"] == role for x in layers)]
    blocks = 1 + max((layer["depth"] for layer in layers if layer["role"] in in_blocks), default=-1)
    ticks = {depth: str(depth) for depth in range(0, blocks, 1 if blocks <= 18 else 2)}
    for role in roles:
        of_role = [layer for layer in layers if layer["role"] == role]
        if role in in_blocks:
            shift = 0.6 * (in_blocks.index(role) - (len(in_blocks) - 1) / 2) / len(in_blocks)
            _draw_role(axis, role, [(layer["depth"] + shift, layer) for layer in of_role])
        elif of_role:
            place = -1 if _OUTSIDE_BLOCKS[role] == "in" else blocks
            ticks[place] = _OUTSIDE_BLOCKS[role]
            _draw_role(axis, role, [(place, layer) for layer in of_role])
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.set_xlim(min(ticks, default=0) - 0.6, max(ticks, default=0) + 0.6)


def _draw_role(axis: Axes, role: str, placed: Sequence[tuple[float, dict]]) -> None:
    color, marker = _ROLES[role]
    marks: dict[float, set[tuple[int, bool]]] = {}
    for place, layer in placed:
        dense = layer["rank"] is None
        rank = min(layer["inputs"], layer["outputs"]) if dense else layer["rank"]
        marks.setdefault(place, set()).add((rank, dense))
    places = sorted(marks)
    means = [sum(rank for rank, _ in marks[place]) / len(marks[place]) for place in places]
    axis.plot(places, means, color=color, alpha=0.35, linewidth=1.2)
    for place, ranks in marks.items():
        for rank, dense in ranks:
            axis.plot(place, rank, marker, color=color, markerfacecolor="none" if dense else color, markersize=6)


def save(figure: Figure, picture: Path) -> None:
    figure.savefig(picture, dpi=100, metadata={"Software": None})
    plt.close(figure)
