"""A small search set whose error rate tracks the whole dev set's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr


@dataclass(frozen=True)
class SearchSet:
    """Chosen utterances.

    Attributes:
        indices: positions in the dev set, rising.
        correlation: Spearman's rank correlation, over candidates that had no part in the choice, of the error rate on
            these utterances with that on all.
        candidates: how many candidates that was measured on.
    """

    indices: tuple[int, ...]
    correlation: float
    candidates: int


def choose(
    lengths: Sequence[float],
    original_errors: Sequence[int],
    candidate_errors: Sequence[Sequence[int]],
    words: Sequence[int],
    size: int,
    *,
    draws: int = 200,
    seed: int = 0,
) -> SearchSet:
    """Choose ``size`` utterances, stratified by length and by the original model's errors.

    Of many stratified draws, the one is taken whose error rate ranks half of the candidates most as the whole dev set
    does; the other half says how well it really does.

    Args:
        lengths: ``(utterances,)`` seconds.
        original_errors: ``(utterances,)`` word errors of the model to be compressed.
        candidate_errors: ``(candidates, utterances)`` word errors of random candidates.
        words: ``(utterances,)`` reference words.
        size: how many to choose; the whole set if it has no more.
        draws: stratified draws to compare.
        seed: of the draws.

    Raises:
        ValueError: no utterance, or sizes that do not agree.
    """
    errors, words = np.asarray(candidate_errors, float), np.asarray(words, float)
    count = len(lengths)
    if not count or errors.shape[1] != count or len(words) != count or len(original_errors) != count:
        raise ValueError(
            f"{count} lengths, {len(original_errors)} errors, {errors.shape} candidates, {len(words)} words"
        )
    fit, held_out = errors[::2], errors[1::2]
    if size >= count:
        return SearchSet(tuple(range(count)), 1.0, len(held_out))
    generator = np.random.default_rng(seed)
    strata = _strata(np.asarray(lengths, float), np.asarray(original_errors))
    best: np.ndarray | None = None
    best_fit = -np.inf
    for _ in range(draws):
        chosen = _draw(strata, size, generator)
        fit_of_chosen = _correlation(fit, words, chosen)
        if fit_of_chosen > best_fit:
            best, best_fit = chosen, fit_of_chosen
    assert best is not None
    return SearchSet(tuple(map(int, best)), _correlation(held_out, words, best), len(held_out))


def _strata(lengths: np.ndarray, errors: np.ndarray) -> list[np.ndarray]:
    """Thirds by length, each split into utterances without, with one, and with more errors."""
    thirds = np.argsort(np.argsort(lengths, kind="stable"), kind="stable") * 3 // len(lengths)
    keys = thirds * 3 + np.minimum(errors, 2)
    return [np.flatnonzero(keys == key) for key in np.unique(keys)]


def _draw(strata: list[np.ndarray], size: int, generator: np.random.Generator) -> np.ndarray:
    total = sum(map(len, strata))
    shares = [size * len(stratum) / total for stratum in strata]
    counts = [int(share) for share in shares]
    for index in np.argsort([count - share for count, share in zip(counts, shares)])[: size - sum(counts)]:
        counts[index] += 1
    return np.sort(np.concatenate([generator.permutation(stratum)[:count] for stratum, count in zip(strata, counts)]))


def _correlation(errors: np.ndarray, words: np.ndarray, chosen: np.ndarray) -> float:
    part, whole = errors[:, chosen].sum(1) / words[chosen].sum(), errors.sum(1) / words.sum()
    if len(errors) < 3 or np.ptp(part) == 0 or np.ptp(whole) == 0:
        return 0.0
    return float(spearmanr(part, whole).statistic)
