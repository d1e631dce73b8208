"""Fold factors back into dense weights, if that is faster or if a dense model is wanted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from lrsms.lowrank.layers import Factored, LowRankConv1d, LowRankConv2d, LowRankEmbedding
from lrsms.lowrank.recurrent import LowRankLSTM, LowRankLSTMCell, merged_lstm

_REPEATS = 15


def merge_(
    model: nn.Module,
    *,
    only: str | Callable[[str, nn.Module], bool] = "all",
    frames: int | Callable[[str], int] = 200,
) -> list[str]:
    """Replace factored layers of ``model``, in place, by the dense layers they stand for.

    The outputs stay the same up to rounding (1e-5 in float32). Training can go on, from dense weights.

    Args:
        model: any module with factored layers; an ``ESPnetASRModel``, an encoder.
        only: ``all``; ``faster``, those whose dense form runs faster on this machine and device (measured, a few
            milliseconds for each shape); or a function of path and layer that says which.
        frames: with ``faster``, length of the input to measure with; or a function of path that says it, such as
            :func:`lrsms.espnet.models.cost.rows_in_decoding`.

    Returns:
        Paths of the layers that are dense now.

    Raises:
        ValueError: ``only`` is neither of these.
    """
    if only not in ("all", "faster") and not callable(only):
        raise ValueError(f"only={only!r}: write 'all', 'faster', or a function of path and layer")
    chosen = _chooser(only, frames)
    merged = []
    for path, layer in list(model.named_modules()):
        if (
            isinstance(layer, (Factored, LowRankLSTM, LowRankLSTMCell))
            and not path.endswith(".gates")
            and chosen(path, layer)
        ):
            parent = model.get_submodule(path.rpartition(".")[0])
            name = path.rpartition(".")[2]
            if isinstance(layer, LowRankLSTM):
                dense, reader = merged_lstm(layer, getattr(parent, layer.reader))
                setattr(parent, layer.reader, reader)
            else:
                dense = layer.merged()
            setattr(parent, name, dense)
            if not isinstance(layer, LowRankLSTM) or layer.is_projected:
                merged.append(path)
            if getattr(layer, "input", None) is not None:
                merged.append(f"{path}.input")
    return merged


def _chooser(only: str | Callable, frames: int | Callable[[str], int]) -> Callable[[str, nn.Module], bool]:
    if only == "all":
        return lambda path, layer: True
    if callable(only):
        return only
    known: dict[tuple, bool] = {}

    def faster(path: str, layer: nn.Module) -> bool:
        rows = frames(path) if callable(frames) else frames
        shape = (type(layer), rows, *(tuple(weight.shape) for weight in layer.parameters()))
        if shape not in known:
            known[shape] = dense_is_faster(layer, rows)
        return known[shape]

    return faster


@torch.no_grad()
def dense_is_faster(layer: nn.Module, frames: int) -> bool:
    """Time a factored layer against its dense form, one after the other in turn; medians decide."""
    if isinstance(layer, LowRankLSTM):
        directions = 1 + layer.bidirectional
        reader = nn.Linear(directions * layer.rank, layer.reader_features).to(layer.weight_hh_l0)
        dense_lstm, dense_reader = merged_lstm(layer, reader)
        candidates = (lambda x: reader(layer(x)[0]), lambda x: dense_reader(dense_lstm(x)[0]))
    elif isinstance(layer, LowRankLSTMCell):
        dense = layer.merged()
        state = tuple(layer.gates[0].weight.new_zeros(1, layer.hidden_size) for _ in range(2))
        candidates = (lambda x: layer(x, state), lambda x: dense(x, state))
    else:
        candidates = (layer, layer.merged())
    x, medians = _example(layer, frames), []
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_REPEATS):
        for run, spent in zip(candidates, times):
            began = time.perf_counter()
            run(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            spent.append(time.perf_counter() - began)
    medians = [statistics.median(spent[2:]) for spent in times]  # the first two warm up
    return medians[1] < medians[0]


def _example(layer: nn.Module, frames: int) -> torch.Tensor:
    """An input of one utterance's size."""
    weight = next(layer.parameters())
    if isinstance(layer, LowRankEmbedding):
        return torch.zeros(1, frames, dtype=torch.long, device=weight.device)
    if isinstance(layer, LowRankLSTMCell):
        return weight.new_zeros(1, layer.input_size)
    if isinstance(layer, LowRankLSTM):
        shape = (1, frames) if layer.batch_first else (frames, 1)
        return weight.new_zeros(*shape, layer.dense_input_size)
    if isinstance(layer, LowRankConv2d):
        return weight.new_zeros(1, layer.in_channels, frames, 40)
    if isinstance(layer, LowRankConv1d):
        return weight.new_zeros(1, layer.in_channels, frames)
    return weight.new_zeros(1, frames, layer.in_features)
