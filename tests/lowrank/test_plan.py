"""Ranks chosen for a model, and the model factored by them."""

import pytest
import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.lowrank import LowRankConfig, RankPlan, Recurrent, apply_plan_, low_rank_layers
from lrsms.lowrank.plan import round_rank

ROLES = {
    r"blocks\.\d+\.attention\.(q|out)": "attention",
    r"blocks\.\d+\.w_[12]": "feed_forward",
    r"blocks\.\d+\.pointwise": "convolution",
    r"embed\.\d+": "subsampling",
}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.ModuleDict({"q": nn.Linear(64, 64), "out": nn.Linear(64, 64)})
        self.w_1, self.w_2 = nn.Linear(64, 256), nn.Linear(256, 64)
        self.pointwise = nn.Conv1d(64, 128, 1)
        self.norm = nn.LayerNorm(64)


class Model(nn.Module):
    def __init__(self, blocks: int = 4):
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(1, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 32, 3, 2))
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(64, 10)


def make(block: dict, model: nn.Module | None = None) -> RankPlan:
    return RankPlan.make(model or Model(), ROLES, LowRankConfig.parse(block), "encoder_conf.low_rank")


def ranks(plan: RankPlan, ending: str) -> list[int | None]:
    return [entry.rank for entry in plan.entries if entry.module.endswith(ending)]


@pytest.mark.parametrize(
    ("rank", "multiple", "full", "expected"),
    [(7.68, 8, 64, 8), (30.72, 8, 256, 32), (11.9, 8, 64, 8), (12.1, 8, 64, 16), (0.5, 8, 64, 8), (70, 8, 64, 64)]
    + [(0.3, 8, 5, 1), (2.6, 8, 5, 3), (9, 8, 5, 5), (7.68, 1, 64, 8), (2.4, 2, 64, 2)],
)
def test_rounding(rank, multiple, full, expected):
    assert round_rank(rank, multiple, full) == expected


def test_rank_is_a_ratio_of_the_full_rank():
    plan = make({"attention": 0.25, "feed_forward": 0.5})
    assert ranks(plan, "attention.q") == [16] * 4  # 0.25 * 64
    assert ranks(plan, "w_1") == ranks(plan, "w_2") == [32] * 4  # 0.5 * min(64, 256)
    assert ranks(plan, "pointwise") == [None] * 4  # a role not asked for
    assert all("head" not in entry.module and "norm" not in entry.module for entry in plan.entries)


def test_rank_is_a_ratio_of_break_even():
    plan = make({"feed_forward": 0.5, "of": "parameters"})  # break-even is 64 * 256 / 320 = 51.2
    assert ranks(plan, "w_1") == [24] * 4  # 25.6 to a multiple of 8
    assert ranks(make({"feed_forward": 0.5, "of": "parameters", "multiple": 1}), "w_1") == [26] * 4


def test_break_even_stays_dense_with_its_note():
    plan = make({"attention": 0.5, "feed_forward": 0.75})  # 32 of 64 x 64 stores exactly what dense does
    entry = next(entry for entry in plan.entries if entry.module == "blocks.0.attention.q")
    assert entry.rank is None and entry.parameters == entry.dense_parameters == 4096
    assert entry.note == "rank 32 reaches break-even at 32"
    assert ranks(plan, "w_1") == [48] * 4
    assert ranks(make({"attention": 0.5, "multiple": 31}), "attention.q") == [31] * 4


def test_weights_of_a_map_go_to_blocks_in_order():
    uniform = make({"feed_forward": 0.5})
    plan = make({"feed_forward": 0.5, "layer_map": [1, 2, 2, 1]})
    assert ranks(plan, "w_1") == ranks(plan, "w_2") == [24, 40, 40, 24]
    assert plan.parameters == uniform.parameters


def test_weights_of_another_number_than_blocks_are_refused():
    with pytest.raises(LrsmsError) as error:
        make({"feed_forward": 0.5, "layer_map": [1, 2, 3]})
    assert str(error.value) == "encoder_conf.low_rank.layer_map: 3 weights, but there are 4 layers like blocks.0.w_1"
    assert ranks(make({"subsampling": 0.25, "layer_map": [1, 2, 3]}), "embed.2") == [8]  # stands alone: has no depth


def test_deserts_share_the_budget_of_a_role_and_shape():
    """In place of a map: how much each layer deserves."""
    uniform = make({"attention": 0.25, "feed_forward": 0.25})
    deserts = {entry.module: 3.0 if entry.module.endswith("attention.q") else 1.0 for entry in uniform.entries}
    deserts["blocks.2.w_1"] = 5.0
    config = LowRankConfig.parse({"attention": 0.25, "feed_forward": 0.25})
    plan = RankPlan.make(Model(), ROLES, config, weights=deserts)
    assert plan.parameters == uniform.parameters
    assert (ranks(plan, "attention.q"), ranks(plan, "attention.out")) == ([24] * 4, [8] * 4)  # of one shape
    assert ranks(plan, "w_1") == [8, 8, 40, 8]
    assert ranks(plan, "w_2") == [16] * 4
    assert ranks(plan, "pointwise") == [None] * 4


