"""A trained ESPnet model as the compressor sees it: dense, its layers named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from espnet2.tasks.asr import ASRTask
from torch import nn
from tqdm import tqdm

from lrsms.compress.space import Layer
from lrsms.data.cut_files import read_cuts
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.data.av_batches import decoding_loader
from lrsms.espnet.data.cut_batches import load_waveform
from lrsms.espnet.models import ctc_rank
from lrsms.espnet.models.cost import NOMINAL_TOKENS_PER_SECOND, cost, positions, trainable_parameters
from lrsms.espnet.models.role_table import DECODERS, ENCODERS
from lrsms.lowrank import LowRankConfig, RankPlan, low_rank_layers
from lrsms.lowrank.merge import merge_
from lrsms.lowrank.plan import PlanEntry


@dataclass(frozen=True)
class Utterance:
    """One utterance, ready for the encoder.

    Attributes:
        id: of the cut.
        features: ``(frames, bins)``, normalized.
        tokens: ``(tokens,)`` numbers.
        text: reference.
        seconds: duration.
    """

    id: str
    features: torch.Tensor
    tokens: torch.Tensor
    text: str
    seconds: float


class Compressible:
    """A trained experiment.

    Args:
        experiment: of stock ESPnet or of this package, dense or low-rank.

    Attributes:
        experiment: the same.
        model: the ``ESPnetASRModel``, every layer dense, in evaluation mode.
        layers: what can be factored; a layer that is low-rank already carries its rank.
        classes: part -> ESPnet name of its low-rank class.

    Raises:
        LrsmsError: files are missing, or a class has no low-rank form.
    """

    def __init__(self, experiment: Experiment):
        experiment.check()
        self.experiment = experiment
        self.load = decoding_loader(experiment, experiment.folder) or load_waveform
        model, self.args = experiment.load()
        self.classes = {
            part: _low_rank_name(part, str(experiment.config[part]), getattr(model, part))
            for part in ("encoder", "decoder")
            if getattr(model, part) is not None
        }
        ranks = {path.removesuffix(".gates"): layer.rank for path, layer in low_rank_layers(model)}
        self.parameters = trainable_parameters(model)
        self.fs = experiment.sampling_rate
        self.macs = cost(model, self.fs, NOMINAL_TOKENS_PER_SECOND).macs_per_second
        merge_(model)
        self.model = model.eval().requires_grad_(False)
        counts = positions(model, self.fs, NOMINAL_TOKENS_PER_SECOND)
        self.layers = [
            Layer(path, entry, ranks.get(path), counts[path]) for path, entry in _entries(self.model, self.classes)
        ]

    def with_own_ranks(self, ranks: Mapping[str, int | None]) -> dict[str, int]:
        """Rank of every layer that is factored then: None, or a path left out, is the layer as it is."""
        own = {layer.path: layer.rank for layer in self.layers if layer.rank is not None}
        return own | {path: rank for path, rank in ranks.items() if rank is not None}

    def utterances(self, cuts: Path, choose: Callable[[list], Iterable] | None = None) -> list[Utterance]:
        """Features and tokens of the cuts in a manifest.

        Args:
            cuts: manifest of stage 1.
            choose: which of its cuts, from all of them; None for all.

        Raises:
            LrsmsError: no manifest, no cut, or one of another sampling rate than the model's.
        """
        chosen = list(read_cuts(cuts, self.fs))
        chosen = list(chosen if choose is None else choose(chosen))
        if not chosen:
            raise LrsmsError(f"{cuts}: holds no cut")
        preprocess = ASRTask.build_preprocess_fn(self.args, train=False)
        bar = tqdm(chosen, desc=f"features of {cuts.parent.name}", unit="utt", leave=False, delay=3)
        return [self._utterance(cut, preprocess) for cut in bar]

    @torch.no_grad()
    def _utterance(self, cut, preprocess) -> Utterance:
        speech = torch.from_numpy(self.load(cut))[None]
        features, lengths = self.model._extract_feats(speech, torch.tensor([speech.shape[1]]))
        if self.model.normalize is not None:
            features, lengths = self.model.normalize(features, lengths)
        text = cut.supervisions[0].text
        tokens = torch.as_tensor(preprocess(cut.id, {"text": text})["text"])
        return Utterance(cut.id, features[0], tokens, text, cut.duration)


def _low_rank_name(part: str, name: str, module: nn.Module) -> str:
    table = ENCODERS if part == "encoder" else DECODERS
    if name == "whisper":
        raise LrsmsError(
            f"{part}: whisper is ESPnet's class around openai-whisper; lrsms import_whisper makes an experiment of a "
            f"model's file whose {part} is lowrank_whisper"
        )
    low_rank = name if name.startswith("lowrank_") else f"lowrank_{name}"
    if low_rank in table:
        return low_rank
    kinds: dict[str, int] = {}
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM, nn.GRU, nn.Embedding)):
            kinds[type(layer).__name__] = kinds.get(type(layer).__name__, 0) + 1
    layers = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no layer that has a matrix"
    raise LrsmsError(
        f"{part}: {name!r} ({type(module).__name__}: {layers}) has no low-rank form; those that have are "
        f"{', '.join(known.removeprefix('lowrank_') for known in table)}. "
        f"One row in lrsms/espnet/models/role_table.py adds a class"
    )


def _entries(model: nn.Module, classes: dict[str, str]) -> Iterable[tuple[str, PlanEntry]]:
    for part, name in classes.items():
        roles = (ENCODERS if part == "encoder" else DECODERS)[name][1]
        for entry in RankPlan.make(getattr(model, part), roles, LowRankConfig()).entries:
            yield f"{part}.{entry.module}", entry
    if model.ctc is not None:
        for entry in RankPlan.make(model.ctc, ctc_rank.ROLES, LowRankConfig()).entries:
            yield f"ctc.{entry.module}", entry
