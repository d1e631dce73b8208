"""Factored layers: plain torch layers in sequence, so that whatever understands torch understands them.

A dense weight ``W`` of shape ``(out, in)`` is stored and trained as ``U V`` with ``V`` of shape ``(rank, in)``
(the first layer, ``[0]``, without bias) and ``U`` of shape ``(out, rank)`` (the second layer, ``[1]``, with the
dense layer's bias). Recurrent layers are in :mod:`lrsms.lowrank.recurrent`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from lrsms.lowrank.hooks import hooked


class Factored(nn.Sequential):
    """Two layers in sequence that stand for one dense layer whose weight matrix has a given rank."""

    init_method: str = "svd"
    transposed = False  # whether the first layer's weight is (in, rank)

    @property
    def rank(self) -> int:
        """Inner dimension of the product."""
        return self[0].weight.shape[0]

    @property
    def bias(self) -> torch.Tensor | None:
        """Bias of the dense layer this one stands for: shape ``(out,)`` or None."""
        return self[1].bias

    @property
    def weight(self) -> torch.Tensor:
        """The product, for code that reads a layer's weight: made anew each time, with gradients to both factors."""
        return self.product()

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

    @staticmethod
    def as_matrix(weight: torch.Tensor) -> torch.Tensor:
        """A dense weight of :attr:`dense_shape` as the matrix ``(out, in)`` that is factored."""
        return weight.flatten(1)

    @torch.no_grad()
    def set_factors(self, up: torch.Tensor, down: torch.Tensor) -> None:
        """Copy ``U (out, rank)`` and ``V (rank, in)`` into the parameters."""
        self[0].weight.copy_(down.reshape(self[0].weight.shape))
        self[1].weight.copy_(up.reshape(self[1].weight.shape))

    @property
    def dense_parameters(self) -> int:
        """Weights of the equivalent dense matrix, without bias."""
        return self.dense_shape.numel()

    @property
    def parameters_saved(self) -> int:
        """Weights that factoring has saved."""
        return self.dense_parameters - sum(factor.numel() for factor in self.factors())

    def macs_saved(self, output: torch.Tensor) -> int:
        """Multiply-accumulates saved in the forward pass that made ``output``."""
        return output.numel() // self.dense_shape[0] * self.parameters_saved

    def merged(self) -> nn.Module:
        """The equivalent dense layer, with weights of its own."""
        dense = self._dense_layer()
        with torch.no_grad():
            dense.weight.copy_(self.product())
            if self.bias is not None:
                dense.bias.copy_(self.bias)
        return dense.to(self[1].weight).train(self.training)

    def _dense_layer(self) -> nn.Module:
        raise NotImplementedError


class LowRankLinear(Factored):
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., in_features)`` to ``(..., out_features)``: what calling the two layers gives, without the calls.

        A call of a module costs more than a product of matrices this thin. Layers that have been exchanged (quantized,
        adapted) or that have hooks are called.
        """
        if not self.is_plain():
            return super().forward(x)
        down, up = self._modules.values()
        return F.linear(F.linear(x, down.weight), up.weight, up.bias)

    def is_plain(self) -> bool:
        """Whether the two layers are torch's own linear layers, and have no hooks."""
        down, up = self._modules.values()
        return type(down) is nn.Linear and type(up) is nn.Linear and not hooked(down, up)

    def _dense_layer(self) -> nn.Linear:
        return nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)


