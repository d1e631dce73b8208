"""The ``low_rank:`` block: what is taken, and errors that name the key and the value."""

import pytest

from lrsms.errors import LrsmsError
from lrsms.lowrank import LowRankConfig


def test_nothing_asked_for_means_nothing_factored():
    assert LowRankConfig.parse(None) == LowRankConfig.parse({}) == LowRankConfig()
    assert LowRankConfig().ratios == {}


def test_everything_asked_for():
    config = LowRankConfig.parse(
        {
            "attention": 0.12,
            "feed_forward": 1,
            "convolution": None,
            "of": "parameters",
            "layer_map": "linear",
            "init": "orthogonal",
            "multiple": 4,
            "ranks": {"encoders.0.feed_forward.w_1": 16, "embed.out.0": 0},
        }
    )
    assert config.ratios == {"attention": 0.12, "feed_forward": 1.0}
    assert (config.of, config.layer_map, config.init, config.multiple) == ("parameters", "linear", "orthogonal", 4)
    assert config.ranks == {"encoders.0.feed_forward.w_1": 16, "embed.out.0": 0}


@pytest.mark.parametrize(
    ("block", "key", "value"),
    [
        ({"atention": 0.1}, "low_rank.atention", "attention"),
        ({7: 0.1}, "low_rank.7", "roles are"),
        ({"attention": 0}, "low_rank.attention", "0"),
        ({"attention": 1.2}, "low_rank.attention", "1.2"),
        ({"attention": -0.5}, "low_rank.attention", "-0.5"),
        ({"attention": "12%"}, "low_rank.attention", "'12%'"),
        ({"attention": "0.12"}, "low_rank.attention", "'0.12'"),
        ({"attention": True}, "low_rank.attention", "True"),
        ({"attention": float("nan")}, "low_rank.attention", "nan"),
        ({"attention": [0.1, 0.2]}, "low_rank.attention", "[0.1, 0.2]"),
        ({"of": "rank"}, "low_rank.of", "'rank'"),
        ({"layer_map": "cubic"}, "low_rank.layer_map", "'cubic'"),
        ({"layer_map": ["linear"]}, "low_rank.layer_map", "['linear']"),
        ({"init": "zeros"}, "low_rank.init", "'zeros'"),
        ({"init": None}, "low_rank.init", "None"),
        ({"multiple": 0}, "low_rank.multiple", "0"),
        ({"multiple": 2.5}, "low_rank.multiple", "2.5"),
        ({"multiple": True}, "low_rank.multiple", "True"),
        ({"multiple": float("inf")}, "low_rank.multiple", "inf"),
        ({"ranks": {"encoders.0": -1}}, "low_rank.ranks.encoders.0", "-1"),
        ({"ranks": {"encoders.0": "8"}}, "low_rank.ranks.encoders.0", "'8'"),
        ({"ranks": {"encoders.0": float("nan")}}, "low_rank.ranks.encoders.0", "nan"),
        ({"ranks": ["encoders.0"]}, "low_rank.ranks", "['encoders.0']"),
        (0.12, "low_rank", "0.12"),
        (["attention"], "low_rank", "['attention']"),
    ],
)
def test_an_error_names_the_key_and_the_value(block, key, value):
    with pytest.raises(LrsmsError) as error:
        LowRankConfig.parse(block, where="encoder_conf.low_rank")
    assert str(error.value).startswith(f"encoder_conf.{key}:")
    assert value in str(error.value)


@pytest.mark.parametrize("ratio", [1e-6, 0.12, 1, 1.0])
def test_the_ends_of_the_range_are_taken(ratio):
    assert LowRankConfig.parse({"attention": ratio}).ratios == {"attention": ratio}
