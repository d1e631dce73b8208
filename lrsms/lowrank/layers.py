"""Factored layers: plain torch layers in sequence, so that whatever understands torch understands them.

A dense weight ``W`` of shape ``(out, in)`` is stored and trained as ``U V`` with ``V`` of shape ``(rank, in)``
(the first layer, ``[0]``, without bias) and ``U`` of shape ``(out, rank)`` (the second layer, ``[1]``, with the
dense layer's bias).
"""

from __future__ import annotations

import torch
from torch import nn


class _Factored(nn.Sequential):
    """Two layers in sequence that stand for one dense layer whose weight matrix has a given rank."""

    init_method: str = "svd"

    @property
    def rank(self) -> int:
        """Inner dimension of the product."""
        return self[0].weight.shape[0]

    @property
    def bias(self) -> torch.Tensor | None:
        """Bias of the dense layer this one stands for: shape ``(out,)`` or None."""
        return self[1].bias

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The factors as matrices: ``U (out, rank)`` and ``V (rank, in)``; views of the parameters."""
        return self[1].weight.flatten(1), self[0].weight.flatten(1)

    def product(self) -> torch.Tensor:
        """The weight of the equivalent dense layer, in that layer's own shape."""
        up, down = self.factors()
        return (up @ down).reshape(self.dense_shape)

    @property
    def dense_shape(self) -> torch.Size:
        """Shape of the equivalent dense weight: ``(out, in)`` or ``(out, in, *kernel)``."""
        return torch.Size([self[1].weight.shape[0], *self[0].weight.shape[1:]])


class LowRankLinear(_Factored):
    """``(..., in_features) -> (..., out_features)`` through ``rank`` dimensions.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        rank: inner dimension, at least 1.
        bias: whether the output has a bias.
    """

    def __init__(self, in_features: int, out_features: int, *, rank: int, bias: bool = True):
        super().__init__(nn.Linear(in_features, rank, bias=False), nn.Linear(rank, out_features, bias=bias))
        self.in_features, self.out_features = in_features, out_features


class LowRankConv1d(_Factored):
    """Pointwise convolution ``(batch, in_channels, frames) -> (batch, out_channels, frames)``."""

    def __init__(self, in_channels: int, out_channels: int, *, rank: int, stride: int = 1, bias: bool = True):
        super().__init__(
            nn.Conv1d(in_channels, rank, 1, stride=stride, bias=False), nn.Conv1d(rank, out_channels, 1, bias=bias)
        )
        self.in_channels, self.out_channels = in_channels, out_channels


class LowRankConv2d(_Factored):
    """2-D convolution as ``k x k`` into ``rank`` channels, then ``1 x 1``.

    ``(batch, in_channels, height, width) -> (batch, out_channels, height', width')``. Scheme 1 of Jaderberg et al.
    2014 in its channel form (Zhang et al. 2016): the factored matrix is ``(out, in * k * k)``.
    """

    def __init__(self, in_channels, out_channels, kernel_size, *, rank, stride=1, padding=0, dilation=1, bias=True):
        super().__init__(
            nn.Conv2d(in_channels, rank, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=False),
            nn.Conv2d(rank, out_channels, 1, bias=bias),
        )
        self.in_channels, self.out_channels = in_channels, out_channels


def matrix_shape(module: nn.Module) -> tuple[int, int] | None:
    """``(out, in)`` of the matrix behind a layer that can be factored, None for one that cannot.

    Linear, pointwise Conv1d and ungrouped Conv2d (``in = channels * kernel area``) can.
    """
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, nn.Conv1d) and module.groups == 1 and module.kernel_size == (1,) and module.padding == (0,):
        return module.out_channels, module.in_channels
    if isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros":
        kernel_height, kernel_width = module.kernel_size
        return module.out_channels, module.in_channels * kernel_height * kernel_width
    return None


def factored_like(dense: nn.Module, rank: int) -> _Factored:
    """A factored layer of the same interface, dtype and device as ``dense``; weights not yet set.

    Raises:
        TypeError: if ``dense`` is a layer that :func:`matrix_shape` cannot factor.
    """
    bias = getattr(dense, "bias", None) is not None
    if isinstance(dense, nn.Linear):
        layer = LowRankLinear(dense.in_features, dense.out_features, rank=rank, bias=bias)
    elif matrix_shape(dense) is None:
        raise TypeError(f"{type(dense).__name__} cannot be factored: Linear, pointwise Conv1d and Conv2d can")
    elif isinstance(dense, nn.Conv1d):
        layer = LowRankConv1d(dense.in_channels, dense.out_channels, rank=rank, stride=dense.stride, bias=bias)
    else:
        layer = LowRankConv2d(
            dense.in_channels,
            dense.out_channels,
            dense.kernel_size,
            rank=rank,
            stride=dense.stride,
            padding=dense.padding,
            dilation=dense.dilation,
            bias=bias,
        )
    return layer.to(device=dense.weight.device, dtype=dense.weight.dtype)
