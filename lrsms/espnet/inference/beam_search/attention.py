"""Attention of a decoding step: of hypotheses to their past and to the utterance, keys and values made once.

The ``Latent`` forms stay within the ranks of low-rank projections. What a head compares is ``(U_q z_q + b_q) . (U_k
z_k + b_k)`` with ``z = V y`` as narrow as the rank: ``z_q . (U_q^T U_k) z_k``, a term of the key alone, and one of
the query alone that the softmax does not see. So the ``U`` of queries and keys become one matrix of ``rank x rank`` a
head, those of values and output likewise, and what is kept of a token is ``z_k`` and ``z_v`` for all heads together:
a few dozen numbers in place of two times the model's width. DeepSeek-AI 2024 (arXiv 2405.04434, multi-head latent
attention) train attention in this form; here it follows from the ranks.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from lrsms.espnet.compat import MultiHeadedAttention
from lrsms.espnet.inference.beam_search.direct import direct
from lrsms.lowrank.hooks import hooked
from lrsms.lowrank.layers import LowRankLinear

_GROWTH = 128  # tokens that room is made for at a time


def attention_to_memory(attention: MultiHeadedAttention, memory: torch.Tensor) -> LatentMemory | PlainMemory:
    """Of the two forms the one with fewer operations."""
    latent = _has_latents(attention, "linear_q", "linear_out")
    return LatentMemory(attention, memory) if latent else PlainMemory(attention, memory)


def attention_to_past(attention: MultiHeadedAttention) -> LatentPast | PlainPast:
    """Of the two forms the one with fewer operations."""
    latent = _has_latents(attention, "linear_q", "linear_k", "linear_v", "linear_out")
    return LatentPast(attention) if latent else PlainPast(attention)


def _has_latents(attention: MultiHeadedAttention, *names: str) -> bool:
    """Whether these projections are low-rank, of ranks no wider than a head, and nothing but they acts or listens."""
    if not all(isinstance(norm, nn.Identity) for norm in (attention.q_norm, attention.k_norm)):
        return False
    layers = [getattr(attention, name) for name in names]
    return all(
        isinstance(layer, LowRankLinear)
        and layer.is_plain()
        and layer.rank <= attention.d_k
        and layer.bias is not None
        and not hooked(layer)
        for layer in layers
    )


class PlainMemory:
    """Attention of ``(hypotheses, width)`` to one utterance, with keys and values as wide as the model.

    Args:
        attention: ESPnet's, or one with low-rank projections.
        memory: what the encoder said, ``(frames, features)``.
    """

    def __init__(self, attention: MultiHeadedAttention, memory: torch.Tensor):
        self._attention, self._query, self._out = attention, direct(attention.linear_q), direct(attention.linear_out)
        self._keys = attention.k_norm(_by_head(attention.linear_k(memory), attention.h))[None]
        self._values = _by_head(attention.linear_v(memory), attention.h)[None]

    def __call__(self, y: torch.Tensor) -> torch.Tensor:
        attention = self._attention
        q = attention.q_norm(_by_head(self._query(y), attention.h))
        attended = F.scaled_dot_product_attention(q[None], self._keys, self._values)
        return self._out(attended[0].transpose(0, 1).flatten(1))


class LatentMemory:
    """As :class:`PlainMemory`, within the ranks of queries and output."""

    def __init__(self, attention: MultiHeadedAttention, memory: torch.Tensor):
        heads = attention.h
        keys = _by_head(attention.linear_k(memory), heads) / math.sqrt(attention.d_k)
        values = _by_head(attention.linear_v(memory), heads)
        up, self._down = attention.linear_q.factors()
        self._up_out, down_out = attention.linear_out.factors()
        self._bias_out = attention.linear_out.bias
        self._keys = (keys @ up.unflatten(0, (heads, -1))).permute(2, 0, 1).flatten(1)  # (rank, heads * frames)
        self._bias = (keys @ attention.linear_q.bias.view(heads, -1, 1)).flatten()
        down_by_head = down_out.unflatten(1, (heads, -1)).permute(1, 2, 0)  # (head, d_k, rank)
        self._values = (values @ down_by_head).flatten(0, 1)  # (heads * frames, rank)
        self._frames = len(memory)

    def __call__(self, y: torch.Tensor) -> torch.Tensor:
        scores = torch.addmm(self._bias, F.linear(y, self._down), self._keys)
        weights = scores.view(-1, self._frames).softmax(-1).view(len(y), -1)
        return F.linear(weights @ self._values, self._up_out, self._bias_out)


class _Past:
    """Keeps a row of numbers for each token."""

    def __init__(self, width: int):
        self._width = width
        self._kept: torch.Tensor | None = None  # (room, width)

    def _keep(self, new: torch.Tensor, end: int) -> torch.Tensor:
        """All rows up to ``end``, the last of them ``new``."""
        if self._kept is None:
            self._kept = new.new_empty(end + _GROWTH, self._width)
        elif len(self._kept) < end:
            self._kept = F.pad(self._kept, (0, 0, 0, max(_GROWTH, end)))
        self._kept.narrow(0, end - len(new), len(new)).copy_(new)
        return self._kept[:end]

    def choose(self, rows: torch.Tensor) -> None:
        """Drop all rows but these."""
        assert self._kept is not None
        self._kept[: len(rows)] = self._kept[rows]


class PlainPast(_Past):
    """Attention of tokens ``(hypotheses, width)`` to those before them, of which it keeps keys and values."""

    def __init__(self, attention: MultiHeadedAttention):
        super().__init__(2 * attention.h * attention.d_k)
        self._attention, self._out = attention, direct(attention.linear_out)
        self._projections = [direct(layer) for layer in (attention.linear_q, attention.linear_k, attention.linear_v)]

    def __call__(self, y: torch.Tensor, past: torch.Tensor, past_by_head: torch.Tensor) -> torch.Tensor:
        """Attend.

        Args:
            y: of new tokens, one of each hypothesis.
            past: what is added to the scores, 0 or minus infinity, ``(hypotheses, tokens)``, the new ones last.
            past_by_head: the same, repeated for each head, ``(hypotheses * heads, tokens)``.
        """
        attention = self._attention
        q, k, v = (project(y).unflatten(-1, (attention.h, -1)) for project in self._projections)
        new = torch.cat([attention.k_norm(k).flatten(1), v.flatten(1)], 1)
        keys, values = (_by_head(half, attention.h)[None] for half in self._keep(new, past.shape[1]).chunk(2, 1))
        q = attention.q_norm(q).transpose(0, 1)[None]
        attended = F.scaled_dot_product_attention(q, keys, values, past.to(q.dtype))
        return self._out(attended[0].transpose(0, 1).flatten(1))


class LatentPast(_Past):
    """As :class:`PlainPast`, within the ranks: it keeps what the first factors of keys and values say of a token."""

    def __init__(self, attention: MultiHeadedAttention):
        heads = attention.h
        (up_q, down_q), (up_k, down_k), (up_v, down_v), (self._up_out, down_out) = (
            layer.factors()
            for layer in (attention.linear_q, attention.linear_k, attention.linear_v, attention.linear_out)
        )
        super().__init__(len(down_k) + len(down_v))
        self._rank_q, self._ranks = len(down_q), [len(down_k), len(down_v)]
        self._down = torch.cat([down_q, down_k, down_v])
        up_k = up_k.unflatten(0, (heads, -1)) / math.sqrt(attention.d_k)  # (head, d_k, rank)
        queries = up_q.unflatten(0, (heads, -1)).transpose(1, 2) @ up_k
        self._queries = queries.transpose(0, 1).flatten(1)  # (rank of q, heads * rank of k)
        self._bias = (attention.linear_q.bias.view(heads, 1, -1) @ up_k).flatten()
        down_by_head = down_out.unflatten(1, (heads, -1)).transpose(0, 1)  # (head, rank of out, d_k)
        values = down_by_head @ up_v.unflatten(0, (heads, -1))
        self._values = values.transpose(1, 2).flatten(0, 1)  # (heads * rank of v, rank of out)
        # The weights of a head sum to one: the values' bias reaches the output whole.
        self._bias_out = attention.linear_out.bias + self._up_out @ (down_out @ attention.linear_v.bias)

    def __call__(self, y: torch.Tensor, past: torch.Tensor, past_by_head: torch.Tensor) -> torch.Tensor:
        """As :meth:`PlainPast.__call__`."""
        latents = F.linear(y, self._down)
        stored = self._keep(latents[:, self._rank_q :], past.shape[1])
        keys, values = stored.split_with_sizes(self._ranks, 1)
        queries = torch.addmm(self._bias, latents[:, : self._rank_q], self._queries)
        queries = queries.view(-1, self._ranks[0])  # (hypotheses * heads, rank of k)
        weights = torch.addmm(past_by_head.to(queries.dtype), queries, keys.t()).softmax(-1)
        values = (weights @ values).view(len(y), -1)
        return F.linear(values @ self._values, self._up_out, self._bias_out)


def _by_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """``(rows, features)`` to ``(head, rows, d_k)``."""
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)
