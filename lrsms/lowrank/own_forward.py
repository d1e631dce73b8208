"""Layers whose class has a forward of its own: factored where it is linear in the weight, and that is tried out.

A module with one matrix ``weight (out, in)`` and at most a ``bias (out,)`` may cast its weight to the input's dtype
(openai-whisper's Linear) or apply an activation first (icefall's ActivationDropoutAndLinear). If what it computes is
``g(x) W^T + b`` for some ``g``, then the same module with ``V`` in place of its weight, followed by a linear layer with
``U`` and ``b``, computes ``g(x) (U V)^T + b``.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from lrsms.lowrank.layers import Factored

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}


class LowRankOwnForward(Factored):
    """``(..., in) -> (..., out)``: a module of another class with the first factor as its weight, then the second.

    Args:
        dense: the layer that this one stands for.
        rank: inner dimension, at least 1.
        casts: whether the second layer has the class of ``dense`` as well, or is a plain linear layer.
    """

    def __init__(self, dense: nn.Module, *, rank: int, casts: bool):
        weight, bias = dense.weight, dense.bias if has_bias(dense) else None
        outputs, inputs = weight.shape
        first = with_weight(dense, nn.Parameter(weight.new_empty(rank, inputs)), None)
        up = nn.Parameter(weight.new_empty(outputs, rank))
        second = nn.Linear(rank, outputs, bias=bias is not None, device="meta")
        if casts:
            second = with_weight(dense, up, bias)
        else:
            second.weight, second.bias = up, bias
        super().__init__(first, second)
        self.in_features, self.out_features = inputs, outputs

    def _dense_layer(self) -> nn.Module:
        weight = nn.Parameter(self[1].weight.new_empty(self.out_features, self.in_features))
        bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return with_weight(self[0], weight, bias)


def has_bias(module: nn.Module) -> bool:
    """Whether a module has a parameter of that name."""
    return module._parameters.get("bias") is not None


def with_weight(module: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    """A module of the same class and with the same attributes, but another weight ``(out, in)`` and no hooks."""
    twin = object.__new__(type(module))
    nn.Module.__init__(twin)
    fresh = set(twin.__dict__)
    twin.__dict__.update({name: value for name, value in module.__dict__.items() if name not in fresh})
    twin._buffers, twin._modules = OrderedDict(module._buffers), OrderedDict(module._modules)
    twin.training = module.training
    for name, size in (("out", len(weight)), ("in", weight.shape[1])):
        for suffix in ("features", "channels"):
            if f"{name}_{suffix}" in twin.__dict__:
                twin.__dict__[f"{name}_{suffix}"] = size
    twin._parameters["weight"] = weight
    twin._parameters["bias"] = bias
    return twin


def why_not_linear(module: nn.Module) -> str:
    """Why a module with a forward of its own cannot be taken apart; empty if it can."""
    name = type(module).__name__
    others = sorted({key for key, _ in module.named_parameters()} - {"weight", "bias"})
    others += [key for key, _ in module.named_buffers()]
    if others:
        return f"{name} has {others[0]} beside its weight"
    if module.weight.is_meta:
        return f"{name} has a forward of its own, and no values to try it with"
    try:
        linear = all(_splits(module, casts=False, training=mode) for mode in (False, True))
    except Exception as error:
        return f"{name} has a forward of its own that does not take (..., {module.weight.shape[1]}): {error}"
    return "" if linear else f"{name} has a forward of its own that is not linear in its weight"


def casts(module: nn.Module) -> bool:
    """Whether a module, for which :func:`why_not_linear` has no reason, is a linear layer but for dtypes."""
    return all(_splits(module, casts=True, training=mode) for mode in (False, True))


@torch.no_grad()
def _splits(module: nn.Module, *, casts: bool, training: bool) -> bool:
    """Whether the module with ``U V`` for its weight computes what the two factors do, on random numbers."""
    # Without its hooks, which may lead to the whole model, before it is copied.
    module = copy.deepcopy(with_weight(module, module.weight, module.bias if has_bias(module) else None))
    module.train(training)
    dtype, device = module.weight.dtype, module.weight.device
    outputs, inputs = module.weight.shape
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    rank = max(1, min(outputs, inputs) // 2)
    up, down = random(outputs, rank), random(rank, inputs) / inputs**0.5
    bias = random(outputs) if has_bias(module) else None
    whole = with_weight(module, up @ down, bias)
    first = with_weight(module, down, None)
    second = with_weight(module, up, bias) if casts else None
    for x in (random(5, inputs), random(2, 3, inputs)):
        expected = _seeded(whole, x)
        between = _seeded(first, x)
        result = F.linear(between, up, bias) if second is None else _seeded(second, between)
        if result.shape != expected.shape:
            return False
        if not (result - expected).abs().max() <= _TOLERANCE.get(dtype, 5e-2) * expected.abs().max():
            return False
    return True


def _seeded(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The output with the same random numbers each time: a dropout before the weight is the same for both."""
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        return module(x.clone())
