"""Whisper's encoder and decoder. Parameters have openai-whisper's names; what they compute is the same.

Dimensions: B utterances, T frames of 10 ms, S = (T + 1) // 2 encoder positions, L tokens, D width, V tokens known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrsms.lowrank.banded import BandedEmbedding
from lrsms.lowrank.tied import TiedOutput
from lrsms.whisper import silence
from lrsms.whisper.dimensions import Dimensions

KeysValues = tuple[Tensor, Tensor]  # each (B, heads, positions, D / heads)


class Attention(nn.Module):
    """Multi-head attention; keys and values are made by :meth:`keys_values`, so that they can be kept."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def keys_values(self, source: Tensor) -> KeysValues:
        """Of ``(B, positions, D)``."""
        return self._split(self.key(source)), self._split(self.value(source))

    def forward(self, x: Tensor, keys_values: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """``(B, L, D)``; ``mask`` is True where a position may be looked at, or added to its scores."""
        attended = F.scaled_dot_product_attention(
            self._split(self.query(x)), *keys_values, attn_mask=mask, is_causal=causal
        )
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Self-attention, in the decoder attention to the encoder's output, and a feed-forward layer."""

    def __init__(self, width: int, heads: int, cross: bool = False):
        super().__init__()
        self.attn = Attention(width, heads)
        self.attn_ln = nn.LayerNorm(width)
        self.cross = cross
        if cross:
            self.cross_attn = Attention(width, heads)
            self.cross_attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        before: KeysValues | None = None,
        memory: KeysValues | None = None,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Output, and the keys and values of all positions so far (``before`` and these)."""
        normed = self.attn_ln(x)
        seen = self.attn.keys_values(normed)
        if before is not None:
            seen = (torch.cat((before[0], seen[0]), 2), torch.cat((before[1], seen[1]), 2))
        x = x + self.attn(normed, seen, mask, causal)
        if self.cross:
            assert memory is not None
            x = x + self.cross_attn(self.cross_attn_ln(x), memory, memory_mask)
        return x + self.mlp(self.mlp_ln(x)), seen


class AudioEncoder(nn.Module):
    """Log-Mel frames to ``(B, S, D)``."""

    def __init__(self, sizes: Dimensions):
        super().__init__()
        width = sizes.n_audio_state
        self.conv1 = nn.Conv1d(sizes.n_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", sinusoids(sizes.n_audio_ctx, width))
        self.blocks = nn.ModuleList(Block(width, sizes.n_audio_head) for _ in range(sizes.n_audio_layer))
        self.ln_post = nn.LayerNorm(width)

    def forward(self, mel: Tensor, frames: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            mel: ``(B, n_mels, T)``, with T at most twice the positions.
            frames: ``(B,)``, of each utterance; what is behind them is not looked at, so that a batch gives what its
                utterances give one by one. None if all have T.
        """
        mask = None
        if frames is not None:
            mel = mel * _within(frames, mel.shape[2])[:, None]
        x = F.gelu(self.conv1(mel))
        if frames is not None:
            x = x * _within(frames, mel.shape[2])[:, None]
            mask = _within((frames + 1) // 2, (mel.shape[2] + 1) // 2)[:, None, None]
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        return self._attended(x + self.positional_embedding[: x.shape[1]], mask)

    def condensed(self, mel: Tensor, near: Tensor) -> Tensor:
        """Encode clips as if silence filled 30 s behind them, see :mod:`lrsms.whisper.silence`; ``(B, S, D)``.

        Args:
            mel: ``(B, n_mels, T)``, the last four of its frames silent in every clip.
            near: ``(B,)``, positions of each clip.
        """
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = silence.condense(x, x[:, -2], self.positional_embedding, near)
        counts = silence.counts(near, len(self.positional_embedding), x.shape[1])
        return self._attended(x, counts.to(x.dtype).log()[:, None, None])

    def _attended(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for block in self.blocks:
            x, _ = block(x, mask)
        return self.ln_post(x)


@dataclass
class DecoderState:
    """What a decoder keeps between steps.

    Attributes:
        memory: of each block, keys and values of the encoder's output.
        seen: of each block, keys and values of the tokens so far; empty before the first.
        length: tokens so far.
        mask: of the encoder's output, see :meth:`TextDecoder.begin`.
    """

    memory: list[KeysValues]
    seen: list[KeysValues] = field(default_factory=list)
    length: int = 0
    mask: Tensor | None = None

    def chosen(self, rows: Tensor) -> DecoderState:
        """The state of the hypotheses ``rows``; the memory is shared by all, with B = 1."""
        seen = [(keys[rows], values[rows]) for keys, values in self.seen]
        return DecoderState(self.memory, seen, self.length, self.mask)


class TextDecoder(nn.Module):
    """Tokens and encoder output to the next tokens' logits; the embedding's weight is the output's, too.

    Args:
        sizes: of the model.
        bands: of the embedding, see :class:`lrsms.lowrank.banded.BandedEmbedding`; empty for one table.
    """

    def __init__(self, sizes: Dimensions, bands: Sequence[int] = ()):
        super().__init__()
        width = sizes.n_text_state
        if bands:
            self.token_embedding = BandedEmbedding(sizes.n_vocab, width, bands)
        else:
            self.token_embedding = nn.Embedding(sizes.n_vocab, width)
        self.positional_embedding = nn.Parameter(torch.empty(sizes.n_text_ctx, width))
        nn.init.normal_(self.positional_embedding, std=0.01)
        for table in self.token_embedding.parameters():
            nn.init.normal_(table, std=0.02)
        self.blocks = nn.ModuleList(Block(width, sizes.n_text_head, cross=True) for _ in range(sizes.n_text_layer))
        self.ln = nn.LayerNorm(width)
        self.token_output = TiedOutput("token_embedding")

    def begin(self, memory: Tensor, counts: Tensor | None = None) -> DecoderState:
        """State before the first token.

        Args:
            memory: encoder output ``(B, S, D)``.
            counts: ``(B, S)``, for how many positions each stands, 0 or False for none; None if each is itself.
        """
        mask = counts
        if counts is not None:
            mask = (counts if counts.dtype == torch.bool else counts.to(memory.dtype).log())[:, None, None]
        return DecoderState([block.cross_attn.keys_values(memory) for block in self.blocks], mask=mask)

    def forward(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Logits ``(B, L, V)`` after each of ``tokens (B, L)``, which follow those in ``state``; it moves on.

        Args:
            tokens: numbers.
            state: from :meth:`begin` or an earlier call.
        """
        return self.token_output(self.hidden(tokens, state), self.token_embedding)

    def hidden(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """The same, ``(B, L, D)``, before the output."""
        length, before = tokens.shape[1], state.length
        x = self.token_embedding(tokens) + self.positional_embedding[before : before + length]
        mask = None
        if before and length > 1:
            mask = torch.ones(length, before + length, dtype=torch.bool, device=x.device).tril(before)
        seen = []
        for number, block in enumerate(self.blocks):
            own = state.seen[number] if state.seen else None
            x, keys_values = block(x, mask, not before and length > 1, own, state.memory[number], state.mask)
            seen.append(keys_values)
        state.seen, state.length = seen, before + length
        return self.ln(x)


def sinusoids(positions: int, width: int) -> Tensor:
    """Whisper's positions of the encoder: sines, then cosines, ``(positions, width)``."""
    scales = torch.exp(-math.log(10000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(positions)[:, None] * scales
    return torch.cat((angles.sin(), angles.cos()), 1)


def _within(lengths: Tensor, longest: int) -> Tensor:
    return torch.arange(longest, device=lengths.device) < lengths[:, None]
