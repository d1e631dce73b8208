"""How the two factors get their first values, given the dense weight they replace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lrsms.lowrank.layers import Factored

_skip = False


@contextmanager
def skip_initialization() -> Iterator[None]:
    """Within this context factors are left as torch makes them.

    For models whose weights are loaded from a checkpoint right after: an SVD per layer would be wasted.
    """
    global _skip
    before, _skip = _skip, True
    try:
        yield
    finally:
        _skip = before


def _svd(dense: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Truncated SVD, the square root of the singular values on both factors (spectral init, Khodak et al. 2021)."""
    left, values, right = torch.linalg.svd(dense.float(), full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def _orthogonal(dense: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Semi-orthogonal factors (Saxe et al. 2014), scaled so that the product has the dense weight's Frobenius norm."""
    gain = math.sqrt(dense.float().norm().item() / math.sqrt(rank))
    up, down = _empty_factors(dense, rank)
    return nn.init.orthogonal_(up, gain), nn.init.orthogonal_(down, gain)


def _xavier(dense: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Glorot and Bengio 2010 on each factor by itself."""
    up, down = _empty_factors(dense, rank)
    return nn.init.xavier_uniform_(up), nn.init.xavier_uniform_(down)


def _kaiming(dense: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """He et al. 2015 on each factor by itself, with the gain of a linear layer (there is no ReLU between factors)."""
    up, down = _empty_factors(dense, rank)
    nn.init.kaiming_uniform_(up, nonlinearity="linear")
    nn.init.kaiming_uniform_(down, nonlinearity="linear")
    return up, down


def _variance_matched(dense: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal factors: the first keeps its input's variance, the product has the dense weight's element variance."""
    rows, columns = dense.shape
    up, down = _empty_factors(dense, rank)
    variance = dense.float().square().mean().item()
    nn.init.normal_(down, std=1 / math.sqrt(columns))
    return nn.init.normal_(up, std=math.sqrt(variance * columns / rank)), down


def _empty_factors(dense: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = dense.shape
    return dense.new_empty(rows, rank, dtype=torch.float32), dense.new_empty(rank, columns, dtype=torch.float32)


INITIALIZERS: dict[str, Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]] = {
    "svd": _svd,
    "orthogonal": _orthogonal,
    "xavier": _xavier,
    "kaiming": _kaiming,
    "variance_matched": _variance_matched,
}


def initialization_skipped() -> bool:
    """True within :func:`skip_initialization`."""
    return _skip


@torch.no_grad()
def initialize_(layer: Factored, weight: torch.Tensor, bias: torch.Tensor | None, method: str) -> None:
    """Set the factors of ``layer`` from the dense ``weight`` it replaces.

    Args:
        layer: the factored layer, changed in place.
        weight: the freshly initialized (or trained) dense weight, of the layer's ``dense_shape``.
        bias: the dense bias, copied as it is; None if there is none.
        method: a key of :data:`INITIALIZERS`.
    """
    layer.init_method = method
    if _skip:
        return
    set_factors_(layer, *INITIALIZERS[method](layer.as_matrix(weight), layer.rank), weight)
    if bias is not None:
        assert layer.bias is not None
        layer.bias.copy_(bias)


def set_factors_(layer: Factored, up: torch.Tensor, down: torch.Tensor, weight: torch.Tensor) -> None:
    """Set the factors of the dense ``weight``; of an embedding, a padding row that was trained is kept."""
    padding = getattr(layer, "padding_idx", None)
    if padding is not None and bool(weight[padding].any()):
        layer.set_factors(up, down, keep_padding=True)
    else:
        layer.set_factors(up, down)
