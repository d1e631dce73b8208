"""From a cut to the frame-synchronous array of its utterance, lazily: what training and decoding read alike.

The rule for lengths: **the video is the clock** (see :mod:`lrsms.avsr.frames`). Frame ``j`` of an utterance is
the video frame that was on at its center, ``(j + 0.5) / 25`` seconds after the cut's start; this also makes 25 frames a
second of video whose speed has been changed with its sound's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from lhotse.array import TemporalArray
from lhotse.cut import Cut

from lrsms.avsr.augmentation import crop, mask, resize, time_masks
from lrsms.avsr.config import AvConfig
from lrsms.avsr.frames import FRAME_RATE, FRAME_SHIFT, SAMPLES, SAMPLING_RATE, TOLERANCE, fit_samples, pack
from lrsms.avsr.noise import Babble, mix
from lrsms.avsr.seeds import rng_for
from lrsms.data.mouths import FIELD, regions_path
from lrsms.errors import LrsmsError


def mouth_of(cut: Cut) -> TemporalArray | None:
    """The cut's mouth regions, not loaded; None for a cut of sound alone."""
    return (getattr(cut, "custom", None) or {}).get(FIELD)


def count_frames(cut: Cut) -> int:
    """Rows that the array of ``cut`` will have, if its video can be read; reads nothing."""
    mouth = mouth_of(cut)
    return math.ceil(cut.num_samples / SAMPLES) if mouth is None else len(_indices(cut, mouth))


def _indices(cut: Cut, mouth: TemporalArray) -> np.ndarray:
    """Which stored frame is on at the center of each frame of the cut.

    Raises:
        LrsmsError: the video ends more than the tolerance before the cut.
    """
    left = mouth.end - cut.start  # seconds of video from the cut's start
    if left < cut.duration - TOLERANCE or cut.start < mouth.start - TOLERANCE:
        raise LrsmsError(
            f"{cut.id}: {max(left, 0):.2f} s of video are left of {mouth.end:.2f} s, the cut needs {cut.duration:.2f} s"
        )
    # A cut that ends with its recording has all of the video's frames, a cut from within as many as its time holds.
    duration = left if left <= cut.duration + TOLERANCE else cut.duration
    centers = (np.arange(max(1, round(duration / FRAME_SHIFT))) + 0.5) * FRAME_SHIFT
    indices = np.floor((cut.start - mouth.start + centers) / mouth.frame_shift + 1e-6).astype(int)
    return np.clip(indices, 0, mouth.num_frames - 1)


def load_regions(cut: Cut) -> np.ndarray | None:
    """Mouth regions of a cut, 25 a second: uint8 ``(frames, rows, columns)``; None for a cut of sound alone.

    Only the part of the file that the cut covers is read.

    Raises:
        LrsmsError: the regions are missing, damaged or too short.
    """
    mouth = mouth_of(cut)
    if mouth is None:
        return None
    indices = _indices(cut, mouth)
    path = regions_path(mouth)
    try:
        if mouth.array.storage_type == "numpy_files":
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            stored = mouth.load()
        if list(stored.shape) != list(mouth.shape) or stored.dtype != np.uint8:
            raise ValueError(f"{stored.dtype} {stored.shape}, its manifest says uint8 {tuple(mouth.shape)}")
        return stored[indices]
    except (OSError, ValueError, EOFError) as error:
        raise LrsmsError(f"{cut.id}: {path}: the mouth regions cannot be read ({error}); run stages 0 and 1") from error


@dataclass
class Loader:
    """Turns cuts into arrays ``(frames, 640 + height * width)``, for training or, without randomness, for all else.

    Attributes:
        region: height and width in pixels of the window that the model sees.
        config: augmentation and noise.
        train: whether to augment; otherwise the window is in the center and only ``valid_snrs`` count.
        seed, epoch: what is drawn depends on them and on the utterance alone.
        babble: source of noise; None for none.
        report: called with the id of an utterance whose video cannot be read and the reason; it then has its sound
            alone. None raises the error.
    """

    region: tuple[int, int]
    config: AvConfig = field(default_factory=AvConfig)
    train: bool = False
    seed: int = 0
    epoch: int = 0
    babble: Babble | None = None
    report: Callable[[str, str], None] | None = None

    def __call__(self, cut: Cut) -> np.ndarray:
        """The array of one utterance.

        Raises:
            LrsmsError: another sampling rate than 16 kHz, regions smaller than the window, or, without ``report``,
                video that cannot be read.
        """
        if cut.sampling_rate != SAMPLING_RATE:
            raise LrsmsError(
                f"{cut.id}: {cut.sampling_rate} Hz; audio-visual models take {SAMPLING_RATE}: run stage 1 with "
                f"--fs {SAMPLING_RATE}"
            )
        # Validation is the same in every epoch.
        rng = rng_for(self.seed, self.epoch, cut.id) if self.train else rng_for(self.seed, cut.id)
        regions = self._regions(cut)
        samples = cut.load_audio()[0]
        samples = samples if regions is None else fit_samples(samples, len(regions), TOLERANCE + FRAME_SHIFT)
        hard = self.train and self.epoch > self.config.clean_epochs
        snrs = self.config.snrs if self.train else self.config.valid_snrs
        snr = snrs[rng.integers(len(snrs))]
        if hard or not self.train:
            samples = self.noisy(cut, samples, snr)
        if regions is not None:
            regions = self._window(regions, rng)
        if hard:
            samples, regions = self._masked(samples, regions, rng)
        return pack(samples, regions, size=self.region)

    def noisy(self, cut: Cut, samples: np.ndarray, snr_db: float | None) -> np.ndarray:
        """``samples`` of ``cut`` with babble of ``snr_db`` dB; None for no noise."""
        if snr_db is None or self.babble is None:
            return samples
        key = f"{self.epoch} {cut.id}" if self.train else cut.id
        speaker = cut.supervisions[0].speaker
        return mix(samples, self.babble.draw(len(samples), key=key, speaker=speaker, utterance=cut.id), snr_db)

    def _regions(self, cut: Cut) -> np.ndarray | None:
        try:
            return load_regions(cut)
        except LrsmsError as error:
            if self.report is None:
                raise
            self.report(cut.id, str(error))
            return None

    def _window(self, regions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        regions = resize(regions, self.config.resize)
        regions = crop(regions, self.region, rng if self.train and self.config.random_crop else None)
        return regions[:, :, ::-1] if self.train and rng.random() < self.config.flip else regions

    def _masked(
        self, samples: np.ndarray, regions: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        audio, video = self.config.audio_mask, self.config.video_mask
        if audio is not None:
            masks = time_masks(len(samples), SAMPLING_RATE, rng, seconds=audio.seconds, every=audio.every)
            samples = mask(samples, masks)
        if video is not None and regions is not None:
            masks = time_masks(len(regions), FRAME_RATE, rng, seconds=video.seconds, every=video.every)
            regions = mask(regions, masks)
        return samples, regions
