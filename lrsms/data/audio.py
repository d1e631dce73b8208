"""Sound files of any kind as what a model hears: one channel at one sampling rate."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from lrsms.data.containers import COMPRESSED, LONGER, length_fault
from lrsms.defaults import SAMPLING_RATES
from lrsms.errors import LrsmsError

SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64"}
    | {".rf64", ".sph", ".nist", ".voc", ".ircam", ".sf"}
)
_OTHER_SOUND = frozenset(  # that libsndfile does not read: each is an error that names the file
    {".m4a", ".m4b", ".mp4", ".aac", ".wma", ".asf", ".amr", ".awb", ".ape", ".wv", ".tta", ".ac3", ".eac3", ".dts"}
    | {".mka", ".webm", ".mkv", ".mov", ".avi", ".mpg", ".mpeg", ".mts", ".3gp", ".spx", ".ra", ".rm", ".shn", ".dsf"}
)
_BLOCK_SECONDS = 30  # read at once: bounds the memory of an hour of several channels
_UNKNOWN = 1 << 62  # samples; libsndfile announces more of a FLAC file that was written to a pipe


def find_audio(folder: Path) -> list[Path]:
    """Sound files under ``folder``, at any depth and through links, by path; hidden ones are left out.

    They are known by their suffix, of whatever sound it is, or else by their content, if libsndfile reads it.

    Raises:
        LrsmsError: there is none.
    """
    files = [path for path in _visible_files(folder) if _is_sound(path)]
    if not files:
        raise LrsmsError(f"{folder}: no sound file in this folder; looked for {' '.join(sorted(SUFFIXES))}")
    return files


def left_out(folder: Path, found: Iterable[Path]) -> Counter[str]:
    """How many files under ``folder`` are none of ``found``, by suffix; hidden ones do not count."""
    known = set(found)
    return Counter(path.suffix.lower() or path.name for path in _visible_files(folder) if path not in known)


def _visible_files(folder: Path) -> list[Path]:
    files, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place) / name for name in names if not name.startswith(".")]
    return sorted(path for path in files if path.is_file())


def _is_sound(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES | _OTHER_SOUND or duration(path) > 0


def duration(path: Path) -> float:
    """Seconds that a sound file's header says; 0 if it cannot be read."""
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError, TypeError):
        return 0.0
    return 0.0 if info.format == "RAW" else info.frames / info.samplerate


def read_audio(source: Path | BinaryIO, sampling_rate: int, channel: int | None = None, name: str = "") -> np.ndarray:
    """Decode, reduce to one channel and resample (soxr), block by block.

    Args:
        source: a file, or an open one that can seek; whatever libsndfile reads.
        sampling_rate: wanted, in Hz.
        channel: which one, from 0; None for the mean of all.
        name: what to call ``source`` in messages.

    Returns:
        ``(samples,)`` float32, in [-1, 1] if the file is; empty if it holds no sample.

    Raises:
        LrsmsError: missing, empty, damaged or cut off, no such channel, or NaN or infinite samples.
    """
    name = name or str(source)
    if isinstance(source, Path):
        if not source.is_file():
            raise LrsmsError(f"{name}: no such file")
        if source.stat().st_size == 0:
            raise LrsmsError(f"{name}: an empty file, 0 bytes")
    try:
        with soundfile.SoundFile(source) as file:
            if file.format == "RAW":  # libsndfile goes by the name then, and hears anything that is called .au
                raise LrsmsError(f"{name}: cannot be read as sound (no header; write it anew, such as as WAV)")
            check_rate(file.samplerate, name)
            if channel is not None and not 0 <= channel < file.channels:
                raise LrsmsError(f"{name}: no channel {channel}; it has {file.channels}, counted from 0")
            announced = file.format, file.frames, file.samplerate
            if file.frames > _UNKNOWN:
                return _read_by_ffmpeg(source, file.samplerate, sampling_rate, channel, name)
            samples = _mono(_blocks(file), file.samplerate, sampling_rate, channel, name)
            held = file.tell()
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).rpartition(": ")[2].strip()
        raise LrsmsError(f"{name}: cannot be read as sound ({reason})") from error
    fault = length_fault(source, *announced, held)
    if fault and fault.reason == LONGER and announced[0] in COMPRESSED:
        return _read_by_ffmpeg(source, announced[2], sampling_rate, channel, name)
    if fault:
        raise LrsmsError(f"{name}: {fault.detail}")
    return samples


