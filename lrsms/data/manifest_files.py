"""Lhotse's manifests as others write them: every line is checked before Lhotse makes an object of it.

Lhotse takes any type for any field, and NaN for a number; what is wrong then shows in a training, or not at all.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lrsms.data.sources import check_sources
from lrsms.defaults import SAMPLING_RATES
from lrsms.errors import LrsmsError

if TYPE_CHECKING:
    from lhotse import MonoCut, Recording, SupervisionSegment

    Item = TypeVar("Item", Recording, SupervisionSegment, MonoCut)

_SOURCES = ("file", "url", "memory")
_OTHER_CUTS = ("MixedCut", "MultiCut", "PaddingCut")
_LARGEST = 1 << 53  # whole numbers beyond are none of seconds or samples
_TOLERANCE = 0.025  # seconds between the duration of a recording and that of its samples


def read_recordings(path: Path) -> list[Recording]:
    """Recordings of a manifest.

    Raises:
        LrsmsError: the file is damaged, or a field has a wrong type or value; names the line and the field.
    """
    from lhotse import Recording

    return list(_items(path, check_recording, Recording.from_dict))


def read_supervisions(path: Path) -> list[SupervisionSegment]:
    """Supervisions of a manifest; raises as :func:`read_recordings` does."""
    from lhotse import SupervisionSegment

    return list(_items(path, check_supervision, SupervisionSegment.from_dict))


def read_mono_cuts(path: Path) -> list[MonoCut]:
    """Cuts of a manifest, each of one channel of one recording.

    Raises:
        LrsmsError: as :func:`read_recordings` does, and for other kinds of cuts: mixed ones hold noise, offsets and
            signal-to-noise ratios that recordings and supervisions cannot say.
    """
    from lhotse import MonoCut

    return list(_items(path, check_mono_cut, MonoCut.from_dict))


def _items(path: Path, check: Callable[[Mapping, str], None], make: Callable[[dict], Item]) -> Iterator[Item]:
    for number, content in _lines(path):
        where = f"{path}: line {number}"
        check(content, where)
        check_sources(content, where)
        try:
            yield make(content)
        except Exception as error:  # of Lhotse, in a field that is not checked here
            raise LrsmsError(f"{where}: not readable by Lhotse ({type(error).__name__}: {error})") from error


def _lines(path: Path) -> Iterator[tuple[int, dict]]:
    """Number and content of each line of a file of JSON lines, ``.gz`` or not."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _parsed(line)
    except FileNotFoundError:
        raise LrsmsError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise LrsmsError(
            f"{path}: damaged behind line {number} ({error}); write it anew, if it is stage 0's with --force true"
        ) from error
    except (ValueError, RecursionError) as error:
        raise LrsmsError(f"{path}: line {number}: not JSON ({error}); expected one object in each line") from error


def _parsed(line: bytes) -> dict:
    content = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_object)
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__}")
    return content


def _object(pairs: Sequence[tuple[str, Any]]) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"{twice} occurs twice in one object")
    return content


def check_recording(content: Mapping, where: str) -> None:
    """Refuse a recording's dictionary in which a field is missing or wrong.

    Raises:
        LrsmsError: names ``where``, the field, its value and what would be right.
    """
    _check(content, where, "id", "text that is not empty", _is_name)
    rate = f"a whole number of Hz from {SAMPLING_RATES[0]} to {SAMPLING_RATES[1]}"
    _check(
        content,
        where,
        "sampling_rate",
        rate,
        lambda value: _is_count(value) and SAMPLING_RATES[0] <= value <= SAMPLING_RATES[1],
    )
    _check(content, where, "num_samples", "a whole number of samples", _is_count)
    seconds = content["num_samples"] / content["sampling_rate"]
    _check(content, where, "duration", f"{seconds:.6g} s, as num_samples and sampling_rate say",
           lambda value: _is_seconds(value) and abs(value - seconds) < _TOLERANCE)  # fmt: skip
    _check(content, where, "sources", "a list of at least one source",
           lambda value: _is_list(value, lambda source: isinstance(source, Mapping)) and value)  # fmt: skip
    for source in content["sources"]:
        _check(source, f"{where}: sources", "type", f"one of {', '.join(_SOURCES)}", lambda value: value in _SOURCES)
        _check(source, f"{where}: sources", "channels", "a list of channel numbers", _is_channels)
        _check(source, f"{where}: sources", "source", "the path of a sound file", _is_name)
    if content.get("channel_ids") is not None:
        _check(content, where, "channel_ids", "a list of channel numbers", _is_channels)


def check_supervision(content: Mapping, where: str) -> None:
    """Refuse a supervision's dictionary in which a field is missing or wrong; as :func:`check_recording` does."""
    _check(content, where, "id", "text without white space, which Kaldi's tables part words at",
           lambda value: _is_name(value) and len(value.split()) == 1 and value == value.strip())  # fmt: skip
    _check(content, where, "recording_id", "text that is not empty", _is_name)
    _check(content, where, "start", "a finite number of seconds", _is_number)
    _check(content, where, "duration", "a finite number of seconds", _is_number)
    for key in ("text", "speaker", "language", "gender"):
        if content.get(key) is not None:
            _check(content, where, key, "text", _is_text)
    if content.get("channel") is not None:
        _check(content, where, "channel", "a channel number, or a list of them",
               lambda value: _is_count(value) or _is_channels(value))  # fmt: skip


def check_mono_cut(content: Mapping, where: str) -> None:
    """Refuse a cut's dictionary that is no MonoCut with a recording, or in which a field is wrong.

    Raises:
        LrsmsError: as :func:`check_recording` does.
    """
    kind = content.get("type")
    if kind in _OTHER_CUTS:
        raise LrsmsError(
            f"{where}: a {kind}; recordings and supervisions cannot say what it holds, such as noise and its level. "
            "Write its sound first: CutSet.save_audios(folder) makes a MonoCut of each"
        )
    _check(content, where, "type", "MonoCut", lambda value: value == "MonoCut")
    _check(content, where, "id", "text that is not empty", _is_name)
    _check(content, where, "start", "seconds of at least 0", _is_seconds)
    _check(content, where, "duration", "seconds above 0", lambda value: _is_seconds(value) and value > 0)
    _check(content, where, "channel", "a channel number", _is_count)
    _check(content, where, "recording", "a recording; features alone are not enough",
           lambda value: isinstance(value, Mapping))  # fmt: skip
    check_recording(content["recording"], f"{where}: recording")
    _check(content, where, "supervisions", "a list of supervisions",
           lambda value: _is_list(value, lambda item: isinstance(item, Mapping)))  # fmt: skip
    for supervision in content["supervisions"]:
        check_supervision(supervision, f"{where}: supervisions")


def _check(content: Mapping, where: str, key: str, expected: str, is_right: Callable[[Any], object]) -> None:
    if key not in content:
        raise LrsmsError(f"{where}: no {key}; expected {expected}")
    if not is_right(content[key]):
        shown = repr(content[key])
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        raise LrsmsError(f"{where}: {key}: {shown}: expected {expected}")


def _is_text(value: object) -> bool:
    """Text that UTF-8 can hold, which half of a surrogate pair is not."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_name(value: object) -> bool:
    return _is_text(value) and bool(str(value).strip()) and "\0" not in str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST  # which NaN is not


def _is_seconds(value: object) -> bool:
    return _is_number(value) and value >= 0  # type: ignore[operator]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST


def _is_list(value: object, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_right, value))


def _is_channels(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_count, value))
