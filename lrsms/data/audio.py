"""Sound files of any kind as what a model hears: one channel at one sampling rate."""

from __future__ import annotations

import wave
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from lrsms.errors import LrsmsError

SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64"}
    | {".rf64", ".sph", ".nist", ".voc", ".ircam", ".sf"}
)
_BLOCK_SECONDS = 30  # read at once: bounds the memory of an hour of several channels
_STREAMED = 0x7FFF0000  # bytes; WAV files written to a pipe announce about this size, or the double of it


def find_audio(folder: Path) -> list[Path]:
    """Sound files under ``folder``, at any depth, by path; known by their suffix, hidden ones left out.

    Raises:
        LrsmsError: there is none.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not files:
        raise LrsmsError(f"{folder}: no sound file in this folder; looked for {' '.join(sorted(SUFFIXES))}")
    return files


def announced_samples(path: Path) -> int | None:
    """Samples per channel that a PCM WAV header promises; None for other formats.

    libsndfile silently shortens the count to what a truncated WAV file holds, so the header is read apart.
    """
    try:
        with wave.open(str(path), "rb") as file:
            samples, width = file.getnframes(), file.getnchannels() * file.getsampwidth()
            return None if samples * width >= _STREAMED else samples
    except (wave.Error, EOFError, OSError):
        return None


def duration(path: Path) -> float:
    """Seconds that a sound file's header says; 0 if it cannot be read."""
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError, TypeError):
        return 0.0
    return info.frames / info.samplerate


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
            samples = _read(file, sampling_rate, channel, name)
            held = file.tell()
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).rpartition(": ")[2].strip()
        raise LrsmsError(f"{name}: cannot be read as sound ({reason})") from error
    promised = announced_samples(source) if isinstance(source, Path) else None
    if promised is not None and promised > held:
        raise LrsmsError(f"{name}: cut off, it holds {held} of the {promised} samples that its header announces")
    return samples


def _read(file: soundfile.SoundFile, sampling_rate: int, channel: int | None, name: str) -> np.ndarray:
    if channel is not None and not 0 <= channel < file.channels:
        raise LrsmsError(f"{name}: no channel {channel}; it has {file.channels}, counted from 0")
    rate = file.samplerate
    resampler = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32") if rate != sampling_rate else None
    pieces, position = [], 0
    while len(block := file.read(_BLOCK_SECONDS * rate, dtype="float32", always_2d=True)):
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
