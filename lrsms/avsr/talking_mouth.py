"""Drawn mouths that talk: the lower half of a face whose lips, teeth and tongue follow given shapes.

No two faces and no two clips look alike: a face has its own colors and proportions, a clip its own place, size, tilt,
light, sharpness and noise, and the head sways. The same generators give the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_CANVAS = 128  # pixels of the side of the picture that the region is cut from
_REACH = 1.5  # the canvas shows from -1.5 to 1.5; the region of a head that holds still from -1 to 1
_ACROSS = np.linspace(-1, 1, 33)  # along a lip, from corner to corner
_SUBPIXEL = 4  # bits
_LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R BT.601
_CAVITY = float(np.array([45, 22, 24]) @ _LUMA)
_TONGUE = float(np.array([176, 96, 96]) @ _LUMA)


@dataclass(frozen=True)
class Face:
    """The face around the mouth; lengths in halves of the region's side, colors as red, green, blue from 0 to 255."""

    skin: tuple[float, float, float]
    lips: tuple[float, float, float]
    teeth: float
    mouth_width: float
    largest_opening: float
    upper_lip: float
    lower_lip: float
    cupid: float
    nose_height: float
    nose_width: float
    chin: float
    stubble: float


@dataclass(frozen=True)
class Scene:
    """The camera; lengths in halves of the region's side, angles in radians, light as a share of brightness."""

    offset: tuple[float, float]
    scale: float
    tilt: float
    sway: tuple[float, float]
    sway_phase: tuple[float, float]
    sway_rate: float  # Hz
    light_angle: float
    light_gradient: float
    brightness: float
    contrast: float
    blur: float  # pixels
    noise: float  # of 255
    seed: int  # of the noise and of the skin's texture


