"""Babble: several other people talk at once, mixed into an utterance at a signal-to-noise ratio that is asked for.

Everything is deterministic: the same seed, key and pool of utterances give the same noise, whatever was drawn before
and in whichever process.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lrsms.avsr.seeds import rng_for
from lrsms.errors import LrsmsError

if TYPE_CHECKING:  # the checks of a config do not need it, and it takes half a second
    from lhotse.cut import Cut

CLEAN = "clean"  # in place of a number of dB: no noise at all
_POOL = 2000  # utterances that noise is made of
_KEPT = 2**25  # samples of them that a loading process keeps decoded: 128 MB
_PERTURBED = re.compile(r"_sp[\d.]+$")


def mix(samples: np.ndarray, babble: np.ndarray, snr_db: float | None) -> np.ndarray:
    """Add ``babble`` to ``samples`` at ``snr_db``.

    The ratio is that of the two mean powers over the whole utterance, its pauses included. Noise that is shorter than
    the utterance is repeated, longer noise is cut. Where the sum would leave [-1, 1] it is scaled down as a whole, and
    the ratio stays. An utterance or noise without any power is left as it is: it has no ratio.

    Args:
        samples: ``(samples,)`` in [-1, 1].
        babble: ``(any number of samples,)``.
        snr_db: dB; None for no noise.

    Returns:
        ``(samples,)`` float32.
    """
    samples = np.asarray(samples, dtype=np.float32)
    if snr_db is None or not len(samples) or not len(babble):
        return samples
    noise = np.resize(np.asarray(babble, dtype=np.float64), len(samples))
    speech_power, noise_power = float(np.mean(np.square(samples, dtype=np.float64))), float(np.mean(noise**2))
    if speech_power == 0 or noise_power == 0:
        return samples
    mixed = samples + noise * np.sqrt(speech_power / noise_power / 10 ** (snr_db / 10))
    return (mixed / max(1.0, np.abs(mixed).max())).astype(np.float32)


def parse_snr(value: object, where: str) -> float | None:
    """A number of dB, or ``clean`` (None).

    Raises:
        LrsmsError: anything else; names ``where`` and the value.
    """
    if value == CLEAN:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise LrsmsError(f"{where}: {value!r}: expected dB, such as 5 or -2.5, or {CLEAN}")
    return float(value)


class Babble:
    """Noise of people who talk, made of a pool of utterances whenever it is asked for.

    For each draw, ``voices`` utterances of other speakers than the listener's are taken at random, brought to equal
    power, repeated to the length with a random beginning, and summed. Where the pool has fewer utterances by others (a
    corpus of one speaker), other utterances of the same speaker are taken as well: then the noise has the very voice
    that is to be recognized.

    Args:
        cuts: the pool, training utterances without speed perturbation.
        voices: how many talk at once.
        seed: of the draws.

    Raises:
        LrsmsError: the pool has fewer utterances than are needed.
    """

    def __init__(self, cuts: Sequence[Cut], *, voices: int = 4, seed: int = 0):
        if voices < 1:
            raise LrsmsError(f"babble_voices: {voices}: must be at least 1")
        if len(cuts) < voices + 1:
            raise LrsmsError(
                f"babble of {voices} voices is made of other training utterances, but there are {len(cuts)}; "
                f"lower babble_voices, or train on more"
            )
        self.cuts, self.voices, self.seed = list(cuts), voices, seed
        self.speakers = [cut.supervisions[0].speaker for cut in self.cuts]
        self._decoded: dict[int, np.ndarray] = {}
        self._room = _KEPT

    @classmethod
    def from_manifest(cls, path: Path, *, voices: int = 4, seed: int = 0) -> Babble:
        """A pool of at most 2000 utterances of the manifest, chosen by ``seed``.

        Raises:
            LrsmsError: the manifest is missing or has too few utterances.
        """
        if not path.exists():
            raise LrsmsError(f"{path}: no such manifest of cuts; babble is made of training utterances, run stage 1")
        from lrsms.data.cut_files import read_cuts

        return cls(_sample(read_cuts(path), _POOL, seed), voices=voices, seed=seed)

    def draw(self, num_samples: int, *, key: str, speaker: str | None = None, utterance: str = "") -> np.ndarray:
        """Noise for one utterance.

        Args:
            num_samples: how much.
            key: the draw depends on the seed and on it, such as the epoch and the utterance's id.
            speaker: whose utterances are avoided.
            utterance: id of the utterance itself, never part of its own noise (a speed-perturbed one's neither).

        Returns:
            ``(num_samples,)`` float32 with unit mean power.
        """
        rng = rng_for(self.seed, key)
        own = _PERTURBED.sub("", utterance)
        usable = [number for number, cut in enumerate(self.cuts) if cut.id != own]
        others = [number for number in usable if self.speakers[number] != speaker]
        chosen = rng.choice(others if len(others) >= self.voices else usable, size=self.voices, replace=False)
        noise = np.zeros(num_samples, dtype=np.float64)
        for number in chosen:
            voice = self._voice(number).astype(np.float64)
            power = np.sqrt(np.mean(voice**2)) if len(voice) else 0.0
            if power > 0:
                noise += np.resize(np.roll(voice, -int(rng.integers(len(voice)))), num_samples) / power
        power = np.sqrt(np.mean(noise**2)) if num_samples else 0.0
        return (noise / power if power > 0 else noise).astype(np.float32)

    def _voice(self, number: int) -> np.ndarray:
        """Samples of an utterance of the pool; the first ones asked for are kept."""
        if number in self._decoded:
            return self._decoded[number]
        voice = self.cuts[number].load_audio()[0]
        if len(voice) <= self._room:
            self._decoded[number] = voice
            self._room -= len(voice)
        return voice


def _sample(cuts: Iterable[Cut], limit: int, seed: int) -> list[Cut]:
    """``limit`` of ``cuts``, each as likely, in one pass over a manifest of any size (Vitter's algorithm R)."""
    rng = random.Random(seed)
    sample: list[Cut] = []
    seen = 0
    for cut in cuts:
        if _PERTURBED.search(cut.id):
            continue
        seen += 1
        if len(sample) < limit:
            sample.append(cut)
        elif (place := rng.randrange(seen)) < limit:
            sample[place] = cut
    return sample
