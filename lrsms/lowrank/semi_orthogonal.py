"""Training aid: keep the first factor close to a multiple of a matrix with orthonormal rows.

Kaldi's TDNN-F (Povey et al. 2018, "Semi-orthogonal low-rank matrix factorization"), with its floating scale: the
scale of the factor is free, its rows are drawn towards being orthogonal and equally long, on every fourth step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lrsms.lowrank.layers import Factored
from lrsms.lowrank.stacks import Stacks

EVERY = 4  # steps


@torch.no_grad()
def constrain_(layer: Factored, strength: float) -> None:
    """One step of Newton's iteration towards ``V V^T = scale^2 I``.

    Args:
        layer: its first factor, ``V (rank, in)``, is changed in place.
        strength: 1 is Kaldi's step, which converges quadratically; less is slower.
    """
    _, down = layer.factors()
    down.sub_(_change(down, down.shape[0], strength))


@torch.no_grad()
def constrain_all_(layers: Sequence[Factored], strength: float, stacks: Stacks | None = None) -> None:
    """:func:`constrain_` for many layers.

    Args:
        layers: no rank is greater than its layer's ``in``.
        strength: of :func:`constrain_`.
        stacks: of first factors of these shapes, to compute in few batches; None for one after the other.
    """
    if stacks is None:
        for layer in layers:
            constrain_(layer, strength)
        return
    down = [layer.factors()[1] for layer in layers]
    changes = [
        _change(batch, sides[:, 0], strength) for batch, sides in zip(stacks.pack(down), stacks.sides, strict=True)
    ]
    torch._foreach_sub_(down, stacks.unpack(changes))


def _change(down: torch.Tensor, rank: torch.Tensor | int, strength: float) -> torch.Tensor:
    """What a step takes from first factors ``(..., rank, in)``, behind whose own rows and columns zeros may be."""
    gram = down @ down.mT
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    trace, square = diagonal.sum(-1), gram.square().sum((-2, -1))
    scale = square / trace  # the square of the scale for which the step does not change V's size
    spread = square * rank / trace.square()
    # Far from semi-orthogonal the full step overshoots: Kaldi takes a part of it.
    damping = torch.where(spread > 1.1, 0.25, torch.where(spread > 1.02, 0.5, 1.0))
    diagonal.sub_(scale[..., None])
    return (gram @ down) * (0.5 * strength * damping / scale)[..., None, None]


@torch.no_grad()
def orthogonality_error(layer: Factored) -> float:
    """How far ``V V^T`` is from a multiple of the identity: 0 if it is one, at most about 1."""
    _, down = layer.factors()
    gram = down @ down.T
    scale = gram.diagonal().mean()
    return float((gram - scale * torch.eye(len(gram), device=gram.device)).norm() / gram.norm())
