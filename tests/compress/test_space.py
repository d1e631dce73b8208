"""What can be chosen, and what it costs."""

import pytest
import toy

from lrsms.compress.space import Layer, SearchSpace
from lrsms.errors import LrsmsError
from lrsms.lowrank.plan import PlanEntry


def test_cost_counts_the_whole_model():
    space = toy.space(2)
    assert space.cost(space.largest) == 1000 + 2 * 1600
    assert [group.ranks for group in space.groups] == [((4,), (10,), (None,))] * 2
    assert space.cost((0, 2)) == 1000 + 4 * 80 + 1600
    assert space.ranks((0, 2)) == {
        "encoder.encoders.0.feed_forward.w_1": 4,
        "encoder.encoders.1.feed_forward.w_1": None,
    }


def test_macs_weigh_layers_by_their_positions():
    entry = PlanEntry("w", "feed_forward", 0, 40, 40, None)
    layers = [Layer("encoder.a", entry, None, 10.0), Layer("decoder.b", entry, None, 1.0)]
    space = SearchSpace.make(layers, [0.1, "dense"], 20_000, budget="macs", multiple=1)
    assert space.cost(space.largest) - space.cost((0, 1)) == 10 * (1600 - 320)
    assert space.cost(space.largest) - space.cost((1, 0)) == 1 * (1600 - 320)


def test_a_rank_at_break_even_is_not_offered():
    space = toy.space(1, ratios=(0.25, 0.5, 0.9, "dense"))
    assert space.groups[0].ranks == ((10,), (None,))  # 20 * 80 is the dense matrix


def test_a_layer_that_is_low_rank_keeps_its_rank_or_goes_below():
    entry = PlanEntry("w", "feed_forward", 0, 40, 40, None)
    space = SearchSpace.make([Layer("encoder.a", entry, 8)], [0.1, 0.25, "dense"], 5000, multiple=1)
    assert space.groups[0].ranks == ((4,), (None,))
    assert space.cost((1,)) == 5000 and space.cost((0,)) == 5000 - 4 * 80


@pytest.mark.parametrize(("tie", "groups"), [("none", 6), ("qkv", 4), ("block", 1), ("role", 1)])
def test_ties(tie, groups):
    layers = [
        Layer(
            f"encoder.encoders.0.self_attn.linear_{name}",
            PlanEntry(f"encoders.0.self_attn.linear_{name}", "attention", 0, 40, 40, None),
        )
        for name in ("q", "k", "v", "out")
    ]
    layers += [
        Layer(
            f"encoder.encoders.0.feed_forward.w_{i}",
            PlanEntry(f"encoders.0.feed_forward.w_{i}", "attention", 0, 40, 40, None),
        )
        for i in (1, 2)
    ]

    assert len(SearchSpace.make(layers, [0.1, "dense"], 20_000, tie=tie).groups) == groups


def test_fit_spends_the_budget_and_keeps_the_order_of_wishes():
    space = toy.space(6, ratios=(0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, "dense"))
    limit = 1000 + 6 * 1600 / 2
    choice = space.fit([3, 0, 0, 0, 0, 0], limit)
    assert space.cost(choice) <= limit
    assert choice[0] == max(choice)
    room = limit - space.cost(choice)
    more = [space.costs(i)[c + 1] - space.costs(i)[c] for i, c in enumerate(choice) if c + 1 < len(space.costs(i))]
    assert room < min(more)  # nothing more could have been bought
    assert space.fit([0] * 6, space.cost(space.largest)) == space.largest


def test_a_budget_out_of_reach_says_the_smallest():
    space = toy.space(2)
    with pytest.raises(LrsmsError, match=r"out of reach: the smallest ratios leave 1,640, 2\.56x fewer"):
        space.fit([0, 0], 1600)


@pytest.mark.parametrize("ratio", [0, 1, 1.5, True, "half"])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(LrsmsError, match="is not a number between 0 and 1, or dense"):
        toy.space(1, ratios=(ratio, "dense"))
    with pytest.raises(LrsmsError, match="no layer can be made smaller"):
        toy.space(1, ratios=(0.9, "dense"))
