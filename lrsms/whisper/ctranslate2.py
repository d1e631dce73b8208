"""Read CTranslate2's ``model.bin`` of a Whisper model, in float16 or float32, with openai-whisper's names.

The format is that of CTranslate2's ``python/ctranslate2/specs/model_spec.py``, version 6: little-endian; names with
their length and a zero byte; for each variable its shape, type, size and bytes; then aliases, which are tied weights.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from lrsms.errors import LrsmsError
from lrsms.whisper.dimensions import Dimensions

_VERSION = 6
_TYPES = {0: torch.float32, 4: torch.float16}  # of weights; settings are whole numbers
_SETTINGS = {1: torch.int8, 2: torch.int16, 3: torch.int32}

# CTranslate2's names after encoder/layer_<n>/ or decoder/layer_<n>/ -> openai-whisper's; fused ones are split first.
_LAYER = {
    "self_attention": ("attn", "attn_ln"),
    "attention": ("cross_attn", "cross_attn_ln"),
    "ffn": ("mlp", "mlp_ln"),
}


def read_ctranslate2(path: Path) -> tuple[Dimensions, dict[str, Tensor]]:
    """Sizes and weights in float32.

    Raises:
        LrsmsError: not such a file, cut short, quantized, or of another version or model.
    """
    try:
        with path.open("rb") as stream:
            variables = dict(_variables(stream, path))
    except (struct.error, UnicodeDecodeError) as error:
        raise LrsmsError(f"{path}: cut short or not a model.bin of CTranslate2") from error
    state: dict[str, Tensor] = {}
    for name, value in variables.items():
        state.update(_renamed(name, value))
    missing = [
        name for name in ("encoder/conv1/weight", "encoder/num_heads", "decoder/num_heads") if name not in variables
    ]
    if missing:
        raise LrsmsError(f"{path}: holds no {missing[0]}: not a Whisper model")
    heads = (int(variables["encoder/num_heads"]), int(variables["decoder/num_heads"]))
    return sizes_of(state, heads, str(path)), state


def sizes_of(state: dict[str, Tensor], heads: tuple[int, int], where: str) -> Dimensions:
    """Sizes that the shapes of weights show, with openai-whisper's names; heads of encoder and decoder do not show."""
    try:
        positions, embedding = state["encoder.positional_embedding"], state["decoder.token_embedding.weight"]
        values = {
            "n_mels": state["encoder.conv1.weight"].shape[1],
            "n_audio_ctx": positions.shape[0],
            "n_audio_state": positions.shape[1],
            "n_audio_head": heads[0],
            "n_audio_layer": _blocks(state, "encoder"),
            "n_vocab": embedding.shape[0],
            "n_text_ctx": state["decoder.positional_embedding"].shape[0],
            "n_text_state": embedding.shape[1],
            "n_text_head": heads[1],
            "n_text_layer": _blocks(state, "decoder"),
        }
    except KeyError as error:
        raise LrsmsError(f"{where}: holds no {error.args[0]}: not a Whisper model") from error
    return Dimensions.parse(values, where)


def _blocks(state: dict[str, Tensor], part: str) -> int:
    return len({name.split(".")[2] for name in state if name.startswith(f"{part}.blocks.")})


def _variables(stream: BinaryIO, path: Path) -> Iterator[tuple[str, Tensor]]:
    (version,) = _unpack(stream, "I")
    if version != _VERSION:
        raise LrsmsError(f"{path}: version {version} of CTranslate2's format; {_VERSION} can be read")
    spec = _text(stream)
    if spec != "WhisperSpec":
        raise LrsmsError(f"{path}: a model of CTranslate2's {spec}, not of WhisperSpec")
    _, count = _unpack(stream, "II")  # the specification's revision first
    for _ in range(count):
        name = _text(stream)
        (rank,) = _unpack(stream, "B")
        shape = _unpack(stream, f"{rank}I")
        kind, size = _unpack(stream, "BI")
        data = bytearray(stream.read(size))
        if len(data) != size:
            raise LrsmsError(f"{path}: cut short at {name}")
        if kind in _TYPES:
            yield name, torch.frombuffer(data, dtype=_TYPES[kind]).reshape(shape).float()
        elif rank == 0 and kind in _SETTINGS:
            yield name, torch.frombuffer(data, dtype=_SETTINGS[kind]).reshape(shape)
        else:
            raise LrsmsError(f"{path}: {name} is quantized; give a model converted with --quantization float16")


def _unpack(stream: BinaryIO, what: str) -> tuple:
    what = f"<{what}"
    return struct.unpack(what, stream.read(struct.calcsize(what)))


def _text(stream: BinaryIO) -> str:
    (length,) = _unpack(stream, "H")
    return stream.read(length)[:-1].decode()


def _renamed(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Openai-whisper's names of a variable; none of a setting."""
    part, _, rest = name.partition("/")
    if match := re.fullmatch(r"layer_(\d+)/(self_attention|attention|ffn)/(.+)", rest):
        number, kind, inner = match.groups()
        layers, norm = _LAYER[kind]
        block = f"{part}.blocks.{number}"
        if inner.startswith("layer_norm/"):
            yield f"{block}.{norm}.{_norm(inner)}", value
        elif kind == "ffn":
            layer, what = inner.removeprefix("linear_").split("/")
            yield f"{block}.{layers}.{2 * int(layer)}.{what}", value
        else:
            yield from _attention(f"{block}.{layers}", inner, value, fused=kind == "self_attention")
    elif rest == "embeddings/weight":
        yield f"{part}.token_embedding.weight", value
    elif rest == "position_encodings/encodings":
        yield f"{part}.positional_embedding", value
    elif rest.startswith("layer_norm/"):
        yield f"{part}.{'ln_post' if part == 'encoder' else 'ln'}.{_norm(rest)}", value
    elif rest.startswith("conv"):
        yield f"{part}.{rest.replace('/', '.')}", value


def _norm(name: str) -> str:
    return {"gamma": "weight", "beta": "bias"}[name.rpartition("/")[2]]


def _attention(path: str, inner: str, value: Tensor, fused: bool) -> Iterator[tuple[str, Tensor]]:
    """Query, key, value (of self-attention one matrix; of cross-attention the query alone) and out."""
    layer, what = inner.removeprefix("linear_").split("/")
    names = [["query", "key", "value"], ["out"]] if fused else [["query"], ["key", "value"], ["out"]]
    chunks = value.chunk(len(names[int(layer)]))
    for name, chunk in zip(names[int(layer)], chunks):
        if (name, what) != ("key", "bias"):  # zeros: Whisper's key has none
            yield f"{path}.{name}.{what}", chunk.clone()