class Words(nn.Module):
    """What the table of roles knows beside blocks of a Transformer."""

    def __init__(self, rnn=nn.LSTM):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        for layer in range(3):
            setattr(self, f"birnn{layer}", rnn(16, 24, batch_first=True, bidirectional=True))
            setattr(self, f"bt{layer}", nn.Linear(48, 16))
        self.decoder = nn.ModuleList([nn.LSTMCell(16, 24), nn.LSTMCell(24, 24), nn.LSTMCell(24, 24)])
        self.output = nn.Linear(24, 50)


WORD_ROLES = {"embed": "embedding", "output": "output", r"decoder\.\d+": "recurrent"}
WORD_ROLES |= {r"birnn(\d+)": Recurrent(r"bt\1")}


def words(block: dict, model: nn.Module | None = None) -> RankPlan:
    return RankPlan.make(model or Words(), WORD_ROLES, LowRankConfig.parse(block), "decoder_conf.low_rank")


def test_embedding_output_and_recurrent_layers():
    plan = words({"embedding": 0.5, "output": 0.25, "recurrent": 0.25, "multiple": 1})
    found = {entry.module: entry for entry in plan.entries}
    lstms = [f"birnn{n}{what}" for n in range(3) for what in ("", ".input")]
    assert list(found) == ["embed", *lstms, *[f"decoder.{n}" for n in range(3)], "output"]
    assert [found[f"birnn{n}"].reader for n in range(3)] == ["bt0", "bt1", "bt2"]
    assert [found[name].depth for name in ("birnn2", "birnn2.input", "decoder.1", "embed")] == [2, 2, 1, 0]
    table = found["embed"]
    assert (table.inputs, table.outputs, table.rank, table.full_rank) == (50, 16, 8, 16)
    assert (table.parameters, table.macs, table.dense_macs) == (8 * 66, 8 * 16, 0)  # looking up is free
    assert table.macs_saved(10) == -10 * 8 * 16
    cell = found["decoder.0"]
    assert (cell.inputs, cell.outputs, cell.rank, cell.macs) == (40, 96, 10, 10 * 136)
    assert cell.macs_saved(3) == 3 * (40 * 96 - 10 * 136)
    assert (found["birnn0"].rank, found["output"].rank) == (6, 6)


def test_parameters_of_recurrent_layers_are_those_of_the_factored_model():
    model = Words()
    dense = sum(parameter.numel() for parameter in model.parameters())
    shares = {"embedding": 0.5, "output": 0.25, "recurrent": 0.25, "recurrent_input": 0.25}
    plan = words(shares | {"multiple": 1}, model)
    apply_plan_(model, plan)
    stored = sum(parameter.numel() for parameter in model.parameters())
    biases = sum(cell.biases_saved for cell in model.decoder)
    assert biases == 3 * 96 and dense - stored == plan.dense_parameters - plan.parameters + biases


def test_a_map_spreads_over_recurrent_layers():
    block = {"recurrent": 0.5, "multiple": 1}
    plan = words(block | {"layer_map": "linear"})
    assert ranks(plan, "birnn0") < ranks(plan, "birnn1") < ranks(plan, "birnn2")
    assert ranks(plan, "decoder.1") < ranks(plan, "decoder.2")
    assert plan.parameters == words(block).parameters


def test_recurrent_layers_that_are_no_lstm():
    model = Words(rnn=nn.GRU)
    assert [entry.module for entry in words({"recurrent": 0.5}, model).entries if "rnn" in entry.module] == []
    del model.decoder
    with pytest.raises(LrsmsError, match=r"low_rank\.recurrent: Words .*; a GRU cannot be factored, an LSTM can$"):
        words({"recurrent": 0.5}, model)


def test_an_input_layer_that_is_no_embedding_is_left_alone():
    model = Words()
    model.embed = nn.Linear(50, 16)
    there = r"low_rank\.embedding: Words has no such layer.* it has output, recurrent, recurrent_input$"
    with pytest.raises(LrsmsError, match=there):
        words({"embedding": 0.5}, model)


@pytest.mark.parametrize("layer_map", ["linear", "linear_decreasing"])
def test_a_map_costs_what_uniform_costs(layer_map):
    uniform = make({"attention": 0.25, "feed_forward": 0.5})
    sloped = make({"attention": 0.25, "feed_forward": 0.5, "layer_map": layer_map})
    assert sloped.parameters == uniform.parameters < uniform.dense_parameters
    found = ranks(sloped, "w_1")
    assert len(set(found)) > 1
    assert found == sorted(found, reverse=layer_map == "linear_decreasing")
    assert max(found) <= 48  # break-even is 51.2
    assert ranks(sloped, "attention.q") == sorted(ranks(sloped, "attention.q"), reverse=layer_map != "linear")


def test_depth_follows_the_block_beyond_nine():
    plan = make({"feed_forward": 0.5, "layer_map": "linear"}, Model(blocks=12))
    assert [entry.depth for entry in plan.entries if entry.module.endswith("w_1")] == list(range(12))
    assert ranks(plan, "w_1") == sorted(ranks(plan, "w_1"))
    assert sum(ranks(plan, "w_1")) == 12 * 32


