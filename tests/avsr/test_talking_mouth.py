"""Drawn mouths: shapes can be seen in them, no two scenes look alike, and the same seed gives the same pixels."""

from dataclasses import replace

import numpy as np
import pytest

from lrsms.avsr.talking_mouth import draw, random_face, random_scene
from lrsms.avsr.visemes import Shape

CLOSED, OPEN = Shape(), Shape(opening=1.0, width=0.5)


@pytest.fixture
def face():
    return random_face(np.random.default_rng(1))


@pytest.fixture
def still():
    """A scene without noise, movement or displacement."""
    scene = random_scene(np.random.default_rng(2))
    return replace(
        scene, offset=(0.0, 0.0), scale=1.0, tilt=0.0, sway=(0.0, 0.0), light_gradient=0.0, brightness=1.0,
        contrast=1.0, noise=0.0, blur=0.3,
    )  # fmt: skip


def test_an_open_mouth_is_dark_in_the_middle_and_grows_with_the_opening(face, still):
    shapes = np.array([Shape(opening=value) for value in np.linspace(0, 1, 6)])
    clip = draw(shapes, face, still, size=56)
    dark = (clip[:, 24:48, 18:38] < 50).sum(axis=(1, 2))
    assert clip.shape == (6, 56, 56) and clip.dtype == np.uint8
    assert dark[0] == 0 and (np.diff(dark[1:]) > 0).all() and dark[-1] > 60


def test_rounded_lips_are_narrower_than_spread_ones(face, still):
    spread, rounded = Shape(opening=0.4, width=1.0), Shape(opening=0.4, width=0.1, rounding=1.0)
    skin = draw(np.array([CLOSED]), replace(face, lips=face.skin), still, size=96)
    clip = draw(np.array([spread, rounded]), face, still, size=96).astype(int)
    widths = [np.flatnonzero((np.abs(frame - skin[0])[40:64] > 25).any(axis=0)) for frame in clip]
    assert np.ptp(widths[0]) > 1.25 * np.ptp(widths[1])


def test_teeth_are_bright(face, still):
    clip = draw(np.array([Shape(opening=0.5), Shape(opening=0.5, teeth=1.0)]), face, still, size=56).astype(int)
    assert (clip[1] - clip[0]).max() > 60


def test_the_same_generators_give_the_same_pixels_and_others_give_others():
    shapes = np.array([CLOSED, OPEN])

    def clip(face, scene):
        return draw(
            shapes, random_face(np.random.default_rng(face)), random_scene(np.random.default_rng(scene)), size=48
        )

    np.testing.assert_array_equal(clip(0, 0), clip(0, 0))
    assert np.mean(clip(0, 0) != clip(1, 0)) > 0.5 and np.mean(clip(0, 0) != clip(0, 1)) > 0.5


def test_scenes_vary_in_light_place_and_noise():
    rng = np.random.default_rng(0)
    shapes = np.array([CLOSED] * 4)
    clips = np.array([draw(shapes, random_face(rng), random_scene(rng), size=48) for _ in range(20)]).astype(float)
    assert np.ptp(clips.mean(axis=(1, 2, 3))) > 60
    noise = np.std(clips[:, 1] - clips[:, 0], axis=(1, 2))
    assert noise.min() > 1 and noise.max() > 2 * noise.min()
