"""Pictures of a compression: every trial, the best so far, ranks over iterations, and the loop as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from lrsms.compress.controllers import Finished
from lrsms.compress.iterate import Iteration
from lrsms.scoring.pictures import STYLE, name_legend, save


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (compression, error) that no other beats in both: as small with less error. By rising compression."""
    front: list[tuple[float, float]] = []
    for compression, error in sorted(points, key=lambda point: (-point[0], point[1])):
        if not front or error < front[-1][1]:
            front.append((compression, error))
    return front[::-1]


def trials(searches: Mapping[str, Sequence[Finished]], original_cost: float, unit: str, picture: Path) -> bool:
    """Error over compression for every trial, one color per iteration, and the Pareto front of all.

    Args:
        searches: iteration -> its trials.
        original_cost: of the model before the first iteration.
        unit: of the error, for the axis.
        picture: file to write.

    Returns:
        Whether there was anything to draw.
    """
    points = {
        name: [(original_cost / trial.cost, trial.error) for trial in trials if np.isfinite(trial.error)]
        for name, trials in searches.items()
    }
    if not any(points.values()):
        picture.unlink(missing_ok=True)
        return False
    errors = [error for dots in points.values() for _, error in dots]
    top = float(np.quantile(errors, 0.9)) * 1.1 + 1e-9  # a few hopeless candidates would flatten all others
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(10, 5), layout="constrained")
        handles = []
        for index, (name, dots) in enumerate(points.items()):
            if dots:
                color = f"C{index % 10}"
                handles += axis.plot(*zip(*dots), ".", color=color, alpha=0.45, label=name)
                above = [compression for compression, error in dots if error > top]
                axis.plot(above, [top] * len(above), "^", color=color, alpha=0.3, clip_on=False)
                front = pareto_front(dots)
                axis.step(*zip(*front), where="pre", color=color, linewidth=1.2)
        axis.set(xlabel="times smaller than the original", ylabel=unit)
        axis.set_ylim(0, top)
        axis.set_xlim(left=1)
        axis.xaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}x"))
        axis.set_title("dots: trials; triangles: beyond the axis; lines: Pareto front of each search")
        name_legend(figure, handles)
        save(figure, picture)
    return True


def best_so_far(
    searches: Mapping[str, Sequence[Finished]], limits: Mapping[str, float], unit: str, picture: Path
) -> bool:
    """The least error within the budget after each trial, one line per search.

    Args:
        searches: name -> its trials, in the order of their numbers.
        limits: name -> budget; trials beyond it do not count.
        unit: of the error.
        picture: file to write.

    Returns:
        Whether there was anything to draw: a trial alone has nothing to be better than.
    """
    if max((len(trials) for trials in searches.values()), default=0) < 2:
        picture.unlink(missing_ok=True)
        return False
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(10, 5), layout="constrained")
        handles = []
        for index, (name, trials) in enumerate(searches.items()):
            errors = [trial.error if trial.cost <= limits[name] else np.inf for trial in trials]
            best = np.minimum.accumulate(errors) if errors else []
            shown = [(number + 1, error) for number, error in enumerate(best) if np.isfinite(error)]
            if shown:
                better = [i for i, (_, error) in enumerate(shown) if i == 0 or error < shown[i - 1][1]]
                look = {"drawstyle": "steps-post", "marker": ".", "markevery": better}
                handles += axis.plot(*zip(*shown), color=f"C{index % 10}", label=name, **look)
        if not handles:
            plt.close(figure)
            picture.unlink(missing_ok=True)
            return False
        axis.set(xlabel="trial", ylabel=unit)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        name_legend(figure, handles)
        save(figure, picture)
    return True


def ranks_over_iterations(plans: Mapping[str, Mapping[str, float]], picture: Path) -> bool:
    """Share of full rank of every layer (rows) after each iteration (columns).

    Args:
        plans: iteration -> layer -> rank / full rank, 1 if it is dense.
        picture: file to write.
    """
    names = list(dict.fromkeys(layer for plan in plans.values() for layer in plan))
    if not names:
        picture.unlink(missing_ok=True)
        return False
    table = np.array([[plan.get(name, 1.0) for plan in plans.values()] for name in names])
    with plt.rc_context({**STYLE, "axes.grid": False}):
        size = (4.5 + 0.9 * len(plans), max(3.0, 0.13 * len(names) + 1.2))
        figure, axis = plt.subplots(figsize=size, layout="constrained")
        image = axis.imshow(table, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        axis.set_xticks(range(len(plans)), list(plans))
        axis.set_yticks(range(len(names)), names, fontsize=7)
        figure.colorbar(image, ax=axis, label="rank / full rank (1: dense)", shrink=min(1.0, 6 / size[1]))
        save(figure, picture)
    return True


def loop(iterations: Sequence[Iteration], picture: Path) -> bool:
    """Dev WER over compression: the original, every iteration with its interval, rejected ones hollow."""
    if not iterations:
        picture.unlink(missing_ok=True)
        return False
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(10, 5), layout="constrained")
        original = iterations[0].original_wer
        axis.axhline(original, color="0.5", linestyle="--", linewidth=1)
        axis.plot(1, original, "s", color="0.3")
        axis.annotate("original", (1, original), (6, 6), textcoords="offset points", fontsize=8)
        for iteration in iterations:
            times, wer = iteration.compression, iteration.wer
            low, high = wer - (iteration.difference - iteration.low), wer + (iteration.high - iteration.difference)
            axis.plot([times] * 2, [max(0, low), high], color="C0", linewidth=1)
            axis.plot(times, wer, "o", color="C0", markerfacecolor="C0" if iteration.accepted else "white")
            axis.annotate(iteration.folder, (times, wer), (6, 6), textcoords="offset points", fontsize=8)
        axis.set(xlabel="times smaller than the original", ylabel="dev WER, %")
        axis.set_title("filled: accepted; hollow: rejected; bars: 95 % interval of the difference to the original")
        axis.xaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}x"))
        axis.set_ylim(bottom=0)
        save(figure, picture)
    return True
