"""Bootstrap intervals against closed forms."""

import math

import numpy as np
import pytest

from lrsms.scoring import bootstrap
from lrsms.scoring.bootstrap import error_rate_interval, paired_bootstrap


def test_interval_agrees_with_the_binomial():
    # one-word utterances: the error rate is binomial, p = 0.2, n = 1000, so 20 % +- 1.96 * 1.265 points
    errors = [1] * 200 + [0] * 800
    low, high = error_rate_interval(errors, [1] * 1000)
    half = 196 * math.sqrt(0.2 * 0.8 / 1000)
    assert low == pytest.approx(20 - half, abs=0.25)
    assert high == pytest.approx(20 + half, abs=0.25)


def test_interval_is_reproducible_however_many_draws_are_held_at_once(monkeypatch):
    errors, tokens = [0, 1, 2, 0, 3], [4, 5, 6, 7, 8]
    whole = error_rate_interval(errors, tokens)
    monkeypatch.setattr(bootstrap, "_DRAWS", 35)
    assert error_rate_interval(errors, tokens) == whole


def test_no_errors_and_constant_errors_have_no_width():
    assert error_rate_interval([0, 0, 0], [3, 4, 5]) == (0.0, 0.0)
    assert error_rate_interval([1, 2], [10, 20]) == pytest.approx((10.0, 10.0))


def test_paired_interval_agrees_with_the_normal_approximation():
    generator = np.random.default_rng(1)
    a, b = generator.binomial(10, 0.2, 800), generator.binomial(10, 0.15, 800)
    found = paired_bootstrap(a.tolist(), b.tolist(), [10] * 800)
    difference = (b - a) * 10.0
    half = 1.96 * difference.std() / math.sqrt(800)
    assert found.difference == pytest.approx(difference.mean())
    assert (found.low, found.high) == pytest.approx((difference.mean() - half, difference.mean() + half), abs=0.1)
    assert found.not_worse == 1.0


def test_pairing_removes_what_utterances_share():
    # b makes exactly one error more in every utterance of 10 words: the difference is certain, the rates are not
    a = [0, 5, 1, 8, 2, 9] * 20
    b = [errors + 1 for errors in a]
    tokens = [10] * len(a)
    low, high = error_rate_interval(a, tokens)
    found = paired_bootstrap(a, b, tokens)
    assert high - low > 5
    assert found == pytest.approx((10.0, 10.0, 10.0, 0.0))


def test_a_system_is_not_worse_than_itself():
    assert paired_bootstrap([1, 0, 2], [1, 0, 2], [3, 3, 3]) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("errors", "tokens", "message"), [([1], [1, 2], "one number"), ([1], [0], "no token"), ([], [], "no token")]
)
def test_what_has_no_error_rate_is_refused(errors, tokens, message):
    with pytest.raises(ValueError, match=message):
        error_rate_interval(errors, tokens)


def test_one_utterance_has_an_interval_of_no_width():
    assert error_rate_interval([1], [4]) == (25.0, 25.0)
    assert paired_bootstrap([1], [2], [4]) == (25.0, 25.0, 25.0, 0.0)


def test_240_utterances_have_the_digits_of_published_results():
    # as the loop over numpy's draws gave them before scipy's bootstrap did
    generator = np.random.default_rng(0)
    tokens = generator.integers(2, 11, 240)
    a, b = generator.binomial(tokens, 0.1), generator.binomial(tokens, 0.08)
    assert [f"{bound:.2f}" for bound in error_rate_interval(a, tokens)] == ["9.84", "12.79"]
    assert [f"{value:.3f}" for value in paired_bootstrap(a, b, tokens)] == ["-3.135", "-5.061", "-1.170", "0.999"]
