"""A low-rank LSTM is the dense LSTM whose readers share a projection."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lrsms.errors import LrsmsError
from lrsms.lowrank import (
    LowRankConfig,
    LowRankLSTM,
    LowRankLSTMCell,
    RankPlan,
    Recurrent,
    apply_plan_,
    low_rank_layers,
    skip_initialization,
)
from lrsms.lowrank.initialization import INITIALIZERS
from lrsms.lowrank.merge import merge_
from lrsms.lowrank.recurrent import lstm_weights, merged_lstm

INPUTS, HIDDEN, OUTPUTS = 6, 10, 7
FORMS = [(1, False), (1, True), (3, False), (3, True)]  # layers, bidirectional
forms = pytest.mark.parametrize(("layers", "bidirectional"), FORMS)


class Stack(nn.Module):
    """An LSTM and its reader, as ESPnet's encoders run them."""

    def __init__(self, layers: int, bidirectional: bool, **options):
        super().__init__()
        self.rnn = nn.LSTM(INPUTS, HIDDEN, layers, batch_first=True, bidirectional=bidirectional, **options)
        self.last = nn.Linear((1 + bidirectional) * HIDDEN, OUTPUTS)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True)
        return self.last(pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0])


def stack(layers: int, bidirectional: bool, **options) -> Stack:
    torch.manual_seed(0)
    return Stack(layers, bidirectional, **options)


def factored(model: Stack, rank: int, **block) -> tuple[Stack, RankPlan]:
    """A factored copy and its plan."""
    model = copy.deepcopy(model)
    config = LowRankConfig.parse({"multiple": 1, "ranks": {"rnn": rank}, **block})
    plan = RankPlan.make(model, {"rnn": Recurrent("last")}, config)
    return apply_plan_(model, plan), plan


@torch.no_grad()
def share_projections_(model: Stack, rank: int) -> None:
    """Make whatever reads a layer see only ``rank`` directions of its hidden units."""
    rnn = model.rnn
    suffixes = ("", "_reverse") if rnn.bidirectional else ("",)
    for layer in range(rnn.num_layers):
        for direction, suffix in enumerate(suffixes):
            basis = torch.linalg.qr(torch.randn(HIDDEN, rank))[0]
            own = slice(direction * HIDDEN, (direction + 1) * HIDDEN)
            readers = [getattr(rnn, f"weight_hh_l{layer}{suffix}")]
            if layer + 1 < rnn.num_layers:
                readers += [getattr(rnn, f"weight_ih_l{layer + 1}{other}")[:, own] for other in suffixes]
            else:
                readers.append(model.last.weight[:, own])
            for reader in readers:
                reader.copy_(reader @ basis @ basis.T)


BATCH = torch.randn(3, 12, INPUTS, generator=torch.Generator().manual_seed(0)), torch.tensor([12, 9, 4])


@forms
def test_an_lstm_that_has_the_rank_keeps_its_output(layers, bidirectional):
    dense = stack(layers, bidirectional)
    share_projections_(dense, 3)
    model, _ = factored(dense, 3)
    assert type(model.rnn) is LowRankLSTM and model.rnn.rank == 3 and model.last.in_features < dense.last.in_features
    with torch.no_grad():
        torch.testing.assert_close(model(*BATCH), dense(*BATCH), rtol=1e-5, atol=1e-5)
        too_low, _ = factored(dense, 2)
        assert (too_low(*BATCH) - dense(*BATCH)).abs().max() > 1e-3


@forms
def test_merged_has_the_output_of_the_factors(layers, bidirectional):
    model, _ = factored(stack(layers, bidirectional), 4, init="xavier")
    merged = copy.deepcopy(model)
    merged.rnn, merged.last = merged_lstm(model.rnn, model.last)
    assert type(merged.rnn) is nn.LSTM and merged.rnn.proj_size == 0
    dense = stack(layers, bidirectional)
    dense.load_state_dict(merged.state_dict())  # strict: names and shapes are the dense model's
    with torch.no_grad():
        torch.testing.assert_close(dense(*BATCH), model(*BATCH), rtol=1e-5, atol=1e-5)


