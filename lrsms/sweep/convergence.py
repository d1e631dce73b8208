"""Twice the epochs, and twice again, until no arm's dev loss gains by it: what arms are compared at.

A schedule that ends makes any curve look flat at its end, so that the question is not whether a curve is flat but
whether a longer schedule ends lower.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from lrsms.errors import LrsmsError
from lrsms.sweep.points import Point
from lrsms.sweep.runner import Runner

LEAST_GAIN = 0.02  # of the dev loss, by twice the epochs; below it, an arm has converged
MOST_DOUBLINGS = 4


@dataclass(frozen=True)
class Length:
    """One arm trained for one number of epochs, at the first seed.

    Attributes:
        arm: its name.
        epochs: how many.
        loss: the least on dev.
    """

    arm: str
    epochs: int
    loss: float


def until_converged(
    runner: Runner, run: Callable[[Runner], list[Point]]
) -> tuple[Runner, list[Point], list[list[Length]]]:
    """Double the epochs of all arms at the first seed until none of them gains.

    Args:
        runner: of the sweep; its arms are tuned.
        run: runs the points of a runner, and returns those that failed.

    Returns:
        The runner whose arms have converged, with all seeds; the points that failed, and then that runner is not
        complete; and the lengths that were tried, each with its arms.

    Raises:
        LrsmsError: a training has left no curves.
    """
    tried: list[list[Length]] = []
    chosen = runner
    for doubling in range(MOST_DOUBLINGS + 1):
        longer = replace(runner, sweep=runner.sweep.longer(2**doubling))
        seeds = runner.sweep.seeds[:1]
        first = replace(longer, sweep=replace(longer.sweep, seeds=seeds), test_splits=(runner.valid_split,), only="*")
        failed = run(first)
        if failed:
            return chosen, failed, tried
        tried.append([_length(first, point) for point in first.points()])
        if doubling and all(new.loss > (1 - LEAST_GAIN) * old.loss for old, new in zip(tried[-2], tried[-1])):
            return chosen, [], tried
        chosen = longer
    return chosen, [], tried


def _length(runner: Runner, point: Point) -> Length:
    if not runner.finished(point):
        raise LrsmsError(f"{runner.sweep.path}: until: {point.key} is not finished; run the same command again")
    path = point.experiment / "curves.json"
    try:
        loss = min(json.loads(path.read_text(encoding="utf-8"))["valid"]["loss"])
    except (OSError, ValueError, KeyError) as error:
        raise LrsmsError(
            f"{path}: no dev loss ({error!r}); remove {point.experiment} and run the sweep again"
        ) from error
    return Length(point.arm.name, point.arm.config["max_epoch"], loss)
