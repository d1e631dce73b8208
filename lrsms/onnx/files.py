"""Write, shrink and open ONNX files. The packages for it are optional: ``pip install lrsms[export]``."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.files import atomic_write

OPSET = 17  # the first with LayerNormalization
PRECISIONS = ("fp32", "int8")


def optional(name: str) -> ModuleType:
    """A module of the export extra.

    Raises:
        LrsmsError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0].replace("_", "-")
        raise LrsmsError(f"{package} is not installed: run pip install 'lrsms[export]' ({error})") from error


def write_graph(
    module: nn.Module,
    example: Sequence[torch.Tensor],
    path: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
) -> None:
    """Trace a module into an ONNX file that is never half-written.

    Torch's TorchScript exporter: for a Conformer of six blocks it takes 1.2 s of a CPU, whereas its exporter for
    torch.export takes a minute, and the file is a sixth smaller.

    Args:
        module: in evaluation mode; copied by nobody, not changed.
        example: inputs to trace with.
        path: of the file; its folder exists.
        inputs, outputs: names.
        dynamic: name -> axis -> name of an axis of any size.
    """
    optional("onnx")
    with atomic_write(path) as unfinished, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's, about sizes that it does record
        torch.onnx.export(
            module,
            tuple(example),
            str(unfinished),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in dynamic.items()},
        )


def quantize(source: Path, target: Path) -> None:
    """Weights of matrix products and LSTMs in 8 bits, activations quantized as they come; convolutions stay float32.

    Weights use 7 of the 8 bits: processors without VNNI (AVX2) add two products in 16 bits, which 8 bits overflow.

    Args:
        source, target: ONNX files; the second is never half-written.
    """
    quantization = optional("onnxruntime.quantization")
    with atomic_write(target) as unfinished, _quiet():
        quantization.quantize_dynamic(
            str(source),
            str(unfinished),
            op_types_to_quantize=["MatMul", "Gemm", "LSTM"],
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,
        )


@contextmanager
def _quiet():
    """Without onnxruntime's advice to pre-process, which the tracer's constant folding has done."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def add_metadata(path: Path, entries: Mapping[str, object]) -> None:
    """Put named values into an ONNX file, for the program that opens it."""
    onnx = optional("onnx")
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {key: str(value) for key, value in entries.items()})
    with atomic_write(path) as unfinished:
        onnx.save(model, str(unfinished))


def read_metadata(path: Path) -> dict[str, str]:
    """Named values of an ONNX file."""
    return {entry.key: entry.value for entry in optional("onnx").load(str(path)).metadata_props}


def open_session(path: Path, threads: int = 1):
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Raises:
        LrsmsError: the file is missing or onnxruntime cannot read it.
    """
    runtime = optional("onnxruntime")
    if not path.exists():
        raise LrsmsError(f"{path}: no such file; export first")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types, one for each kind of damage
        raise LrsmsError(f"{path}: onnxruntime cannot open it ({' '.join(str(error).split())[:200]})") from error