@forms
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_are_those_of_the_plan(layers, bidirectional, bias):
    dense = stack(layers, bidirectional, bias=bias)
    model, plan = factored(dense, 4)
    entry, taken_in = plan.entries
    dense_weights, per_rank = lstm_weights(dense.rnn, OUTPUTS)

    def weights(module: nn.Module) -> int:
        return sum(parameter.numel() for name, parameter in module.named_parameters() if "weight" in name)

    fixed = (1 + bidirectional) * 4 * HIDDEN * INPUTS
    assert taken_in.parameters == taken_in.dense_parameters == fixed
    assert weights(dense) == fixed + dense_weights and entry.dense_parameters == dense_weights
    assert weights(model) == fixed + 4 * per_rank and entry.parameters == 4 * per_rank
    assert lstm_weights(model.rnn, OUTPUTS) == (dense_weights, per_rank)
    assert model.rnn.parameters_saved == weights(dense) - weights(model)
    assert (entry.module, entry.role, entry.reader) == ("rnn", "recurrent", "last")
    assert (entry.inputs, entry.outputs) == (HIDDEN, 4 * HIDDEN)
    biases = [sum(p.numel() for name, p in m.named_parameters() if "bias" in name) for m in (model, dense)]
    assert biases[0] == biases[1]


def test_parameters_by_hand():
    entry, taken_in = factored(stack(2, True), 4, ranks={"rnn": 4, "rnn.input": 3})[1].entries
    dense = 2 * 40 * 10 + 2 * 40 * 20 + 2 * 40 * 10 + 7 * 20
    assert entry.dense_parameters == dense
    assert entry.parameters == 2 * 40 * 4 + 2 * 40 * 8 + 2 * 40 * 4 + 7 * 8 + 4 * 4 * 10
    assert entry.break_even == pytest.approx(dense / (entry.parameters / 4))
    assert (taken_in.dense_parameters, taken_in.parameters) == (2 * 40 * 6, 3 * (2 * 40 + 6))


def test_a_rank_from_break_even_on_stays_dense():
    model = stack(1, False)
    plan = RankPlan.make(model, {"rnn": Recurrent("last")}, LowRankConfig.parse({"recurrent": 0.9, "multiple": 1}))
    assert plan.entries[0].rank is None and "break-even at 8" in plan.entries[0].note


def test_the_projection_is_below_the_hidden_size():
    with pytest.raises(LrsmsError, match=r"ranks\.rnn: 10 exceeds the full rank 9"):
        factored(stack(1, False), HIDDEN)


