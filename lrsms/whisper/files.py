"""Open a local Whisper model, whichever of three layouts it has; nothing is downloaded and nothing is executed.

``*.pt`` of openai-whisper, ``model.safetensors`` with ``config.json`` of transformers, ``model.bin`` of CTranslate2.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lrsms.errors import LrsmsError
from lrsms.whisper.ctranslate2 import read_ctranslate2
from lrsms.whisper.dimensions import Dimensions
from lrsms.whisper.transformers import from_transformers, read_config, read_sizes
from lrsms.whisper.weights import check

TOKENIZER = "tokenizer.json"
CONTEXT_KEY = "audio_context"  # beside what openai-whisper and transformers read
_FILES = ("model.safetensors", "model.bin")


@dataclass(frozen=True)
class WhisperFile:
    """A Whisper model as it was read.

    Attributes:
        path: of the weights.
        sizes: its dimensions.
        state: weights in float32 by openai-whisper's names.
        audio_context: of the model, if this package wrote it; else ``full``.
    """

    path: Path
    sizes: Dimensions
    state: Mapping[str, Tensor]
    audio_context: str = "full"

    def part(self, name: str) -> dict[str, Tensor]:
        """Weights of ``encoder`` or ``decoder`` by their names within it."""
        return {key.removeprefix(f"{name}."): value for key, value in self.state.items() if key.startswith(f"{name}.")}


def open_whisper(path: Path) -> WhisperFile:
    """Read a model.

    Args:
        path: of the weights, or of a folder that has them under one of their usual names.

    Raises:
        LrsmsError: not found, of none of the layouts, damaged, or it would execute code.
    """
    path = find(path)
    context: object = "full"
    if path.suffix == ".safetensors":
        sizes, state = _read_safetensors(path)
        context = read_config(path.parent / "config.json").get(CONTEXT_KEY, context)
    elif path.suffix == ".bin":
        sizes, state = read_ctranslate2(path)
    else:
        sizes, state, context = _read_openai(path)
    check(state, sizes, str(path))
    return WhisperFile(path, sizes, {name: value.float() for name, value in state.items()}, str(context))


def find(path: Path) -> Path:
    """The file of weights at ``path``, which may be its folder.

    Raises:
        LrsmsError: there is none, or several.
    """
    if path.is_dir():
        found = [path / name for name in _FILES if (path / name).is_file()] or sorted(path.glob("*.pt"))
        if len(found) != 1:
            has = ", ".join(sorted(file.name for file in path.iterdir())) or "nothing"
            raise LrsmsError(
                f"{path}: holds {has}; a Whisper model is one *.pt (openai-whisper), model.safetensors with "
                f"config.json (transformers) or model.bin (CTranslate2)"
            )
        path = found[0]
    if not path.is_file():
        raise LrsmsError(f"{path}: not found; give a local Whisper model, nothing is downloaded")
    if path.suffix not in (".pt", ".safetensors", ".bin") or path.name == "pytorch_model.bin":
        raise LrsmsError(f"{path}: not a *.pt of openai-whisper, a *.safetensors or a model.bin of CTranslate2")
    return path


def is_whisper_file(path: Path) -> bool:
    """Whether ``path`` is a Whisper model of one of the layouts, rather than an experiment's folder, or its folder."""
    if path.is_dir():
        found = [path / name for name in _FILES if (path / name).is_file()] or list(path.glob("*.pt"))
        return len(found) == 1 and not (path / "config.yaml").exists()
    return path.is_file() and path.suffix in (".pt", ".safetensors", ".bin")


def find_tokenizer(path: Path) -> Path:
    """``tokenizer.json`` beside the weights at ``path``.

    Raises:
        LrsmsError: it is not there.
    """
    tokenizer = find(path).parent / TOKENIZER
    if not tokenizer.is_file():
        raise LrsmsError(
            f"{tokenizer}: not found; transformers' and CTranslate2's models come with it, and a multilingual or an "
            f"English one serves every model of its kind"
        )
    return tokenizer


def _read_openai(path: Path) -> tuple[Dimensions, Mapping[str, Tensor], object]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LrsmsError(f"{path}: refused, it holds more than weights and would execute code on loading") from error
    except Exception as error:  # what a damaged file raises has many types
        raise LrsmsError(f"{path}: damaged, or not a file of openai-whisper") from error
    if not isinstance(content, dict) or {"dims", "model_state_dict"} - content.keys():
        raise LrsmsError(f"{path}: not a file of openai-whisper: it has no dims and model_state_dict")
    sizes = Dimensions.parse(content["dims"], f"{path}: dims")
    unused = ("alignment_heads", "decoder.mask")
    state = {name: value for name, value in content["model_state_dict"].items() if name not in unused}
    return sizes, state, content.get(CONTEXT_KEY, "full")


def _read_safetensors(path: Path) -> tuple[Dimensions, Mapping[str, Tensor]]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise LrsmsError(f"{path}: to read it, install safetensors: pip install lrsms[whisper]") from error
    sizes = read_sizes(path.parent / "config.json")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise LrsmsError(f"{path}: damaged, or not a file of safetensors: {error}") from error
    return sizes, from_transformers(state, sizes, str(path))
