"""The sound tracks of a corpus of videos, each to a file of its own."""

from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
import soundfile
from tqdm.contrib.concurrent import thread_map

from lrsms.data.excluded import Exclusion
from lrsms.files import atomic_write

SAMPLING_RATE = 16000  # Hz, of the extracted audio


def extract_audio(video: Path, flac: Path) -> None:
    """Write the first sound track of ``video`` to ``flac``: 16 kHz, mono, 16 bit; atomic.

    Raises:
        av.FFmpegError, ValueError: the file cannot be decoded or has no sound.
    """
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLING_RATE)
    with av.open(str(video)) as container:
        if not container.streams.audio:
            raise ValueError("no sound track")
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    samples = [frame.to_ndarray()[0] for frame in [*frames, *resampler.resample(None)]]
    if not samples:
        raise ValueError("the sound track is empty")
    flac.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(flac) as unfinished:
        soundfile.write(unfinished, np.concatenate(samples), SAMPLING_RATE, format="FLAC", subtype="PCM_16")


def extract_sound(
    videos: Mapping[str, Path], audio_dir: Path, *, num_jobs: int, title: str
) -> tuple[dict[str, Path], list[Exclusion]]:
    """The sound of every video as ``audio_dir/<id>.flac``; what an earlier run has left is kept.

    Returns:
        The files by id, and an exclusion (``unreadable_video``) for each video without.
    """

    def extract(item: tuple[str, Path]) -> Exclusion | None:
        name, video = item
        flac = audio_dir / f"{name}.flac"
        if flac.exists() and flac.stat().st_mtime > video.stat().st_mtime:
            return None
        try:
            extract_audio(video, flac)
        except (av.FFmpegError, OSError, ValueError) as error:
            return Exclusion(name, "unreadable_video", f"{video}: {error}")
        return None

    results = thread_map(
        extract, list(videos.items()), max_workers=num_jobs, desc=f"{title}: extract audio", unit="clip"
    )
    exclusions = [item for item in results if item is not None]
    failed = {item.id for item in exclusions}
    return {name: audio_dir / f"{name}.flac" for name in videos if name not in failed}, exclusions
