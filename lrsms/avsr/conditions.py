"""Conditions to decode under: noise at a signal-to-noise ratio, and which streams there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from lhotse.cut import Cut

from lrsms.avsr.frames import SAMPLES
from lrsms.avsr.loading import Loader
from lrsms.avsr.noise import CLEAN, Babble
from lrsms.errors import LrsmsError

MODALITIES = ("audio", "video", "audiovisual")
SNRS = (None, 20.0, 15.0, 10.0, 5.0, 0.0, -5.0)  # dB; None is no noise


@dataclass(frozen=True)
class Condition:
    """What the recognizer is given.

    Attributes:
        modality: ``audio`` (the video's part is zeros), ``video`` (the audio's part is), or ``audiovisual``.
        snr_db: of babble in the audio; None for no noise.
    """

    modality: str
    snr_db: float | None = None

    @property
    def name(self) -> str:
        """Name of its folder, such as ``audio_0dB`` or ``audiovisual_clean``; ``video`` has no noise to name."""
        return "video" if self.modality == "video" else f"{self.modality}_{snr_name(self.snr_db)}"


def snr_name(snr_db: float | None) -> str:
    """The ratio in words: ``clean``, ``5dB``, ``-2.5dB``."""
    return CLEAN if snr_db is None else f"{snr_db:g}dB"


def parse_snrs(text: str) -> list[float | None]:
    """Parse numbers of dB and ``clean``, separated by spaces.

    Raises:
        LrsmsError: anything else.
    """
    snrs = []
    for word in text.split():
        try:
            snrs.append(None if word == CLEAN else float(word))
        except ValueError:
            raise LrsmsError(f"--snrs: {word!r} is neither a number of dB nor {CLEAN}") from None
    return snrs


def grid(modalities: Sequence[str], snrs: Sequence[float | None]) -> list[Condition]:
    """Every modality at every ratio, video once: noise in the sound does not reach it.

    Raises:
        LrsmsError: an unknown modality, or nothing at all.
    """
    for modality in modalities:
        if modality not in MODALITIES:
            raise LrsmsError(f"--modalities: {modality!r} is unknown; some of {' '.join(MODALITIES)}")
    conditions = [
        Condition(modality, snr) for modality in modalities for snr in ([None] if modality == "video" else snrs)
    ]
    if not conditions:
        raise LrsmsError("--modalities, --snrs: nothing to decode; leave them out for all")
    return list(dict.fromkeys(conditions))


@dataclass(frozen=True)
class ConditionLoader:
    """Turns a cut into the array ``(frames, 640 + height * width)`` of its utterance under a condition.

    The noise of an utterance depends on the seed and on the utterance alone: it is the same at every ratio.

    Attributes:
        loader: for decoding: without augmentation.
        condition: what to make of it.
    """

    loader: Loader
    condition: Condition

    @classmethod
    def make(cls, loader: Loader, condition: Condition, babble: Babble | None) -> ConditionLoader:
        """One condition of a loader.

        Args:
            loader: of the model.
            condition: its noise replaces that of the loader.
            babble: what the noise is made of; not needed without noise.
        """
        noise = condition.modality != "video" and condition.snr_db is not None
        config = replace(loader.config, valid_snrs=(condition.snr_db if noise else None,))
        return cls(replace(loader, train=False, config=config, babble=babble if noise else None), condition)

    def __call__(self, cut: Cut) -> np.ndarray:
        """The array; a stream that the condition leaves out is zeros.

        Raises:
            LrsmsError: what the loader cannot read.
        """
        array = self.loader(cut)
        if self.condition.modality == "audio":
            array[:, SAMPLES:] = 0.0
        elif self.condition.modality == "video":
            array[:, :SAMPLES] = 0.0
        return array