def random_face(rng: np.random.Generator) -> Face:
    """Draw a face. Skin runs from dark to fair, lips are redder and mostly darker than it."""
    fairness = rng.uniform(0.3, 1.0)
    skin = np.array([228, 186, 160]) * fairness + rng.normal(0, 5, 3)
    lips = skin * np.array([0.9, 0.62, 0.66]) * rng.uniform(0.8, 1.05)
    return Face(
        skin=tuple(skin),
        lips=tuple(lips),
        teeth=rng.uniform(205, 245) * (0.75 + 0.25 * fairness),
        mouth_width=rng.uniform(0.46, 0.6),
        largest_opening=rng.uniform(0.4, 0.62),
        upper_lip=rng.uniform(0.09, 0.17),
        lower_lip=rng.uniform(0.12, 0.22),
        cupid=rng.uniform(0.1, 0.45),
        nose_height=rng.uniform(0.62, 0.85),
        nose_width=rng.uniform(0.14, 0.24),
        chin=rng.uniform(0.5, 0.7),
        stubble=max(0.0, rng.uniform(-12, 12)),
    )


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw what changes from clip to clip, as detectors, cameras and heads do."""
    return Scene(
        offset=tuple(rng.uniform(-0.1, 0.1, 2)),
        scale=rng.uniform(0.85, 1.15),
        tilt=rng.normal(0, 0.07),
        sway=tuple(rng.uniform(0.0, 0.06, 2)),
        sway_phase=tuple(rng.uniform(0, 2 * np.pi, 2)),
        sway_rate=rng.uniform(0.2, 0.7),
        light_angle=rng.uniform(0, 2 * np.pi),
        light_gradient=rng.uniform(0, 0.35),
        brightness=rng.uniform(0.7, 1.2),
        contrast=rng.uniform(0.75, 1.15),
        blur=rng.uniform(0.3, 1.0),
        noise=rng.uniform(2, 10),
        seed=int(rng.integers(2**32)),
    )


def draw(shapes: np.ndarray, face: Face, scene: Scene, *, size: int, frame_rate: float = 25.0) -> np.ndarray:
    """Draw a clip.

    Args:
        shapes: ``(frames, 6)``, columns as in :class:`lrsms.avsr.visemes.Shape`.
        size: pixels of the region's side.
        frame_rate: frames per second, which the head sways by.

    Returns:
        Gray, uint8 ``(frames, size, size)``.
    """
    rng = np.random.default_rng(scene.seed)
    skin = _skin(face, rng)
    light = _light(scene, size)
    clip = np.empty((len(shapes), size, size), dtype=np.uint8)
    for index, shape in enumerate(shapes):
        canvas = skin.copy()
        _draw_mouth(canvas, face, shape)
        picture = _filmed(canvas, scene, index / frame_rate, size)
        picture = (picture - 128) * scene.contrast + 128
        picture = picture * light + scene.noise * rng.standard_normal((size, size), dtype=np.float32)
        clip[index] = np.clip(np.round(picture), 0, 255).astype(np.uint8)
    return clip


def _skin(face: Face, rng: np.random.Generator) -> np.ndarray:
    """The picture without a mouth, gray: ``(canvas, canvas)``."""
    y, x = np.mgrid[-_REACH : _REACH : _CANVAS * 1j, -_REACH : _REACH : _CANVAS * 1j]
    shade = 1 - 0.16 * np.clip(np.abs(x) - 0.7, 0, None) - 0.1 * np.clip(y - 0.6, 0, None)
    texture = cv2.GaussianBlur(rng.normal(0, 1, (_CANVAS, _CANVAS)), (0, 0), 1.2) * 6
    beard = rng.normal(0, face.stubble, (_CANVAS, _CANVAS)) * (y > -0.45) - 0.8 * face.stubble * (y > -0.45)
    canvas = (np.array(face.skin) @ _LUMA * shade + texture + cv2.GaussianBlur(beard, (0, 0), 0.8)).astype(np.float32)
    for side in (-1, 1):
        _shadow(canvas, side * face.nose_width, -face.nose_height, 0.09, 0.05, 0.45)
    _shadow(canvas, 0.0, -face.nose_height + 0.1, 0.3, 0.06, 0.12)
    return canvas


def _light(scene: Scene, size: int) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    light = 1 + scene.light_gradient * (x * np.cos(scene.light_angle) + y * np.sin(scene.light_angle))
    return (scene.brightness * light).astype(np.float32)


def _draw_mouth(canvas: np.ndarray, face: Face, shape: np.ndarray) -> None:
    opening, width, rounding, teeth, tongue, tuck = shape
    half = face.mouth_width * (0.72 + 0.56 * width) * (1 - 0.15 * rounding)
    gap = face.largest_opening * opening
    x, arch = _ACROSS * half, 1 - _ACROSS**2
    upper_inner, lower_inner = -0.2 * gap * arch, 0.8 * gap * arch
    pushed = 1 + 0.45 * rounding
    bow = 1 - face.cupid * np.exp(-((_ACROSS / 0.16) ** 2))
    upper = upper_inner - face.upper_lip * pushed * arch * bow
    lower = lower_inner + face.lower_lip * pushed * (1 - 0.65 * tuck) * arch**0.8
    lips = float(np.array(face.lips) @ _LUMA)

    _shadow(canvas, 0.0, face.chin + 0.55 * gap, 0.32, 0.07)
    _fill(canvas, x, upper, upper_inner, lips * 0.9)
    _fill(canvas, x, lower_inner, lower, lips * 1.06)
    if gap > 0.02:
        _inside(canvas, face, x, upper_inner, lower_inner, teeth, tongue)
    seam = np.stack([x, (upper_inner + lower_inner) / 2], axis=1)
    if gap <= 0.06:
        cv2.polylines(canvas, [_points(seam)], False, lips * 0.45, 1, cv2.LINE_AA, _SUBPIXEL)


def _inside(
    canvas: np.ndarray,
    face: Face,
    x: np.ndarray,
    upper: np.ndarray,
    lower: np.ndarray,
    teeth: float,
    tongue: float,
) -> None:
    """Draw what is seen between the lips, never beyond them."""
    inside = np.full_like(canvas, _CAVITY)
    gap = float((lower - upper).max())
    if tongue > 0.05:
        tip = lower.max() - (0.25 + 0.55 * tongue) * gap
        axes = (0.62 * x.max(), lower.max() - tip + 0.05)
        cv2.ellipse(
            inside,
            tuple(map(int, _points(np.array([[0.0, tip + axes[1]]]))[0, 0])),
            tuple(int(value / _REACH / 2 * _CANVAS * 2**_SUBPIXEL) for value in axes),
            0, 0, 360, _TONGUE, -1, cv2.LINE_AA, _SUBPIXEL,
        )  # fmt: skip
    if teeth > 0.05:
        row = np.abs(x) <= 0.8 * x.max()
        bottom = upper + min(0.12 * teeth + 0.02, 0.9 * gap)
        _fill(inside, x[row], upper[row], bottom[row], (0.55 + 0.3 * teeth) * face.teeth)  # in the lip's shadow
    mask = np.zeros_like(canvas)
    outline = np.concatenate([np.stack([x, upper], axis=1), np.stack([x, lower], axis=1)[::-1]])
    cv2.fillPoly(mask, [_points(outline)], 1.0, cv2.LINE_AA, _SUBPIXEL)
    canvas += mask * (inside - canvas)


def _shadow(canvas: np.ndarray, x: float, y: float, wide: float, high: float, depth: float = 0.15) -> None:
    """Darken a soft ellipse."""
    axis = np.linspace(-_REACH, _REACH, _CANVAS, dtype=np.float32)
    rows, columns = np.exp(-(((axis - y) / high) ** 2)), np.exp(-(((axis - x) / wide) ** 2))
    canvas *= 1 - depth * np.outer(rows, columns)


def _fill(canvas: np.ndarray, x: np.ndarray, upper: np.ndarray, lower: np.ndarray, gray: float) -> None:
    outline = np.concatenate([np.stack([x, upper], axis=1), np.stack([x, lower], axis=1)[::-1]])
    cv2.fillPoly(canvas, [_points(outline)], gray, cv2.LINE_AA, _SUBPIXEL)


def _points(places: np.ndarray) -> np.ndarray:
    """Places in halves of the region's side to OpenCV's fixed-point pixels, ``(points, 1, 2)``."""
    pixels = (places / _REACH + 1) / 2 * _CANVAS - 0.5
    return np.round(pixels * 2**_SUBPIXEL).astype(np.int32)[:, None]


def _filmed(picture: np.ndarray, scene: Scene, time: float, size: int) -> np.ndarray:
    """Cut the region out of the canvas at the place where the camera sees it at ``time`` seconds."""
    phase = 2 * np.pi * scene.sway_rate * time + np.array(scene.sway_phase)
    center = np.array(scene.offset) + np.array(scene.sway) * np.sin(phase)
    scale = _CANVAS / (2 * _REACH) * 2 / size / scene.scale  # pixels of the canvas in one of the region
    cos, sin = np.cos(scene.tilt) * scale, np.sin(scene.tilt) * scale
    linear = np.array([[cos, -sin], [sin, cos]])
    at = (_CANVAS - 1) / 2 - linear @ (np.full(2, (size - 1) / 2) + center * size / 2)
    soft = cv2.GaussianBlur(picture, (0, 0), max(0.3, scene.blur * scale))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = np.column_stack([linear, at])
    return cv2.warpAffine(soft, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
