"""What every corpus preparation shares: checked inputs in, Lhotse manifests of each split out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.contrib.concurrent import thread_map

from lrsms.data import mouths
from lrsms.data.excluded import Exclusion, print_summary, top_reasons, write_excluded
from lrsms.data.joined import MANIFEST as JOINED
from lrsms.data.joined import Joined, write_joined
from lrsms.data.jsonl import atomic_jsonl, write_jsonl
from lrsms.data.sources import danger_of
from lrsms.errors import LrsmsError
from lrsms.text_files import read_lines, split_words

if TYPE_CHECKING:
    from lhotse import Recording, SupervisionSegment
    from lhotse.array import TemporalArray

STAGE = "prepare"
UNKNOWN_SPEAKER = "unknown"  # of a corpus that names none: Lhotse wants one for Kaldi's tables


@dataclass
class Split:
    """The manifests of one split while they are being put together.

    ``mouths`` are the mouth regions of its recordings by id, None for a corpus of audio; ``without_video`` has a row
    for each recording whose video is of no use. ``joined`` are utterances of several supervisions each, None if each
    supervision is an utterance.
    """

    recordings: list[Recording] = field(default_factory=list)
    supervisions: list[SupervisionSegment] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)
    mouths: dict[str, TemporalArray] | None = None
    without_video: list[Exclusion] = field(default_factory=list)
    joined: list[Joined] | None = None


def require_layout(corpus_dir: Path | None, expected: Iterable[str], option: str = "--corpus_dir") -> Path:
    """Return ``corpus_dir`` when it holds every path of ``expected`` (globs, relative to it).

    Raises:
        LrsmsError: names what was expected and what was found instead.
    """
    expected = list(expected)
    layout = ", ".join(expected)
    if corpus_dir is None:
        raise LrsmsError(f"{option} is not given; it must be a folder with {layout}")
    if not corpus_dir.is_dir():
        raise LrsmsError(f"{option} {corpus_dir}: no such folder; expected a folder with {layout}")
    missing = [pattern for pattern in expected if next(corpus_dir.glob(pattern), None) is None]
    if missing:
        names = sorted(path.name for path in corpus_dir.iterdir())
        listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise LrsmsError(
            f"{option} {corpus_dir}: expected {layout}; {', '.join(missing)} not found; the folder holds "
            f"{listed or 'nothing'}"
        )
    return corpus_dir


def check_unique(ids: Iterable[str], where: str) -> None:
    """Raise :class:`LrsmsError` naming the first few ids that ``where`` holds more than once."""
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise LrsmsError(
            f"{where}: {len(repeated)} duplicate ids, such as {', '.join(repeated[:3])}; every id must occur once"
        )


def read_table(path: Path) -> dict[str, str]:
    """Read a Kaldi table: an id, white space, and the rest of the line (possibly empty).

    Raises:
        LrsmsError: the file is missing, empty or no text (see :func:`lrsms.text_files.read_lines`), or an id occurs
            twice.
    """
    if not path.exists():
        raise LrsmsError(f"{path}: no such file; expected lines of an id and its value")
    rows = [fields for line in read_lines(path) if (fields := split_words(line, 1))]
    if not rows:
        raise LrsmsError(f"{path}: empty; expected lines of an id and its value")
    check_unique((row[0] for row in rows), str(path))
    return {row[0]: row[1] if len(row) > 1 else "" for row in rows}


def open_recordings(
    paths: Mapping[str, Path], *, num_jobs: int, title: str
) -> tuple[dict[str, Recording], list[Exclusion]]:
    """Read the header of every audio file in ``paths`` (recording id to file), in parallel.

    Returns:
        The recordings by id, and an exclusion for each file that is missing or has no readable header.
    """
    from lhotse import Recording

    def open_one(item: tuple[str, Path]) -> Recording | Exclusion:
        name, path = item
        if not path.is_file():
            return Exclusion(name, "missing_audio", f"no such file: {path.absolute()}")
        danger = danger_of("file", path.absolute())
        if danger is not None:
            return Exclusion(name, "refused", f"{path.absolute()}: {danger}")
        try:
            return Recording.from_file(path.absolute(), recording_id=name)
        except Exception as error:  # Lhotse's backends raise many types for a broken header
            return Exclusion(name, "unreadable", f"{path.absolute()}: {str(error).strip().splitlines()[0:1]}")

    results = thread_map(open_one, list(paths.items()), max_workers=num_jobs, desc=title, unit="file")
    recordings = {item.id: item for item in results if isinstance(item, Recording)}
    return recordings, [item for item in results if isinstance(item, Exclusion)]


def pair(recordings: Iterable[Recording], supervisions: Iterable[SupervisionSegment], exclusions: Iterable[Exclusion],
         where: str) -> Split:  # fmt: skip
    """Keep what has both audio and text; each loss not already in ``exclusions`` becomes one.

    Raises:
        LrsmsError: a recording or a supervision id occurs twice.
    """
    recordings, supervisions, exclusions = list(recordings), list(supervisions), list(exclusions)
    check_unique((item.id for item in recordings), f"{where}: recordings")
    check_unique((item.id for item in supervisions), f"{where}: supervisions")
    with_audio = {item.id for item in recordings}
    with_text = {item.recording_id for item in supervisions}
    known = {item.id for item in exclusions}
    for item in supervisions:
        if item.recording_id not in with_audio and not {item.id, item.recording_id} & known:
            exclusions.append(Exclusion(item.id, "no_audio", f"no recording {item.recording_id}"))
    for item in recordings:
        if item.id not in with_text and item.id not in known:
            exclusions.append(Exclusion(item.id, "no_text", "a recording without transcript"))
    return Split(
        [item for item in recordings if item.id in with_text],
        [item for item in supervisions if item.recording_id in with_audio],
        exclusions,
    )


def save_splits(output_dir: Path, splits: Mapping[str, Split]) -> None:
    """Write ``<output_dir>/<split>/{recordings,supervisions}.jsonl.gz`` and ``excluded.tsv``, and print counts.

    Every split is checked and written to temporary files before the first earlier output is replaced.

    Raises:
        LrsmsError: a split would be empty; the message says why.
    """
    from lhotse import RecordingSet, SupervisionSet

    for name, split in splits.items():
        if not split.supervisions:
            reasons = top_reasons(split.exclusions)
            raise LrsmsError(f"split {name}: no utterance is left" + (f"; excluded: {reasons}" if reasons else ""))
    with ExitStack() as unfinished:
        for name, split in splits.items():
            folder = output_dir / name
            folder.mkdir(parents=True, exist_ok=True)
            for kind, manifest in (
                ("recordings", RecordingSet.from_recordings(split.recordings)),
                ("supervisions", SupervisionSet.from_segments(split.supervisions)),
            ):
                write_jsonl(unfinished.enter_context(atomic_jsonl(folder / f"{kind}.jsonl.gz")), manifest.to_dicts())
    for name, split in splits.items():
        write_excluded(output_dir / name / "excluded.tsv", STAGE, split.exclusions)
        _save_mouths(output_dir / name, split)
        hours = sum(item.duration for item in split.supervisions) / 3600
        if split.joined is None:
            (output_dir / name / JOINED).unlink(missing_ok=True)
            print(f"{name}: {len(split.supervisions)} utterances, {hours:.2f} hours")
        else:
            write_joined(output_dir / name, split.joined)
            print(
                f"{name}: {len(split.joined)} utterances of {len(split.supervisions)} supervisions, {hours:.2f} hours"
            )
        print_summary(name, split.exclusions)
        if split.mouths is not None:
            mouths.print_summary(name, len(split.recordings), split.without_video)


def _save_mouths(folder: Path, split: Split) -> None:
    if split.mouths is None:  # what an audio-visual preparation has left here would be taken for this one's
        (folder / mouths.MANIFEST).unlink(missing_ok=True)
        (folder / mouths.WITHOUT_VIDEO).unlink(missing_ok=True)
        return
    mouths.write_manifest(folder, split.mouths)
    write_excluded(folder / mouths.WITHOUT_VIDEO, STAGE, split.without_video)
