"""A trained ESPnet model as the compressor sees it: dense, its layers named, candidates scored on utterances."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from espnet2.bin.asr_inference import Speech2Text
from espnet2.tasks.asr import ASRTask
from lhotse import CutSet
from torch import nn
from tqdm import tqdm

from lrsms.compress.space import Layer
from lrsms.errors import LrsmsError
from lrsms.espnet.av_data import decoding_loader
from lrsms.espnet.classes import CTC, DECODERS, ENCODERS
from lrsms.espnet.compat import exact_scores
from lrsms.espnet.config_check import read_yaml
from lrsms.espnet.iterator import load_waveform
from lrsms.espnet.measure import NOMINAL_TOKENS_PER_SECOND, cost, positions, sampling_rate, trainable_parameters
from lrsms.espnet.search import make_search_fast_
from lrsms.lowrank import LowRankConfig, RankPlan, low_rank_layers
from lrsms.lowrank.merge import merge_
from lrsms.lowrank.plan import PlanEntry
from lrsms.scoring.alignment import align_tokens, count_pairs, to_words


@dataclass(frozen=True)
class Utterance:
    """One utterance, ready for the encoder.

    Attributes:
        id: of the cut.
        features: ``(frames, bins)``, normalised.
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
        asr_exp: folder with ``config.yaml``; of stock ESPnet or of this package, dense or low-rank.
        checkpoint: file name in it.

    Attributes:
        model: the ``ESPnetASRModel``, every layer dense, in evaluation mode.
        layers: what can be factored; a layer that is low-rank already carries its rank.
        config: content of ``config.yaml``.
        classes: part -> ESPnet name of its low-rank class.

    Raises:
        LrsmsError: files are missing, or a class has no low-rank form.
    """

    def __init__(self, asr_exp: Path, checkpoint: str):
        for path in (asr_exp / "config.yaml", asr_exp / checkpoint):
            if not path.exists():
                raise LrsmsError(f"{path}: not there; train first, or give --checkpoint")
        self.asr_exp, self.checkpoint = asr_exp, checkpoint
        self.config = read_yaml(asr_exp / "config.yaml")
        self.load = decoding_loader(asr_exp, asr_exp) or load_waveform
        model, self.args = ASRTask.build_model_from_file(asr_exp / "config.yaml", asr_exp / checkpoint)
        self.classes = {
            part: _low_rank_name(part, str(self.config[part]), getattr(model, part))
            for part in ("encoder", "decoder")
            if getattr(model, part) is not None
        }
        ranks = {path.removesuffix(".gates"): layer.rank for path, layer in low_rank_layers(model)}
        self.parameters = trainable_parameters(model)
        self.fs = sampling_rate(self.config.get("frontend_conf"))
        self.macs = cost(model, self.fs, NOMINAL_TOKENS_PER_SECOND).macs_per_second
        merge_(model)
        self.model = model.eval().requires_grad_(False)
        counts = positions(model, self.fs, NOMINAL_TOKENS_PER_SECOND)
        self.layers = [
            Layer(path, entry, ranks.get(path), counts[path]) for path, entry in _entries(self.model, self.classes)
        ]

    def with_own_ranks(self, ranks: Mapping[str, int | None]) -> dict[str, int]:
        """Rank of every layer that is factored then: None, or a path left out, is the layer as it is."""
        kept = {layer.path: layer.rank for layer in self.layers if layer.rank is not None}
        return kept | {path: rank for path, rank in ranks.items() if rank is not None}

    def utterances(self, cuts: Path, choose: Callable[[list], Iterable] | None = None) -> list[Utterance]:
        """Features and tokens of the cuts in a manifest.

        Args:
            cuts: manifest of stage 1.
            choose: which of its cuts, from all of them; None for all.

        Raises:
            LrsmsError: no manifest, or no cut.
        """
        if not cuts.exists():
            raise LrsmsError(f"{cuts}: no such manifest of cuts; run stage 1 first")
        chosen = list(CutSet.from_file(cuts))
        chosen = list(chosen if choose is None else choose(chosen))
        if not chosen:
            raise LrsmsError(f"{cuts}: holds no cut")
        preprocess = ASRTask.build_preprocess_fn(self.args, train=False)
        found = []
        for cut in tqdm(chosen, desc=f"features of {cuts.parent.name}", unit="utt", leave=False, delay=3):
            found.append(self._utterance(cut, preprocess))
        return found

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
    low_rank = name if name.startswith("lowrank_") else f"lowrank_{name}"
    if low_rank in table:
        return low_rank
    kinds: dict[str, int] = {}
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM, nn.GRU, nn.Embedding)):
            kinds[type(layer).__name__] = kinds.get(type(layer).__name__, 0) + 1
    there = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no layer that has a matrix"
    raise LrsmsError(
        f"{part}: {name!r} ({type(module).__name__}: {there}) has no low-rank form; those that have are "
        f"{', '.join(known.removeprefix('lowrank_') for known in table)}. "
        f"One row in lrsms/espnet/classes.py adds a class"
    )


def _entries(model: nn.Module, classes: dict[str, str]) -> Iterable[tuple[str, PlanEntry]]:
    for part, name in classes.items():
        roles = (ENCODERS if part == "encoder" else DECODERS)[name][1]
        for entry in RankPlan.make(getattr(model, part), roles, LowRankConfig()).entries:
            yield f"{part}.{entry.module}", entry
    if model.ctc is not None:
        for entry in RankPlan.make(model.ctc, CTC, LowRankConfig()).entries:
            yield f"ctc.{entry.module}", entry


class Evaluator:
    """Scores a model on a fixed set of utterances, whose features are computed once.

    Args:
        compressible: whose model is scored; its layers may be replaced between calls.
        utterances: to score on.
        batch_seconds: audio per batch.
        decode: options of ESPnet's ``Speech2Text`` for ``beam``.
    """

    def __init__(
        self,
        compressible: Compressible,
        utterances: Sequence[Utterance],
        *,
        batch_seconds: float = 60.0,
        decode: dict | None = None,
    ):
        self.compressible, self.model = compressible, compressible.model
        self.utterances = list(utterances)
        self.tokens = list(compressible.config["token_list"])
        self.decode = decode or {}
        self.batches = list(_batches(self.utterances, batch_seconds))
        self._recogniser: Speech2Text | None = None

    def score(self, fidelity: str, partial: Callable[[int, float], None] = lambda step, error: None) -> float:
        """Error of the model as it is now.

        Args:
            fidelity: ``loss``, teacher-forced loss per utterance; ``ctc``, WER of the best CTC path in percent;
                ``beam``, WER of the joint beam search in percent.
            partial: called with a step and the error so far after each batch.
        """
        if fidelity == "loss":
            return self._loss(partial)
        errors = self.errors(fidelity, partial)
        return 100.0 * sum(errors.values()) / max(1, sum(len(to_words(one.text)) for one in self.utterances))

    def errors(self, fidelity: str, partial: Callable[[int, float], None] = lambda step, error: None) -> dict[str, int]:
        """Word errors of each utterance, by id."""
        recognise = {"ctc": self._ctc_texts, "beam": self._beam_texts}[fidelity]
        errors: dict[str, int] = {}
        words = 0
        for step, batch in enumerate(self.batches):
            for utterance, text in zip(batch, recognise(batch)):
                reference = to_words(utterance.text)
                errors[utterance.id] = count_pairs(align_tokens(reference, to_words(text))).errors
                words += len(reference)
            partial(step, 100.0 * sum(errors.values()) / max(1, words))
        return errors

    @torch.no_grad()
    def _loss(self, partial: Callable[[int, float], None]) -> float:
        total, count = 0.0, 0
        with _features_in(self.model):
            for step, batch in enumerate(self.batches):
                loss, _, _ = self.model(*_pad(batch))
                total, count = total + float(loss) * len(batch), count + len(batch)
                partial(step, total / count)
        return total / count

    @torch.no_grad()
    def run(self, utterance: Utterance) -> None:
        """One utterance through the whole model, teacher-forced: for calibration."""
        with _features_in(self.model):
            self.model(*_pad([utterance]))

    @torch.no_grad()
    def _encode(self, batch: Sequence[Utterance]) -> tuple[torch.Tensor, torch.Tensor]:
        features, lengths, _, _ = _pad(batch)
        with _features_in(self.model):
            encoded, encoded_lengths = self.model.encode(features, lengths)
        return (encoded[0] if isinstance(encoded, tuple) else encoded), encoded_lengths

    def _ctc_texts(self, batch: Sequence[Utterance]) -> list[str]:
        encoded, lengths = self._encode(batch)
        best = self.model.ctc.argmax(encoded)
        texts = []
        for path, length in zip(best, lengths):
            numbers = torch.unique_consecutive(path[: int(length)])
            texts.append(self._text([int(number) for number in numbers if number != 0]))
        return texts

    def _beam_texts(self, batch: Sequence[Utterance]) -> list[str]:
        recogniser = self._speech2text()
        texts = []
        for utterance in batch:
            encoded, _ = self._encode([utterance])
            with torch.no_grad():
                best = recogniser._decode_single_sample(encoded[0])[0]
            texts.append(best[0] or "")
        return texts

    def _speech2text(self) -> Speech2Text:
        """ESPnet's search around our model: it holds decoder and CTC, whose layers are replaced in place."""
        if self._recogniser is None:
            experiment = self.compressible.asr_exp
            options = exact_scores(self.decode)
            found = Speech2Text(experiment / "config.yaml", experiment / self.compressible.checkpoint, **options)
            found.asr_model = self.model
            search = found.beam_search
            for scorers in (search.scorers, search.full_scorers, search.nn_dict):
                if "decoder" in scorers:
                    scorers["decoder"] = self.model.decoder
            for scorer in search.part_scorers.values():
                if hasattr(scorer, "ctc"):
                    scorer.ctc = self.model.ctc
            make_search_fast_(found)
            self._recogniser = found
        return self._recogniser

    def _text(self, numbers: list[int]) -> str:
        kind, tokens = self.compressible.config.get("token_type"), [self.tokens[number] for number in numbers]
        if kind == "word":
            return " ".join(tokens)
        if kind == "char":
            return "".join(" " if token == "<space>" else token for token in tokens)
        return re.sub("▁", " ", "".join(tokens)).strip()


