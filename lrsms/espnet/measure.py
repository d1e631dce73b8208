"""Parameters and multiply-accumulates of an ESPnet model, as it is and as it would be dense."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lrsms.lowrank import low_rank_layers

_SECONDS = 10


@dataclass(frozen=True)
class Cost:
    """Size and work of a model.

    Attributes:
        parameters: all trainable parameters.
        dense_parameters: the same with every factored layer dense.
        macs_per_second: multiply-accumulates per second of audio of encoder, CTC output and one teacher-forced pass
            of the decoder, on a 10 s utterance; the front-end is left out.
        dense_macs_per_second: the same with every factored layer dense.
    """

    parameters: int
    dense_parameters: int
    macs_per_second: float
    dense_macs_per_second: float


def cost(model: nn.Module, fs: int, tokens_per_second: float) -> Cost:
    """Measure ``model``.

    Args:
        model: an ``ESPnetASRModel`` on the CPU; left as it was.
        fs: sampling rate in Hz.
        tokens_per_second: mean token rate of the corpus, the decoder's share of the work.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    saved = {path: layer for path, layer in low_rank_layers(model)}
    dense_parameters = parameters + sum(
        layer.dense_shape.numel() - sum(factor.numel() for factor in layer.factors()) for layer in saved.values()
    )
    macs, saved_macs = _count_macs(model, fs, tokens_per_second, saved)
    return Cost(parameters, dense_parameters, macs / _SECONDS, (macs + saved_macs) / _SECONDS)


@torch.no_grad()
def _count_macs(model, fs: int, tokens_per_second: float, factored: dict) -> tuple[float, float]:
    """MACs of one 10 s utterance, and those that its factored layers save."""
    saved = 0

    def count_saved(layer, _, output):
        nonlocal saved
        positions = output.numel() // layer.dense_shape[0]
        saved += positions * (layer.dense_shape.numel() - sum(factor.numel() for factor in layer.factors()))

    training = model.training
    model.eval()
    speech = torch.randn(1, _SECONDS * fs, generator=torch.Generator().manual_seed(0)) * 0.1
    features, lengths = model._extract_feats(speech, torch.tensor([speech.shape[1]]))
    if model.normalize is not None:
        features, lengths = model.normalize(features, lengths)
    if model.preencoder is not None:
        features, lengths = model.preencoder(features, lengths)
    hooks = [layer.register_forward_hook(count_saved) for layer in factored.values()]
    with FlopCounterMode(display=False) as counter:
        encoded, encoded_lengths, _ = model.encoder(features, lengths)
        if model.ctc is not None:
            model.ctc.log_softmax(encoded)
        if model.decoder is not None:
            tokens = torch.ones(1, max(1, round(_SECONDS * tokens_per_second)), dtype=torch.long)
            model.decoder(encoded, encoded_lengths, tokens, torch.tensor([tokens.shape[1]]))
    for hook in hooks:
        hook.remove()
    model.train(training)
    return counter.get_total_flops() / 2, saved
