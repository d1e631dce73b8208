"""A picture of an utterance: the mouth over time, the spectrogram below it, and what was understood when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from lrsms.avsr.frames import FRAME_SHIFT, SAMPLING_RATE, split

_CROPS = 13  # mouths side by side; more would be too small to read lips
_AXIS_INCHES = 10.8  # width of the axis of time
_CHARACTER = 0.0075  # width of a character in the words below, as a share of that axis
_WINDOW, _HOP = 400, 160  # samples: 25 ms every 10 ms


@dataclass(frozen=True)
class Reading:
    """What was understood under one condition.

    Attributes:
        label: of the condition.
        words: ``(word, start, end)`` in seconds.
        text: the whole hypothesis, drawn if it has no times.
    """

    label: str
    words: Sequence[tuple[str, float, float]]
    text: str = ""


def draw_utterance(
    array: np.ndarray,
    region: tuple[int, int],
    readings: Sequence[Reading],
    picture: Path,
    title: str = "",
    crops: int = _CROPS,
) -> None:
    """Write a PNG: mouth regions, spectrogram, one line of words for each reading, on one axis of time.

    Args:
        array: ``(frames, 640 + height * width)``, see :mod:`lrsms.avsr.frames`.
        region: height and width.
        readings: hypotheses; the spectrogram has the word borders of the last.
        picture: the file.
        title: above.
        crops: how many mouths to show, evenly over the utterance.
    """
    samples, regions = split(array, *region)
    seconds = len(array) * FRAME_SHIFT
    heights = (_AXIS_INCHES / crops, 2.0, 0.45 * max(1, len(readings)))  # inches: a mouth is as high as it is wide
    figure, axes = plt.subplots(
        3, 1, figsize=(12, sum(heights) + 1.0), height_ratios=heights, sharex=True, layout="constrained"
    )
    _mouths(axes[0], regions, seconds, crops)
    _spectrogram(axes[1], samples, seconds)
    _words(axes[2], readings, seconds)
    if readings:
        for _, start, end in readings[-1].words:
            axes[1].axvspan(start, end, color="white", alpha=0.12, linewidth=0)
    axes[2].set(xlabel="seconds", xlim=(0, seconds))
    if title:
        axes[0].set_title(title, fontsize=10, loc="left")
    figure.savefig(picture, dpi=100, metadata={"Software": None})
    plt.close(figure)


def _mouths(axis: Axes, regions: np.ndarray, seconds: float, crops: int) -> None:
    """Regions side by side, each in the middle of the stretch of time that it stands for."""
    count = min(crops, len(regions))
    width = seconds / count
    for number in range(count):
        frame = min(len(regions) - 1, int((number + 0.5) * len(regions) / count))
        axis.imshow(
            regions[frame],
            cmap="gray",
            vmin=0,
            vmax=1,
            extent=(number * width, (number + 1) * width, 0, 1),
            aspect="auto",
            interpolation="nearest",
        )
        axis.axvline(number * width, color="white", linewidth=1.5)
    axis.set(ylim=(0, 1), yticks=[], ylabel="mouth")
    if not regions.any():
        axis.text(seconds / 2, 0.5, "no video", color="white", ha="center", va="center")


def _spectrogram(axis: Axes, samples: np.ndarray, seconds: float) -> None:
    if samples.any():
        padded = np.pad(samples, (0, max(0, _WINDOW - len(samples))))
        frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
        power = 20 * np.log10(np.abs(np.fft.rfft(frames, 512)).T + 1e-6)
        top = float(power.max())
        axis.imshow(
            power,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=top - 70,
            vmax=top,
            extent=(0, len(frames) * _HOP / SAMPLING_RATE, 0, SAMPLING_RATE / 2000),
        )
    else:
        axis.text(seconds / 2, SAMPLING_RATE / 4000, "no audio", color="white", ha="center", va="center")
    axis.set(ylabel="kHz", ylim=(0, SAMPLING_RATE / 2000), facecolor="black")


def _words(axis: Axes, readings: Sequence[Reading], seconds: float) -> None:
    """A bar for each word; words that would cover each other stand at different heights."""
    for line, reading in enumerate(readings):
        y = len(readings) - 1 - line
        free, raised = 0.0, False  # from where on a word covers none before it
        for word, start, end in reading.words:
            middle, half = (start + end) / 2, len(word) * _CHARACTER * seconds / 2
            raised = not raised if middle - half < free else False
            free = middle + half
            axis.barh(y, max(end - start, FRAME_SHIFT), left=start, height=0.8, color=f"C{line % 10}", alpha=0.35)
            axis.text(middle, y + (0.22 if raised else -0.18), word, ha="center", va="center", fontsize=9)
        if not reading.words:
            axis.text(0.02, y, reading.text or "(nothing)", va="center", fontsize=9, color="0.4")
    labels = [reading.label for reading in readings]
    axis.set_yticks(range(len(readings) - 1, -1, -1), labels, fontsize=9)
    axis.set_ylim(-0.6, max(1, len(readings)) - 0.4)
    axis.spines[["top", "right"]].set_visible(False)
