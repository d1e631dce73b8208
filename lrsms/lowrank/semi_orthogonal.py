"""Training aid: keep the first factor close to a multiple of a matrix with orthonormal rows.

Kaldi's TDNN-F (Povey et al. 2018, "Semi-orthogonal low-rank matrix factorization"), with its floating scale: the
scale of the factor is free, its rows are drawn towards being orthogonal and equally long, on every fourth step.
"""

from __future__ import annotations

import torch

from lrsms.lowrank.layers import Factored

EVERY = 4  # steps


@torch.no_grad()
def constrain_(layer: Factored, strength: float) -> None:
    """One step of Newton's iteration towards ``V V^T = scale^2 I``.

    Args:
        layer: its first factor, ``V (rank, in)``, is changed in place.
        strength: 1 is Kaldi's step, which converges quadratically; less is slower.
    """
    _, down = layer.factors()
    gram = down @ down.T
    trace = gram.diagonal().sum()
    scale = gram.square().sum() / trace  # the square of the scale for which the step does not change V's size
    rank = down.shape[0]
    # Far from semi-orthogonal the full step overshoots: Kaldi takes a part of it.
    spread = gram.square().sum() * rank / trace.square()
    damping = torch.where(spread > 1.1, 0.25, torch.where(spread > 1.02, 0.5, 1.0))
    gram.diagonal().sub_(scale)
    down.sub_((gram @ down) * (0.5 * strength * damping / scale))


@torch.no_grad()
def orthogonality_error(layer: Factored) -> float:
    """How far ``V V^T`` is from a multiple of the identity: 0 if it is one, at most about 1."""
    _, down = layer.factors()
    gram = down @ down.T
    scale = gram.diagonal().mean()
    return float((gram - scale * torch.eye(len(gram), device=gram.device)).norm() / gram.norm())
