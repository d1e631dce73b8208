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
        assert min(ranks) > 0 and max(ranks) <= largest, case
        assert all(rank % multiple == 0 for rank in ranks), case


def test_linear_rises_and_its_mirror_falls():
    for mean, layers, multiple, largest in CASES:
        rising = spread_ranks(mean, layers, "linear", multiple=multiple, largest=largest)
        falling = spread_ranks(mean, layers, "linear_decreasing", multiple=multiple, largest=largest)
        assert rising == sorted(rising), (mean, layers, multiple, largest, rising)
        assert falling == rising[::-1], (mean, layers, multiple, largest, rising, falling)


def test_cosine_rises_and_is_flat_at_both_ends():
    for mean, layers, multiple, largest in CASES:
        ranks = spread_ranks(mean, layers, "cosine", multiple=multiple, largest=largest)
        assert ranks == sorted(ranks), (mean, layers, multiple, largest, ranks)
    ranks = spread_ranks(64, 9, "cosine", multiple=1, largest=128)
    steps = [after - before for before, after in itertools.pairwise(ranks)]
    assert steps == steps[::-1] and min(steps) == steps[0] < max(steps) == steps[len(steps) // 2]
    assert spread_ranks(64, 9, "linear", multiple=1, largest=128) == [32 + 8 * block for block in range(9)]


@pytest.mark.parametrize("layer_map", ["linear", "cosine"])
def test_what_one_end_gets_the_other_lacks(layer_map):
    for layers in (2, 3, 7, 12):
        ranks = spread_ranks(64, layers, layer_map, multiple=1, largest=256)
        assert all(abs(first + last - 128) <= 1 for first, last in zip(ranks, ranks[::-1]))


def test_weights_by_hand():
    assert spread_ranks(16, 4, [1, 1, 2, 4], multiple=8, largest=64) == [8, 8, 16, 32]
    assert spread_ranks(16, 4, [10, 10, 20, 40], multiple=8, largest=64) == [8, 8, 16, 32]  # proportions count
    assert spread_ranks(30, 3, [3, 2, 1], multiple=1, largest=99) == [45, 30, 15]
    assert spread_ranks(16, 1, [7.5], multiple=8, largest=64) == [16]


@pytest.mark.parametrize("weights", [(1, 1), (1, 5), (5, 1), (1, 1000), (1, 2, 3), (1, 1e-6, 1), (3, 1, 4, 1, 5, 9, 2)])
def test_weights_keep_sum_bounds_and_order(weights):
    for mean, _, multiple, largest in CASES:
        ranks = spread_ranks(mean, len(weights), weights, multiple=multiple, largest=largest)
        case = (mean, weights, multiple, largest, ranks)
        assert sum(ranks) == mean * len(weights), case
        assert min(ranks) > 0 and max(ranks) <= largest, case
        assert all(rank % multiple == 0 for rank in ranks), case
        pairs = itertools.combinations(zip(weights, ranks), 2)
        assert all((a[0] - b[0]) * (a[1] - b[1]) >= 0 for a, b in pairs), case
        mirrored = spread_ranks(mean, len(weights), weights[::-1], multiple=multiple, largest=largest)
        assert sorted(mirrored) == sorted(ranks), case


def test_weights_of_another_length_are_refused():
    with pytest.raises(ValueError, match="3 weights for 4 layers"):
        spread_ranks(16, 4, [1, 2, 3], multiple=8, largest=64)


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
