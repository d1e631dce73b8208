"""What was said when, and how to write it down: plain text, SubRip subtitles, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

FORMATS = ("txt", "srt", "json")
_CUE_SECONDS, _CUE_CHARACTERS, _CUE_GAP = 6.0, 84, 0.8  # two lines of 42 are what subtitles commonly hold
_SAME_TIME = 0.3  # seconds between the same word of two overlapping pieces


@dataclass(frozen=True)
class Word:
    """A word and its place in time.

    Attributes:
        word: as the model writes it.
        start, end: seconds from the recording's start. CTC is sure of where a word is, less of how long it lasts.
    """

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording that was recognized in one go.

    Attributes:
        text: what was said.
        start, end: seconds from the recording's start.
        words: with their times; empty if CTC cannot tell them.
    """

    text: str
    start: float
    end: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    Attributes:
        segments: in order; none if nothing was said.
        duration: of the recording in seconds.
        seconds: spent on it.
        separator: between words; empty for scripts without spaces.
    """

    segments: tuple[Segment, ...] = ()
    duration: float = 0.0
    seconds: float = 0.0
    separator: str = field(default=" ", repr=False)

    @property
    def text(self) -> str:
        """The whole transcript in one line."""
        return self.separator.join(segment.text for segment in self.segments if segment.text)

    @property
    def words(self) -> tuple[Word, ...]:
        """Words of all segments; those of a segment that CTC could not align are missing."""
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds spent for each second of sound."""
        return self.seconds / self.duration if self.duration else 0.0

    def srt(self) -> str:
        """SubRip subtitles; a segment without words is a cue as it is."""
        cues = [cue for segment in self.segments if segment.text for cue in _cues(segment, self.separator)]
        return "\n".join(
            f"{number}\n{_clock(cue.start)} --> {_clock(cue.end)}\n{cue.text}\n" for number, cue in enumerate(cues, 1)
        )

    def json(self, name: str) -> str:
        """One line of JSON: ``file``, ``duration``, ``text`` and ``segments`` with their ``words``."""
        segments = [
            {
                "start": round(segment.start, 3),
                "end": round(segment.end, 3),
                "text": segment.text,
                "words": [
                    {"word": word.word, "start": round(word.start, 3), "end": round(word.end, 3)}
                    for word in segment.words
                ],
            }
            for segment in self.segments
        ]
        content = {"file": name, "duration": round(self.duration, 3), "text": self.text, "segments": segments}
        return json.dumps(content, ensure_ascii=False)

    def formatted(self, kind: str, name: str) -> str:
        """The transcript as ``txt``, ``srt`` or ``json``, with its last line ended."""
        if kind == "srt":
            return self.srt()
        return (self.json(name) if kind == "json" else self.text) + "\n"


def join_overlapping(left: Segment, right: Segment, separator: str = " ") -> Segment:
    """One segment of two that share some time.

    Words in the common stretch stand in both: the left's are kept up to a word that both have at the same time, the
    nearest to the stretch's middle, and the right's behind it. Where they share none, the middle decides.
    """
    if any(segment.text and not segment.words for segment in (left, right)):  # no times to go by: lose nothing
        text = separator.join(filter(None, (left.text, right.text)))
        return Segment(text, left.start, right.end, left.words + right.words)
    middle = (right.start + left.end) / 2
    pairs = [
        (abs(center(a) - middle), index, other)
        for index, a in enumerate(left.words)
        for other, b in enumerate(right.words)
        if a.word == b.word and abs(center(a) - center(b)) <= _SAME_TIME and right.start <= center(a) <= left.end
    ]
    if pairs:
        _, index, other = min(pairs)
        words = left.words[: index + 1] + right.words[other + 1 :]
    else:
        words = tuple(word for word in left.words if center(word) < middle)
        words += tuple(word for word in right.words if center(word) >= middle)
    return Segment(separator.join(word.word for word in words), left.start, right.end, words)


def center(word: Word) -> float:
    """Middle of a word in seconds."""
    return (word.start + word.end) / 2


def _cues(segment: Segment, separator: str) -> list[Segment]:
    if not segment.words:
        return [segment]
    groups: list[list[Word]] = [[]]
    for word in segment.words:
        line = groups[-1]
        if line and (
            word.start - line[-1].end > _CUE_GAP
            or word.end - line[0].start > _CUE_SECONDS
            or sum(len(spoken.word) + len(separator) for spoken in line) + len(word.word) > _CUE_CHARACTERS
        ):
            groups.append([])
        groups[-1].append(word)
    return [_cue(group, separator, segment.end) for group in groups]


def _cue(words: Sequence[Word], separator: str, limit: float) -> Segment:
    # CTC's last word may be a single frame: leave it on the screen long enough to be seen.
    end = max(words[-1].end, min(words[0].start + 0.5, limit))
    return Segment(separator.join(word.word for word in words), words[0].start, end, tuple(words))


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d},{rest % 1000:03d}"
