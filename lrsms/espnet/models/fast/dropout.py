"""Dropout from random bits, sixteen an element: torch draws a Bernoulli number for each element of a CPU tensor."""

from __future__ import annotations

import torch
from torch import nn

from lrsms.espnet.models.fast.switch import plain_wanted

_LEVELS = 2**16


class FastDropout(nn.Dropout):
    """``nn.Dropout``; on a CPU the probability is rounded to 1/65536, and the scale is that of the rounded one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        off = self.p == 0.0 or self.inplace
        if off or x.device.type != "cpu" or torch.compiler.is_compiling() or plain_wanted():
            return super().forward(x)
        levels = round((1.0 - self.p) * _LEVELS)
        return torch.zeros_like(x) if levels == 0 else _Drop.apply(x, levels)


class _Drop(torch.autograd.Function):
    """Keeps each element with probability ``levels / 65536``; for backward, one byte an element is remembered."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, levels: int) -> torch.Tensor:
        count = x.numel()
        bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        mask = (bits[:count] < levels - _LEVELS // 2).view(x.shape)
        ctx.scale = _LEVELS / levels
        ctx.save_for_backward(mask)
        return torch.ops.aten.native_dropout_backward(x, mask, ctx.scale)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (mask,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(gradient, mask, ctx.scale), None
