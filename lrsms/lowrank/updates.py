"""Training aids: other steps for the factors than those of the model's optimizer.

``orthogonalised``: the momentum of each factor, made orthogonal by Newton and Schulz's iteration (Muon, Jordan et al.
2024), as long as a step of Adam (Liu et al. 2025, arXiv 2502.16982). ``preconditioned``: each factor's gradient is
multiplied by the inverse of the other's Gram matrix (ScaledGD, Tong et al. 2020, arXiv 2005.08898) before the optimizer
takes it (arXiv 2402.02347). ``up_rate``: steps of the second factor are so many times longer (LoRA+, Hayou et al. 2024,
arXiv 2402.12354).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lrsms.lowrank.layers import Factored

UPDATES = ("orthogonalised", "preconditioned")
_MOMENTUM = 0.95
_LENGTH = 0.2  # root mean square of a step of Adam
_DAMPING = 1e-3  # of the mean of the Gram matrix's diagonal
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration, which need not converge: singular values near 1 will do


class FactorUpdates:
    """What is done to gradients before a step of the optimizer, and to factors after it.

    Args:
        layers: whose factors it is done to.
        update: one of :data:`UPDATES`, or None for the optimizer's own.
        up_rate: how many times longer the steps of second factors are.
    """

    def __init__(self, layers: Sequence[Factored], update: str | None, up_rate: float):
        self.layers, self.update, self.up_rate = layers, update, up_rate
        self.before: list[torch.Tensor] = []
        self.directions: list[tuple[torch.nn.Parameter, torch.Tensor]] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Have it done with every step."""
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    @torch.no_grad()
    def _before(self, optimizer: torch.optim.Optimizer, *_) -> None:
        if self.up_rate != 1:
            self.before = [layer[1].weight.detach().clone() for layer in self.layers]
        if self.update == "preconditioned":
            for layer in self.layers:
                _precondition(layer)
        elif self.update == "orthogonalised":
            self.directions = []
            for layer in self.layers:
                for factor in (layer[0].weight, layer[1].weight):
                    if factor.grad is not None:
                        self.directions.append((factor, self._direction(optimizer, factor)))
                        factor.grad = None  # so that the optimizer leaves it alone

    @torch.no_grad()
    def _after(self, optimizer: torch.optim.Optimizer, *_) -> None:
        if self.directions:
            options = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
            for factor, direction in self.directions:
                rate, decay = options[factor]["lr"], options[factor].get("weight_decay", 0.0)
                factor.mul_(1 - rate * decay).sub_(direction, alpha=rate)
            self.directions = []
        if self.up_rate != 1:
            for layer, before in zip(self.layers, self.before, strict=True):
                layer[1].weight.add_(layer[1].weight - before, alpha=self.up_rate - 1)

    @staticmethod
    def _direction(optimizer: torch.optim.Optimizer, factor: torch.nn.Parameter) -> torch.Tensor:
        state = optimizer.state[factor]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(factor)
        momentum = state["momentum_buffer"]
        momentum.lerp_(factor.grad, 1 - _MOMENTUM)
        ahead = factor.grad.lerp(momentum, _MOMENTUM)  # Nesterov's
        return orthogonalised(ahead.flatten(1)).reshape(factor.shape)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix with the singular vectors of ``matrix``, singular values near 1, and the size of a step of Adam."""
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    x = wide / wide.norm().clamp_min(1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x * (_LENGTH * max(matrix.shape) ** 0.5)
    return x if wide is matrix else x.T


def _precondition(layer: Factored) -> None:
    up, down = layer.factors()
    for factor, gram, left in ((layer[1].weight, down @ down.T, False), (layer[0].weight, up.T @ up, True)):
        if factor.grad is None:
            continue
        size = gram.diagonal().mean()
        damped = gram + _DAMPING * size * torch.eye(len(gram)).to(gram)
        grad = factor.grad.flatten(1)
        scaled = torch.linalg.solve(damped, grad if left else grad.T)
        factor.grad = ((scaled if left else scaled.T) * size).reshape(factor.shape)
