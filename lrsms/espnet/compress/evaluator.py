"""Error rates and losses of a model under compression, on utterances whose features are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from espnet2.bin.asr_inference import Speech2Text
from torch import nn

from lrsms.espnet.compress.model import Compressible, Utterance
from lrsms.espnet.inference.open import open_recognizer
from lrsms.espnet.inference.whisper_recognizer import WhisperRecognizer
from lrsms.scoring.alignment import align_tokens, count_pairs, to_words


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
        self.tokenizer = compressible.experiment.tokenizer
        self.decode = decode or {}
        self.batches = list(_batches(self.utterances, batch_seconds))
        self._recognizer: Speech2Text | WhisperRecognizer | None = None

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
        words = sum(len(to_words(utterance.text)) for utterance in self.utterances)
        return 100.0 * sum(errors.values()) / max(1, words)

    def errors(self, fidelity: str, partial: Callable[[int, float], None] = lambda step, error: None) -> dict[str, int]:
        """Word errors of each utterance, by id."""
        recognize = {"ctc": self._ctc_texts, "beam": self._beam_texts}[fidelity]
        errors: dict[str, int] = {}
        words = 0
        for step, batch in enumerate(self.batches):
            for utterance, text in zip(batch, recognize(batch)):
                reference = to_words(utterance.text)
                errors[utterance.id] = count_pairs(align_tokens(reference, to_words(text))).errors
                words += len(reference)
            partial(step, 100.0 * sum(errors.values()) / max(1, words))
        return errors

    @torch.no_grad()
    def _loss(self, partial: Callable[[int, float], None]) -> float:
        total, count = 0.0, 0
        with _FeaturesIn(self.model):
            for step, batch in enumerate(self.batches):
                loss, _, _ = self.model(*_pad(batch))
                total, count = total + float(loss) * len(batch), count + len(batch)
                partial(step, total / count)
        return total / count

    @torch.no_grad()
    def run(self, utterance: Utterance) -> None:
        """One utterance through the whole model, teacher-forced: for calibration."""
        with _FeaturesIn(self.model):
            self.model(*_pad([utterance]))

    @torch.no_grad()
    def _encode(self, batch: Sequence[Utterance]) -> tuple[torch.Tensor, torch.Tensor]:
        features, lengths, _, _ = _pad(batch)
        with _FeaturesIn(self.model):
            encoded, encoded_lengths = self.model.encode(features, lengths)
        return (encoded[0] if isinstance(encoded, tuple) else encoded), encoded_lengths

    def _ctc_texts(self, batch: Sequence[Utterance]) -> list[str]:
        encoded, lengths = self._encode(batch)
        best = self.model.ctc.argmax(encoded)
        texts = []
        for path, length in zip(best, lengths):
            numbers = torch.unique_consecutive(path[: int(length)])
            texts.append(self.tokenizer.decode(int(number) for number in numbers))
        return texts

    def _beam_texts(self, batch: Sequence[Utterance]) -> list[str]:
        recognizer = self._speech2text()
        texts = []
        for utterance in batch:
            encoded, _ = self._encode([utterance])
            with torch.no_grad():
                best = recognizer._decode_single_sample(encoded[0])[0]
            texts.append(best[0] or "")
        return texts

    def _speech2text(self) -> Speech2Text | WhisperRecognizer:
        """ESPnet's search around our model: it holds decoder and CTC, whose layers are replaced in place."""
        if self._recognizer is None:
            recognizer = open_recognizer(self.compressible.experiment, self.decode)
            recognizer.asr_model = self.model
            self._recognizer = recognizer
            if isinstance(recognizer, WhisperRecognizer):
                return recognizer
            search = recognizer.beam_search
            for scorers in (search.scorers, search.full_scorers, search.nn_dict):
                if "decoder" in scorers:
                    scorers["decoder"] = self.model.decoder
            for scorer in search.part_scorers.values():
                if hasattr(scorer, "ctc"):
                    scorer.ctc = self.model.ctc
        return self._recognizer


class _FeaturesIn:
    """Within this context the model takes normalized features in place of waveforms."""

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
    for utterance in sorted(utterances, key=lambda utterance: len(utterance.features)):
        if batch and utterance.seconds * (len(batch) + 1) > seconds:
            batches.append(batch)
            batch = []
        batch.insert(0, utterance)  # the longest first: ESPnet's LSTM encoders need that
    batches.append(batch)
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0)).tolist()
    return [batches[index] for index in order]


def _pad(batch: Sequence[Utterance]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, frames, tokens and their numbers, as ESPnet's model takes them."""
    features = nn.utils.rnn.pad_sequence([utterance.features for utterance in batch], batch_first=True)
    tokens = nn.utils.rnn.pad_sequence([utterance.tokens for utterance in batch], batch_first=True, padding_value=-1)
    lengths = torch.tensor([len(utterance.features) for utterance in batch])
    return features, lengths, tokens, torch.tensor([len(utterance.tokens) for utterance in batch])
