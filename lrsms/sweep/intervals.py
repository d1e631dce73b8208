"""Means over seeds, and how far they can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval, None where one seed alone is known."""

    mean: float
    low: float | None = None
    high: float | None = None


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over seeds with Student's 95 % interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean)
    return _around(mean, statistics.stdev(values) / math.sqrt(len(values)), len(values) - 1)


def difference_interval(reference: Sequence[float], values: Sequence[float]) -> Interval:
    """Mean of ``values`` less that of ``reference``, with Welch's 95 % interval: a seed pairs nothing across arms."""
    difference = statistics.fmean(values) - statistics.fmean(reference)
    if min(len(reference), len(values)) < 2:
        return Interval(difference)
    groups = (reference, values)
    terms = [statistics.variance(group) / len(group) for group in groups]
    if sum(terms) == 0:
        return Interval(difference, difference, difference)
    freedom = sum(terms) ** 2 / sum(term**2 / (len(group) - 1) for term, group in zip(terms, groups, strict=True))
    return _around(difference, math.sqrt(sum(terms)), freedom)


def _around(mean: float, error: float, freedom: float) -> Interval:
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Interval(mean, mean - half, mean + half)
