"""Weights of a block rounded at once for autocast, which rounds each by itself.

On a GPU each weight costs a kernel, and its gradient another: of a low-rank Conformer's training step that is a fifth
of all kernels, and starting them takes longer than they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lrsms.espnet.models.fast.convolution import MaskedConv1d

_LAYERS = (nn.Linear, nn.Conv1d, MaskedConv1d)  # whose weights and biases autocast rounds


@contextmanager
def rounded_weights(block: nn.Module) -> Iterator[None]:
    """Within this context the layers in ``block`` hold their weights as autocast would round them.

    Gradients arrive at the parameters as they do without. Nothing is done without autocast or without gradients.
    """
    parameter = next(block.parameters(), None)
    device = "cpu" if parameter is None else parameter.device.type
    if not (torch.is_grad_enabled() and device != "meta" and torch.is_autocast_enabled(device)):
        yield
        return
    held = [
        (layer, name, weight)
        for layer in block.modules()
        if type(layer) in _LAYERS
        for name, weight in layer._parameters.items()
        if weight is not None and weight.dtype == torch.float32 and weight.requires_grad
    ]
    rounded = _Round.apply(torch.get_autocast_dtype(device), *(weight for _, _, weight in held))
    try:
        for (layer, name, _), weight in zip(held, rounded, strict=True):
            layer._parameters[name] = weight
        yield
    finally:
        for layer, name, weight in held:
            layer._parameters[name] = weight


class _Round(torch.autograd.Function):
    """Many tensors in another dtype, in one kernel; their gradients back in another."""

    @staticmethod
    def forward(ctx, dtype: torch.dtype, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(_converted(weights, dtype))

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        whole = iter(_converted([gradient for gradient in gradients if gradient is not None], torch.float32))
        return None, *(None if gradient is None else next(whole) for gradient in gradients)


def _converted(tensors, dtype: torch.dtype) -> list[torch.Tensor]:
    result = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if result:
        torch._foreach_copy_(result, list(tensors))
    return result
