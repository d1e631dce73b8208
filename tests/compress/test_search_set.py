"""A subset of dev that ranks candidates as all of dev does."""

import numpy as np
import pytest

from lrsms.compress.search_set import choose


def made_up(utterances=200, candidates=30, seed=0):
    """Candidates whose true quality shows on every utterance, through noise; long utterances are harder."""
    generator = np.random.default_rng(seed)
    lengths = generator.uniform(1, 10, utterances)
    words = np.maximum(1, lengths.round()).astype(int)
    quality = np.linspace(0.02, 0.5, candidates)
    errors = generator.binomial(words, np.clip(quality[:, None] * (0.5 + lengths / 10), 0, 1))
    return lengths, generator.binomial(words, 0.05), errors, words


def test_the_chosen_few_rank_candidates_as_all_do():
    lengths, original, errors, words = made_up()
    found = choose(lengths, original, errors, words, 40)
    assert len(found.indices) == 40 == len(set(found.indices)) and list(found.indices) == sorted(found.indices)
    assert found.correlation > 0.9 and found.candidates == 15


def test_every_length_is_there():
    lengths, original, errors, words = made_up()
    chosen = lengths[list(choose(lengths, original, errors, words, 30).indices)]
    low, high = np.quantile(lengths, [1 / 3, 2 / 3])
    counts = [(chosen < low).sum(), ((chosen >= low) & (chosen < high)).sum(), (chosen >= high).sum()]
    assert min(counts) >= 8


def test_the_correlation_is_not_measured_on_what_chose():
    lengths, original, errors, words = made_up(candidates=30)
    noise = np.random.default_rng(1).binomial(words, 0.2, size=errors.shape)  # candidates that do not differ
    assert abs(choose(lengths, original, noise, words, 10).correlation) < 0.75


def test_a_set_that_is_large_enough_is_all_of_dev():
    lengths, original, errors, words = made_up(utterances=20)
    assert choose(lengths, original, errors, words, 50).indices == tuple(range(20))


def test_sizes_that_do_not_agree_are_refused():
    lengths, original, errors, words = made_up(utterances=20)
    with pytest.raises(ValueError, match="20 lengths, 19 errors"):
        choose(lengths, original[:-1], errors, words, 5)
