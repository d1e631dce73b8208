"""Scorers of beam search with all hypotheses together: a Transformer decoder with its keys and values, any other."""

from __future__ import annotations

import torch
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from torch import nn
from torch.nn import functional as F

from lrsms.espnet.compat import DecoderLayer, MultiHeadedAttention

_GROWTH = 128  # nodes that room is made for at a time


class AnyScorer:
    """A scorer of ESPnet's by its own methods, hypotheses together where it can."""

    def __init__(self, scorer, x: torch.Tensor, batched: bool):
        self._scorer, self._x, self._batched = scorer, x, batched
        self._states = [scorer.batch_init_state(x) if batched else scorer.init_state(x)]

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """``(hypotheses, tokens)`` so far to log-probabilities of the next one ``(hypotheses, vocabulary)``."""
        if self._batched:
            scores, self._states = self._scorer.batch_score(tokens, self._states, self._x.expand(len(tokens), -1, -1))
            return scores
        found = [self._scorer.score(*one, self._x) for one in zip(tokens, self._states)]
        self._states = [state for _, state in found]
        return torch.stack([scores for scores, _ in found])

    def extend(self, parents: torch.Tensor) -> None:
        """Go on with these hypotheses, of those just scored."""
        if self._batched:
            self._states = [self._scorer.select_state(self._states, parent) for parent in parents.tolist()]
        else:
            self._states = [self._states[parent] for parent in parents.tolist()]


class CachedDecoder:
    """A Transformer decoder that computes each token once.

    ESPnet keeps what each layer said of earlier tokens, and makes keys and values of all of them anew at every step.
    Here they are kept, in one tree for all hypotheses: a node is one token of one hypothesis, made once, whatever the
    number of hypotheses that go on from it, and a mask says which nodes are the past of which hypothesis. Nothing is
    copied when hypotheses are chosen; nodes that are nobody's past any more are dropped now and then.

    Args:
        decoder: see :func:`can_cache`.
        memory: what the encoder said, ``(frames, features)``.
    """

    def __init__(self, decoder: TransformerDecoder, memory: torch.Tensor):
        self._decoder, self._layers = decoder, list(decoder.decoders)
        self._memory = [
            (layer.src_attn.k_norm(_by_head(layer.src_attn.linear_k(memory), layer.src_attn.h))[None],)
            + (_by_head(layer.src_attn.linear_v(memory), layer.src_attn.h)[None],)
            for layer in self._layers
        ]
        self._nodes: torch.Tensor | None = None  # (2 * layers, head, room, d_k), keys and values of a layer in turn
        self._past = torch.zeros(1, 0, dtype=torch.bool, device=memory.device)  # (hypotheses, nodes)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """As :class:`AnyScorer`."""
        count, known = tokens.shape[0], self._past.shape[1]
        self._past = torch.cat([self._past, torch.eye(count, dtype=torch.bool, device=tokens.device)], 1)
        x = self._decoder.embed(tokens)[:, -1]
        for number, layer in enumerate(self._layers):
            x = self._attend_to_past(number, layer, x, known)
            x = self._attend_to_memory(number, layer, x)
            y = x + layer.feed_forward(layer.norm3(x) if layer.normalize_before else x)
            x = y if layer.normalize_before else layer.norm3(y)
        if self._decoder.normalize_before:
            x = self._decoder.after_norm(x)
        return x if self._decoder.output_layer is None else F.log_softmax(self._decoder.output_layer(x), dim=-1)

    def _attend_to_past(self, number: int, layer: DecoderLayer, x: torch.Tensor, known: int) -> torch.Tensor:
        attention = layer.self_attn
        y = layer.norm1(x) if layer.normalize_before else x
        q = attention.q_norm(_by_head(attention.linear_q(y), attention.h))
        k = attention.k_norm(_by_head(attention.linear_k(y), attention.h))
        v = _by_head(attention.linear_v(y), attention.h)
        end = known + len(x)
        nodes = self._room(end, k)
        nodes[2 * number, :, known:end], nodes[2 * number + 1, :, known:end] = k, v
        keys, values = nodes[2 * number, None, :, :end], nodes[2 * number + 1, None, :, :end]
        found = F.scaled_dot_product_attention(q[None], keys, values, self._past)
        y = x + attention.linear_out(found[0].transpose(0, 1).flatten(1))
        return y if layer.normalize_before else layer.norm1(y)

    def _attend_to_memory(self, number: int, layer: DecoderLayer, x: torch.Tensor) -> torch.Tensor:
        attention = layer.src_attn
        y = layer.norm2(x) if layer.normalize_before else x
        q = attention.q_norm(_by_head(attention.linear_q(y), attention.h))
        found = F.scaled_dot_product_attention(q[None], *self._memory[number])
        y = x + attention.linear_out(found[0].transpose(0, 1).flatten(1))
        return y if layer.normalize_before else layer.norm2(y)

    def _room(self, count: int, like: torch.Tensor) -> torch.Tensor:
        """The nodes, with room for so many."""
        if self._nodes is None:
            self._nodes = like.new_empty(2 * len(self._layers), like.shape[0], count + _GROWTH, like.shape[2])
        elif self._nodes.shape[2] < count:
            self._nodes = F.pad(self._nodes, (0, 0, 0, max(_GROWTH, count)))
        return self._nodes

    def extend(self, parents: torch.Tensor) -> None:
        """As :meth:`AnyScorer.extend`."""
        self._past = self._past[parents]
        alive = self._past.any(0).nonzero().flatten()
        if self._past.shape[1] > 2 * len(alive):
            self._past = self._past[:, alive]
            self._nodes[:, :, : len(alive)] = self._nodes.index_select(2, alive)


def can_cache(decoder: object) -> bool:
    """Whether :class:`CachedDecoder` computes what ``decoder`` computes, and nobody listens to its attention."""
    if not isinstance(decoder, TransformerDecoder) or decoder.training:
        return False
    return all(
        isinstance(layer, DecoderLayer)
        and not layer.concat_after
        and layer.sequential_attn is None
        and all(isinstance(one, MultiHeadedAttention) for one in (layer.self_attn, layer.src_attn))
        and not any(map(_listened_to, (layer, layer.self_attn, layer.src_attn)))
        for layer in decoder.decoders
    )


def _listened_to(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _by_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """``(rows, features)`` to ``(head, rows, d_k)``."""
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)