def test_one_block_takes_any_map():
    plan = make({"feed_forward": 0.5, "layer_map": "linear"}, Model(blocks=1))
    assert ranks(plan, "w_1") == [32]


def test_convolutions_of_a_stack_without_blocks_are_apart():
    plan = make({"subsampling": 0.25, "layer_map": "linear"})
    assert ranks(plan, "embed.2") == [8]  # 0.25 * min(32, 288)
    first = next(entry for entry in plan.entries if entry.module == "embed.0")
    assert (first.inputs, first.outputs, first.rank) == (9, 32, None) and "break-even" in first.note


def test_explicit_ranks_win():
    explicit = {"blocks.0.attention.q": 5, "blocks.1.attention.q": 0, "head": 3, "embed.2": 60 // 2}
    model = Model()
    plan = make({"attention": 0.25, "ranks": explicit}, model)
    found = {entry.module: entry for entry in plan.entries}
    assert ranks(plan, "attention.q") == [5, None, 16, 16]
    assert (found["head"].rank, found["head"].role, found["head"].note) == (3, "explicit", "explicit")
    assert found["blocks.1.attention.q"].note == "explicit"
    assert [entry.module for entry in plan.entries] == [name for name, _ in model.named_modules() if name in found]
    apply_plan_(model, plan)
    assert {path: layer.rank for path, layer in low_rank_layers(model)}["head"] == 3
    assert isinstance(model.blocks[1].attention["q"], nn.Linear)


@pytest.mark.parametrize(
    ("path", "rank", "message"),
    [
        ("blocks.9.w_1", 8, "encoder_conf.low_rank.ranks.blocks.9.w_1: Model has no layer"),
        ("blocks.0.norm", 8, "encoder_conf.low_rank.ranks.blocks.0.norm: Model has no layer"),
        ("blocks.0.w_1", 65, "encoder_conf.low_rank.ranks.blocks.0.w_1: 65 exceeds the full rank 64"),
    ],
)
def test_an_explicit_rank_that_cannot_be(path, rank, message):
    with pytest.raises(LrsmsError) as error:
        make({"ranks": {path: rank}})
    assert str(error.value).startswith(message)


def test_a_role_that_the_model_has_no_layer_for():
    with pytest.raises(LrsmsError, match=r"encoder_conf\.low_rank\.attention_pos: Model has no such layer.*attention"):
        make({"attention_pos": 0.5})


def test_parameters_of_the_plan_are_those_of_the_factored_model():
    model = Model()
    dense = sum(parameter.numel() for parameter in model.parameters())
    block = {"attention": 0.25, "feed_forward": 0.5, "convolution": 0.25, "subsampling": 0.5, "layer_map": "linear"}
    plan = make(block, model)
    assert apply_plan_(model, plan) is model
    stored = sum(parameter.numel() for parameter in model.parameters())
    assert dense - stored == plan.dense_parameters - plan.parameters > 0
    for entry in plan.entries:
        module = model.get_submodule(entry.module)
        weights = sum(p.numel() for name, p in module.named_parameters() if name.endswith("weight"))
        assert weights == entry.parameters, entry
    assert {path for path, _ in low_rank_layers(model)} == {e.module for e in plan.entries if e.rank is not None}


def test_parameters_by_hand():
    plan = make({"attention": 0.25}, Model(blocks=1))
    entry = next(entry for entry in plan.entries if entry.module.endswith("attention.q"))
    assert (entry.parameters, entry.dense_parameters) == (16 * (64 + 64), 64 * 64)
    assert plan.dense_parameters == 2 * 64 * 64 + 2 * 64 * 256 + 64 * 128 + 9 * 32 + 288 * 32
    assert plan.parameters == plan.dense_parameters - 2 * (4096 - 2048)


def test_factoring_is_the_svd_of_the_dense_weights():
    torch.manual_seed(0)
    model = Model()
    weight, bias = model.blocks[0].w_1.weight.detach().clone(), model.blocks[0].w_1.bias.detach().clone()
    apply_plan_(model, make({"feed_forward": 0.5}, model))
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    best = left[:, :32] * values[:32] @ right[:32]
    torch.testing.assert_close(model.blocks[0].w_1.product(), best, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.blocks[0].w_1.bias, bias)


def test_table_has_one_line_per_layer():
    plan = make({"attention": 0.5, "feed_forward": 0.5, "of": "full_rank"}, Model(blocks=1))
    header, *rows = plan.table().split("\n")
    assert header.split() == ["module", "role", "in", "x", "out", "rank", "parameters", "of", "dense"]
    assert len(rows) == len(plan.entries)
    row = next(row for row in rows if row.startswith("blocks.0.w_1"))
    assert row.split() == ["blocks.0.w_1", "feed_forward", "64", "x", "256", "32", "10,240", "62", "%"]
    row = next(row for row in rows if row.startswith("blocks.0.attention.q"))
    assert row.split()[5:] == ["dense", "4,096", "100", "%"] + ["rank", "32", "reaches", "break-even", "at", "32"]
