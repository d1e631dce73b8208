"""The ``av_conf`` block of a training YAML: what training does to sound and video as they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from lrsms.avsr.noise import CLEAN, parse_snr
from lrsms.errors import LrsmsError
from lrsms.typed_config import Positive, Share, WholeNumber, from_yaml

_SNRS = ("snrs", "valid_snrs")
Seconds = Annotated[Positive, Meta(description="a positive number of seconds")]
Voices = Annotated[int, Meta(ge=1, le=100, description="a whole number from 1 to 100")]
Pixels = Annotated[int, Meta(ge=8, le=512, description="pixels, 8 to 512")]


@dataclass(frozen=True)
class TimeMask:
    """One mask for each ``every`` seconds, between 0 and ``seconds`` long. The default is auto_avsr's."""

    seconds: Seconds = 0.4
    every: Seconds = 1.0


@dataclass(frozen=True)
class AvConfig:
    """How utterances are loaded.

    Attributes:
        snrs: dB of babble in training, one drawn for each utterance and epoch; None is no noise.
        valid_snrs: the same for validation, one for each utterance, always the same.
        clean_epochs: the first so many epochs of training have neither noise nor masks: from a standing start in noise
            a small corpus teaches its grammar and no sounds. Those of a dense warm-up (``--warmup_epochs``) count.
        babble_voices: how many talk at once in the noise.
        resize: pixels of a side that the stored regions are brought to before the window is taken; None keeps them.
        random_crop: whether the window into the mouth regions is anywhere in training; else in the center.
        flip: share of training utterances whose mouth is mirrored.
        audio_mask, video_mask: stretches of training utterances that are zero; None for none.
    """

    snrs: tuple[float | None, ...] = (None,)
    valid_snrs: tuple[float | None, ...] = (None,)
    clean_epochs: WholeNumber = 0
    babble_voices: Voices = 4
    resize: Pixels | None = None
    random_crop: bool = True
    flip: Share = 0.5
    audio_mask: TimeMask | None = field(default_factory=TimeMask)
    video_mask: TimeMask | None = field(default_factory=TimeMask)

    @classmethod
    def parse(cls, block: Mapping | None, where: str = "av_conf") -> AvConfig:
        """Check a block of YAML.

        Raises:
            LrsmsError: an unknown key or a value out of range; names both and what is allowed.
        """
        options = {} if block is None else block
        if isinstance(options, Mapping):
            options = {key: _snrs(value, f"{where}.{key}") if key in _SNRS else value for key, value in options.items()}
        return from_yaml(cls, options, where)

    @property
    def noisy(self) -> bool:
        """Whether any utterance gets noise."""
        return any(snr is not None for snr in (*self.snrs, *self.valid_snrs))


def _snrs(values: object, where: str) -> tuple[float | None, ...]:
    if not isinstance(values, (list, tuple)) or not values:
        raise LrsmsError(f"{where}: {values!r}: expected a list of dB, such as [-5, 0, 5, {CLEAN}]")
    return tuple(parse_snr(value, where) for value in values)
