"""Pictures of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lrsms.scoring.pictures import STYLE, name_legend, save


def controllers(arms: Sequence[Mapping], clock: float, unit: str, picture: Path) -> None:
    """Best so far over trials and over seconds: the mean over seeds, the seeds' range shaded.

    Args:
        arms: ``controller``, and after each trial the ``best`` so far and the ``seconds`` spent.
        clock: seconds of the comparison at equal time.
        unit: of the error.
        picture: file to write.
    """
    picture.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(arm["controller"] for arm in arms))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
        handles = []
        for index, name in enumerate(names):
            mine = [arm for arm in arms if arm["controller"] == name]
            best = np.array([arm["best"] for arm in mine])
            trials = np.arange(1, best.shape[1] + 1)
            handles += axes[0].plot(trials, best.mean(0), color=f"C{index}", label=name)
            axes[0].fill_between(trials, best.min(0), best.max(0), color=f"C{index}", alpha=0.12, linewidth=0)
            times = np.linspace(0, max(arm["seconds"][-1] for arm in mine), 200)
            at = np.array([[best_at(arm, time) for time in times] for arm in mine]).mean(0)
            axes[1].plot(times, at, color=f"C{index}")
        axes[1].axvline(clock, color="0.5", linestyle="--", linewidth=1)
        finite = [error for arm in arms for error in arm["best"] if np.isfinite(error)]
        top = float(np.quantile(finite, 0.9)) if finite else 1.0
        axes[0].set(xlabel="trial", ylabel=f"best so far: {unit}", ylim=(0.9 * min(finite, default=0), 1.1 * top))
        axes[1].set(xlabel="seconds")
        name_legend(figure, handles)
        save(figure, picture)


def best_at(arm: Mapping, time: float) -> float:
    """The best of an arm's trials that had ended after ``time`` seconds; infinite where none had."""
    done = [best for best, seconds in zip(arm["best"], arm["seconds"]) if seconds <= time]
    return done[-1] if done else float("inf")


def single_shot_and_loop(results: Sequence[Mapping], split: str, picture: Path) -> None:
    """WER over compression, both ways, with the intervals of the differences to the original.

    Args:
        results: ``way``, ``times``, ``wer``, ``difference``, ``low``, ``high``, ``accepted``.
        split: for the axis.
        picture: file to write.
    """
    picture.parent.mkdir(parents=True, exist_ok=True)
    original = next(result for result in results if result["way"] == "original")
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(10, 5), layout="constrained")
        axis.axhline(original["wer"], color="0.5", linestyle="--", linewidth=1)
        handles = axis.plot(1, original["wer"], "s", color="0.3", label="original", linestyle="none")
        for index, way in enumerate(("single shot", "loop")):
            shown = sorted((result for result in results if result["way"] == way), key=lambda result: result["times"])
            if not shown:
                continue
            color = f"C{index}"
            long = [result for result in shown if result["experiment"].endswith("_long")]
            points = [(result["times"], result["wer"]) for result in shown if result["accepted"] and result not in long]
            if points:
                axis.plot(*zip(*points), color=color, linewidth=1)
            for result in shown:
                low, high = (
                    result["wer"] - result["difference"] + result["low"],
                    result["wer"] - result["difference"] + result["high"],
                )
                axis.plot([result["times"]] * 2, [max(0, low), high], color=color, linewidth=1, alpha=0.6)
                face = color if result["accepted"] else "white"
                axis.plot(
                    result["times"], result["wer"], "*" if result in long else "o", color=color, markerfacecolor=face
                )
            if long:
                label = f"{way}, with the loop's epochs"
                handles += axis.plot([], [], "*", color=color, linestyle="none", label=label)
            handles += axis.plot([], [], "o-", color=color, label=way)
        axis.set(xlabel="times smaller than the original", ylabel=f"{split} WER, %")
        axis.set_title("bars: 95 % interval of the difference to the original; hollow: rejected on dev")
        axis.xaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}x"))
        axis.set_ylim(bottom=0)
        name_legend(figure, handles)
        save(figure, picture)


def spectra(results: Sequence[Mapping], picture: Path) -> None:
    """Share of their rank that layers use over epochs, a panel for each role: mean over layers, their range shaded.

    Args:
        results: ``experiment``, ``role``, ``epoch``, ``module``, ``share``.
        picture: file to write.
    """
    picture.parent.mkdir(parents=True, exist_ok=True)
    roles = list(dict.fromkeys(result["role"] for result in results))
    names = list(dict.fromkeys(result["experiment"] for result in results))
    columns = min(3, len(roles))
    rows = -(-len(roles) // columns)
    with plt.rc_context(STYLE):
        size = (4.2 * max(2, columns), 3.2 * rows + 0.8)
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", sharey=True, squeeze=False)
        for axis, role in zip(axes.flat, roles):
            for index, name in enumerate(names):
                shares: dict[int, list[float]] = {}
                for result in results:
                    if (result["experiment"], result["role"]) == (name, role):
                        shares.setdefault(result["epoch"], []).append(100 * result["share"])
                epochs = sorted(shares)
                mean = [float(np.mean(shares[epoch])) for epoch in epochs]
                low, high = ([pick(shares[epoch]) for epoch in epochs] for pick in (min, max))
                axis.plot(epochs, mean, color=f"C{index}", marker="." if len(epochs) <= 12 else None)
                axis.fill_between(epochs, low, high, color=f"C{index}", alpha=0.12, linewidth=0)
            axis.set(title=role, xlabel="epoch", ylim=(0, 100))
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        for axis in axes.flat[len(roles) :]:
            axis.set_visible(False)
        for axis in axes[:, 0]:
            axis.set_ylabel("effective rank, % of rank")
        name_legend(figure, [Line2D([], [], color=f"C{index}", label=name) for index, name in enumerate(names)])
        save(figure, picture)
