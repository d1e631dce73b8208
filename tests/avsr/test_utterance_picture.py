"""The picture of an utterance is drawn with and without either stream."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lrsms.avsr.frames import SAMPLES, pack
from lrsms.avsr.utterance_picture import Reading, draw_utterance


def array(frames: int = 50) -> np.ndarray:
    """A tone that rises, and a bright bar that moves down."""
    time = np.arange(frames * SAMPLES) / 16000
    samples = 0.5 * np.sin(2 * np.pi * (500 + 1500 * time) * time).astype(np.float32)
    region = np.zeros((frames, 24, 24), dtype=np.uint8)
    for frame in range(frames):
        region[frame, frame * 24 // frames] = 255
    return pack(samples, region)


def pixels(path) -> np.ndarray:
    return plt.imread(path)[:, :, :3]


@pytest.mark.parametrize("missing", ["", "audio", "video"])
def test_it_shows_what_there_is(tmp_path, missing):
    shown = array()
    if missing == "audio":
        shown[:, :SAMPLES] = 0
    elif missing == "video":
        shown[:, SAMPLES:] = 0
    readings = [Reading("audio, 0dB", [("one", 0.2, 0.6), ("two", 1.0, 1.04)]), Reading("video", [], "")]
    draw_utterance(shown, (24, 24), readings, tmp_path / "a.png", "u1: one two")
    draw_utterance(shown, (24, 24), readings[1:], tmp_path / "b.png", "u1: one two")
    drawn = pixels(tmp_path / "a.png")
    assert drawn.shape[1] == 1200 and drawn.std() > 0.1
    assert drawn.shape[0] > pixels(tmp_path / "b.png").shape[0]  # a line for each reading


def test_the_same_utterance_gives_the_same_picture(tmp_path):
    for name in ("a.png", "b.png"):
        draw_utterance(array(), (24, 24), [Reading("x", [("one", 0.2, 0.6)])], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
