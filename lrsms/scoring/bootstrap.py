"""Confidence of error rates: the bootstrap over utterances of Bisani and Ney (ICASSP 2004)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_DRAWS = 4_000_000  # of utterances held in memory at once: 32 MB, and as much again for errors and for tokens


class PairedDifference(NamedTuple):
    """Error rate of system b minus that of system a, in points of percent, and its 95 % interval.

    ``not_worse`` is the share of resamples in which b makes no more errors than a.
    """

    difference: float
    low: float
    high: float
    not_worse: float


def error_rate_interval(
    errors: Sequence[int], tokens: Sequence[int], resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval, in percent, of sum(errors) / sum(tokens).

    Args:
        errors: ``(utterances,)`` errors of each utterance.
        tokens: ``(utterances,)`` reference tokens of each utterance.

    Raises:
        ValueError: the two differ in length, or there is no reference token.
    """
    _check((errors, tokens))
    low, high, _ = _bootstrap(np.asarray(errors), np.asarray(tokens), resamples, seed)
    return low, high


def paired_bootstrap(
    errors_a: Sequence[float], errors_b: Sequence[float], tokens: Sequence[int], resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """Compare systems a and b on the same utterances, all three ``(utterances,)`` and in the same order.

    Raises:
        ValueError: the three differ in length, or there is no reference token.
    """
    _check((errors_a, errors_b, tokens))
    added_errors, tokens = np.subtract(errors_b, errors_a), np.asarray(tokens)
    low, high, differences = _bootstrap(added_errors, tokens, resamples, seed)
    return PairedDifference(float(_rate(added_errors, tokens)), low, high, float(np.mean(differences <= 0)))


def upper_bound(
    errors_a: Sequence[float],
    errors_b: Sequence[float],
    tokens: Sequence[int],
    confidence: float,
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Points of percent that system b loses against a at most, with ``confidence``; arguments as above.

    It is the percentile of the paired bootstrap, and never below :func:`least_bound`: if the two systems differ in no
    utterance, resampling shows no spread.

    Raises:
        ValueError: as :func:`paired_bootstrap`.
    """
    _check((errors_a, errors_b, tokens))
    *_, differences = _bootstrap(np.subtract(errors_b, errors_a), np.asarray(tokens), resamples, seed)
    return max(float(np.quantile(differences, confidence)), least_bound(sum(tokens), confidence))


def least_bound(tokens: int, confidence: float) -> float:
    """Points of percent that may be lost although not one error has been added in so many tokens.

    The rule of three (Hanley and Lippman-Hand, JAMA 1983), for ``confidence`` above one half; 0 otherwise.
    """
    return 100.0 * -math.log(1.0 - confidence) / tokens if 0.5 < confidence < 1 else 0.0


def _check(columns: Sequence[Sequence[float]]) -> None:
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"one number per utterance each: got {[len(column) for column in columns]}")
    if sum(columns[-1]) == 0:
        raise ValueError("the references hold no token, so there is no error rate")


def _rate(errors: np.ndarray, tokens: np.ndarray, axis: int = -1) -> np.ndarray:
    return 100.0 * errors.sum(axis) / np.maximum(tokens.sum(axis), 1)  # a resample may have no token


def _bootstrap(errors: np.ndarray, tokens: np.ndarray, resamples: int, seed: int) -> tuple[float, float, np.ndarray]:
    """Low and high end of the 95 % interval, and ``(resamples,)`` rates."""
    from scipy.stats import bootstrap  # takes most of a second, which is not for every importer of this module

    if len(tokens) == 1:  # scipy wants two observations; one utterance twice has the rate of that utterance
        errors, tokens = np.repeat(errors, 2), np.repeat(tokens, 2)
    options = {"n_resamples": resamples, "batch": max(1, _DRAWS // len(tokens)), "rng": np.random.default_rng(seed)}
    resampled = bootstrap((errors, tokens), _rate, paired=True, vectorized=True, method="percentile", **options)
    return *map(float, resampled.confidence_interval), resampled.bootstrap_distribution
