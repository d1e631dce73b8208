"""Means over seeds, and how far they can be trusted."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval, None if one seed alone is known."""

    mean: float
    low: float | None = None
    high: float | None = None


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over seeds with Student's 95 % interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean)
    return Interval(mean, *_bounds(stats.ttest_1samp, values, 0))


def difference_interval(reference: Sequence[float], values: Sequence[float]) -> Interval:
    """Mean of ``values`` less that of ``reference``, with Welch's 95 % interval: a seed pairs nothing across arms."""
    difference = statistics.fmean(values) - statistics.fmean(reference)
    if min(len(reference), len(values)) < 2:
        return Interval(difference)
    return Interval(difference, *_bounds(stats.ttest_ind, values, reference, equal_var=False))


def _bounds(test: Callable, *samples: object, **options) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of equal seeds, whose interval has no width
        low, high = test(*samples, **options).confidence_interval(0.95)
    return float(low), float(high)
