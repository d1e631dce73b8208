"""The ``av_conf`` block of a training YAML: what training does to sound and video as they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from lrsms.avsr.noise import CLEAN, parse_snr
from lrsms.errors import LrsmsError, refuse_unknown


@dataclass(frozen=True)
class TimeMask:
    """One mask for each ``every`` seconds, between 0 and ``seconds`` long. The default is auto_avsr's."""

    seconds: float = 0.4
    every: float = 1.0


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
        random_crop: whether the window into the mouth regions is anywhere in training; else in the centre.
        flip: share of training utterances whose mouth is mirrored.
        audio_mask, video_mask: stretches of training utterances that are zero; None for none.
    """

    snrs: tuple[float | None, ...] = (None,)
    valid_snrs: tuple[float | None, ...] = (None,)
    clean_epochs: int = 0
    babble_voices: int = 4
    resize: int | None = None
    random_crop: bool = True
    flip: float = 0.5
    audio_mask: TimeMask | None = field(default_factory=TimeMask)
    video_mask: TimeMask | None = field(default_factory=TimeMask)

    @classmethod
    def parse(cls, block: Mapping | None, where: str = "av_conf") -> AvConfig:
        """Check a block of YAML.

        Raises:
            LrsmsError: an unknown key or a value out of range; names both and what is allowed.
        """
        if block is not None and not isinstance(block, Mapping):
            raise LrsmsError(f"{where}: {block!r} is not a mapping of options")
        options = dict(block or {})
        _check_keys(options, cls, where)
        for name in ("snrs", "valid_snrs"):
            if name in options:
                options[name] = _snrs(options[name], f"{where}.{name}")
        for name in ("audio_mask", "video_mask"):
            if options.get(name) is not None:
                options[name] = _time_mask(options[name], f"{where}.{name}")
        numbers = (("clean_epochs", 0, 10**6, int), ("babble_voices", 1, 100, int), ("flip", 0, 1, (int, float)))
        for name, low, high, kind in numbers:
            value = options.get(name, low)
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                raise LrsmsError(f"{where}.{name}: {value!r}: expected a number from {low} to {high}")
        side = options.get("resize")
        if side is not None and (isinstance(side, bool) or not isinstance(side, int) or not 8 <= side <= 512):
            raise LrsmsError(f"{where}.resize: {side!r}: expected pixels, 8 to 512, or null to keep the stored size")
        if not isinstance(options.get("random_crop", True), bool):
            raise LrsmsError(f"{where}.random_crop: {options['random_crop']!r}: expected true or false")
        return cls(**options)

    @property
    def noisy(self) -> bool:
        """Whether any utterance gets noise."""
        return any(snr is not None for snr in (*self.snrs, *self.valid_snrs))


def _check_keys(options: Mapping, cls: type, where: str) -> None:
    refuse_unknown(options, [item.name for item in fields(cls)], where)


def _snrs(values: object, where: str) -> tuple[float | None, ...]:
    if not isinstance(values, (list, tuple)) or not values:
        raise LrsmsError(f"{where}: {values!r}: expected a list of dB, such as [-5, 0, 5, {CLEAN}]")
    return tuple(parse_snr(value, where) for value in values)


def _time_mask(block: object, where: str) -> TimeMask:
    if not isinstance(block, Mapping):
        raise LrsmsError(f"{where}: {block!r}: expected such as {{seconds: 0.4, every: 1.0}}, or null for no masks")
    _check_keys(block, TimeMask, where)
    for key, value in block.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise LrsmsError(f"{where}.{key}: {value!r}: expected a positive number of seconds")
    return TimeMask(**block)
