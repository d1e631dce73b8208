"""A trained model's folder: what it holds, what its config says, and the model itself."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import yaml

from lrsms.data.tokens import Tokens
from lrsms.defaults import CONFIG, DEFAULT_CHECKPOINT, WHISPER_TYPES
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.checkpoint import write_whole
from lrsms.espnet.config import named_file, read_yaml, sampling_rate
from lrsms.files import copy_into, write_text
from lrsms.whisper.tokens import WhisperTokens

TOKENS = "tokens.txt"


@dataclass(frozen=True)
class Experiment:
    """``config.yaml`` and weights in one folder, as ESPnet's training leaves them.

    Nothing is read before it is asked for, and the config is read once. Only :meth:`load` imports ESPnet's task.
    To recognize with the model, see :func:`lrsms.espnet.inference.open.open_recognizer`.

    Attributes:
        folder: of the experiment.
        checkpoint: file name of the weights in it.
    """

    folder: Path
    checkpoint: str = DEFAULT_CHECKPOINT

    @classmethod
    def of(cls, weights: Path) -> Experiment:
        """The experiment that a file of weights lies in."""
        return cls(weights.parent, weights.name)

    @property
    def config_file(self) -> Path:
        """``config.yaml``."""
        return self.folder / CONFIG

    @property
    def weights(self) -> Path:
        """The checkpoint's path."""
        return self.folder / self.checkpoint

    @property
    def checkpoints(self) -> list[str]:
        """File names of all weights in the folder, sorted."""
        return sorted(path.name for path in self.folder.glob("*.pth"))

    def check(self) -> None:
        """Make sure that weights and config are there.

        Raises:
            LrsmsError: one of them is missing; the message says what the folder holds and what to do.
        """
        if not self.weights.exists():
            raise LrsmsError(
                f"{self.weights}: not found; run stage 3 to its end, or name another checkpoint "
                f"({self.folder} holds {', '.join(self.checkpoints) or 'no checkpoint'})"
            )
        self._check_config()

    def _check_config(self) -> None:
        if not self.config_file.exists():
            raise LrsmsError(
                f"{self.config_file}: not found; ESPnet saves it beside the weights as training starts: give the "
                f"folder of a trained model"
            )

    @cached_property
    def config(self) -> dict:
        """Content of ``config.yaml``. All users share it: copy what is to be changed.

        Raises:
            LrsmsError: it is missing, or not plain YAML.
        """
        self._check_config()
        return read_yaml(self.config_file)

    def options(self, name: str) -> Mapping:
        """The options of a part, such as those under ``model_conf``; empty if the config has none."""
        return self.config.get(name) or {}

    @property
    def sampling_rate(self) -> int:
        """In Hz, of the sound that the front-end expects."""
        return sampling_rate(self.options("frontend_conf"))

    @property
    def ctc_weight(self) -> float:
        """CTC's share of the training loss: 0 for a model without CTC, 1 for one without a decoder.

        Raises:
            LrsmsError: it is no number.
        """
        weight = self.options("model_conf").get("ctc_weight", 0.5)  # ESPnet's default
        if not isinstance(weight, int | float):
            raise LrsmsError(f"{self.config_file}: model_conf.ctc_weight: {weight!r} is not a number from 0 to 1")
        return float(weight)

    @property
    def token_type(self) -> str | None:
        """ESPnet's name of it: ``char``, ``word``, ``bpe`` (unigrams included), ``phn``."""
        return self.config.get("token_type", "bpe")  # ESPnet's default

    @property
    def is_whisper(self) -> bool:
        """Whether it is Whisper, whose search has rules of its own."""
        return self.token_type in WHISPER_TYPES

    @cached_property
    def token_list(self) -> list[str]:
        """Every token, CTC's blank first.

        Raises:
            LrsmsError: the config has no list of tokens, or names a file that is not found.
        """
        tokens = self.config.get("token_list")
        if isinstance(tokens, str):  # of a model that was packed by hand
            path = named_file("token_list", tokens, self.folder)
            return path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        if not isinstance(tokens, list):
            raise LrsmsError(f"{self.config_file}: token_list: {tokens!r} is not the list of tokens that ESPnet saves")
        return tokens

    @property
    def bpemodel(self) -> Path | None:
        """The sentencepiece model, or Whisper's ``tokenizer.json``; None if the tokens are of another type.

        Raises:
            LrsmsError: the file that the config names is not found.
        """
        name = self.config.get("bpemodel")
        if self.token_type not in ("bpe", *WHISPER_TYPES) or not isinstance(name, str):
            return None
        return named_file("bpemodel", name, self.folder)

    @cached_property
    def tokenizer(self) -> Tokens | WhisperTokens:
        """What turns text into token ids and back.

        Raises:
            LrsmsError: no tokens, or the sentencepiece model or Whisper's ``tokenizer.json`` is not found.
        """
        model = self.bpemodel
        if self.is_whisper:
            if model is None:
                raise LrsmsError(f"{self.config_file}: bpemodel: write the path of the Whisper model's tokenizer.json")
            return WhisperTokens(model, len(self.token_list))
        return Tokens(self.token_list, self.token_type or "word", None if model is None else model.read_bytes())

    def load(self) -> tuple[torch.nn.Module, argparse.Namespace]:
        """The ``ESPnetASRModel`` on the CPU with its weights, and ESPnet's options.

        Raises:
            LrsmsError: a file is missing, damaged, would execute code, or the two do not belong together.
        """
        self.check()
        from espnet2.tasks.asr import ASRTask  # takes seconds

        return ASRTask.build_model_from_file(self.config_file, self.weights)

    def copy_tokens(self, folder: Path) -> None:
        """Put the files of tokens that Whisper's config names into the folder of an experiment that has that config."""
        if self.is_whisper and self.bpemodel is not None:
            copy_into(self.bpemodel, folder, self.bpemodel.name)
            copy_into(named_file("token_list", self.config["token_list"], self.folder), folder, TOKENS)

    def write(self, config: Mapping, state: dict[str, torch.Tensor]) -> None:
        """Leave ``config`` and ``state`` as ESPnet's training would, neither of them half-written.

        Args:
            config: all options of ESPnet's task.
            state: weights by name.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(state, self.weights)
        self.write_config(config)

    def write_config(self, config: Mapping) -> None:
        """Leave ``config`` alone in the folder, which exists."""
        write_text(self.config_file, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