def check_rate(rate: int, name: str) -> None:
    """Refuse a sampling rate that no sound has, which would make hours of a few bytes.

    Args:
        rate: in Hz.
        name: of the file or option, for the message.

    Raises:
        LrsmsError: it is below 1 kHz or above 1 MHz.
    """
    if not SAMPLING_RATES[0] <= rate <= SAMPLING_RATES[1]:
        raise LrsmsError(
            f"{name}: a sampling rate of {rate} Hz; expected {SAMPLING_RATES[0]} to {SAMPLING_RATES[1]} Hz"
        )


def _blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """``(samples, channels)`` of a file, 30 s at once."""
    while len(block := file.read(_BLOCK_SECONDS * file.samplerate, dtype="float32", always_2d=True)):
        yield block


def _read_by_ffmpeg(
    source: Path | BinaryIO, rate: int, sampling_rate: int, channel: int | None, name: str
) -> np.ndarray:
    """All that a file holds where libsndfile stops at what its first header announces, as with joined MP3."""
    import av

    def blocks() -> Iterator[np.ndarray]:
        kind, resampler = None, av.AudioResampler("fltp")
        with av.open(str(source) if isinstance(source, Path) else source, mode="r") as container:
            for frame in container.decode(audio=0):
                if kind != (kind := (frame.layout.name, frame.sample_rate, frame.format.name)):  # of files joined
                    resampler = av.AudioResampler("fltp", frame.layout, rate)
                for part in resampler.resample(frame):
                    yield part.to_ndarray().T

    if not isinstance(source, Path):
        source.seek(0)
    try:
        return _mono(blocks(), rate, sampling_rate, channel, name)
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise LrsmsError(f"{name}: cannot be read as sound ({error})") from error


def _mono(blocks: Iterable[np.ndarray], rate: int, sampling_rate: int, channel: int | None, name: str) -> np.ndarray:
    resampler = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32") if rate != sampling_rate else None
    pieces, position = [], 0
    for block in blocks:
        mono = block.mean(axis=1) if channel is None else np.ascontiguousarray(block[:, channel])
        check_finite(mono, rate, name, position)
        position += len(mono)
        pieces.append(mono if resampler is None else resampler.resample_chunk(mono))
    if resampler is not None and position:
        pieces.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def check_finite(samples: np.ndarray, sampling_rate: int, name: str, position: int = 0) -> None:
    """Refuse NaN and infinite samples.

    Args:
        samples: ``(samples,)``.
        sampling_rate: in Hz.
        name: what to call them in the message.
        position: of the first, in samples from the start.

    Raises:
        LrsmsError: a sample is not finite; says how many are and where the first is.
    """
    wrong = np.flatnonzero(~np.isfinite(samples))
    if len(wrong):
        where = (position + wrong[0]) / sampling_rate
        raise LrsmsError(f"{name}: {len(wrong)} samples are NaN or infinite, the first at {where:.3f} s")


def resample(samples: np.ndarray, rate: int, sampling_rate: int) -> np.ndarray:
    """``(samples,)`` at ``rate`` Hz as float32 at ``sampling_rate`` Hz."""
    samples = np.asarray(samples, dtype=np.float32)
    return samples if rate == sampling_rate or not len(samples) else soxr.resample(samples, rate, sampling_rate)


def short_names(paths: Iterable[Path]) -> dict[Path, str]:
    """A name for each path that no other has: its stem, with as many folders before it as that takes."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in dict.fromkeys(paths):
        parts = [part.strip("/") for part in path.with_suffix("").parts]
        candidates = ["_".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        candidates += (f"{path.stem}_{number}" for number in range(2, len(taken) + 3))
        names[path] = next(name for name in candidates if name not in taken)
        taken.add(names[path])
    return names
