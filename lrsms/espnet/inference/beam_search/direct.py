"""Modules as plain functions: at the few rows of a beam, calling a module takes longer than what it computes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lrsms.espnet.compat import LayerNorm, PositionwiseFeedForward
from lrsms.lowrank.hooks import hooked_within


def direct(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """What ``module`` computes in evaluation, or ``module`` itself if somebody listens."""
    return module if hooked_within(module) else _function(module)


def _function(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    if type(module) is LayerNorm and module.dim == -1:
        return lambda x: torch.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)
    if type(module) is PositionwiseFeedForward:
        first, second = _function(module.w_1), _function(module.w_2)
        activation = torch.relu if type(module.activation) is nn.ReLU else module.activation
        return lambda x: second(activation(first(x)))
    return module.forward