class _Convolution(Factored):
    """A convolution into ``rank`` channels, then a pointwise one.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, padding_mode, bias: as torch has them.
        rank: inner dimension, at least 1.
        layer: class of both convolutions, :attr:`plain` or a class made from it.
    """

    plain: type[nn.Conv1d | nn.Conv2d]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size=1,
        *,
        rank: int,
        stride=1,
        padding=0,
        dilation=1,
        padding_mode: str = "zeros",
        bias: bool = True,
        layer: type[nn.Module] | None = None,
    ):
        make: Callable[..., nn.Module] = layer or self.plain
        shape = {"stride": stride, "padding": padding, "dilation": dilation, "padding_mode": padding_mode}
        super().__init__(
            make(in_channels, rank, kernel_size, **shape, bias=False), make(rank, out_channels, 1, bias=bias)
        )
        self.in_channels, self.out_channels = in_channels, out_channels

    def __getattr__(self, name: str):
        """What a dense convolution says of itself, by its first factor."""
        if name in _GEOMETRY:
            return getattr(self._modules["0"], name)
        return super().__getattr__(name)

    def _dense_layer(self) -> nn.Module:
        shape = {name: getattr(self[0], name) for name in _GEOMETRY}
        return type(self[0])(self.in_channels, self.out_channels, **shape, bias=self.bias is not None)


_GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


class LowRankConv1d(_Convolution):
    """Convolution ``(batch, in_channels, frames) -> (batch, out_channels, frames')``; pointwise if not said otherwise.

    Its kernel goes into ``rank`` channels, as in :class:`LowRankConv2d`: the factored matrix is ``(out, in * kernel)``.
    """

    plain = nn.Conv1d


class LowRankConv2d(_Convolution):
    """2-D convolution as ``k x k`` into ``rank`` channels, then ``1 x 1``.

    ``(batch, in_channels, height, width) -> (batch, out_channels, height', width')``. Scheme 1 of Jaderberg et al.
    2014 in its channel form (Zhang et al. 2016): the factored matrix is ``(out, in * k * k)``.
    """

    plain = nn.Conv2d


class LowRankTiedLinear(Factored):
    """The linear layer of an embedding's own table, ``(..., embedding_dim) -> (..., num_embeddings)``.

    Its parameters are those of ``embedding``: the table's rows are the second factor, and what expands them is the
    first, stored the other way round.

    Args:
        embedding: the factored table.
        bias: of the output, ``(num_embeddings,)``; None for none.
    """

    transposed = True

    def __init__(self, embedding: LowRankEmbedding, bias: nn.Parameter | None = None):
        last = nn.Linear(embedding.rank, embedding.num_embeddings, bias=bias is not None, device="meta")
        last.weight, last.bias = embedding[0].weight, bias
        super().__init__(TransposedLinear(embedding[1].weight), last)
        self.in_features, self.out_features = embedding.embedding_dim, embedding.num_embeddings

    @property
    def rank(self) -> int:
        return self[0].weight.shape[1]

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self[1].weight, self[0].weight.T

    @property
    def dense_shape(self) -> torch.Size:
        return torch.Size([self.out_features, self.in_features])

    @torch.no_grad()
    def set_factors(self, up: torch.Tensor, down: torch.Tensor) -> None:
        self[0].weight.copy_(down.T)
        self[1].weight.copy_(up)

    def _dense_layer(self) -> nn.Linear:
        return nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)


class TransposedLinear(nn.Module):
    """``x (..., in) -> x W`` for a weight ``(in, out)`` that another layer owns as well."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., in)`` to ``(..., out)``."""
        return x @ self.weight


