"""Layer maps keep the budget of the uniform map."""

import itertools

import pytest

from lrsms.lowrank.maps import MAPS, spread_ranks

CASES = [
    (mean * multiple, layers, multiple, largest)
    for mean, layers, multiple in itertools.product((1, 2, 3, 4, 7, 16), (1, 2, 3, 4, 5, 6, 12, 17), (1, 8))
    for largest in (mean * multiple, mean * multiple + multiple, 4 * mean * multiple)
]


@pytest.mark.parametrize("layer_map", MAPS)
def test_sum_bounds_and_multiples(layer_map):
    for mean, layers, multiple, largest in CASES:
        ranks = spread_ranks(mean, layers, layer_map, multiple=multiple, largest=largest)
        case = (mean, layers, multiple, largest, ranks)
        assert len(ranks) == layers, case
        assert sum(ranks) == mean * layers, case
        assert 0 < min(ranks) and max(ranks) <= largest, case
        assert all(rank % multiple == 0 for rank in ranks), case


def test_linear_rises_and_its_mirror_falls():
    for mean, layers, multiple, largest in CASES:
        rising = spread_ranks(mean, layers, "linear", multiple=multiple, largest=largest)
        falling = spread_ranks(mean, layers, "linear_decreasing", multiple=multiple, largest=largest)
        assert rising == sorted(rising), (mean, layers, multiple, largest, rising)
        assert falling == rising[::-1], (mean, layers, multiple, largest, rising, falling)


def test_linear_by_hand():
    assert spread_ranks(16, 3, "linear", multiple=8, largest=64) == [8, 16, 24]
    assert spread_ranks(32, 5, "linear", multiple=8, largest=64) == [16, 24, 32, 40, 48]
    assert spread_ranks(32, 2, "linear_decreasing", multiple=8, largest=64) == [48, 16]


def test_uniform_and_a_single_layer_keep_the_mean():
    assert spread_ranks(24, 4, "uniform", multiple=8, largest=96) == [24] * 4
    assert {spread_ranks(24, 1, name, multiple=8, largest=96)[0] for name in MAPS} == {24}


def test_the_slope_is_cut_at_the_largest_rank():
    assert spread_ranks(32, 3, "linear", multiple=8, largest=40) == [24, 32, 40]
    assert spread_ranks(32, 3, "linear", multiple=8, largest=32) == [32] * 3


def test_a_rank_below_the_multiple_stays_uniform():
    assert spread_ranks(3, 4, "linear", multiple=8, largest=20) == [3] * 4
