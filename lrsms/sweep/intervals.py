"""Means over seeds, and how far they can be trusted."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

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


def rate_interval(rates: Sequence[float]) -> tuple[float | None, ...]:
    """``(mean, low, high)`` of error rates, cut at 0: Student's knows nothing of rates, which are never negative."""
    mean, *bounds = astuple(mean_interval(rates))
    return (mean, *(bound and max(0.0, bound) for bound in bounds))


def not_inferior(difference: tuple[float | None, ...], margin: float) -> str:
    """What an interval ``(mean, low, high)`` of added error says about a margin, both in points."""
    _, low, high = difference
    if low is None or high is None:
        return "open: one seed"
    if high <= margin:
        return "not inferior"
    return "inferior" if low > margin else "open"


def _bounds(test: Callable, *samples: object, **options) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of equal seeds, whose interval has no width
        low, high = test(*samples, **options).confidence_interval(0.95)
    return float(low), float(high)
