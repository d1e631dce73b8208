"""Multiply-accumulates of any model on an example, and where they are spent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lrsms.lowrank.any_model.example import Example, call, evaluating
from lrsms.lowrank.any_model.sites import Site, Survey
from lrsms.lowrank.plan import PlanEntry


@dataclass(frozen=True)
class Work:
    """What one run takes.

    Attributes:
        macs: multiply-accumulates of the whole dense model.
        positions: output positions of each module, of all its calls.
    """

    macs: float
    positions: dict[nn.Module, float]

    def saved(self, site: Site, entry: PlanEntry, reader: nn.Module | None) -> float:
        """Multiply-accumulates that the rank of ``entry`` saves; looking up an embedding is free."""
        first = site.modules[0]
        if isinstance(first, nn.LSTM):
            reading = 0.0 if reader is None else self.positions.get(reader, 0.0)
            return entry.macs_saved(self.positions.get(first, 0.0), reading)
        if entry.rank is None:
            return 0.0
        saved = 0.0
        for module in site.modules:
            positions = self.positions.get(module, 0.0)
            if isinstance(module, nn.Embedding):
                saved -= positions * entry.rank * module.embedding_dim
            else:
                saved += positions * (entry.dense_parameters - entry.parameters)
        return saved


def count(model: nn.Module, example: Example) -> Work:
    """Run ``model`` on ``example`` and count."""
    positions: dict[nn.Module, float] = {}

    def record(module: nn.Module, _, output) -> None:
        output = output[0] if isinstance(output, tuple) and output else output
        if isinstance(output, nn.utils.rnn.PackedSequence):
            output = output.data
        if isinstance(output, torch.Tensor) and output.dim():
            channels = 1 if isinstance(module, nn.modules.conv._ConvNd) else -1
            if (isinstance(module, nn.Conv1d) and output.dim() == 2) or (
                isinstance(module, nn.Conv2d) and output.dim() == 3
            ):
                channels = 0  # without a batch
            positions[module] = positions.get(module, 0.0) + output.numel() / output.shape[channels]

    hooks = [module.register_forward_hook(record) for module in model.modules()]
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton

    try:
        with evaluating(model), FlopCounterMode(display=False) as counter:
            call(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return Work(counter.get_total_flops() / 2, positions)


def readers(model: nn.Module, survey: Survey) -> dict[str, nn.Module]:
    """Path of an LSTM -> the linear layer that shares its projection."""
    return {
        site.path: model.get_submodule(site.path.rpartition(".")[0]).get_submodule(site.reader)
        for site in survey.sites.values()
        if site.reader and site.kind == "recurrent"
    }
