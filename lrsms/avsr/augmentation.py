"""What training does to the streams of an utterance, and the crop that decoding uses in its place."""

from __future__ import annotations

import math

import cv2
import numpy as np

from lrsms.errors import LrsmsError


def resize(regions: np.ndarray, side: int | None) -> np.ndarray:
    """Bring regions ``(frames, rows, columns)`` to ``(frames, side, side)``; None, or their own size, keeps them."""
    if side is None or regions.shape[1:] == (side, side):
        return regions
    way = cv2.INTER_AREA if side < regions.shape[1] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (side, side), interpolation=way) for frame in regions])


def crop(regions: np.ndarray, size: tuple[int, int], rng: np.random.Generator | None = None) -> np.ndarray:
    """A window of the mouth regions, the same for all frames.

    Args:
        regions: ``(frames, rows, columns)``.
        size: rows and columns of the window.
        rng: draws its place; None takes the center.

    Returns:
        ``(frames, *size)``, a view.

    Raises:
        LrsmsError: the window is larger than the regions.
    """
    spare = [regions.shape[1 + axis] - size[axis] for axis in (0, 1)]
    if min(spare) < 0:
        raise LrsmsError(
            f"a window of {size[0]} x {size[1]} pixels does not fit into mouth regions of "
            f"{regions.shape[1]} x {regions.shape[2]}"
        )
    top, left = (int(rng.integers(room + 1)) for room in spare) if rng else (room // 2 for room in spare)
    return regions[:, top : top + size[0], left : left + size[1]]


def time_masks(
    length: int, rate: float, rng: np.random.Generator, *, seconds: float, every: float
) -> list[tuple[int, int]]:
    """Adaptive time masks (Ma et al. 2021, after SpecAugment's of Park et al. 2019): longer utterances get more.

    Args:
        length: of the stream, in its own units.
        rate: units per second.
        rng: draws number, place and length.
        seconds: a mask is between 0 and so long.
        every: one mask for each so many seconds of stream, rounded up.

    Returns:
        ``(begin, end)`` of each mask in units, within the stream.
    """
    masks = []
    for _ in range(math.ceil(length / rate / every)):
        width = min(int(rng.integers(round(seconds * rate) + 1)), length)
        begin = int(rng.integers(length - width + 1))
        masks.append((begin, begin + width))
    return masks


def mask(stream: np.ndarray, masks: list[tuple[int, int]]) -> np.ndarray:
    """A copy of ``stream`` ``(time, ...)`` that is zero within ``masks``."""
    stream = stream.copy()
    for begin, end in masks:
        stream[begin:end] = 0
    return stream
