"""Factors folded back into dense weights."""

import pytest
import torch
from torch import nn

import lrsms
from lrsms.lowrank import LowRankConfig, RankPlan, Recurrent, apply_plan_, low_rank_layers
from lrsms.lowrank.merge import dense_is_faster, merge_


class Everything(nn.Module):
    """One layer of each kind that can be factored."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 32, padding_idx=0)
        self.conv = nn.Conv2d(1, 16, 3, 2, padding=1)
        self.conv2 = nn.Conv2d(16, 16, (3, 5), (1, 2), padding=1, dilation=1)
        self.pointwise = nn.Conv1d(32, 48, 1)
        self.linear = nn.Linear(48, 32, bias=False)
        self.rnn = nn.LSTM(32, 24, num_layers=2, batch_first=True, bidirectional=True)
        self.last = nn.Linear(48, 32)
        self.cell = nn.LSTMCell(32, 32)

    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + self.conv2(self.conv(x[:, None])).mean(dim=(1, 2, 3))[:, None, None]
        x = self.linear(self.pointwise(x.transpose(1, 2)).transpose(1, 2))
        x = self.last(self.rnn(x)[0])
        state = (x.new_zeros(len(x), 32), x.new_zeros(len(x), 32))
        for frame in x.unbind(1):
            state = self.cell(frame, state)
        return x, *state


ROLES = {"embed": "embedding", r"conv\d?": "subsampling", "pointwise": "convolution", "linear": "feed_forward"}
ROLES |= {"rnn": Recurrent("last"), "cell": "recurrent"}


def everything() -> nn.Module:
    torch.manual_seed(0)
    model = Everything()
    roles = dict.fromkeys(("embedding", "subsampling", "convolution", "feed_forward", "recurrent"), 0.25)
    return apply_plan_(model, RankPlan.make(model, ROLES, LowRankConfig.parse(roles | {"multiple": 2}))).eval()


TOKENS = torch.tensor([[1, 5, 39, 7, 0, 2]])


def test_merging_keeps_every_output():
    model = everything()
    factored = len(list(low_rank_layers(model)))
    with torch.no_grad():
        expected = model(TOKENS)
        merged = merge_(model)
        for output, wanted in zip(model(TOKENS), expected):
            torch.testing.assert_close(output, wanted, rtol=1e-5, atol=1e-5)
    assert len(merged) == factored == 7 and not list(low_rank_layers(model))


def test_a_merged_model_has_the_dense_models_state_dict():
    model = everything()
    merge_(model)
    dense = Everything()
    dense.load_state_dict(model.state_dict())  # strict
    with torch.no_grad():
        for output, wanted in zip(dense(TOKENS), model(TOKENS)):
            torch.testing.assert_close(output, wanted)
    assert model.embed.padding_idx == 0


def test_a_function_says_which_layers():
    model = everything()
    seen = []

    def choose(path, layer):
        seen.append(path)
        return path in ("linear", "cell")

    assert merge_(model, only=choose) == ["linear", "cell"]
    assert type(model.linear) is nn.Linear and type(model.cell) is nn.LSTMCell
    assert len(seen) == 7 and "cell.gates" not in seen


def test_faster_means_what_the_clock_says(monkeypatch):
    model = everything()
    asked = []

    def clock(layer, frames):
        asked.append(frames)
        return isinstance(layer, nn.Sequential)

    monkeypatch.setattr("lrsms.lowrank.merge.dense_is_faster", clock)
    assert merge_(model, only="faster", frames=33) == ["embed", "conv", "conv2", "pointwise", "linear"]
    assert set(asked) == {33}
    asked.clear()
    merge_(everything(), only="faster", frames=lambda path: 7 if path == "linear" else 33)
    assert asked.count(7) == 1 and set(asked) == {7, 33}


def test_the_clock_prefers_one_product_over_a_factored_layer_of_nearly_full_rank():
    torch.manual_seed(0)
    from lrsms.lowrank import LowRankLinear

    assert dense_is_faster(LowRankLinear(512, 512, rank=500), 400)
    assert not dense_is_faster(LowRankLinear(1024, 1024, rank=8), 400)


@pytest.mark.parametrize("path", ["embed", "conv", "conv2", "pointwise", "linear", "rnn", "cell"])
def test_every_kind_can_be_timed(path):
    assert dense_is_faster(everything().get_submodule(path), 20) in (True, False)


def test_gradients_and_mode_survive():
    model = everything().train()
    merge_(model)
    assert model.linear.training and model.rnn.training
    sum(output.sum() for output in model(TOKENS)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="only='fast'"):
        merge_(everything(), only="fast")


def test_the_package_hands_it_out():
    assert lrsms.merge_ is merge_
    with pytest.raises(AttributeError, match="no attribute 'merge'"):
        lrsms.merge  # noqa: B018
