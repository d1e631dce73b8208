"""LRS3 (Afouras, Chung and Zisserman 2018): spoken sentences of TED talks with the speaker's face, brought by the user.

Its layout is read as distributed: ``{pretrain,trainval,test}/<folder>/<clip>.mp4`` (25 frames per second, the face in
the middle, 16 kHz sound) with ``<clip>.txt`` beside it: a line ``Text:``, a line ``Conf:``, and in ``pretrain`` the
times of all words under the heading ``WORD START END ASDSCORE``. A folder is one talk and stands for its speaker.

Splits: ``train`` is pretrain and trainval (or one of them), ``test`` is test. The corpus has no development set:
``dev`` is the hundredth part of trainval's folders by the SHA-1 of their names; if pretrain has these folders as
well, they are left out of training. Clips of pretrain are cut at word times into segments of at most 24 s (auto_avsr's
600 frames).
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrsms.command_line import run_verb
from lrsms.data.corpus_command import CorpusParser, run_corpus
from lrsms.data.excluded import Exclusion
from lrsms.data.manifests import Split, open_recordings, require_layout, save_splits
from lrsms.data.videos import extract_sound
from lrsms.errors import LrsmsError
from lrsms.text_files import read_lines, split_words

if TYPE_CHECKING:
    from lhotse import Recording

TRAIN_PARTS = ("pretrain", "trainval")
MOUTH_SIZE = 96  # pixels of a mouth region's side
LONGEST = 24.0  # seconds of a segment of pretrain
_DEV_SHARE = 100  # one folder of so many
_WORDS = "WORD START END"


@dataclass(frozen=True)
class ClipText:
    """What is said in a clip, and its words with begin and end in seconds if the file has them."""

    text: str
    words: list[tuple[str, float, float]]


def read_transcript(path: Path) -> ClipText:
    """Read a clip's ``.txt``.

    Raises:
        ValueError: there is no line ``Text:``, or a word has no times.
        LrsmsError: the file cannot be read.
    """
    lines = read_lines(path)
    texts = [line.partition(":")[2].strip() for line in lines if line.startswith("Text:")]
    if not texts:
        raise ValueError(f"{path}: no line that begins with Text:")
    heading = next((i for i, line in enumerate(lines) if " ".join(line.split()).startswith(_WORDS)), len(lines))
    words = []
    for line in lines[heading + 1 :]:
        fields = split_words(line)
        if not fields:
            break
        try:
            word, begin, end = fields[0], float(fields[1]), float(fields[2])
        except (IndexError, ValueError):
            raise ValueError(f"{path}: {line!r}: expected a word, its start and its end in seconds") from None
        if not (math.isfinite(begin) and math.isfinite(end) and begin <= end):
            raise ValueError(f"{path}: {line!r}: the word ends before it starts")
        words.append((word, begin, end))
    return ClipText(" ".join(texts[0].split()), words)


def segments(
    words: Sequence[tuple[str, float, float]], duration: float, longest: float = LONGEST
) -> list[tuple[str, float, float]]:
    """Cut a clip between words into stretches of at most ``longest`` seconds, each as long as it may be.

    Args:
        words: word, start and end in seconds, in order.
        duration: of the clip in seconds.

    Returns:
        Text, start and end of each. A cut is in the middle of the pause between two words; a single word that is longer
        than ``longest`` stays whole.
    """
    spans, first = [], 0
    begin = 0.0
    while first < len(words):
        last = first
        while last + 1 < len(words) and _end(words, last + 1, duration) - begin <= longest:
            last += 1
        end = min(duration, max(_end(words, last, duration), words[last][2]))
        if end > begin:
            spans.append((" ".join(word for word, _, _ in words[first : last + 1]), begin, end))
        first, begin = last + 1, end
    return spans


def _end(words: Sequence[tuple[str, float, float]], index: int, duration: float) -> float:
    """End, in seconds, of a segment whose last word this is."""
    return duration if index + 1 == len(words) else (words[index][2] + words[index + 1][1]) / 2


def is_dev(folder: str) -> bool:
    """Whether a folder's clips are of the development set."""
    return int(hashlib.sha1(folder.encode()).hexdigest(), 16) % _DEV_SHARE == 0


