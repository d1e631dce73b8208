"""Mouth regions of a video: face and mouth found by OpenCV's Haar cascades, smoothed over time, cropped square.

The cascades (Viola and Jones 2001; Lienhart and Maydt 2002) come inside ``opencv-python-headless`` 4. The region
follows the head, not the jaw: its center lies at the mouth's usual place within the face box, which is the median over
the clip of where the mouth was found, so that an opening mouth moves in the region and not with it. Heads are not
turned upright.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.signal import medfilt, savgol_filter

from lrsms.avsr.video import VideoError, gray_frames

SIZE = 96  # pixels of a side of the region; 88 are cropped from it (auto_avsr)
_EVERY = 3  # one frame in so many is looked at
_SEARCHED = 320  # pixels of the longer side of a frame in which faces are searched
_SIDE = 0.52  # of the region, in widths of the face box: the mouth takes up about half of it, as in auto_avsr
_USUAL = (0.0, 0.33)  # the mouth in a face box, from its center in widths, where no mouth is found
_SMALLEST = 40.0  # pixels of a face box; below it a mouth has too few to read
_MISSING = 0.5  # share of the frames looked at in which no face may be found
_SMOOTHED = 0.6  # seconds of the window of the Savitzky-Golay filter
_local = threading.local()  # OpenCV's classifiers must not be shared between threads


@dataclass(frozen=True)
class Track:
    """Where a mouth is in the frames of a clip.

    Attributes:
        centers: ``(frames, 2)``, x and y in pixels.
        sides: ``(frames,)``, pixels of the region's side.
        faces: share of the frames looked at in which a face was found.
        mouths: share of these in which a mouth was found as well.
    """

    centers: np.ndarray
    sides: np.ndarray
    faces: float
    mouths: float


def extract_mouth(path: Path, size: int = SIZE) -> np.ndarray:
    """Mouth regions of a video file, 25 per second: uint8 ``(frames, size, size)``.

    Raises:
        lrsms.avsr.video.VideoError: the video cannot be read, or its face cannot be followed (``no_face``,
            ``small_face``).
    """
    try:
        track = follow(gray_frames(path))
    except VideoError as error:
        raise VideoError(error.reason, f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    # Read again and not kept: minutes of large frames need not fit in memory.
    return np.stack([*cropped(gray_frames(path), track, size)])


def follow(frames: Iterable[np.ndarray]) -> Track:
    """Find the mouth in gray ``frames``.

    In one frame of three a face is searched, at first everywhere, then near the last one. Frames without are
    interpolated. The track is smoothed by a median of five and a Savitzky-Golay filter of order 2 over 0.6 s.

    Raises:
        VideoError: ``no_face``: none in more than half of the frames looked at; ``small_face``: less than 40 pixels.
    """
    faces, mouths, count, last = [], [], 0, None
    for count, frame in enumerate(frames, start=1):
        if (count - 1) % _EVERY:
            continue
        box = _find_face(frame, last)
        last = box if box is not None else last
        faces.append(box if box is not None else (np.nan,) * 3)
        mouths.append(_find_mouth(frame, box) if box is not None else (np.nan, np.nan))
    boxes, offsets = np.array(faces, dtype=float).reshape(-1, 3), np.array(mouths, dtype=float).reshape(-1, 2)
    with_face = ~np.isnan(boxes[:, 0])
    if not len(boxes) or with_face.mean() < 1 - _MISSING:
        raise VideoError("no_face", f"a face in {with_face.sum()} of the {len(boxes)} frames looked at")
    if np.median(boxes[with_face, 2]) < _SMALLEST:
        raise VideoError("small_face", f"a face of {np.median(boxes[with_face, 2]):.0f} pixels; {_SMALLEST:g} needed")
    with_mouth = ~np.isnan(offsets[:, 0])
    offset = np.median(offsets[with_mouth], axis=0) if with_mouth.sum() >= 3 else np.array(_USUAL)
    looked = np.arange(len(boxes)) * _EVERY
    smooth = np.stack([_smoothed(looked, boxes[:, axis]) for axis in range(3)], axis=1)
    if len(looked) > 1:  # the movement goes on for the one or two frames behind the last that was looked at
        looked = np.append(looked, looked[-1] + _EVERY)
        smooth = np.concatenate([smooth, 2 * smooth[-1:] - smooth[-2:-1]])
    x, y, width = (np.interp(np.arange(count), looked, smooth[:, axis]) for axis in range(3))
    centers = np.stack([x + offset[0] * width, y + offset[1] * width], axis=1)
    share_with_face = float(with_face.mean())
    return Track(centers, _SIDE * width, share_with_face, float(with_mouth.sum() / with_face.sum()))


def cropped(frames: Iterable[np.ndarray], track: Track, size: int) -> Iterator[np.ndarray]:
    """The regions of ``frames`` at ``track``, uint8 ``(size, size)``; edges are continued if one reaches outside."""
    for frame, (x, y), side in zip(frames, track.centers, track.sides):
        scale = side / size
        if scale > 1.5:  # smaller by more than that: pixels in between count as well
            frame = cv2.GaussianBlur(frame, (0, 0), 0.4 * scale)
        origin = np.array([x, y]) - (size - 1) / 2 * scale
        matrix = np.array([[scale, 0, origin[0]], [0, scale, origin[1]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        yield cv2.warpAffine(frame, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _smoothed(at: np.ndarray, values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    values = np.interp(at, at[known], values[known])
    if len(values) >= 5:
        edge = np.concatenate([values[:1].repeat(2), values, values[-1:].repeat(2)])
        values = medfilt(edge, 5)[2:-2]
    window = round(_SMOOTHED * 25 / _EVERY) | 1
    return savgol_filter(values, window, 2) if len(values) >= window else np.full_like(values, np.median(values))


def _classifier(name: str) -> cv2.CascadeClassifier:
    classifiers = _local.__dict__.setdefault("classifiers", {})
    if name not in classifiers:
        classifiers[name] = cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_{name}.xml")
    return classifiers[name]


def _find_face(frame: np.ndarray, last: np.ndarray | None) -> np.ndarray | None:
    """Center x, y and width in pixels of a face box: near ``last``, else the largest of the frame."""
    if last is not None:
        x, y, width = last
        left, top = (max(0, int(value - 0.8 * width)) for value in (x, y))
        window = frame[top : int(y + 0.8 * width), left : int(x + 0.8 * width)]
        box = _largest(window, 0.8 * width, 1.25 * width) if window.size else None
        if box is not None:
            return box + (left, top, 0)
    return _largest(frame, 0.12 * min(frame.shape), 2.0 * max(frame.shape))


def _largest(image: np.ndarray, least: float, most: float) -> np.ndarray | None:
    scale = min(1.0, _SEARCHED / max(image.shape), 100 / least if least else 1.0)
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    sides = [(max(20, int(scale * value)),) * 2 for value in (least, most)]
    boxes = _classifier("frontalface_alt2").detectMultiScale(image, 1.1, 3, minSize=sides[0], maxSize=sides[1])
    if not len(boxes):
        return None
    x, y, width, height = max(boxes, key=lambda box: box[2]) / scale
    return np.array([x + width / 2, y + height / 2, width])


def _find_mouth(frame: np.ndarray, face: np.ndarray) -> tuple[float, float]:
    """Center of the mouth from the face box's center, in its widths; NaN if none is found.

    The cascade for smiles fires on any mouth in the lower part of a face.
    """
    x, y, width = face
    left, top = max(0, int(x - 0.5 * width)), max(0, int(y + 0.1 * width))
    window = frame[top : int(y + 0.62 * width), left : int(x + 0.5 * width)]
    scale = min(1.0, 100 / width)
    if min(window.shape, default=0) * scale < 20:
        return np.nan, np.nan
    window = cv2.resize(window, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    least = (max(1, int(0.35 * width * scale)), max(1, int(0.18 * width * scale)))
    boxes = _classifier("smile").detectMultiScale(window, 1.1, 2, minSize=least)
    places = [((left + (a + c / 2) / scale - x) / width, (top + (b + d / 2) / scale - y) / width)
              for a, b, c, d in boxes]  # fmt: skip
    distance, place = min(
        ((np.hypot(a - _USUAL[0], b - _USUAL[1]), (a, b)) for a, b in places), default=(np.inf, (np.nan, np.nan))
    )
    return place if distance < 0.2 else (np.nan, np.nan)