class LowRankEmbedding(Factored):
    """``(...) of token numbers -> (..., embedding_dim)``: a table of ``rank`` columns, then a linear map.

    The dense table ``(num_embeddings, embedding_dim)`` is the transpose of the factored matrix: an embedding is a
    linear layer whose input is one-hot. (Lan et al. 2020, ALBERT, factor theirs so.)
    """

    transposed = True

    def __init__(self, num_embeddings: int, embedding_dim: int, *, rank: int, padding_idx: int | None = None):
        super().__init__(
            nn.Embedding(num_embeddings, rank, padding_idx=padding_idx), nn.Linear(rank, embedding_dim, bias=False)
        )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim

    @property
    def rank(self) -> int:
        return self[0].embedding_dim

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self[1].weight, self[0].weight.T

    def product(self) -> torch.Tensor:
        return self[0].weight @ self[1].weight.T

    @property
    def dense_shape(self) -> torch.Size:
        return torch.Size([self.num_embeddings, self.embedding_dim])

    @staticmethod
    def as_matrix(weight: torch.Tensor) -> torch.Tensor:
        return weight.T

    @property
    def padding_idx(self) -> int | None:
        """Token whose row gets no gradient."""
        return self[0].padding_idx

    @torch.no_grad()
    def set_factors(self, up: torch.Tensor, down: torch.Tensor, *, keep_padding: bool = False) -> None:
        """Copy the factors; the padding row becomes zero, unless it is to be kept as a trained one that is not."""
        self[0].weight.copy_(down.T)
        self[1].weight.copy_(up)
        if self.padding_idx is not None and not keep_padding:
            self[0].weight[self.padding_idx].zero_()  # as torch has it: no gradient would ever reach the row

    def macs_saved(self, output: torch.Tensor) -> int:
        """Below zero: looking up a dense row costs nothing, expanding a short one does."""
        return -output.numel() * self.rank

    def _dense_layer(self) -> nn.Embedding:
        return nn.Embedding(self.num_embeddings, self.embedding_dim, padding_idx=self[0].padding_idx)


def matrix_shape(module: nn.Module, *, wide: bool = False) -> tuple[int, int] | None:
    """``(out, in)`` of the one matrix behind a layer that can be factored by itself, None for any other module.

    Linear, pointwise Conv1d, ungrouped Conv2d (``in = channels * kernel area``), Embedding (``in = tokens``) and
    LSTMCell (``out`` the four gates, ``in`` input and state side by side) can.

    Args:
        module: a dense layer.
        wide: whether a Conv1d with a kernel, or a convolution whose edge is not filled with zeros, counts as well. In
            the tables of ESPnet's classes it does not: checkpoints of LR-SMS 0.1.0 have such layers dense.
    """
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups == 1:
        pointwise = module.kernel_size == (1,) and module.padding == (0,)
        if wide or (pointwise if isinstance(module, nn.Conv1d) else module.padding_mode == "zeros"):
            return module.out_channels, module.in_channels * math.prod(module.kernel_size)
        return None
    if isinstance(module, nn.Embedding) and module.max_norm is None and not module.sparse:
        return module.embedding_dim, module.num_embeddings
    if isinstance(module, nn.LSTMCell):
        return 4 * module.hidden_size, module.input_size + module.hidden_size
    return None


def factored_like(dense: nn.Module, rank: int) -> Factored:
    """A factored layer of the same interface, dtype and device as ``dense``; weights not yet set.

    Raises:
        TypeError: if ``dense`` is not a Linear, an ungrouped Conv1d or Conv2d, or an Embedding.
    """
    bias = getattr(dense, "bias", None) is not None
    if matrix_shape(dense, wide=True) is None or isinstance(dense, nn.LSTMCell):
        raise TypeError(
            f"{type(dense).__name__} cannot be factored: Linear, ungrouped Conv1d and Conv2d, Embedding can"
        )
    if isinstance(dense, nn.Linear):
        layer: Factored = LowRankLinear(dense.in_features, dense.out_features, rank=rank, bias=bias)
    elif isinstance(dense, nn.Embedding):
        layer = LowRankEmbedding(dense.num_embeddings, dense.embedding_dim, rank=rank, padding_idx=dense.padding_idx)
    else:
        kind = LowRankConv1d if isinstance(dense, nn.Conv1d) else LowRankConv2d
        geometry = {name: getattr(dense, name) for name in _GEOMETRY if name != "groups"}
        own = None if type(dense) is kind.plain else type(dense)
        layer = kind(dense.in_channels, dense.out_channels, **geometry, rank=rank, bias=bias, layer=own)
    return layer.to(device=dense.weight.device, dtype=dense.weight.dtype)