def prepare_lrs3(
    corpus_dir: Path | None,
    output_dir: Path,
    *,
    train_parts: Sequence[str] = (),
    mouth_size: int = MOUTH_SIZE,
    num_jobs: int = 1,
) -> None:
    """Write the manifests of ``train``, ``dev`` and ``test``, and the mouth regions of all their clips.

    Args:
        corpus_dir: the folder that holds those of the parts.
        output_dir: receives ``<split>/{recordings,supervisions,mouths}.jsonl.gz``, ``audio/lrs3`` and ``mouth/<size>``.
        train_parts: of pretrain and trainval; both when empty.
        mouth_size: pixels of a mouth region's side.

    Raises:
        LrsmsError: an unknown part, another layout, or a split without a usable clip.
    """
    from lrsms.avsr.extract import add_mouths

    train_parts = tuple(train_parts) or TRAIN_PARTS
    unknown = set(train_parts) - set(TRAIN_PARTS)
    if unknown:
        raise LrsmsError(f"--train_parts {', '.join(sorted(unknown))}: expected {' or '.join(TRAIN_PARTS)}, or both")
    # dev comes from trainval whatever is trained on
    parts = [*dict.fromkeys((*train_parts, "trainval")), "test"]
    expected = [f"{part}/*/*.{suffix}" for part in parts for suffix in ("mp4", "txt")]
    corpus_dir = require_layout(corpus_dir, expected)
    videos = {part: _find(corpus_dir, part) for part in parts}
    held_out = {path.parent.name for path in videos["trainval"].values() if is_dev(path.parent.name)}
    if "trainval" not in train_parts:
        videos["trainval"] = {k: path for k, path in videos["trainval"].items() if path.parent.name in held_out}
    every = {name: path for paths in videos.values() for name, path in paths.items()}
    sound, exclusions = extract_sound(every, output_dir / "audio" / "lrs3", num_jobs=num_jobs, title="lrs3")
    recordings, unreadable = open_recordings(sound, num_jobs=num_jobs, title="lrs3: read headers")
    exclusions += unreadable

    splits = {name: Split() for name in ("train", "dev", "test")}
    failed = {row.id: row for row in exclusions}
    for part in parts:
        for name, path in videos[part].items():
            split = splits[_split_of(part, path.parent.name, held_out)]
            if part == "pretrain" and path.parent.name in held_out:
                split.exclusions.append(Exclusion(name, "speaker_of_dev", f"folder {path.parent.name} is in dev"))
            elif name in failed:
                split.exclusions.append(failed[name])
            else:
                _add(split, recordings[name], path, cut=part == "pretrain")
        lost = [path for path in sorted(corpus_dir.glob(f"{part}/*/*.txt")) if not path.with_suffix(".mp4").exists()]
        for path in lost:
            row = Exclusion(_name(part, path), "missing_video", f"no such file: {path.with_suffix('.mp4')}")
            splits[_split_of(part, path.parent.name, held_out)].exclusions.append(row)
    add_mouths(splits, every, output_dir, size=mouth_size, num_jobs=num_jobs, title="lrs3")
    save_splits(output_dir, splits)


def _name(part: str, path: Path) -> str:
    return f"{part}_{path.parent.name}_{path.stem}"


def _find(corpus_dir: Path, part: str) -> dict[str, Path]:
    return {_name(part, path): path for path in sorted(corpus_dir.glob(f"{part}/*/*.mp4"))}


def _split_of(part: str, folder: str, held_out: set[str]) -> str:
    if part == "test":
        return "test"
    return "dev" if part == "trainval" and folder in held_out else "train"


def _add(split: Split, recording: Recording, video: Path, *, cut: bool) -> None:
    """Add a clip, whole or cut into segments, or the reason why not."""
    from lhotse import SupervisionSegment

    try:
        transcript = read_transcript(video.with_suffix(".txt"))
    except (LrsmsError, ValueError) as error:
        split.exclusions.append(Exclusion(recording.id, "no_transcript", str(error)))
        return
    spans = [(recording.id, transcript.text, 0.0, recording.duration)]
    if cut:
        if not transcript.words:
            row = Exclusion(recording.id, "no_word_times", f"{video.with_suffix('.txt')}: no table {_WORDS}")
            split.exclusions.append(row)
            return
        sentences = segments(transcript.words, recording.duration)
        spans = [(f"{recording.id}-{number:03d}", *span) for number, span in enumerate(sentences)]
    split.recordings.append(recording)
    split.supervisions += [
        SupervisionSegment(
            id=name, recording_id=recording.id, start=begin, duration=round(end - begin, 6), text=text.upper(),
            language="English", speaker=video.parent.name,
        )
        for name, text, begin, end in spans
    ]  # fmt: skip


def parser() -> CorpusParser:
    """Options of the command."""
    options = CorpusParser("lrs3", __doc__)
    options.add_source("--corpus_dir", help="the corpus as distributed: pretrain/, trainval/, test/")
    options.add_argument("--train_parts", metavar="PARTS", help='such as "trainval" (default: both)')
    options.add_count("--mouth_size", help=f"pixels of a mouth region's side (default: {MOUTH_SIZE})")
    return options


def _prepare(args: argparse.Namespace) -> None:
    prepare_lrs3(args.corpus_dir, args.output_dir, train_parts=(args.train_parts or "").split(),
                 mouth_size=args.mouth_size or MOUTH_SIZE, num_jobs=args.num_jobs)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 0 with the options ``argv``, by default those of the command line."""
    run_corpus(parser(), _prepare, argv)


if __name__ == "__main__":
    run_verb(main)
