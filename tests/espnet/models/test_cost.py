"""Parameters and multiply-accumulates against hand counts."""

import pytest
import torch
from torch import nn

from lrsms.espnet.models.cost import cost, positions
from lrsms.espnet.training.preflight import rank_plans
from lrsms.lowrank import LowRankLinear, low_rank_layers

FRAMES = 1000  # of the 10 s that the cost is measured on


class LinearEncoder(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, features, lengths):
        return self.layers(features), lengths, None


class LinearModel(nn.Module):
    """The parts of an ESPnet model that a cost needs: ten frames of one hundred samples, eight features each."""

    normalize = preencoder = ctc = decoder = None

    def __init__(self, *layers):
        super().__init__()
        self.encoder = LinearEncoder(*layers)

    def _extract_feats(self, speech, lengths):
        return torch.randn(1, FRAMES, 8), torch.tensor([FRAMES])


def test_a_dense_model_by_hand():
    found = cost(LinearModel(nn.Linear(8, 32), nn.Linear(32, 5)), 16000, 10)
    assert found.parameters == found.dense_parameters == 8 * 32 + 32 + 32 * 5 + 5
    assert found.macs_per_second == found.dense_macs_per_second == FRAMES * (8 * 32 + 32 * 5) / 10


def test_a_factored_model_by_hand():
    found = cost(LinearModel(LowRankLinear(8, 32, rank=3), nn.Linear(32, 5)), 16000, 10)
    assert found.parameters == 3 * (8 + 32) + 32 + 32 * 5 + 5
    assert found.dense_parameters == 8 * 32 + 32 + 32 * 5 + 5
    assert found.macs_per_second == FRAMES * (3 * (8 + 32) + 32 * 5) / 10
    assert found.dense_macs_per_second == FRAMES * (8 * 32 + 32 * 5) / 10


def test_frozen_parameters_are_not_counted():
    frozen = nn.Linear(8, 8).requires_grad_(False)
    assert cost(LinearModel(frozen, nn.Linear(8, 2)), 16000, 10).parameters == 18


def test_a_whole_model_against_its_dense_twin(experiment, build_model, dense_parts):
    """What is computed for "the same, but dense" is what the dense model itself measures."""
    low_rank = build_model(experiment.output_dir).train()
    dense = build_model(experiment.output_dir, **dense_parts)
    ours, reference = cost(low_rank, 16000, 5.0), cost(dense, 16000, 5.0)
    assert ours.dense_parameters == reference.parameters == reference.dense_parameters
    assert ours.parameters < reference.parameters
    assert ours.dense_macs_per_second == pytest.approx(reference.macs_per_second, rel=1e-9)
    assert ours.macs_per_second < reference.macs_per_second
    assert low_rank.training
    assert not any(layer._forward_hooks for _, layer in low_rank_layers(low_rank))


BLOCKS = {"output_size": 16, "attention_heads": 2, "num_blocks": 1}
LSTM = {"output_size": 16, "hidden_size": 24, "num_layers": 3}
WORDS = {"hidden_size": 24, "num_layers": 2, "att_conf": {"adim": 12, "aconv_chans": 3, "aconv_filts": 5}}
RECURRENT = ["recurrent", "recurrent_input", "output"]
PARTS = {
    "lstm that subsamples": ("encoder", "lowrank_rnn", LSTM | {"subsample": (2, 3, 1)}, RECURRENT),
    "lstm in one": ("encoder", "lowrank_rnn", LSTM | {"use_projection": False}, ["recurrent", "recurrent_input"]),
    "lstm's input": ("encoder", "lowrank_rnn", LSTM, ["recurrent_input"]),
    "lstm one way": ("encoder", "lowrank_rnn", LSTM | {"bidirectional": False}, ["recurrent"]),
    "e-branchformer": ("encoder", "lowrank_e_branchformer", BLOCKS, ["attention", "convolution", "subsampling"]),
    "streaming": ("encoder", "lowrank_contextual_block_transformer", BLOCKS, ["attention", "feed_forward"]),
    "cells": ("decoder", "lowrank_rnn", WORDS, ["recurrent", "attention", "embedding", "output"]),
    "words": ("decoder", "lowrank_transformer", {"attention_heads": 2, "num_blocks": 1}, ["embedding", "output"]),
}


@pytest.mark.parametrize("name", PARTS)
def test_every_kind_of_layer_against_its_dense_twin(name, build_tiny, dense_parts):
    part, cls, options, roles = PARTS[name]
    block = dict.fromkeys(roles, 0.25) | {"multiple": 1}
    dense = build_tiny(**dense_parts | {part: cls, f"{part}_conf": options})
    low_rank = build_tiny(**dense_parts | {part: cls, f"{part}_conf": options | {"low_rank": block}})
    ours, reference = cost(low_rank, 16000, 1.0), cost(dense, 16000, 1.0)
    assert ours.dense_parameters == reference.parameters > ours.parameters
    assert ours.dense_macs_per_second == pytest.approx(reference.macs_per_second, rel=1e-9)
    assert ours.macs_per_second != reference.macs_per_second
    counts = positions(dense, 16000, 1.0)
    saved = 0.0
    for where, plan in rank_plans(low_rank).items():
        for entry in plan.entries:
            path = f"{where}.{entry.module}"
            saved += entry.macs_saved(counts[path], counts.get(f"{path.rpartition('.')[0]}.{entry.reader}", 0.0))
    assert reference.macs_per_second - ours.macs_per_second == pytest.approx(saved, rel=1e-9)
    assert not any(module._forward_hooks for model in (dense, low_rank) for module in model.modules())


def test_the_decoders_share_follows_the_token_rate(experiment, build_model):
    model = build_model(experiment.output_dir)
    slow, fast = cost(model, 16000, 2.0), cost(model, 16000, 20.0)
    assert slow.macs_per_second < fast.macs_per_second
    assert slow.parameters == fast.parameters


@pytest.mark.parametrize("measure", [cost, positions])
def test_a_model_that_fails_keeps_no_hook(build_tiny, dense_parts, monkeypatch, measure):
    """Some of its modules are shared: ESPnet's default activations are those of every other model, too."""
    model = build_tiny(**dense_parts)

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(model.encoder, "forward", fail)
    with pytest.raises(ZeroDivisionError):
        measure(model, 16000, 1.0)
    assert not any(module._forward_hooks for module in model.modules())
