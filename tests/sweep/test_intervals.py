"""Means over seeds and differences between them."""

import pytest
from scipy import stats

from lrsms.sweep.intervals import Interval, difference_interval, mean_interval

A, B = [2.7, 3.1, 2.2], [4.0, 4.9, 4.1, 5.3]


def test_a_mean_has_students_interval():
    found = mean_interval(A)
    expected = stats.ttest_1samp(A, 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(8 / 3)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_difference_has_welchs_interval():
    found = difference_interval(A, B)
    expected = stats.ttest_ind(B, A, equal_var=False).confidence_interval(0.95)
    assert found.mean == pytest.approx(4.575 - 8 / 3)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_seed_has_no_interval():
    assert mean_interval([3.0]) == Interval(3.0, None, None)
    assert difference_interval([3.0], B[:2]) == Interval(pytest.approx(1.45), None, None)


def test_equal_seeds_have_an_interval_of_no_width():
    assert mean_interval([3.0, 3.0]) == Interval(3.0, 3.0, 3.0)
    assert difference_interval([3.0, 3.0], [5.0, 5.0]) == Interval(2.0, 2.0, 2.0)
