"""``nn.MultiheadAttention`` with its packed projection taken apart, so that each part can have a rank of its own."""

from __future__ import annotations

import math
from collections.abc import MutableMapping

import torch
from torch import nn
from torch.nn import functional as F

PARTS = ("q_proj", "k_proj", "v_proj")


class LowRankMultiheadAttention(nn.Module):
    """What ``nn.MultiheadAttention`` computes, from linear layers ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``.

    Each of them may be factored. torch's module reads its weights itself, and so never calls a layer that has replaced
    ``out_proj``; nor is there a layer to replace for ``in_proj_weight``.

    Args:
        dense: the module to take apart. Its weights are used as they are where they are matrices of their own, and
            copied where they are packed.
    """

    # torch's TransformerEncoderLayer asks for these before it takes its fast path, which reads weights.
    _qkv_same_embed_dim = False
    in_proj_bias = None

    def __init__(self, dense: nn.MultiheadAttention):
        super().__init__()
        for name in ("embed_dim", "kdim", "vdim", "num_heads", "head_dim", "dropout", "batch_first", "add_zero_attn"):
            setattr(self, name, getattr(dense, name))
        self.packed = dense.in_proj_weight is not None
        weights = dense.in_proj_weight.chunk(3) if self.packed else [getattr(dense, f"{part}_weight") for part in PARTS]
        biases = [None] * 3 if dense.in_proj_bias is None else dense.in_proj_bias.chunk(3)
        for part, weight, bias in zip(PARTS, weights, biases):
            setattr(self, part, _linear(weight, bias))
        self.out_proj = _linear(dense.out_proj.weight, dense.out_proj.bias)
        self.bias_k, self.bias_v = dense.bias_k, dense.bias_v
        self.train(dense.training)

    def dense_name(self, part: str) -> str:
        """Name that the weight of ``part`` has in ``nn.MultiheadAttention``."""
        if part == "out_proj":
            return "out_proj.weight"
        return "in_proj_weight" if self.packed else f"{part}_weight"

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As ``nn.MultiheadAttention`` describes it, masks and shapes included; nested tensors are not taken."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        if not batched:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        k, v, extra = self._with_extra_positions(k, v)
        # A causal mask need not be looked at: torch's module takes the hint for it.
        hinted = is_causal and key_padding_mask is None and not need_weights
        mask = None if hinted else _merged_mask(attn_mask, key_padding_mask, q, self.num_heads, extra)
        heads, weights = self._attend(self._split(q), self._split(k), self._split(v), mask, hinted, need_weights)
        output = self.out_proj(heads.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def _with_extra_positions(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Keys and values after ``add_bias_kv`` and ``add_zero_attn``, and by how many positions they have grown."""
        extra = 0
        if self.bias_k is not None:
            k = torch.cat((k, self.bias_k.expand(len(k), -1, -1)), dim=1)
            v = torch.cat((v, self.bias_v.expand(len(v), -1, -1)), dim=1)
            extra += 1
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            extra += 1
        return k, v, extra

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, positions, embed_dim)`` to ``(batch, heads, positions, head_dim)``."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _attend(self, q, k, v, mask, causal: bool, need_weights: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal), None
        scores = (q / math.sqrt(self.head_dim)) @ k.transpose(-2, -1)
        weights = F.dropout((scores if mask is None else scores + mask).softmax(dim=-1), dropout)
        return weights @ v, weights

    @torch.no_grad()
    def merged(self) -> nn.MultiheadAttention:
        """Torch's module with these weights; the projections have to be dense."""
        dense = nn.MultiheadAttention(
            self.embed_dim,
            self.num_heads,
            self.dropout,
            bias=self.q_proj.bias is not None,
            add_bias_kv=self.bias_k is not None,
            add_zero_attn=self.add_zero_attn,
            kdim=self.kdim,
            vdim=self.vdim,
            batch_first=self.batch_first,
        ).to(self.out_proj.weight)
        parts = [getattr(self, part) for part in PARTS]
        if dense.in_proj_weight is not None:
            dense.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
            dense.in_proj_weight.requires_grad_(parts[0].weight.requires_grad)
        else:
            for name, part in zip(PARTS, parts):
                setattr(dense, f"{name}_weight", part.weight)
        if dense.in_proj_bias is not None:
            dense.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
            dense.in_proj_bias.requires_grad_(parts[0].bias.requires_grad)
        dense.out_proj.weight, dense.out_proj.bias = self.out_proj.weight, self.out_proj.bias
        dense.bias_k, dense.bias_v = self.bias_k, self.bias_v
        return dense.train(self.training)


def split_state(attention: LowRankMultiheadAttention, state: MutableMapping[str, torch.Tensor], at: str) -> None:
    """Rename the weights of a dense ``nn.MultiheadAttention`` in ``state``, whose keys begin with ``at``."""
    packed = [(state.pop(f"{at}in_proj_{kind}", None), kind) for kind in ("weight", "bias")]
    for tensor, kind in packed:
        if tensor is not None:
            state.update({f"{at}{part}.{kind}": piece for part, piece in zip(PARTS, tensor.chunk(3))})
    for part in PARTS:
        if f"{at}{part}_weight" in state:
            state[f"{at}{part}.weight"] = state.pop(f"{at}{part}_weight")
    # A layer that has stayed dense takes them as they are; of one that is factored, see factorize_state.


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A linear layer with these parameters: the same objects where they are parameters, else copies of these rows."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = _parameter(weight)
    if bias is not None:
        layer.bias = _parameter(bias)
    return layer


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad)


def _merged_mask(attn_mask, key_padding_mask, q: torch.Tensor, heads: int, extra: int) -> torch.Tensor | None:
    """Both masks as one that is added to the scores, which broadcasts to ``(batch, heads, queries, keys)``."""
    mask = None
    if attn_mask is not None:
        mask = F.pad(_additive(attn_mask, q.dtype), (0, extra))
        mask = mask.unflatten(0, (len(q), heads)) if mask.dim() == 3 else mask[None, None]
    if key_padding_mask is not None:
        padding = F.pad(_additive(key_padding_mask, q.dtype), (0, extra))[:, None, None]
        mask = padding if mask is None else mask + padding
    return mask


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)
    return mask.to(dtype)
