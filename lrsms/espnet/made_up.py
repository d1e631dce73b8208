"""Experiments with random weights: a size to time where nothing has been trained."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from espnet2.tasks.asr import ASRTask

import lrsms.espnet  # noqa: F401  (registers the low-rank classes)
from lrsms.errors import LrsmsError
from lrsms.espnet.compression import write_experiment
from lrsms.espnet.config_check import read_yaml
from lrsms.lowrank import skip_initialization


def write_made_up(config: Path, folder: Path, checkpoint: str, vocab_size: int = 1000) -> None:
    """Leave an experiment as if it had been trained.

    Args:
        config: training YAML.
        folder: of the experiment.
        checkpoint: file name in it.
        vocab_size: length of the token list.

    Raises:
        LrsmsError: an option that ESPnet's training does not know.
    """
    known, content = ASRTask.get_default_config(), read_yaml(config)
    own = ("max_duration", "num_buckets")  # of our task: how batches are made
    for key in content:
        if key not in known and key not in own:
            raise LrsmsError(f"{config}: {key}: no option of ESPnet's ASR training")
    tokens = ["<blank>", "<unk>", *(f"w{number}" for number in range(vocab_size - 3)), "<sos/eos>"]
    complete = known | content | {"token_list": tokens, "token_type": "word", "init": None}
    torch.manual_seed(0)
    with skip_initialization():  # SVDs of weights that mean nothing
        model = ASRTask.build_model(argparse.Namespace(**complete))
    write_experiment(folder, complete, model.state_dict(), checkpoint)
