"""Attention with fewer passes over the matrix of scores, and keys and values of the decoder's memory made once."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from lrsms.espnet.compat import MultiHeadedAttention, RelPositionMultiHeadedAttention
from lrsms.espnet.models.fast.switch import plain_wanted
from lrsms.lowrank.hooks import hooked, hooked_within

_ALIGNED = 8  # positions: with an odd number of columns cuBLAS takes kernels of GPUs that have long gone


class FastRelPositionAttention(RelPositionMultiHeadedAttention):
    """ESPnet's relative-position self-attention (``rel_pos_type: latest``).

    The shift of Dai et al. 2019 (Transformer-XL, appendix B) is a view of the position scores, the content scores are
    added to it by the matrix product that makes them, a batch without padding needs no mask, and heads share one
    product with the positions for all utterances. Without gradients, or on a GPU, torch's fused attention takes the
    position scores as its bias.
    """

    def forward(self, query, key, value, pos_emb, mask):
        """Compute what ESPnet's does.

        Shapes: ``query (batch, frames, features)``, ``pos_emb (1, 2 * frames - 1, features)``, ``mask (batch, 1,
        frames)`` or ``(batch, frames, frames)``, True for a frame and False for padding.
        """
        frames = query.shape[1]
        known = key.shape[1] == frames and pos_emb.shape[:2] == (1, 2 * frames - 1) and not self.zero_triu
        if plain_wanted() or not known or not _is_bool(mask) or query.device.type == "meta":
            return super().forward(query, key, value, pos_emb, mask)
        scale = self.d_k**-0.5
        q = self.linear_q(query).unflatten(-1, (self.h, self.d_k)) * scale
        k, v = (_by_head(layer(x), self.h) for layer, x in ((self.linear_k, key), (self.linear_v, value)))
        # In q's dtype: under autocast sums with a float32 bias would be copied as float32, and rounded later.
        content = _heads_first(q + self.pos_bias_u.to(q.dtype) * scale)  # (head, batch, frames, d_k)
        position = _heads_first(q + self.pos_bias_v.to(q.dtype) * scale)
        p = self.linear_pos(pos_emb).unflatten(-1, (self.h, self.d_k))[0].permute(1, 2, 0)  # (head, d_k, positions)
        if p.is_cuda:
            p = F.pad(p, (0, -p.shape[2] % _ALIGNED))
        bias = _shifted(torch.matmul(position.flatten(1, 2), p), query.shape[0], frames)
        if mask is not None:
            mask = None if _nothing_masked(mask) else mask.eq(0).unsqueeze(0)  # (1, batch, 1 or frames, frames)
        out = (
            self._fused(content, k, v, bias, mask) if self._may_fuse(query) else self._scored(content, k, v, bias, mask)
        )
        return self.linear_out(out.permute(1, 2, 0, 3).flatten(2))

    def _may_fuse(self, x: torch.Tensor) -> bool:
        # With somebody listening, ESPnet's plots of attention for one, the weights must be computed to be seen.
        return not hooked(self, self.dropout) and (x.is_cuda or not torch.is_grad_enabled())

    def _fused(self, q, k, v, bias, mask) -> torch.Tensor:
        bias = bias.contiguous() if mask is None else bias.masked_fill(mask, torch.finfo(bias.dtype).min)
        dropped = self.dropout_rate if self.training else 0.0
        self.attn = None
        return F.scaled_dot_product_attention(q, k, v.to(q.dtype), bias.to(q.dtype), dropout_p=dropped, scale=1.0)

    def _scored(self, q, k, v, bias, mask) -> torch.Tensor:
        heads, batch, frames, _ = q.shape
        q, k, v, bias = (x.flatten(0, 1) for x in (q, k, v, bias))
        scores = torch.baddbmm(bias, q, k.transpose(1, 2)).view(heads, batch, frames, frames)
        if mask is not None:
            scores = scores.masked_fill_(mask, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1)
        # Kept for those who look at it, but not through a training step: a model could not be copied after one.
        self.attn = None if torch.is_grad_enabled() else weights.transpose(0, 1)
        weights = self.dropout(weights).flatten(0, 1)
        return torch.bmm(weights.to(v.dtype), v).unflatten(0, (heads, batch))


def _is_bool(mask: torch.Tensor | None) -> bool:
    return mask is None or mask.dtype == torch.bool


def _nothing_masked(mask: torch.Tensor) -> bool:
    """Asked on a CPU alone: a GPU would have to be waited for."""
    return mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(mask.all())


def _heads_first(x: torch.Tensor) -> torch.Tensor:
    """``(batch, frames, head, d_k)`` to ``(head, batch, frames, d_k)``, contiguous."""
    return x.permute(2, 0, 1, 3).contiguous()


def _by_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    return _heads_first(x.unflatten(-1, (heads, -1)))


def _shifted(scores: torch.Tensor, batch: int, frames: int) -> torch.Tensor:
    """Scores by relative position ``(head, batch * frames, positions)`` as ``(head, batch, frames, frames)``.

    Row ``i`` begins at position ``frames - 1 - i``, so each row starts one number earlier than a row's length on.
    What is behind the ``2 * frames - 1`` positions is left out.
    """
    scores = scores.contiguous()
    heads, width = scores.shape[0], scores.shape[2]
    strides = (batch * frames * width, frames * width, width - 1, 1)
    return scores.as_strided((heads, batch, frames, frames), strides, scores.storage_offset() + frames - 1)


class FastAttention(MultiHeadedAttention):
    """ESPnet's ``MultiHeadedAttention`` through torch's fused attention.

    Where a decoder attends to one utterance from several hypotheses (``of_memory``), keys and values are made once for
    the utterance: ESPnet's beam search asks for them anew for each hypothesis at each token.
    """

    of_memory = False
    _known: tuple | None = None

    def forward(self, query, key, value, mask, expand_kv=False):
        """As ESPnet's: ``(batch, time1, features)``, ``(batch, time2, features)`` twice, and a mask of them."""
        unknown = expand_kv or self.use_flash_attn or not _is_bool(mask) or query.device.type == "meta"
        if plain_wanted() or unknown or hooked_within(self):
            return super().forward(query, key, value, mask, expand_kv)
        self.attn = None
        if self.of_memory and mask is None and key is value and _one_for_all(query, key):
            return self._attend_to_one(query, key)
        q, k, v = self.forward_qkv(query, key, value)
        if mask is not None:
            mask = None if _nothing_masked(mask) else mask.unsqueeze(1)
        dropped = self.dropout_rate if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropped)
        return self.linear_out(out.transpose(1, 2).flatten(2))

    def _attend_to_one(self, query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """``query (hypotheses, 1, features)``: hypotheses are to the utterance what frames are elsewhere."""
        k, v = self._keys_and_values(memory[:1])
        q = self.q_norm(self.linear_q(query).view(1, -1, self.h, self.d_k).transpose(1, 2))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.linear_out(out.transpose(1, 2).flatten(2).transpose(0, 1))

    def _keys_and_values(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Remembered for the last memory as long as neither it nor the weights have changed."""
        layers = (self.linear_k, self.linear_v)
        weights = [weight for layer in layers for weight in layer.parameters()]
        state = (memory.data_ptr(), memory.shape, memory.dtype, *map(id, layers), *map(_version, (memory, *weights)))
        if self._known is None or self._known[0] != state or None in state:
            k = self.k_norm(_heads_second(self.linear_k(memory), self.h))
            v = _heads_second(self.linear_v(memory), self.h)
            self._known = (state, memory, k, v)  # memory is held, so that no other can come to lie at its address
        return self._known[2:]

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_known"}


def _one_for_all(query: torch.Tensor, key: torch.Tensor) -> bool:
    """True for one memory expanded to all hypotheses, if no gradient is asked for."""
    return not torch.is_grad_enabled() and query.shape[1] == 1 and (key.shape[0] == 1 or key.stride(0) == 0)


def _heads_second(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _version(tensor: torch.Tensor) -> int | None:
    """Of the data; None if torch does not count, which means that nothing can be remembered."""
    return None if tensor.is_inference() else tensor._version


def mark_memory_attention(module: nn.Module) -> None:
    """Let the source attention of every decoder layer in ``module`` remember what it made of the memory."""
    for path, layer in module.named_modules():
        if isinstance(layer, FastAttention) and path.rpartition(".")[2] == "src_attn":
            layer.of_memory = True
