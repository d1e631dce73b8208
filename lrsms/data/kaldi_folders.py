"""Kaldi folders as manifests: ``wav.scp``, ``text``, ``utt2spk`` and perhaps ``segments``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lrsms.data.excluded import Exclusion
from lrsms.data.manifests import Split, open_recordings, pair, read_table, require_layout
from lrsms.errors import LrsmsError
from lrsms.text_files import split_words

if TYPE_CHECKING:
    from lhotse import Recording

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)  # what else float() takes is a slip


def read_wav_scp(path: Path) -> dict[str, Path]:
    """Recording id to file; raises :class:`LrsmsError` if the table is malformed or holds commands."""
    table = read_table(path)
    pipes = [name for name, value in table.items() if value.endswith("|")]
    if pipes:
        raise LrsmsError(
            f"{path}: {len(pipes)} entries are commands, such as the line of {pipes[0]!r}: {table[pipes[0]]!r}; "
            "only paths of audio files are read: run the commands once and list their outputs"
        )
    return {name: Path(value).expanduser() for name, value in table.items()}


def _read_segments(path: Path, recordings: Mapping[str, Recording]) -> dict[str, tuple[str, float, float]]:
    """Utterance id to recording id, start and end in seconds; an end of -1 is that of the recording, as in Kaldi."""
    segments = {}
    for name, value in read_table(path).items():
        try:
            recording, *times = split_words(value)
            start, end = map(_seconds, times)
        except ValueError:
            raise LrsmsError(
                f"{path}: {name} {value}: expected utterance, recording, start and end in seconds, both finite"
            ) from None
        if end == -1 and recording in recordings:
            end = recordings[recording].duration
        segments[name] = (recording, start, end)
    return segments


def _seconds(text: str) -> float:
    """A finite number; :class:`ValueError` if it is none."""
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def read_kaldi(folder: Path, *, num_jobs: int, paths: Mapping[str, Path] | None = None) -> Split:
    """Manifests of one Kaldi folder; what lacks audio, text, speaker or a valid segment is excluded.

    Args:
        folder: with ``wav.scp``, ``text``, ``utt2spk`` and perhaps ``segments``.
        num_jobs: threads that read headers.
        paths: recording id to file, where they are others than in ``wav.scp``.

    Raises:
        LrsmsError: a file is missing or malformed, an id repeats, or ``wav.scp`` holds commands.
    """
    from lhotse import SupervisionSegment

    require_layout(folder, ["wav.scp", "text", "utt2spk"], "--kaldi_dir")
    paths = read_wav_scp(folder / "wav.scp") if paths is None else paths
    texts, speakers = read_table(folder / "text"), read_table(folder / "utt2spk")
    recordings, exclusions = open_recordings(paths, num_jobs=num_jobs, title=f"{folder.name}: read headers")
    if (folder / "segments").exists():
        segments = _read_segments(folder / "segments", recordings)
    else:
        segments = {name: (name, 0.0, item.duration) for name, item in recordings.items()}
    failed = {item.id: item for item in exclusions}
    supervisions = []
    for name, text in texts.items():
        recording, start, end = segments.get(name, (name, 0.0, 0.0))
        if recording in failed:
            if recording != name:  # an utterance of a broken recording: the recording itself is listed already
                exclusions.append(Exclusion(name, failed[recording].reason, failed[recording].detail))
        elif name not in segments:
            exclusions.append(Exclusion(name, "no_audio", "a transcript without audio in wav.scp or segments"))
        elif name not in speakers:
            exclusions.append(Exclusion(name, "no_speaker", f"not in {folder / 'utt2spk'}"))
        elif recording not in recordings:
            exclusions.append(Exclusion(name, "no_audio", f"no recording {recording}"))
        elif end <= start:
            exclusions.append(Exclusion(name, "outside_recording", f"segment from {start} to {end} s"))
        else:
            supervisions.append(
                SupervisionSegment(name, recording, start, round(end - start, 8), text=text, speaker=speakers[name])
            )
    known = {item.id for item in exclusions}
    for name in segments:
        if name not in texts and name not in known:
            exclusions.append(Exclusion(name, "no_text", f"not in {folder / 'text'}"))
    return pair(recordings.values(), supervisions, exclusions, str(folder))
