"""Run a model on an example, whatever it takes and gives, in evaluation mode and always alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import nn

from lrsms.errors import LrsmsError

Example: TypeAlias = torch.Tensor | tuple | list | Mapping | Callable
"""A tensor, a tuple of arguments, a mapping of keyword arguments, or a function that is given the model and runs it."""

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of outputs, as a part of their largest magnitude, by the dtype of the model's weights."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within this context: evaluation mode, no gradients, and not torch's fast path, which gives zeros for padding."""
    modes = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes.items():
            module.training = mode


def run(model: nn.Module, example: Example) -> list[torch.Tensor]:
    """Every tensor of the model's output, in order; random numbers are the same each time."""
    devices = list({parameter.device for parameter in model.parameters() if parameter.is_cuda})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        return [tensor.detach().clone() for tensor in _tensors(call(model, example))]


def call(model: nn.Module, example: Example):
    """The model's output."""
    if isinstance(example, torch.Tensor):
        return model(example)
    if isinstance(example, Mapping):
        return model(**example)
    if isinstance(example, tuple | list):
        return model(*example)
    if callable(example):
        return example(model)
    raise LrsmsError(
        f"example: {type(example).__name__} is not a tensor, a tuple of arguments, a dict of keyword arguments, or a "
        f"function of the model"
    )


def _tensors(output) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)
    elif hasattr(output, "__dict__"):
        for value in vars(output).values():
            yield from _tensors(value)


def difference(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """Largest difference, as a part of the output's largest magnitude; infinite if the shapes differ."""
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        return float("inf")
    largest = 0.0
    for old, new in zip(before, after):
        if not old.is_floating_point():
            largest = max(largest, 0.0 if torch.equal(old, new) else float("inf"))
        elif old.numel():
            finite = old.isfinite()
            if not torch.equal(finite, new.isfinite()):
                return float("inf")
            old, new = old[finite].double(), new[finite].double()
            if old.numel():
                change = float((old - new).abs().max())
                largest = max(largest, change / max(float(old.abs().max()), 1e-12) if change else 0.0)
    return largest
