"""Scorers of beam search with all hypotheses together: a Transformer decoder with its keys and values, any other."""

from __future__ import annotations

import torch
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from torch import nn
from torch.nn import functional as F

from lrsms.espnet.compat import DecoderLayer, MultiHeadedAttention
from lrsms.espnet.search.attention import attention_to_memory, attention_to_past


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
        self._to_past = [attention_to_past(layer.self_attn) for layer in self._layers]
        self._to_memory = [attention_to_memory(layer.src_attn, memory) for layer in self._layers]
        self._past = memory.new_zeros(1, 0)  # (hypotheses, nodes), 0 or minus infinity

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """As :class:`AnyScorer`."""
        new = self._past.new_full((len(tokens), len(tokens)), -torch.inf)
        self._past = torch.cat([self._past, new.fill_diagonal_(0.0)], 1)
        past_by_head = self._past.repeat_interleave(self._layers[0].self_attn.h, 0)
        x = self._decoder.embed(tokens)[:, -1]
        for layer, to_past, to_memory in zip(self._layers, self._to_past, self._to_memory):
            y = x + to_past(layer.norm1(x) if layer.normalize_before else x, self._past, past_by_head)
            x = y if layer.normalize_before else layer.norm1(y)
            y = x + to_memory(layer.norm2(x) if layer.normalize_before else x)
            x = y if layer.normalize_before else layer.norm2(y)
            y = x + layer.feed_forward(layer.norm3(x) if layer.normalize_before else x)
            x = y if layer.normalize_before else layer.norm3(y)
        if self._decoder.normalize_before:
            x = self._decoder.after_norm(x)
        return x if self._decoder.output_layer is None else F.log_softmax(self._decoder.output_layer(x), dim=-1)

    def extend(self, parents: torch.Tensor) -> None:
        """As :meth:`AnyScorer.extend`."""
        self._past = self._past[parents]
        alive = (self._past == 0).any(0).nonzero().flatten()
        if self._past.shape[1] > 2 * len(alive):
            self._past = self._past[:, alive]
            for to_past in self._to_past:
                to_past.choose(alive)


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

