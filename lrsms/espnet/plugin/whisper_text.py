"""Whisper's tokens in ESPnet's task: texts for training, and a config that stays small."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from lrsms.defaults import WHISPER_TYPES
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import TOKENS
from lrsms.espnet.config import named_file
from lrsms.files import copy_into
from lrsms.whisper.files import TOKENIZER
from lrsms.whisper.search import SearchOptions
from lrsms.whisper.tokens import WhisperTokens

FILES = {"token_list": TOKENS, "bpemodel": TOKENIZER}  # names in an experiment's folder


def is_whisper(args: argparse.Namespace) -> bool:
    """Whether the options are those of a Whisper model that is built here, not by openai-whisper."""
    return getattr(args, "token_type", None) in WHISPER_TYPES and getattr(args, "decoder", None) == "lowrank_whisper"


class Options:
    """Options that ESPnet's ``build_model`` would fill with 51,864 tokens, which are slow to read again.

    Args:
        args: of the task; they are made to name files that are there.
        folder: of the experiment that is opened; None for a training.

    Raises:
        LrsmsError: a file that the options name is not found.
    """

    def __init__(self, args: argparse.Namespace, folder: Path | None):
        self.named = {}
        for key in ("token_list", "bpemodel"):
            name = getattr(args, key)
            if isinstance(name, str):
                if folder is not None:
                    name = str(named_file(key, name, folder))
                self.named[key] = name
                setattr(args, key, name)
        self.output_dir = Path(args.output_dir) if folder is None and getattr(args, "output_dir", None) else None

    def restore(self, args: argparse.Namespace, model: nn.Module) -> None:
        """Have ``args``, which ESPnet saves as ``config.yaml``, name the files again, and say the model's sizes.

        The decoder is told which context the encoder has. A training gets copies of the files in its own folder.
        """
        for key, name in self.named.items():
            if self.output_dir is not None and Path(name).is_file():
                self.output_dir.mkdir(parents=True, exist_ok=True)
                copy_into(Path(name), self.output_dir, FILES[key])
                name = FILES[key]
            setattr(args, key, name)
        model.decoder.audio_context = getattr(model.encoder, "audio_context", "full")
        for part in ("encoder", "decoder"):
            sizes = getattr(getattr(model, part, None), "sizes", None)
            if sizes is not None:
                setattr(args, f"{part}_conf", {**getattr(args, f"{part}_conf"), "sizes": sizes.as_dict()})


def preprocessor(args: argparse.Namespace) -> Callable[[str, dict], dict]:
    """What makes arrays of speech and text; see :class:`_Preprocessor`.

    ``preprocessor_conf`` may have ESPnet's ``whisper_language`` and ``whisper_task``.

    Raises:
        LrsmsError: ``bpemodel`` does not name Whisper's ``tokenizer.json``, or an unknown language or task.
    """
    if not args.bpemodel:
        raise LrsmsError("bpemodel: write the path of the Whisper model's tokenizer.json")
    count = len(args.token_list)
    if isinstance(args.token_list, str):
        count = len(_located(args, "token_list").read_text(encoding="utf-8").splitlines())
    options = getattr(args, "preprocessor_conf", None) or {}
    search = SearchOptions(
        language=options.get("whisper_language") or "en", task=options.get("whisper_task") or "transcribe"
    )
    return _Preprocessor(WhisperTokens(_located(args, "bpemodel"), count), search)


def _located(args: argparse.Namespace, key: str) -> Path:
    return named_file(key, getattr(args, key), Path(args.output_dir))


class _Preprocessor:
    """``(id, {"speech", "text"})`` to the same as arrays: the prompt but its start, and the text's tokens.

    ESPnet's model puts the start in front and the end behind.
    """

    def __init__(self, tokens: WhisperTokens, options: SearchOptions):
        self.tokens = tokens
        self.prompt = tokens.prompt(options.language, options.task, timestamps=False)[1:]

    def __call__(self, uid: str, data: dict) -> dict[str, np.ndarray]:
        data = dict(data)
        if "text" in data:
            data["text"] = np.array(self.prompt + self.tokens.encode(data["text"]), dtype=np.int64)
        if "speech" in data:
            data["speech"] = np.asarray(data["speech"], dtype=np.float32)
        return data
