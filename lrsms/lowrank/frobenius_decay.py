"""Training aid: decay the product of the factors in place of the factors.

Weight decay on ``U`` and ``V`` shrinks ``|U|^2 + |V|^2``, twice the nuclear norm of ``U V`` at best, which pushes the
rank down further. Frobenius decay (Khodak et al. 2021) shrinks ``|U V|^2``, what weight decay does to a dense layer.
Ours is decoupled as in AdamW: after each step, and not through the optimizer's moments.
"""

from __future__ import annotations

import torch

from lrsms.lowrank.layers import Factored


@torch.no_grad()
def decay_product_(layer: Factored, amount: float) -> None:
    """One step of size ``amount`` (learning rate times strength) down the gradient of ``|U V|^2 / 2``."""
    up, down = layer.factors()
    # Both from the same U and V; neither needs the product, only the small (rank, rank) Gram matrices.
    change_up, change_down = up @ (down @ down.T), (up.T @ up) @ down
    up.sub_(change_up, alpha=amount)
    down.sub_(change_down, alpha=amount)
