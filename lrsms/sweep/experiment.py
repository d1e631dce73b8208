"""The part of a sweep that needs ESPnet: what an arm may configure, and one point from training to decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from lrsms.data.tokens import lang_dir
from lrsms.defaults import espnet_token_type
from lrsms.espnet.config import check_training_config
from lrsms.espnet.inference.decode_split import Decoding
from lrsms.espnet.training.run import Training
from lrsms.espnet.training.task import ASRTask
from lrsms.sweep.points import Arm, Point, Sweep


class Settings(Protocol):
    """What stages 3 and 4 of a point read; :class:`lrsms.sweep.runner.Runner` has it."""

    sweep: Sweep
    data_dir: Path
    train_split: str
    valid_split: str
    test_splits: tuple[str, ...]
    decode_config: Path
    checkpoint: str
    ngpu: int

    def config(self, arm: Arm) -> Path:
        """The training YAML of an arm."""

    def cuts(self, split: str) -> Path:
        """The manifest of a split."""


def check_config(path: Path) -> None:
    """Raise LrsmsError if ESPnet would not take the training YAML ``path``."""
    check_training_config(path, ASRTask)


def train_and_decode(runner: Settings, point: Point, threads: int) -> None:
    """Stages 3 and 4 of ``point``, on ``threads`` threads and the one GPU that this process sees, if it is to use any.

    Raises:
        LrsmsError: see :meth:`Training.run` and :meth:`Decoding.run`.
    """
    torch.set_num_threads(threads)
    sweep, ngpu = runner.sweep, min(1, runner.ngpu)
    Training(
        config=runner.config(point.arm),
        output_dir=point.experiment,
        train_cuts=runner.cuts(runner.train_split),
        valid_cuts=runner.cuts(runner.valid_split),
        lang_dir=lang_dir(runner.data_dir, sweep.token_type, sweep.vocab_size),
        token_type=espnet_token_type(sweep.token_type),
        seed=point.seed,
        ngpu=ngpu,
    ).run()
    for split in runner.test_splits:
        Decoding(point.experiment, runner.cuts(split), runner.decode_config, runner.checkpoint, ngpu=ngpu).run()
