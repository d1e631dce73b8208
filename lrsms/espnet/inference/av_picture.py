"""Decode one utterance under several conditions and draw what was heard and seen and understood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from espnet2.bin.asr_inference import Speech2Text

from lrsms.avsr.conditions import Condition, ConditionLoader, snr_name
from lrsms.avsr.frames import FRAME_SHIFT
from lrsms.avsr.noise import Babble
from lrsms.avsr.utterance_picture import Reading, draw_utterance
from lrsms.errors import LrsmsError
from lrsms.espnet.data.av_batches import decoding_loader
from lrsms.espnet.inference.ctc_alignment import token_times, words_of
from lrsms.espnet.inference.decode_split import Decoding
from lrsms.espnet.inference.open import open_recognizer


@dataclass(frozen=True)
class UtterancePicture:
    """Which utterance to draw with which model.

    Attributes:
        decoding: model, split and options.
        train_cuts: manifest whose utterances the babble is made of.
        voices, seed: of the babble.
    """

    decoding: Decoding
    train_cuts: Path
    voices: int = 4
    seed: int = 0

    def draw(self, utterance: str | None, conditions: Sequence[Condition], picture: Path) -> None:
        """Decode, align with CTC, and write the PNG; mouth and spectrogram are those of the last condition.

        Args:
            utterance: id of a cut; None for the first of the split.
            conditions: what the recognizer is given, a line of words each.
            picture: the file.

        Raises:
            LrsmsError: no such utterance, a model of audio, or one without CTC.
        """
        options = self.decoding.check()
        cut = self._find(utterance)
        loader = decoding_loader(self.decoding.experiment, picture.parent)
        if loader is None:
            raise LrsmsError(f"{self.decoding.experiment.config_file}: not an audio-visual encoder")
        noisy = any(condition.snr_db is not None for condition in conditions)
        babble = Babble.from_manifest(self.train_cuts, voices=self.voices, seed=self.seed) if noisy else None
        model = open_recognizer(self.decoding.experiment, options)
        if model.asr_model.ctc is None:
            raise LrsmsError(f"{self.decoding.experiment.config_file}: no CTC (ctc_weight: 0.0), so no times of words")
        readings = []
        for condition in conditions:
            array = ConditionLoader.make(loader, condition, babble)(cut)
            readings.append(_read(model, torch.from_numpy(array), _label(condition)))
        said = cut.supervisions[0].text
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw_utterance(array, loader.region, readings, picture, f"{cut.id}: {said}")

    def _find(self, utterance: str | None):
        for cut in self.decoding.sorted_cuts():
            if utterance is None or cut.id == utterance:
                return cut
        raise LrsmsError(f"{self.decoding.cuts}: no utterance {utterance!r}")


def _label(condition: Condition) -> str:
    return (
        condition.modality if condition.modality == "video" else f"{condition.modality}, {snr_name(condition.snr_db)}"
    )


@torch.no_grad()
def _read(model: Speech2Text, array: torch.Tensor, label: str) -> Reading:
    text, tokens, ids = model(array)[0][:3]
    encoded, lengths = model.asr_model.encode(array[None], torch.tensor([len(array)]))
    scores = model.asr_model.ctc.log_softmax(encoded)[0, : int(lengths[0])]
    timed = token_times(scores, [int(number) for number in ids], tokens, FRAME_SHIFT)
    words = [(word.token, word.start, word.end) for word in words_of(timed)]
    return Reading(label, words, text or "")
