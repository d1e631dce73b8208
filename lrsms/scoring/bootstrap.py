"""Confidence of error rates: the bootstrap over utterances of Bisani and Ney (ICASSP 2004)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

_CHUNK = 4_000_000  # utterance draws held in memory at once: 32 MB


class PairedDifference(NamedTuple):
    """Error rate of system b minus that of system a, in points of percent, and its 95 % interval.

    ``not_worse`` is the share of resamples in which b makes no more errors than a.
    """

    difference: float
    low: float
    high: float
    not_worse: float


def _resampled_sums(columns: Sequence[Sequence[int]], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield sums over resampled utterances, ``(chunk, columns)``; all columns share each draw."""
    table = np.asarray(columns, dtype=np.float64).T  # (utterances, columns)
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // len(table))
    for start in range(0, resamples, chunk):
        draws = generator.integers(0, len(table), size=(min(chunk, resamples - start), len(table)))
        yield np.stack([column[draws].sum(axis=1) for column in table.T], axis=1)


def _check(columns: Sequence[Sequence[int]]) -> None:
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"one number per utterance each: got {[len(column) for column in columns]}")
    if sum(columns[-1]) == 0:
        raise ValueError("the references hold no token, so there is no error rate")


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
    sums = np.concatenate(list(_resampled_sums((errors, tokens), resamples, seed)))
    rates = 100.0 * sums[:, 0] / np.maximum(sums[:, 1], 1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def paired_bootstrap(
    errors_a: Sequence[int], errors_b: Sequence[int], tokens: Sequence[int], resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """Compare systems a and b on the same utterances, all three ``(utterances,)`` and in the same order.

    Raises:
        ValueError: the three differ in length, or there is no reference token.
    """
    _check((errors_a, errors_b, tokens))
    sums = np.concatenate(list(_resampled_sums((errors_a, errors_b, tokens), resamples, seed)))
    differences = 100.0 * (sums[:, 1] - sums[:, 0]) / np.maximum(sums[:, 2], 1)
    low, high = np.percentile(differences, [2.5, 97.5])
    observed = 100.0 * (sum(errors_b) - sum(errors_a)) / sum(tokens)
    return PairedDifference(float(observed), float(low), float(high), float(np.mean(differences <= 0)))