@forms
@pytest.mark.parametrize("init", INITIALIZERS)
def test_gradients_reach_every_factor(init, layers, bidirectional):
    model, _ = factored(stack(layers, bidirectional), 4, init=init)
    assert model.rnn.init_method == init
    model(*BATCH).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_the_projection_is_the_best_for_all_its_readers():
    """Eckart and Young 1936, on the recurrent matrix, both readers of the next layer, one above the other."""
    dense = stack(2, True)
    model, _ = factored(dense, 4)
    rnn = dense.rnn
    readers = [rnn.weight_hh_l0_reverse, rnn.weight_ih_l1[:, HIDDEN:], rnn.weight_ih_l1_reverse[:, HIDDEN:]]
    ours = [model.rnn.weight_hh_l0_reverse, model.rnn.weight_ih_l1[:, 4:], model.rnn.weight_ih_l1_reverse[:, 4:]]
    error = torch.cat(readers) - torch.cat(ours) @ model.rnn.weight_hr_l0_reverse
    tail = torch.linalg.svdvals(torch.cat(readers))[4:]
    torch.testing.assert_close(error.norm(), tail.norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_work_saved_counts_frames_without_padding(packed):
    model, plan = factored(stack(2, True), 4)
    x, lengths = BATCH
    frames = int(lengths.sum()) if packed else x.shape[0] * x.shape[1]
    x = pack_padded_sequence(x, lengths, batch_first=True) if packed else x
    reader = OUTPUTS * 2 * (HIDDEN - 4)
    assert model.rnn.macs_saved(model.rnn(x)) == frames * (model.rnn.parameters_saved - reader)
    assert model.rnn.reader_macs_saved(torch.empty(5, OUTPUTS)) == 5 * reader  # fewer frames where it subsamples
    entry = plan.entries[0]
    assert entry.macs_saved(frames, 5) == frames * (model.rnn.parameters_saved - reader) + 5 * reader


def test_options_of_the_lstm_are_kept():
    model, _ = factored(stack(2, True, dropout=0.25, bias=False).double(), 4)
    assert (model.rnn.num_layers, model.rnn.bidirectional, model.rnn.batch_first) == (2, True, True)
    assert (model.rnn.dropout, model.rnn.bias) == (0.25, False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    merged, reader = merged_lstm(model.rnn, model.last)
    assert (merged.dropout, merged.bias, merged.batch_first) == (0.25, False, True)
    assert merged.weight_hh_l0.dtype == reader.weight.dtype == torch.float64


def test_a_model_to_be_loaded_makes_no_svd(monkeypatch):
    monkeypatch.setitem(INITIALIZERS, "svd", lambda *_: pytest.fail("an SVD was made"))
    with skip_initialization():
        model, _ = factored(stack(2, True), 4)
    assert model.rnn.init_method == "svd"


def test_copies_pickles_and_exports_like_any_lstm():
    model, _ = factored(stack(2, True), 4)
    with torch.no_grad():
        expected = model(*BATCH)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert type(other.rnn) is LowRankLSTM and (other.rnn.reader, other.rnn.rank) == ("last", 4)
            assert torch.equal(other(*BATCH), expected)
        exported = torch.export.export(model.rnn, (BATCH[0],), strict=False)
        torch.testing.assert_close(exported.module()(BATCH[0])[0], model.rnn(BATCH[0])[0])
    assert [path for path, _ in low_rank_layers(model)] == ["rnn"]


INPUT = {"ranks": {"rnn.input": 3}}
BOTH = {"ranks": {"rnn": 4, "rnn.input": 3}}


@torch.no_grad()
def thin_inputs_(model: Stack, rank: int) -> None:
    """Make the first layer see only ``rank`` directions of its input."""
    basis = torch.linalg.qr(torch.randn(INPUTS, rank))[0]
    for name, weight in model.rnn.named_parameters():
        if name.startswith("weight_ih_l0"):
            weight.copy_(weight @ basis @ basis.T)


@forms
@pytest.mark.parametrize("ranks", [INPUT, BOTH], ids=["input", "both"])
def test_an_lstm_whose_input_has_the_rank_keeps_its_output(ranks, layers, bidirectional):
    dense = stack(layers, bidirectional)
    share_projections_(dense, 4)
    thin_inputs_(dense, 3)
    model, _ = factored(dense, 0, **ranks)
    assert type(model.rnn) is LowRankLSTM and model.rnn.is_projected == (ranks is BOTH)
    assert model.rnn.input.weight.shape == (3, INPUTS) and model.rnn.weight_ih_l0.shape[1] == 3
    x, lengths = BATCH
    with torch.no_grad():
        torch.testing.assert_close(model(x, lengths), dense(x, lengths), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.last(model.rnn(x)[0]), dense.last(dense.rnn(x)[0]), rtol=1e-5, atol=1e-5)
        too_low, _ = factored(dense, 0, **(ranks | {"ranks": ranks["ranks"] | {"rnn.input": 2}}))
        assert (too_low(x, lengths) - dense(x, lengths)).abs().max() > 1e-4


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_input_of_all_directions_is_factored_together(bidirectional):
    dense = stack(2, bidirectional)
    model, plan = factored(dense, 0, **INPUT)
    names = ["weight_ih_l0", "weight_ih_l0_reverse"][: 1 + bidirectional]
    matrix = torch.cat([getattr(dense.rnn, name) for name in names])
    ours = torch.cat([getattr(model.rnn, name) for name in names]) @ model.rnn.input.weight
    torch.testing.assert_close((matrix - ours).norm(), torch.linalg.svdvals(matrix)[3:].norm(), rtol=1e-4, atol=1e-5)
    entry = plan.entries[1]
    assert (entry.module, entry.role, entry.inputs, entry.outputs) == (
        *("rnn.input", "recurrent_input"),
        *(INPUTS, len(matrix)),
    )
    saved = sum(p.numel() for p in dense.parameters()) - sum(p.numel() for p in model.parameters())
    assert saved == model.rnn.input.parameters_saved == entry.dense_parameters - entry.parameters
    assert model.rnn.parameters_saved == 0
    assert model.rnn.input.macs_saved(torch.empty(12, 3)) == 12 * saved
    assert [path for path, _ in low_rank_layers(model)] == ["rnn.input"]


@forms
@pytest.mark.parametrize("ranks", [INPUT, BOTH], ids=["input", "both"])
def test_a_merged_input_is_dense_again(ranks, layers, bidirectional):
    model, _ = factored(stack(layers, bidirectional), 0, init="xavier", **ranks)
    with torch.no_grad():
        expected = model(*BATCH)
        assert merge_(model) == [path for path in ("rnn", "rnn.input") if path in ranks["ranks"]]
        assert type(model.rnn) is nn.LSTM and model.rnn.input_size == INPUTS
        torch.testing.assert_close(model(*BATCH), expected, rtol=1e-5, atol=1e-5)
        stack(layers, bidirectional).load_state_dict(model.state_dict())  # strict


@forms
@pytest.mark.parametrize("over_own", [True, False])
@pytest.mark.parametrize("source", [{}, INPUT, BOTH, {"ranks": {"rnn": 4}}, {"ranks": {"rnn": 5, "rnn.input": 4}}])
@pytest.mark.parametrize("target", [INPUT, BOTH, {"ranks": {"rnn": 4}}], ids=["input", "both", "projection"])
def test_weights_of_any_form_load_without_loss_where_the_ranks_suffice(source, target, over_own, layers, bidirectional):
    dense = stack(layers, bidirectional)
    share_projections_(dense, 4)
    thin_inputs_(dense, 3)
    weights = (factored(dense, 0, **source)[0] if source else dense).state_dict()
    torch.manual_seed(1)
    model, _ = factored(Stack(layers, bidirectional), 0, **target)
    model.load_state_dict((model.state_dict() if over_own else {}) | weights)
    with torch.no_grad():
        torch.testing.assert_close(model(*BATCH), dense(*BATCH), rtol=1e-4, atol=1e-4)


def test_an_input_of_full_rank_is_refused():
    with pytest.raises(LrsmsError, match=r"ranks\.rnn\.input: 6 exceeds the full rank 5"):
        factored(stack(1, False), 0, ranks={"rnn.input": INPUTS})


@pytest.mark.parametrize("ranks", [INPUT, BOTH], ids=["input", "both"])
def test_a_factored_input_trains_copies_pickles_and_exports(ranks):
    model, _ = factored(stack(2, True), 0, **ranks)
    model(*BATCH).square().sum().backward()
    assert model.rnn.input.weight.grad.abs().sum() > 0
    model.zero_grad()
    with torch.no_grad():
        expected = model(*BATCH)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert other.rnn.input.rank == 3 and torch.equal(other(*BATCH), expected)
        exported = torch.export.export(model.rnn, (BATCH[0],), strict=False)
        torch.testing.assert_close(exported.module()(BATCH[0])[0], model.rnn(BATCH[0])[0])


def cell(bias: bool = True, rank: int = 5, init: str = "svd") -> tuple[nn.LSTMCell, nn.Module, RankPlan]:
    """A dense cell, a model with the cell factored, and its plan."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"cell": nn.LSTMCell(INPUTS, HIDDEN, bias=bias)})
    dense = copy.deepcopy(model["cell"])
    config = LowRankConfig.parse({"recurrent": 0.1, "multiple": 1, "init": init, "ranks": {"cell": rank}})
    plan = RankPlan.make(model, {"cell": "recurrent"}, config)
    return dense, apply_plan_(model, plan), plan


STEP = torch.randn(4, INPUTS), (torch.randn(4, HIDDEN), torch.randn(4, HIDDEN))


@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_at_full_rank_is_the_dense_cell(bias):
    dense, model, plan = cell(bias, rank=INPUTS + HIDDEN)
    assert type(model["cell"]) is LowRankLSTMCell
    assert (plan.entries[0].inputs, plan.entries[0].outputs) == (INPUTS + HIDDEN, 4 * HIDDEN)
    for ours, expected in zip(model["cell"](*STEP), dense(*STEP)):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_cell_of_low_rank_keeps_its_output():
    dense, _, _ = cell()
    with torch.no_grad():
        matrix = torch.randn(4 * HIDDEN, 3) @ torch.randn(3, INPUTS + HIDDEN) / 4
        dense.weight_ih.copy_(matrix[:, :INPUTS])
        dense.weight_hh.copy_(matrix[:, INPUTS:])
    model = nn.ModuleDict({"cell": copy.deepcopy(dense)})
    config = LowRankConfig.parse({"ranks": {"cell": 3}})
    apply_plan_(model, RankPlan.make(model, {"cell": "recurrent"}, config))
    for ours, expected in zip(model["cell"](*STEP), dense(*STEP)):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_merged_cell_has_the_output_of_the_factors(bias):
    _, model, _ = cell(bias, init="xavier")
    merged = model["cell"].merged()
    assert type(merged) is nn.LSTMCell and (merged.bias_ih is not None) == bias
    for ours, expected in zip(merged(*STEP), model["cell"](*STEP)):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_parameters_of_a_cell_are_those_of_the_plan(bias):
    dense, model, plan = cell(bias)
    (entry,) = plan.entries
    assert entry.dense_parameters == dense.weight_ih.numel() + dense.weight_hh.numel() == 640
    gates = model["cell"].gates
    assert entry.parameters == gates[0].weight.numel() + gates[1].weight.numel() == 5 * (16 + 40)
    saved = sum(p.numel() for p in dense.parameters()) - sum(p.numel() for p in model.parameters())
    assert saved == gates.parameters_saved + model["cell"].biases_saved  # one bias in place of two
    assert [path for path, _ in low_rank_layers(model)] == ["cell.gates"]


@pytest.mark.parametrize("init", INITIALIZERS)
def test_gradients_reach_the_factors_of_a_cell(init):
    _, model, _ = cell(init=init)
    assert model["cell"].gates.init_method == init
    hidden, state = model["cell"](*STEP)
    (hidden + state).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
