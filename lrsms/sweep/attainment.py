"""After how many epochs, and how much work, an arm is as good on dev as the reference is when its training ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Attainment:
    """Of one arm.

    Attributes:
        arm: its name.
        epochs: the first after which the mean of its seeds is as good; None if none is.
        work: multiply-accumulates until then, of those of the reference's whole training; None as well where they are
            not known.
        time: epochs times the median step, of that of the reference; where batches are alike, the time of training.
    """

    arm: str
    epochs: int | None
    work: float | None
    time: float | None


def attainments(
    rows: Sequence[dict], curves: Mapping[str, Sequence[Mapping[str, list]]], reference: str, key: str, best: str
) -> tuple[float, list[Attainment]] | None:
    """How soon the arms are as good as the reference is at its last epoch, in the mean of seeds.

    Args:
        rows: of one split, see :mod:`lrsms.sweep.report`.
        curves: dev values by epoch of each seed, by arm.
        reference: its arm's name.
        key: of the values to compare, such as ``acc``.
        best: ``max`` or ``min``.

    Returns:
        The reference's value at its last epoch, and one line for each arm; None if that was not measured.
    """
    means = {row["arm"]: _mean(curves[row["arm"]], key) for row in rows}
    if not means.get(reference):
        return None
    target = means[reference][-1]
    base = next(row for row in rows if row["arm"] == reference)
    whole, sign = len(means[reference]), 1 if best == "max" else -1
    found = []
    for row in rows:
        epochs = next(
            (epoch for epoch, value in enumerate(means[row["arm"]], 1) if sign * value >= sign * target), None
        )
        if epochs is None:
            found.append(Attainment(row["arm"], None, None, None))
            continue
        macs = row["macs_per_second"], base["macs_per_second"]
        work = epochs * macs[0] / (whole * macs[1]) if all(macs) else None
        time = epochs * row["train_step_seconds"] / (whole * base["train_step_seconds"])
        found.append(Attainment(row["arm"], epochs, work, time))
    return target, found


def _mean(curves: Sequence[Mapping[str, list]], key: str) -> list[float]:
    """Of all seeds, by epoch, as far as every one of them was measured; empty if one was not."""
    values = [curve.get(key) or [] for curve in curves]
    return [fmean(epoch) for epoch in zip(*values, strict=False) if None not in epoch]
