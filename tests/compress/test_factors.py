"""Factors made once and sliced ever after; what calibration sees."""

import copy

import pytest
import torch
from torch import nn

from lrsms.compress import factors as module
from lrsms.compress.factors import FactorCache, SlicedModel
from lrsms.compress.space import Layer
from lrsms.lowrank import LowRankConfig, RankPlan, Recurrent
from lrsms.lowrank.moments import input_moments


class Everything(nn.Module):
    """One layer of each kind that can be factored."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.conv = nn.Conv2d(1, 16, 3, 2, padding=1)
        self.pointwise = nn.Conv1d(32, 48, 1)
        self.linear = nn.Linear(48, 32)
        self.rnn = nn.LSTM(32, 24, num_layers=2, batch_first=True, bidirectional=True)
        self.last = nn.Linear(48, 32)
        self.cell = nn.LSTMCell(32, 32)

    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + self.conv(x[:, None]).mean(dim=(1, 2, 3))[:, None, None]
        x = self.linear(self.pointwise(x.transpose(1, 2)).transpose(1, 2))
        x = self.last(self.rnn(x)[0])
        state = (x.new_zeros(len(x), 32), x.new_zeros(len(x), 32))
        for frame in x.unbind(1):
            state = self.cell(frame, state)
        return torch.cat((x, state[0][:, None]), dim=1)


ROLES = {"embed": "embedding", "conv": "subsampling", "pointwise": "convolution", "linear": "feed_forward"}
ROLES |= {"rnn": Recurrent("last"), "cell": "recurrent"}


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = Everything().eval().requires_grad_(False)
    entries = RankPlan.make(model, ROLES, LowRankConfig()).entries
    layers = [Layer(entry.module, entry) for entry in entries]
    tokens = [torch.randint(40, (1, 9)) for _ in range(30)]
    moments = input_moments(model, [layer.path for layer in layers], lambda: [model(one) for one in tokens])
    return model, layers, tokens, moments


def most(layers, share=1.0):
    """Rank of every layer at a share of full rank; an LSTM's stays below its hidden size."""
    return {one.path: max(1, int(share * (one.entry.full_rank - bool(one.entry.reader)))) for one in layers}


def outputs(model, tokens):
    with torch.no_grad():
        return torch.cat([model(one) for one in tokens])


@pytest.mark.parametrize("method", ["plain", "whitened", "activation_pca"])
def test_full_rank_changes_nothing_and_half_rank_little(method, trained, tmp_path):
    model, layers, tokens, moments = trained
    sliced = SlicedModel(copy.deepcopy(model), layers, FactorCache(tmp_path), method, moments)
    wanted = outputs(model, tokens)
    without_lstm = {path: rank for path, rank in most(layers).items() if path != "rnn"}
    with sliced.at(without_lstm) as low_rank:
        torch.testing.assert_close(outputs(low_rank, tokens), wanted, rtol=1e-3, atol=2e-4)
    with sliced.at(most(layers, 0.5)) as low_rank:
        error = float((outputs(low_rank, tokens) - wanted).norm() / wanted.norm())
    assert 1e-4 < error < (0.6 if method == "plain" else 0.15)
    assert torch.equal(outputs(sliced.model, tokens), wanted)  # dense again


def test_knowing_the_inputs_helps(trained, tmp_path):
    model, layers, tokens, moments = trained
    wanted, errors = outputs(model, tokens), {}
    for method in ("plain", "whitened"):
        with SlicedModel(copy.deepcopy(model), layers, FactorCache(tmp_path), method, moments).at(
            most(layers, 0.25)
        ) as one:
            errors[method] = float((outputs(one, tokens) - wanted).norm())
    assert errors["whitened"] < 0.5 * errors["plain"]


def test_slicing_shares_memory_and_a_snapshot_does_not(trained, tmp_path):
    model, layers, tokens, moments = trained
    sliced = SlicedModel(copy.deepcopy(model), layers, FactorCache(tmp_path), "plain", {})
    ranks = {"linear": 4, "cell": 6}
    with sliced.at(ranks) as one:
        assert one.linear[0].weight.data_ptr() == sliced.factors["linear"].down.data_ptr()
        wanted = outputs(one, tokens)
    copied = sliced.snapshot(ranks)
    assert torch.equal(outputs(copied, tokens), wanted)
    assert copied.linear[0].weight.data_ptr() != sliced.factors["linear"].down.data_ptr()
    assert copied.linear.rank == 4 and copied.cell.gates.rank == 6 and type(copied.conv) is nn.Conv2d