class _features_in:
    """Within this context the model takes normalised features in place of waveforms."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __enter__(self) -> None:
        model = self.model
        self.saved = (model.frontend, model.normalize, model.error_calculator)
        model.frontend = model.normalize = model.error_calculator = None  # ESPnet then takes speech as features

    def __exit__(self, *_) -> None:
        self.model.frontend, self.model.normalize, self.model.error_calculator = self.saved


def _batches(utterances: Sequence[Utterance], seconds: float) -> Iterable[list[Utterance]]:
    """Utterances of similar length together; the order of batches is shuffled, so that the first ones stand for all."""
    batch: list[Utterance] = []
    batches = []
    for utterance in sorted(utterances, key=lambda one: len(one.features)):
        if batch and utterance.seconds * (len(batch) + 1) > seconds:
            batches.append(batch)
            batch = []
        batch.insert(0, utterance)  # the longest first: ESPnet's LSTM encoders need that
    batches.append(batch)
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0)).tolist()
    return [batches[index] for index in order]


def _pad(batch: Sequence[Utterance]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, frames, tokens and their numbers, as ESPnet's model takes them."""
    features = nn.utils.rnn.pad_sequence([one.features for one in batch], batch_first=True)
    tokens = nn.utils.rnn.pad_sequence([one.tokens for one in batch], batch_first=True, padding_value=-1)
    lengths = torch.tensor([len(one.features) for one in batch])
    return features, lengths, tokens, torch.tensor([len(one.tokens) for one in batch])
