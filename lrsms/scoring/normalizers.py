"""Spellings that count as equal: both sides of an error rate are normalized by name, or neither."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from lrsms.errors import LrsmsError

NORMALIZERS = ("whisper_english", "whisper_basic")


@cache
def normalizer(name: str) -> Callable[[str], str]:
    """A text normalizer of Whisper's paper (Radford et al. 2022, appendix C).

    ``whisper_english`` takes away case, punctuation and fillers, writes numbers as digits, contractions in full and
    British spellings as American ones; ``whisper_basic``, for any language, case and punctuation alone.

    Args:
        name: one of :data:`NORMALIZERS`.

    Raises:
        LrsmsError: an unknown name, or its package is not installed.
    """
    if name not in NORMALIZERS:
        raise LrsmsError(f"normalizer: {name!r} is unknown; choose one of {', '.join(NORMALIZERS)}")
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise LrsmsError(f"normalizer: {name}: install whisper-normalizer: pip install lrsms[whisper]") from error
    return EnglishTextNormalizer() if name == "whisper_english" else BasicTextNormalizer()
