"""Video files as gray frames at 25 per second, one at a time, whatever their own rate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from lrsms.data.video_clock import FRAME_RATE

LEAST_RATE = 20.0  # frames per second; below it, lips move too far from one frame to the next


class VideoError(ValueError):
    """A video that is of no use.

    Attributes:
        reason: a short fixed word, by which such videos are counted.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def gray_frames(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video, 25 per second of its sound's time: uint8 ``(height, width)``.

    Frame ``j`` is the one on at ``(j + 0.5) / 25`` seconds after the sound begins (the picture, if there is no sound
    track), so that video at another rate, of varying rate or with a late start stays with its sound.

    Raises:
        VideoError: ``missing_video``, ``unreadable_video``, ``no_video_track``, ``wrong_fps`` (fewer than 20 frames per
            second, or none said) or ``truncated_video`` (fewer frames than the file announces).
    """
    if not path.is_file():
        raise VideoError("missing_video", f"no such file: {path}")
    try:
        with av.open(str(path)) as container:
            yield from _resampled(container, path)
    except (av.FFmpegError, OSError) as error:
        raise VideoError("unreadable_video", f"{path}: {error}") from error


def _resampled(container: av.container.InputContainer, path: Path) -> Iterator[np.ndarray]:
    if not container.streams.video:
        raise VideoError("no_video_track", f"{path}: no picture in it")
    stream = container.streams.video[0]
    rate = float(stream.average_rate or 0)
    if rate < LEAST_RATE:
        raise VideoError("wrong_fps", f"{path}: {rate:g} frames per second; at least {LEAST_RATE:g} are needed")
    announced, decoded, given = stream.frames, 0, 0
    begin, end = _begin(container), 0.0
    shown: np.ndarray | None = None
    for frame in container.decode(video=0):
        decoded += 1
        time = frame.time if frame.time is not None else decoded / rate
        picture = frame.to_ndarray(format="gray")
        # The frame before is on until this one begins; the first also before its own time.
        while shown is not None and begin + (given + 0.5) / FRAME_RATE < time - 1e-6:
            yield shown
            given += 1
        shown, end = picture, time + 1 / rate
    if shown is None or decoded < announced - 1:
        raise VideoError("truncated_video", f"{path}: holds {decoded} of {announced} frames")
    while begin + (given + 0.5) / FRAME_RATE < end - 1e-6:
        yield shown
        given += 1


def _begin(container: av.container.InputContainer) -> float:
    """Seconds at which the sound begins, or the picture if there is no sound."""
    streams = [*container.streams.audio[:1], *container.streams.video[:1]]
    starts = [float(item.start_time * item.time_base) for item in streams if item.start_time is not None]
    return max(0.0, starts[0]) if starts else 0.0
