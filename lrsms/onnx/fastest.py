"""Which factored layers run faster dense in onnxruntime: measured there, layer shape by layer shape."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from lrsms.lowrank import LowRankLSTM
from lrsms.lowrank.layers import Factored, LowRankConv1d, LowRankEmbedding
from lrsms.onnx.files import open_session, quantize, write_graph

_TURNS = 15
_SECONDS = 0.002  # each turn runs a layer again and again for this long
_WORTH = 0.95  # a dense layer is larger: it must be this much faster


def faster_dense(
    layers: Mapping[str, nn.Module], shapes: Mapping[str, tuple[int, ...]], precision: str
) -> Callable[[str, nn.Module], bool]:
    """A rule for :func:`lrsms.merge_`: which layers to make dense for onnxruntime on one thread of this machine.

    Layers of one shape are measured once, factored and dense in turns; those without a shape stay. LSTMs are always
    made dense: ONNX's have no projection.

    Args:
        layers: path -> factored layer.
        shapes: path -> shape of an input of usual size; of what is exported, LSTMs apart.
        precision: ``fp32`` or ``int8``.

    Returns:
        ``(path, layer) -> whether it becomes dense``.
    """
    known: dict[tuple, bool] = {}
    chosen = {}
    for path, layer in tqdm(layers.items(), desc=f"factored or dense, {precision}", unit="layer", leave=False):
        if path not in shapes:
            continue
        key = (type(layer), *(tuple(weight.shape) for weight in layer.parameters()), shapes[path])
        if key not in known:
            known[key] = _is_faster_dense(layer, shapes[path], precision)
        chosen[path] = known[key]
    return lambda path, layer: chosen.get(path, isinstance(layer, LowRankLSTM))


def _is_faster_dense(layer: Factored, shape: tuple[int, ...], precision: str) -> bool:
    integers = isinstance(layer, LowRankEmbedding)
    example = torch.zeros(shape, dtype=torch.long) if integers else torch.randn(shape)
    with tempfile.TemporaryDirectory() as scratch:
        sessions = [
            _session(_as_products(form), example, Path(scratch) / f"{name}.onnx", precision)
            for name, form in (("factored", layer), ("dense", layer.merged()))
        ]
        return _second_is_faster(sessions, example.numpy())


def _as_products(layer: nn.Module) -> nn.Module:
    """A pointwise convolution as the matrix products that :mod:`lrsms.espnet.export.traceable` makes of it."""
    if isinstance(layer, LowRankConv1d):
        return nn.Sequential(*(_as_products(conv) for conv in layer))
    if isinstance(layer, nn.Conv1d):
        linear = nn.Linear(layer.in_channels, layer.out_channels, bias=layer.bias is not None)
        with torch.no_grad():
            linear.weight.copy_(layer.weight.flatten(1))
        return linear
    return layer


def _session(layer: nn.Module, example: torch.Tensor, path: Path, precision: str):
    write_graph(layer.eval(), (example,), path, inputs=["x"], outputs=["y"], dynamic={})
    if precision == "int8":
        quantize(path, path)
    return open_session(path)


def _second_is_faster(sessions: list, x) -> bool:
    """Whether the second session is clearly faster than the first: by their shortest runs, in turns.

    Whatever else the machine does only adds to a run, and most runs are short enough to have the processor alone.
    """
    shortest = [float("inf")] * 2
    for turn in range(-1, _TURNS):  # the first warms up
        for number, session in enumerate(sessions):
            began = now = time.perf_counter()
            while now - began < _SECONDS:
                before = now
                session.run(None, {"x": x})
                now = time.perf_counter()
                if turn >= 0:
                    shortest[number] = min(shortest[number], now - before)
    factored, dense = shortest
    return dense < _WORTH * factored
