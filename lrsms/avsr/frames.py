"""The frame-synchronous array of an audio-visual utterance: what ESPnet carries as ``speech``.

One row is one video frame of 1/25 s: 640 samples at 16 kHz in [-1, 1], then the gray mouth region of that frame row by
row in [0, 1] (the rates of auto_avsr, Ma et al. 2023). Everything is float32. A missing stream is all zeros in its
part of the whole utterance, and so it is known without a further input; a digital silence counts as missing.

Lengths: **the video is the clock.** With video, its number of frames is the utterance's, and the audio is cut at its
end or padded there with zeros to 640 samples for each, if the two differ by at most :data:`TOLERANCE` seconds;
beyond that the recording is broken and an error, for data preparation to exclude and count. Without video, the audio
has its samples over 640 frames, rounded up, and the last is padded with zeros.
"""

from __future__ import annotations

import math

import numpy as np

from lrsms.data.video_clock import FRAME_RATE, FRAME_SHIFT, TOLERANCE
from lrsms.errors import LrsmsError

SAMPLING_RATE = 16000  # Hz
SAMPLES = SAMPLING_RATE // FRAME_RATE  # per frame


def row_size(height: int, width: int) -> int:
    """Numbers in one row of the array: ``input_size`` of the model.

    Args:
        height, width: of the mouth region in pixels.
    """
    return SAMPLES + height * width


def fit_samples(samples: np.ndarray, frames: int, tolerance: float = TOLERANCE) -> np.ndarray:
    """Cut or zero-pad audio at its end to ``frames`` video frames.

    Args:
        samples: ``(samples,)``.
        frames: of the video.
        tolerance: seconds by which the two lengths may differ.

    Returns:
        ``(frames * 640,)``.

    Raises:
        LrsmsError: they differ by more.
    """
    wanted = frames * SAMPLES
    difference = len(samples) - wanted
    if abs(difference) > tolerance * SAMPLING_RATE:
        raise LrsmsError(
            f"audio of {len(samples) / SAMPLING_RATE:.2f} s and video of {frames / FRAME_RATE:.2f} s "
            f"differ by more than {tolerance:g} s"
        )
    return samples[:wanted] if difference >= 0 else np.pad(samples, (0, -difference))


def pack(
    samples: np.ndarray | None,
    region: np.ndarray | None,
    *,
    size: tuple[int, int] | None = None,
    tolerance: float = TOLERANCE,
) -> np.ndarray:
    """The array of an utterance.

    Args:
        samples: ``(samples,)`` at 16 kHz in [-1, 1]; None if there is no audio.
        region: ``(frames, height, width)``, uint8 or a float in [0, 1]; None if there is no video.
        size: height and width of the region, needed if there is none.
        tolerance: see :func:`fit_samples`.

    Returns:
        ``(frames, 640 + height * width)`` float32.

    Raises:
        LrsmsError: lengths that differ too much, an empty stream, a region of another size, or neither stream.
    """
    if samples is None and region is None:
        raise LrsmsError("neither audio nor video: an utterance needs one of them")
    if region is None and size is None:
        raise ValueError("without video, size says how large its regions would be")
    if region is not None and size is not None and tuple(region.shape[1:]) != tuple(size):
        actual, wanted = (" x ".join(map(str, pair)) for pair in (region.shape[1:], size))
        raise LrsmsError(f"mouth regions of {actual} pixels, but {wanted} are wanted")
    if region is None:
        assert samples is not None and size is not None
        (height, width), frames = size, math.ceil(len(samples) / SAMPLES)
    else:
        (height, width), frames = region.shape[1:], len(region)
    if frames == 0:
        raise LrsmsError("an utterance without a single frame")
    array = np.zeros((frames, row_size(height, width)), dtype=np.float32)
    if samples is not None:
        slack = tolerance if region is not None else FRAME_SHIFT
        array[:, :SAMPLES] = fit_samples(samples, frames, slack).reshape(frames, SAMPLES)
    if region is not None:
        pixels = array[:, SAMPLES:]
        pixels[:] = region.reshape(frames, height * width)
        if region.dtype == np.uint8:
            pixels /= 255
    return array


def split(array, height: int, width: int) -> tuple:
    """Audio and video of an array, or of a batch of them.

    Args:
        array: ``(..., frames, 640 + height * width)``, NumPy's or torch's.
        height, width: of the mouth region in pixels.

    Returns:
        Samples ``(..., frames * 640)`` and regions ``(..., frames, height, width)``.

    Raises:
        LrsmsError: rows of another size.
    """
    *batch, frames, row = array.shape
    if row != row_size(height, width):
        raise LrsmsError(
            f"rows of {row} numbers: {SAMPLES} samples and a mouth region of {height} x {width} pixels are "
            f"{row_size(height, width)}; the data's region and the model's must be of one size"
        )
    samples = array[..., :SAMPLES].reshape(*batch, frames * SAMPLES)
    return samples, array[..., SAMPLES:].reshape(*batch, frames, height, width)


def missing(stream):
    """For each utterance of a batch, whether a stream is all zeros.

    Args:
        stream: ``(batch, ...)``, NumPy's or torch's.

    Returns:
        ``(batch,)`` of booleans.
    """
    return ~stream.reshape(len(stream), -1).any(1)
