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
from lrsms.lowrank.banded import BandedEmbedding
from lrsms.whisper import silence
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
    """Log-Mel frames to what every block's cross-attention needs of them.

    sherpa-onnx pads behind the normalized frames, with zeros, which to Whisper are no silence. The graph takes them
    away, however many there are, and makes the silence that the model knows.

    Args:
        encoder, decoder: of the model.
        context: what the model hears behind a clip: ``full``, ``condensed`` or ``clip``.
    """

    def __init__(self, encoder: AudioEncoder, decoder: TextDecoder, context: str):
        super().__init__()
        self.encoder, self.decoder, self.context = encoder, decoder, context

    def memory(self, mel: Tensor) -> Tensor:
        """The encoder's output, ``(1, S, D)``."""
        frames = torch.arange(mel.shape[2], device=mel.device) + 1
        own = (frames * (mel[0] != 0).any(0)).max()
        mel = mel[:, :, :own]
        silent = mel.max() - 2.0  # 8 decades below the loudest, the least that there is
        positions = len(self.encoder.positional_embedding)
        if self.context == "clip":
            return self.encoder(mel)
        if self.context == "full":
            return self.encoder(torch.cat((mel, silent.expand(1, mel.shape[1], 2 * positions - own)), 2))
        behind = silent.expand(1, mel.shape[1], 2 * silence.NEAR + silence.SILENT)
        near = ((own + 1) // 2 + silence.NEAR).clamp(max=positions)
        return self.encoder.condensed(torch.cat((mel, behind), 2), near[None])

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.memory(mel)
        attentions = [block.cross_attn for block in self.decoder.blocks]
        keys = torch.stack([attention.key(memory) for attention in attentions])
        return keys, torch.stack([attention.value(memory) for attention in attentions])


class DecoderGraph(nn.Module):
    """Tokens at ``offset`` to logits, with the keys and values of those before in caches of fixed length.

    Args:
        decoder: of the model.
        positions: of 30 s, if the encoder's output has condensed silence behind it; else None.
    """

    def __init__(self, decoder: TextDecoder, positions: int | None):
        super().__init__()
        self.decoder, self.positions = decoder, positions

    def counts(self, computed: int) -> Tensor | None:
        """For how many positions each of those that are computed stands, ``(1, S)``."""
        if self.positions is None:
            return None
        near = torch.as_tensor(computed)[None] - silence.POSITIONS
        return silence.counts(near, self.positions, computed)

    def forward(
        self, tokens: Tensor, self_k: Tensor, self_v: Tensor, cross_k: Tensor, cross_v: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        decoder = self.decoder
        begin, end = offset[0], offset[0] + tokens.shape[1]
        x = decoder.token_embedding(tokens) + decoder.positional_embedding[begin:end]
        # A token looks at itself and at those before it.
        mask = torch.arange(self_k.shape[2])[None] <= (torch.arange(tokens.shape[1]) + begin)[:, None]
        counts = self.counts(cross_k.shape[2])
        weights = None if counts is None else counts.to(x.dtype).log()
        new_k, new_v = [], []
        for number, block in enumerate(decoder.blocks):
            normed = block.attn_ln(x)
            keys = _placed(self_k[number], block.attn.key(normed), begin, end)
            values = _placed(self_v[number], block.attn.value(normed), begin, end)
            x = x + _attend(block.attn, normed, keys[:, :end], values[:, :end], mask[:, :end])
            x = x + _attend(block.cross_attn, block.cross_attn_ln(x), cross_k[number], cross_v[number], weights)
            x = x + block.mlp(block.mlp_ln(x))
            new_k.append(keys)
            new_v.append(values)
        return _logits(decoder.token_embedding, decoder.ln(x)), torch.stack(new_k), torch.stack(new_v)


def _logits(embedding: nn.Module, x: Tensor) -> Tensor:
    """As the tied output, with the table on the left: on the right, its transpose would be stored a second time."""
    if isinstance(embedding, BandedEmbedding):
        return embedding.in_order(torch.cat([_logits(band, x) for band in embedding.bands], -1))
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
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return attention.out((F.softmax(scores, -1) @ values).transpose(1, 2).flatten(2))
