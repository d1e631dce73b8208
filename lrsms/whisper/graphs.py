"""Encoder and decoder as two graphs with tensors alone, the way sherpa-onnx runs Whisper.

Names and shapes are of sherpa-onnx's ``scripts/whisper/export-onnx.py`` (K blocks and P positions of the decoder):
``mel (1, n_mels, T)`` to ``n_layer_cross_{k,v} (K, 1, S, D)``; ``tokens (1, L)``, these,
``in_n_layer_self_{k,v}_cache (K, 1, P, D)`` and ``offset (1,)`` to ``logits (1, L, V)`` and
``out_n_layer_self_{k,v}_cache``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrsms.lowrank import LowRankEmbedding
from lrsms.whisper.model import Attention, AudioEncoder, TextDecoder

ENCODER_NAMES = (["mel"], ["n_layer_cross_k", "n_layer_cross_v"])
DECODER_NAMES = (
    [
        *("tokens", "in_n_layer_self_k_cache", "in_n_layer_self_v_cache"),
        *("n_layer_cross_k", "n_layer_cross_v", "offset"),
    ],
    ["logits", "out_n_layer_self_k_cache", "out_n_layer_self_v_cache"],
)
ENCODER_AXES = {"mel": {2: "frames"}, "n_layer_cross_k": {2: "positions"}, "n_layer_cross_v": {2: "positions"}}
DECODER_AXES = {
    "tokens": {1: "tokens"},
    "n_layer_cross_k": {2: "positions"},
    "n_layer_cross_v": {2: "positions"},
}


class EncoderGraph(nn.Module):
    """Log-Mel frames to what every block's cross-attention needs of them."""

    def __init__(self, encoder: AudioEncoder, decoder: TextDecoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.encoder(mel)
        attentions = [block.cross_attn for block in self.decoder.blocks]
        keys = torch.stack([attention.key(memory) for attention in attentions])
        return keys, torch.stack([attention.value(memory) for attention in attentions])


class DecoderGraph(nn.Module):
    """Tokens at ``offset`` to logits, with the keys and values of those before in caches of fixed length."""

    def __init__(self, decoder: TextDecoder):
        super().__init__()
        self.decoder = decoder

    def forward(
        self, tokens: Tensor, self_k: Tensor, self_v: Tensor, cross_k: Tensor, cross_v: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        decoder = self.decoder
        begin, end = offset[0], offset[0] + tokens.shape[1]
        x = decoder.token_embedding(tokens) + decoder.positional_embedding[begin:end]
        # A token looks at itself and at those before it.
        mask = torch.arange(self_k.shape[2])[None] <= (torch.arange(tokens.shape[1]) + begin)[:, None]
        new_k, new_v = [], []
        for number, block in enumerate(decoder.blocks):
            normed = block.attn_ln(x)
            keys = _placed(self_k[number], block.attn.key(normed), begin, end)
            values = _placed(self_v[number], block.attn.value(normed), begin, end)
            x = x + _attend(block.attn, normed, keys[:, :end], values[:, :end], mask[:, :end])
            x = x + _attend(block.cross_attn, block.cross_attn_ln(x), cross_k[number], cross_v[number])
            x = x + block.mlp(block.mlp_ln(x))
            new_k.append(keys)
            new_v.append(values)
        return _logits(decoder.token_embedding, decoder.ln(x)), torch.stack(new_k), torch.stack(new_v)


def _logits(embedding: nn.Module, x: Tensor) -> Tensor:
    """As the tied output, with the table on the left: on the right, its transpose would be stored a second time."""
    if isinstance(embedding, LowRankEmbedding):
        x, table = F.linear(x, embedding[1].weight.T), embedding[0].weight
    else:
        table = embedding.weight
    return (table @ x.transpose(1, 2)).transpose(1, 2)


def _placed(cache: Tensor, new: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    return torch.cat((cache[:, :begin], new, cache[:, end:]), 1)


def _attend(attention: Attention, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    query, keys, values = (attention._split(one) for one in (attention.query(x), keys, values))
    scores = query @ keys.transpose(2, 3) * query.shape[3] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return attention.out((F.softmax(scores, -1) @ values).transpose(1, 2).flatten(2))
