"""Stage 8: a trained low-rank model as an ordinary dense ESPnet experiment."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.models.cost import rows_in_decoding, speech_for
from lrsms.espnet.models.ctc_rank import block_ranks
from lrsms.lowrank import low_rank_layers
from lrsms.lowrank.merge import merge_

_TOLERANCE = 1e-4  # of an encoder's output, in float32


@dataclass(frozen=True)
class Merged:
    """What :func:`merge_experiment` made.

    Attributes:
        folder: of ``config.yaml`` and the checkpoint.
        merged, factored: number of layers that became dense, and that stayed factored.
        parameters: of the whole model now.
        difference: largest change of the encoder's output on a random utterance.
        foreign: why stock ESPnet cannot open it without this package; empty if it can.
    """

    folder: Path
    merged: int
    factored: int
    parameters: int
    difference: float
    foreign: str


def merge_experiment(experiment: Experiment, output_dir: Path, only: str = "all") -> Merged:
    """Write ``config.yaml`` and checkpoint of ``experiment`` with its factors folded into dense weights.

    If every layer is dense in the end, the config names ESPnet's own classes, and ESPnet opens it without this
    package, unless the config has a front-end, the audio-visual encoder or the Whisper of this package.

    Args:
        experiment: trained.
        output_dir: folder to write, created if missing; its checkpoint has the same name.
        only: as in :func:`lrsms.merge_`.

    Raises:
        LrsmsError: the experiment is dense already, is incomplete, or the merged model computes something else.
    """
    experiment.check()
    if output_dir.resolve() == experiment.folder.resolve():
        raise LrsmsError(f"{output_dir}: is the experiment itself; write into another folder")
    config = copy.deepcopy(experiment.config)
    model = experiment.load()[0].eval()
    if not any(low_rank_layers(model)):
        raise LrsmsError(f"{experiment.folder}: no layer is factored; there is nothing to merge")
    before = _encoded(model)
    merged = merge_(model, only=only, frames=rows_in_decoding)
    difference = float((_encoded(model) - before).abs().max())
    if not difference < _TOLERANCE:
        raise LrsmsError(
            f"{experiment.folder}: merged, its encoder's output differs by {difference:.1e}, above {_TOLERANCE:.0e}"
        )
    foreign = _with_ranks_left(config, model)
    Experiment(output_dir, experiment.checkpoint).write(config, model.state_dict())
    experiment.copy_tokens(output_dir)
    factored = sum(1 for _ in low_rank_layers(model))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Merged(output_dir, len(merged), factored, parameters, difference, foreign)


@torch.no_grad()
def _encoded(model: nn.Module) -> torch.Tensor:
    speech = speech_for(model, torch.randn(1, 48_000, generator=torch.Generator().manual_seed(0)) * 0.1)
    return model.encode(speech, torch.tensor([speech.shape[1]]))[0]


def _with_ranks_left(config: dict, model: nn.Module) -> str:
    """Describe in ``config`` what the model is now; returns what stock ESPnet does not know about it."""
    foreign = []
    by_path = {path.removesuffix(".gates"): layer.rank for path, layer in low_rank_layers(model)}
    for part in ("encoder", "decoder"):
        name, options = str(config.get(part)), config.get(f"{part}_conf") or {}
        if not name.startswith("lowrank_"):
            continue
        ranks = block_ranks(part, by_path)
        if ranks:
            options["low_rank"] = {"ranks": ranks}
            foreign.append(f"{part}: {name} has {len(ranks)} factored layers")
        else:
            options.pop("low_rank", None)
            if name == "lowrank_whisper":  # ESPnet's class of that name downloads a model, and takes no file
                foreign.append(f"{part}: {name} is this package's")
            else:
                config[part] = name.removeprefix("lowrank_")
                options.pop("fast", None)
    if config.get("encoder") == "av_conformer":
        foreign.append("encoder: av_conformer is this package's")
    if config.get("frontend") == "kaldi_fbank":
        foreign.append("frontend: kaldi_fbank is this package's")
    return "; ".join(foreign)
