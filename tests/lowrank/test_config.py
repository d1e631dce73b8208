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
        ({"layer_map": []}, "low_rank.layer_map", "[]"),
        ({"layer_map": [1, 0]}, "low_rank.layer_map", "[1, 0]"),
        ({"layer_map": [1, -2]}, "low_rank.layer_map", "[1, -2]"),
        ({"layer_map": [1, float("nan")]}, "low_rank.layer_map", "nan"),
        ({"layer_map": [1, float("inf")]}, "low_rank.layer_map", "inf"),
        ({"layer_map": [True]}, "low_rank.layer_map", "[True]"),
        ({"layer_map": 0.5}, "low_rank.layer_map", "0.5"),
        ({"layer_map": {"linear": 1}}, "low_rank.layer_map", "{'linear': 1}"),
        ({"target": 1}, "low_rank.target.parameters", "1"),
        ({"target": "x"}, "low_rank.target.parameters", "'x'"),
        ({"target": True}, "low_rank.target", "True"),
        ({"target": {}}, "low_rank.target", "{}"),
        ({"target": {"seconds": 2}}, "low_rank.target", "'seconds'"),
        ({"target": {"macs": 2, "parameters": 2}}, "low_rank.target", "'parameters'"),
        ({"target": {"macs": "twice"}}, "low_rank.target.macs", "'twice'"),
        ({"target": {"macs": 1}}, "low_rank.target.macs", "1"),
        ({"target": {"macs": "0.5x"}}, "low_rank.target.macs", "'0.5x'"),
        ({"target": {"parameters": float("inf")}}, "low_rank.target.parameters", "inf"),
        ({"target": {"parameters": float("nan")}}, "low_rank.target.parameters", "nan"),
        ({"target": {"parameters": None}}, "low_rank.target.parameters", "None"),
        ({"target": {"parameters": True}}, "low_rank.target.parameters", "True"),
        ({"frobenius_decay": -1e-4}, "low_rank.frobenius_decay", "-0.0001"),
        ({"frobenius_decay": "1e-4"}, "low_rank.frobenius_decay", "'1e-4'"),
        ({"frobenius_decay": float("nan")}, "low_rank.frobenius_decay", "nan"),
        ({"semi_orthogonal": -1}, "low_rank.semi_orthogonal", "-1"),
        ({"semi_orthogonal": True}, "low_rank.semi_orthogonal", "True"),
        ({"semi_orthogonal": float("inf")}, "low_rank.semi_orthogonal", "inf"),
        ({"self_guided": -1}, "low_rank.self_guided", "-1"),
        ({"self_guided": 0.5}, "low_rank.self_guided", "0.5"),
        ({"self_guided": "3000"}, "low_rank.self_guided", "'3000'"),
        ({"self_guided": True}, "low_rank.self_guided", "True"),
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


def test_the_options_of_whole_models_and_of_training():
    config = LowRankConfig.parse(
        {
            "recurrent": 0.25,
            "embedding": 0.5,
            "output": 1,
            "layer_map": [1, 2.5, 4],
            "target": {"macs": "1.5x"},
            "frobenius_decay": 1e-4,
            "semi_orthogonal": 1,
            "self_guided": 3000,
        }
    )
    assert config.ratios == {"recurrent": 0.25, "embedding": 0.5, "output": 1.0}
    assert config.layer_map == (1.0, 2.5, 4.0) and config.target == ("macs", 1.5)
    assert (config.frobenius_decay, config.semi_orthogonal, config.self_guided) == (1e-4, 1.0, 3000)
    assert LowRankConfig.parse({"layer_map": "cosine"}).layer_map == "cosine"
    stable = LowRankConfig.parse({"layer_map": "stable_rank", "stable_rank_from": "dense.pth"})
    assert (stable.layer_map, stable.stable_rank_from) == ("stable_rank", "dense.pth")


@pytest.mark.parametrize("times", [2, 2.0, "2", "2x", "2.0x"])
def test_spellings_of_a_target(times):
    for target in (times, {"parameters": times}):
        assert LowRankConfig.parse({"target": target}).target == ("parameters", 2.0)


@pytest.mark.parametrize(
    "nothing",
    [
        {"target": None},
        {"stable_rank_from": None},
        {"self_guided": None},
        {"frobenius_decay": 0},
        {"semi_orthogonal": 0},
    ],
)
def test_options_that_ask_for_nothing(nothing):
    assert LowRankConfig.parse({"attention": 0.1, **nothing}) == LowRankConfig.parse({"attention": 0.1})


def test_scaling_keeps_proportions_up_to_one():
    config = LowRankConfig.parse({"attention": 0.1, "feed_forward": 0.4, "init": "xavier"})
    assert config.scaled(2).ratios == {"attention": 0.2, "feed_forward": 0.8}
    assert config.scaled(5).ratios == {"attention": 0.5, "feed_forward": 1.0}
    assert config.scaled(2).init == "xavier" and config.ratios["attention"] == 0.1


@pytest.mark.parametrize(
    ("block", "found"),
    [
        ({"layer_map": "stable_rank"}, "layer_map is 'stable_rank', stable_rank_from None"),
        ({"stable_rank_from": "dense.pth"}, "layer_map is 'uniform', stable_rank_from 'dense.pth'"),
    ],
)
def test_stable_ranks_and_their_checkpoint_go_together(block, found):
    with pytest.raises(LrsmsError) as error:
        LowRankConfig.parse(block, where="encoder_conf.low_rank")
    assert str(error.value).startswith("encoder_conf.low_rank: layer_map: stable_rank and stable_rank_from: <")
    assert str(error.value).endswith(found)


@pytest.mark.parametrize("ratio", [1e-6, 0.12, 1, 1.0])
def test_the_ends_of_the_range_are_taken(ratio):
    assert LowRankConfig.parse({"attention": ratio}).ratios == {"attention": ratio}
