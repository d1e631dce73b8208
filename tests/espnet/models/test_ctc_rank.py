"""CTC's rank stands in the encoder's block and is told apart from the encoder's own in one place."""

import types

import pytest
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.espnet.models.ctc_rank import block_ranks, factorize_ctc, plan_ctc, split
from lrsms.lowrank import LowRankConfig, LowRankLinear

BLOCK = {"attention": 0.25, "output": 0.5, "multiple": 2, "ranks": {"embed.out": 3, "ctc.ctc_lo": 6}}


def ctc() -> nn.Module:
    return nn.ModuleDict({"ctc_lo": nn.Linear(24, 32)})


def test_a_block_is_split_between_encoder_and_ctc():
    encoder, of_ctc = split(LowRankConfig.parse(BLOCK))
    assert (encoder.ratios, encoder.ranks) == ({"attention": 0.25}, {"embed.out": 3})
    assert (of_ctc.ratios, of_ctc.ranks) == ({"output": 0.5}, {"ctc_lo": 6})
    assert encoder.multiple == of_ctc.multiple == 2


def test_ranks_by_path_become_those_of_a_block():
    ranks = {"encoder.embed.out": 3, "ctc.ctc_lo": 6, "decoder.output_layer": 4}
    assert block_ranks("encoder", ranks) == {"embed.out": 3, "ctc.ctc_lo": 6}
    assert block_ranks("decoder", ranks) == {"output_layer": 4}


@pytest.mark.parametrize(("block", "rank"), [(BLOCK, 6), ({"output": 0.25, "multiple": 2}, 6), ({"attention": 0.1}, 0)])
def test_the_layer_is_factored_if_the_encoders_block_says_so(block, rank):
    encoder = types.SimpleNamespace(low_rank_config=LowRankConfig.parse(block))
    model = types.SimpleNamespace(encoder=encoder, ctc=ctc())
    factorize_ctc(model)
    layer = model.ctc.ctc_lo if hasattr(model.ctc, "ctc_lo") else model.ctc["ctc_lo"]
    assert (layer.rank if isinstance(layer, LowRankLinear) else 0) == rank
    assert hasattr(model.ctc, "rank_plan") == bool(rank)


def test_a_dense_encoder_says_nothing_of_ctc():
    model = types.SimpleNamespace(encoder=nn.Linear(1, 1), ctc=ctc())
    factorize_ctc(model)
    assert type(model.ctc["ctc_lo"]) is nn.Linear


def test_a_rank_without_ctc_is_refused():
    with pytest.raises(LrsmsError, match="encoder_conf.low_rank.output: the model has no CTC"):
        plan_ctc(None, LowRankConfig.parse({"output": 0.5}))
    assert plan_ctc(None, LowRankConfig.parse({"attention": 0.5})).entries == ()
