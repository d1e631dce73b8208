"""Fold factors back into dense weights, if that is faster or if a dense model is wanted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from lrsms.lowrank.aids import AIDS
from lrsms.lowrank.apply_plan import accept_dense_weights_no_more
from lrsms.lowrank.attention import LowRankMultiheadAttention
from lrsms.lowrank.fast_path import allow_fast_path
from lrsms.lowrank.layers import Factored, LowRankConv1d, LowRankConv2d, LowRankEmbedding
from lrsms.lowrank.placement import replace_
from lrsms.lowrank.recurrent import LowRankLSTM, LowRankLSTMCell, merged_lstm
from lrsms.lowrank.self_guided import SelfGuide, forget_guide

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
    merged: list[str] = []
    tied: dict[frozenset, nn.Parameter] = {}
    for path, layer in list(model.named_modules()):
        if isinstance(layer, LowRankLSTM):
            if chosen(path, layer):
                merged += _merge_lstm(model, path, layer)
        elif isinstance(layer, Factored | LowRankLSTMCell) and not path.endswith(".gates") and chosen(path, layer):
            dense = layer.merged()
            if isinstance(layer, Factored):
                _keep_parameters(layer, dense, tied)
            else:
                dense.requires_grad_(layer.gates[1].weight.requires_grad)
            forget_guide(layer)
            replace_(model, layer, dense)
            merged.append(path)
    for layer in [layer for layer in model.modules() if isinstance(layer, LowRankMultiheadAttention)]:
        if not any(isinstance(inner, Factored) for inner in layer.modules()):
            replace_(model, layer, layer.merged())
    _leave_no_trace(model)
    return merged


def _merge_lstm(model: nn.Module, path: str, layer: LowRankLSTM) -> list[str]:
    reader = model.get_submodule(path.rpartition(".")[0]).get_submodule(layer.reader) if layer.reader else None
    dense, wide = merged_lstm(layer, reader)
    for parameter in dense.parameters():
        parameter.requires_grad_(layer.weight_hh_l0.requires_grad)
    replace_(model, layer, dense)
    if reader is not None:
        wide.weight.requires_grad_(reader.weight.requires_grad)
        replace_(model, reader, wide)
    return ([path] if layer.is_projected else []) + ([f"{path}.input"] if layer.input is not None else [])


def _keep_parameters(layer: Factored, dense: nn.Module, tied: dict[frozenset, nn.Parameter]) -> None:
    """One weight for layers that share factors, the very bias of the factored layer, gradients as they were."""
    factors = frozenset((layer[0].weight, layer[1].weight))
    dense.weight = tied.setdefault(factors, dense.weight)
    dense.weight.requires_grad_(layer[1].weight.requires_grad)
    if layer.bias is not None:
        dense.bias = layer.bias


def _leave_no_trace(model: nn.Module) -> None:
    """Where nothing is factored any more, take away what was put beside it: what is left is what torch made."""
    for module in model.modules():
        if any(isinstance(inner, Factored | LowRankLSTM | LowRankLSTMCell) for inner in module.modules()):
            continue
        accept_dense_weights_no_more(module)
        allow_fast_path(module)
        module.__dict__.pop(AIDS, None)
        if isinstance(module._modules.get("self_guide"), SelfGuide):
            del module.self_guide


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
        reader = nn.Linear(directions * layer.rank, layer.reader_features) if layer.reader else None
        reader = None if reader is None else reader.to(layer.weight_hh_l0)
        dense_lstm, wide = merged_lstm(layer, reader)
        read, read_dense = reader or nn.Identity(), wide or nn.Identity()
        candidates = (lambda x: read(layer(x)[0]), lambda x: read_dense(dense_lstm(x)[0]))
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