def test_an_error_in_between_puts_the_dense_layers_back(trained, tmp_path):
    model, layers, tokens, _ = trained
    sliced = SlicedModel(copy.deepcopy(model), layers, FactorCache(tmp_path), "plain", {})
    with pytest.raises(RuntimeError, match="stop"), sliced.at(most(layers, 0.5)):
        raise RuntimeError("stop")
    assert torch.equal(outputs(sliced.model, tokens), outputs(model, tokens))


def test_a_low_rank_layer_that_is_kept_is_sliced_at_its_rank(trained, tmp_path):
    model, layers, _, _ = trained
    changed = [Layer(one.path, one.entry, 5) if one.path == "linear" else one for one in layers]
    sliced = SlicedModel(copy.deepcopy(model), changed, FactorCache(tmp_path), "plain", {})
    with sliced.at({"linear": None, "pointwise": None}) as one:
        assert one.linear.rank == 5 and type(one.pointwise) is nn.Conv1d


def test_the_cache_factors_once_by_content(trained, tmp_path, monkeypatch):
    model, layers, _, moments = trained
    made = []
    factorize = module.factorize
    monkeypatch.setattr(module, "factorize", lambda *arguments: made.append(1) or factorize(*arguments))
    SlicedModel(copy.deepcopy(model), layers, FactorCache(tmp_path), "whitened", moments)
    first = len(made)
    assert first == 5 + 4 + 1  # four matrices of the LSTM, and that of its input
    SlicedModel(copy.deepcopy(model), layers, FactorCache(tmp_path), "whitened", moments)
    assert len(made) == first
    other = copy.deepcopy(model)
    other.linear.weight.data[0, 0] += 1.0
    SlicedModel(other, layers, FactorCache(tmp_path), "whitened", moments)
    assert len(made) == first + 1
    SlicedModel(copy.deepcopy(model), layers, FactorCache(tmp_path), "plain", {})
    assert len(made) == 2 * first + 1


def test_a_broken_file_in_the_cache_is_made_again(trained, tmp_path):
    model, layers, tokens, _ = trained
    SlicedModel(copy.deepcopy(model), layers, FactorCache(tmp_path), "plain", {})
    for file in tmp_path.glob("*.pt"):
        file.write_bytes(file.read_bytes()[:100])
    sliced = SlicedModel(copy.deepcopy(model), layers, FactorCache(tmp_path), "plain", {})
    with sliced.at({"linear": 32}) as one:
        torch.testing.assert_close(outputs(one, tokens), outputs(model, tokens), rtol=1e-3, atol=1e-4)


def test_calibration_sees_what_each_matrix_is_multiplied_with(trained):
    model, _, tokens, moments = trained
    x = torch.cat([model.embed(one) for one in tokens]).flatten(0, 1)
    shifted = [
        model.embed(one) + model.conv(model.embed(one)[:, None]).mean(dim=(1, 2, 3))[:, None, None] for one in tokens
    ]
    seen = torch.cat(shifted).flatten(0, 1)
    torch.testing.assert_close(moments["pointwise"].mean.float(), seen.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moments["pointwise"].second.float(), seen.T @ seen / len(seen), rtol=1e-4, atol=1e-5)
    assert moments["embed"].count == len(x) == 30 * 9
    counts = torch.bincount(torch.cat(tokens).flatten(), minlength=40) / (30 * 9)
    torch.testing.assert_close(moments["embed"].second.float(), counts)
    hidden = torch.cat(
        [model.rnn(model.linear(model.pointwise(one.transpose(1, 2)).transpose(1, 2)))[0] for one in shifted]
    )
    last = moments["rnn"]["weight_hh_l1_reverse"]
    torch.testing.assert_close(last.mean.float(), hidden[..., 24:].flatten(0, 1).mean(0), rtol=1e-3, atol=1e-5)
    assert set(moments["rnn"]) == {f"weight_hh_l{layer}{kind}" for layer in (0, 1) for kind in ("", "_reverse")}
    taken_in = torch.cat([model.linear(model.pointwise(one.transpose(1, 2)).transpose(1, 2)) for one in shifted])
    torch.testing.assert_close(moments["rnn.input"].mean.float(), taken_in.flatten(0, 1).mean(0), rtol=1e-3, atol=1e-5)
    assert moments["cell"].mean.shape == (64,) and moments["conv"].mean.shape == (9,)
    assert not model.linear._forward_pre_hooks  # the hooks are gone
