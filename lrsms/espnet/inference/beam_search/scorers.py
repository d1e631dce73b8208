"""Scorers of beam search with all hypotheses together: a Transformer decoder with its keys and values, any other."""

from __future__ import annotations

import torch
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from torch.nn import functional as F

from lrsms.espnet.compat import DecoderLayer, MultiHeadedAttention, PositionalEncoding
from lrsms.espnet.inference.beam_search.attention import attention_to_memory, attention_to_past
from lrsms.espnet.inference.beam_search.direct import direct
from lrsms.lowrank.hooks import hooked

_ROOM = 64  # nodes before it is looked whether some are nobody's past


class AnyScorer:
    """A scorer of ESPnet's by its own methods, hypotheses together if it can."""

    def __init__(self, scorer, x: torch.Tensor, batched: bool):
        self._scorer, self._x, self._batched = scorer, x, batched
        self._states = [scorer.batch_init_state(x) if batched else scorer.init_state(x)]

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """``(hypotheses, tokens)`` so far to log-probabilities of the next one ``(hypotheses, vocabulary)``."""
        if self._batched:
            scores, self._states = self._scorer.batch_score(tokens, self._states, self._x.expand(len(tokens), -1, -1))
            return scores
        scored = [self._scorer.score(*hypothesis, self._x) for hypothesis in zip(tokens, self._states)]
        self._states = [state for _, state in scored]
        return torch.stack([scores for scores, _ in scored])

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
        self._decoder, self._heads = decoder, decoder.decoders[0].self_attn.h
        self._layers = [_Layer(layer, memory) for layer in decoder.decoders]
        self._past = memory.new_zeros(1, 0)  # (hypotheses, nodes), 0 or minus infinity
        self._room = _ROOM

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """As :class:`AnyScorer`."""
        new = self._past.new_full((len(tokens), len(tokens)), -torch.inf)
        self._past = torch.cat([self._past, new.fill_diagonal_(0.0)], 1)
        past_by_head = self._past.repeat_interleave(self._heads, 0)
        x = self._embed(tokens)
        for layer in self._layers:
            x = layer(x, self._past, past_by_head)
        if self._decoder.normalize_before:
            x = self._decoder.after_norm(x)
        return x if self._decoder.output_layer is None else F.log_softmax(self._decoder.output_layer(x), dim=-1)

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """The last tokens, at their position."""
        embed = self._decoder.embed
        if len(embed) != 2 or type(embed[1]) is not PositionalEncoding or hooked(embed, embed[1]):
            return embed(tokens)[:, -1]
        words, positions = embed
        x = words(tokens[:, -1])
        positions.extend_pe(x[:1, None].expand(-1, tokens.shape[1], -1))
        return x * positions.xscale + positions.pe[0, tokens.shape[1] - 1]

    def extend(self, parents: torch.Tensor) -> None:
        """As :meth:`AnyScorer.extend`."""
        self._past = self._past[parents]
        if self._past.shape[1] > self._room:
            alive = (self._past == 0).any(0).nonzero().flatten()
            self._past, self._room = self._past[:, alive], max(_ROOM, 2 * len(alive))
            for layer in self._layers:
                layer.to_past.choose(alive)


class _Layer:
    """A decoder layer's step: ``(hypotheses, width)`` to the same."""

    def __init__(self, layer: DecoderLayer, memory: torch.Tensor):
        self._before = layer.normalize_before
        self._norms = [direct(norm) for norm in (layer.norm1, layer.norm2, layer.norm3)]
        self.to_past = attention_to_past(layer.self_attn)
        self.to_memory = attention_to_memory(layer.src_attn, memory)
        self._feed_forward = direct(layer.feed_forward)

    def __call__(self, x: torch.Tensor, past: torch.Tensor, past_by_head: torch.Tensor) -> torch.Tensor:
        norm1, norm2, norm3 = self._norms
        if self._before:
            x = x + self.to_past(norm1(x), past, past_by_head)
            x = x + self.to_memory(norm2(x))
            return x + self._feed_forward(norm3(x))
        x = norm1(x + self.to_past(x, past, past_by_head))
        x = norm2(x + self.to_memory(x))
        return norm3(x + self._feed_forward(x))


def can_cache(decoder: object) -> bool:
    """Whether :class:`CachedDecoder` computes what ``decoder`` computes, and nobody listens to its attention."""
    if not isinstance(decoder, TransformerDecoder) or decoder.training:
        return False
    return all(
        isinstance(layer, DecoderLayer)
        and not layer.concat_after
        and layer.sequential_attn is None
        and all(isinstance(attention, MultiHeadedAttention) for attention in (layer.self_attn, layer.src_attn))
        and not hooked(layer, layer.self_attn, layer.src_attn)
        for layer in decoder.decoders
    )
