"""GRID: six-word command sentences, 34 speakers with 1,000 clips of 3 s each; its audio, or audio and mouth regions.

Two layouts are read: the corpus as Lhotse downloads it (``audio_25k/<speaker>/*.wav``, also ``audio/``) and
folders of videos (``video/<speaker>/*.mp4`` or ``.mpg``, or ``<speaker>/*.mpg``), from which the sound track is
extracted to 16 kHz mono FLAC under ``<output_dir>/audio/grid``. Both need ``alignments/<speaker>/*.align``. For mouth
regions, videos are needed; they go to ``<output_dir>/mouth/<size>``.

Splits: for speaker s1 the lists ``test_s1.txt`` (80 clips) and ``dev_s1.txt`` (40 clips) of
``egs/grid/asr1/local``, drawn once at random from 800 clips; the rest is ``train``. For other speakers, by
the SHA-1 of the clip's id: of ten parts, one is ``test``, half of another ``dev``. Speakers are shared
between the splits.
"""

import hashlib
from pathlib import Path

from lhotse import SupervisionSegment

from lrsms.data.excluded import Exclusion
from lrsms.data.manifests import Split, open_recordings, pair, require_layout, save_splits
from lrsms.data.videos import add_mouths, extract_sound
from lrsms.errors import LrsmsError

LISTS_DIR = Path(__file__).resolve().parents[2] / "egs" / "grid" / "asr1" / "local"
_AUDIO = ("audio_25k/*/*.wav", "audio/*/*.wav")
_VIDEO = ("video/*/*.mp4", "video/*/*.mpg", "s[0-9]*/*.mpg", "s[0-9]*/video/*.mpg")
_SILENCE = {"sil", "sp"}


def read_alignment(path: Path) -> str:
    """Transcript of an ``.align`` file (lines of start, end, word), without silences, in upper case.

    Raises:
        ValueError: a line does not have these three fields.
    """
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    if any(len(row) != 3 for row in rows):
        raise ValueError(f"{path}: expected lines of start, end and word")
    return " ".join(word.upper() for _, _, word in rows if word not in _SILENCE)


def _speaker(path: Path) -> str:
    return path.parents[1].name if path.parent.name == "video" else path.parent.name


def _find(corpus_dir: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    """Clips by id, ``<speaker>_<clip>``: clip names repeat between speakers."""
    paths = sorted(path for pattern in patterns for path in corpus_dir.glob(pattern))
    return {f"{_speaker(path)}_{path.stem}": path for path in paths}


def _read_lists(lists_dir: Path) -> dict[str, str]:
    """Clip id of s1 to its split."""
    chosen: dict[str, str] = {}
    for split in ("test", "dev"):
        path = lists_dir / f"{split}_s1.txt"
        if not path.exists():
            raise LrsmsError(
                f"{path}: no such file; it must list the {split} clips of speaker s1, one id per line "
                f"(--lists_dir; the repository's are in egs/grid/asr1/local)"
            )
        chosen.update({clip: split for clip in path.read_text().split()})
    return chosen


def split_of(name: str, lists: dict[str, str]) -> str:
    """Split of the clip ``<speaker>_<clip>`` by the rules at the top of this module."""
    speaker, clip = name.split("_", 1)
    if speaker == "s1":
        return lists.get(clip, "train")
    value = int(hashlib.sha1(name.encode()).hexdigest(), 16)
    if value % 10 == 0:
        return "test"
    return "dev" if value % 10 == 1 and value // 10 % 2 == 0 else "train"


def prepare_grid(
    corpus_dir: Path | None,
    output_dir: Path,
    *,
    num_jobs: int,
    lists_dir: Path | None = None,
    mouth_size: int | None = None,
) -> None:
    """Write the manifests of ``train``, ``dev`` and ``test``, extracting audio where only videos are given.

    Args:
        corpus_dir: one of the two layouts above.
        output_dir: receives ``<split>/{recordings,supervisions}.jsonl.gz``, and ``audio/grid`` for videos.
        lists_dir: folder of ``test_s1.txt`` and ``dev_s1.txt``; None is the recipe's ``local``.
        mouth_size: pixels of a mouth region's side; None prepares audio alone.

    Raises:
        LrsmsError: neither layout is found, no clip can be read, or the lists of s1 are missing.
    """
    corpus_dir = require_layout(corpus_dir, ["alignments/*/*.align"])
    paths, exclusions = _find(corpus_dir, _AUDIO), []
    videos = _find(corpus_dir, _VIDEO)
    if mouth_size and not videos:
        raise LrsmsError(f"--corpus_dir {corpus_dir}: no videos; expected one of {', '.join(_VIDEO)}")
    if not paths:
        if not videos:
            raise LrsmsError(f"--corpus_dir {corpus_dir}: no clips; expected one of {', '.join(_AUDIO + _VIDEO)}")
        paths, exclusions = extract_sound(videos, output_dir / "audio" / "grid", num_jobs=num_jobs, title="grid")
    recordings, unreadable = open_recordings(paths, num_jobs=num_jobs, title="grid: read headers")
    exclusions += unreadable

    texts: dict[str, str] = {}
    for name in recordings:
        alignment = corpus_dir / "alignments" / name.split("_", 1)[0] / f"{name.split('_', 1)[1]}.align"
        try:
            texts[name] = read_alignment(alignment)
        except (OSError, ValueError) as error:
            exclusions.append(Exclusion(name, "no_alignment", str(error)))
    clips = set(recordings) | {item.id for item in exclusions}
    for path in sorted(corpus_dir.glob("alignments/*/*.align")):
        if f"{path.parent.name}_{path.stem}" not in clips:
            exclusions.append(Exclusion(f"{path.parent.name}_{path.stem}", "no_audio", f"no clip for {path}"))

    has_s1 = any(name.startswith("s1_") for name in clips)
    lists = _read_lists(lists_dir or LISTS_DIR) if has_s1 else {}
    absent = sum(f"s1_{clip}" not in clips for clip in lists)
    if absent:
        print(f"grid: {absent} of the {len(lists)} clips listed for test and dev of s1 are not in {corpus_dir}")
    splits: dict[str, Split] = {}
    for split in ("train", "dev", "test"):
        supervisions = [
            SupervisionSegment(
                id=name, recording_id=name, start=0.0, duration=recordings[name].duration,
                language="English", speaker=name.split("_", 1)[0], text=text,
            )
            for name, text in texts.items() if split_of(name, lists) == split
        ]  # fmt: skip
        audio = [item for name, item in recordings.items() if name in texts and split_of(name, lists) == split]
        splits[split] = pair(audio, supervisions, [e for e in exclusions if split_of(e.id, lists) == split], split)
    if mouth_size:
        add_mouths(splits, videos, output_dir, size=mouth_size, num_jobs=num_jobs, title="grid")
    save_splits(output_dir, splits)
