"""Cut long recordings at their pauses.

torchaudio's ``vad`` (SoX's) only trims the front of a recording, and the neural detectors (Silero, pyannote) are a
second model to fetch and to trust, so this goes by energy: frames near the noise floor are a pause, and if there is
no pause the pieces overlap, for their words to be joined by time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FRAME = 0.01  # seconds
_SILENCE = -70.0  # dB below full scale: no model has heard speech there
_LONGEST_MARGIN = 0.75  # seconds of a pause that are kept at either side of speech
_SHORT_PAUSE = 0.15  # seconds; if a piece is too long, such a pause will do
_SHORTEST_PIECE = 0.5  # seconds
_NEIGHBOURHOOD = 6.0  # seconds at either side that the noise floor is taken from
_CLICK = 0.1  # seconds
_CONTRAST = 6.0  # dB between noise floor and speech; with less, no pause can be told


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording.

    Attributes:
        start, end: in samples.
        overlaps: whether it begins before the piece in front of it ends.
    """

    start: int
    end: int
    overlaps: bool = False


@dataclass(frozen=True)
class Splitter:
    """How to cut a recording into pieces.

    Attributes:
        sampling_rate: in Hz.
        max_seconds: longest piece; a recording that is no longer stays whole.
        min_pause: seconds; longer recordings are cut at every pause of this length or more.
        overlap: seconds that two pieces share if there is no pause between them; 0 lets them touch.
    """

    sampling_rate: int
    max_seconds: float = 20.0
    min_pause: float = 0.5
    overlap: float = 3.0

    def __call__(self, samples: np.ndarray) -> list[Piece]:
        """The pieces of ``(samples,)`` in [-1, 1], in order; none if all of it is silent."""
        levels = frame_levels(samples, self.sampling_rate)
        if not len(levels) or levels.max() < _SILENCE:
            return []
        if len(samples) <= self.max_seconds * self.sampling_rate:
            return [Piece(0, len(samples))]
        active = find_speech(levels)
        pieces: list[Piece] = []
        for start, end in self._stretches(active):
            pieces += self._shortened(active, start, end)
        return [
            Piece(self._sample(piece.start), min(self._sample(piece.end), len(samples)), piece.overlaps)
            for piece in pieces
        ]

    def _stretches(self, active: np.ndarray) -> list[tuple[int, int]]:
        """Frames between long pauses, with up to half of the pause at either side."""
        margin, pauses = round(_LONGEST_MARGIN / _FRAME), _pauses(active, self.min_pause)
        spans, begin = [], 0
        for first, last in pauses:
            between = first > 0 and last < len(active)
            margin_here = min(margin, (last - first) // 2 if between else last - first)
            if first > 0:
                spans.append((begin, first + margin_here))
            begin = last - margin_here
        if not pauses or pauses[-1][1] < len(active):
            spans.append((begin, len(active)))
        return spans

    def _shortened(self, active: np.ndarray, start: int, end: int) -> list[Piece]:
        longest = round(self.max_seconds / _FRAME)
        if end - start <= longest:
            return [Piece(start, end)]
        edge = round(min(_SHORTEST_PIECE, self.max_seconds / 4) / _FRAME)
        inner = [
            (begin + start, stop + start)
            for begin, stop in _pauses(active[start:end], _SHORT_PAUSE)
            if begin >= edge and end - start - stop >= edge
        ]
        if not inner:
            return self._windows(start, end)
        middle = (start + end) / 2
        begin, stop = max(inner, key=lambda pause: (pause[1] - pause[0], -abs(sum(pause) / 2 - middle)))
        cut = (begin + stop) // 2
        return self._shortened(active, start, cut) + self._shortened(active, cut, end)

    def _windows(self, start: int, end: int) -> list[Piece]:
        longest = round(self.max_seconds / _FRAME)
        overlap = round(min(self.overlap, self.max_seconds / 2) / _FRAME)
        count = -(-(end - start - overlap) // (longest - overlap))
        length = -(-(end - start - overlap) // count) + overlap  # equal windows: none is left as a short rest
        begins = [start + index * (length - overlap) for index in range(count)]
        return [Piece(begin, min(begin + length, end), bool(index and overlap)) for index, begin in enumerate(begins)]

    def _sample(self, frame: int) -> int:
        return frame * _hop(self.sampling_rate)


def _hop(sampling_rate: int) -> int:
    return max(1, round(_FRAME * sampling_rate))


def frame_levels(samples: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Level of each 10 ms in dB below full scale, over 30 ms around it: ``(frames,)``."""
    hop = _hop(sampling_rate)
    count = -(-len(samples) // hop)
    padded = np.zeros(count * hop, np.float32)
    padded[: len(samples)] = samples
    power = np.square(padded, dtype=np.float32).reshape(count, hop).mean(axis=1, dtype=np.float64)
    if count >= 3:
        power = np.convolve(np.pad(power, 1, mode="edge"), np.full(3, 1 / 3), mode="valid")
    return 10 * np.log10(power + 1e-12)


def find_speech(levels: np.ndarray) -> np.ndarray:
    """Which frames are louder than a pause, ``(frames,)`` of booleans; all if no pause can be told.

    A frame is, from up to 10 dB over the noise floor on; the floor is the 10th percentile of the six seconds at
    either side, as noise changes within a recording. Clicks of less than 0.1 s in a pause are part of it.

    Args:
        levels: of :func:`frame_levels`.
    """
    levels = np.maximum(levels, _SILENCE)
    centers = np.arange(0, len(levels), round(1 / _FRAME))
    reach = round(_NEIGHBOURHOOD / _FRAME)
    limits = [_threshold(levels[max(0, center - reach) : center + reach + 1]) for center in centers]
    active = levels > np.interp(np.arange(len(levels)), centers, limits)
    for begin, end in _runs(active):
        if (end - begin) * _FRAME < _CLICK:
            active[begin:end] = False
    return active


def _threshold(levels: np.ndarray) -> float:
    floor, loud = np.percentile(levels, [10, 99])
    if loud <= _SILENCE:
        return _SILENCE
    return floor + min(10.0, 0.3 * (loud - floor)) if loud - floor >= _CONTRAST else _SILENCE - 1


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last frame (exclusive) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _pauses(active: np.ndarray, seconds: float) -> list[tuple[int, int]]:
    """Runs without speech of at least ``seconds``."""
    return [(begin, end) for begin, end in _runs(~active) if (end - begin) * _FRAME >= seconds - 1e-9]
