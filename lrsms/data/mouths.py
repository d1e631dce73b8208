"""Mouth regions beside recordings: ``data/<split>/mouths.jsonl.gz``, checked and attached to cuts by stage 1.

Each line has the ``id`` of a recording and its ``mouth``, a Lhotse temporal array: gray regions, uint8
``(frames, rows, columns)``, square, 25 per second (``frame_shift`` 0.04 s). A recording whose video is of no use has no
line; its utterances train and decode as audio alone, and ``without_video.tsv`` beside the manifests (the columns of
``excluded.tsv``) says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.contrib.concurrent import thread_map

from lrsms.data.excluded import Exclusion, count_reasons
from lrsms.data.jsonl import atomic_jsonl, write_jsonl
from lrsms.data.sources import check_sources
from lrsms.data.video_clock import FRAME_SHIFT, TOLERANCE
from lrsms.errors import LrsmsError
from lrsms.files import atomic_write

if TYPE_CHECKING:
    from lhotse import MonoCut
    from lhotse.array import TemporalArray
    from lhotse.cut import Cut

MANIFEST = "mouths.jsonl.gz"
WITHOUT_VIDEO = "without_video.tsv"
FIELD = "mouth"  # of a cut


def save_regions(path: Path, regions: np.ndarray) -> TemporalArray:
    """Write ``regions``, uint8 ``(frames, rows, columns)``, to the NumPy file ``path``; atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as unfinished:
        np.save(unfinished, regions, allow_pickle=False)
    return describe(path, regions.shape)


def describe(path: Path, shape: Iterable[int]) -> TemporalArray:
    """The manifest of regions that are stored in ``path`` already."""
    from lhotse.array import Array, TemporalArray

    array = Array("numpy_files", str(path.parent), path.name, list(shape))
    return TemporalArray(array, temporal_dim=0, frame_shift=FRAME_SHIFT, start=0.0)


def write_manifest(folder: Path, mouths: Mapping[str, TemporalArray]) -> None:
    """Write the regions of a split's recordings, by recording id; atomic."""
    with atomic_jsonl(folder / MANIFEST) as unfinished:
        write_jsonl(unfinished, ({"id": name, FIELD: array.to_dict()} for name, array in mouths.items()))


def read_manifest(folder: Path) -> dict[str, TemporalArray] | None:
    """The regions of a split by recording id; None if it has no such manifest: a corpus of audio.

    Raises:
        LrsmsError: the manifest is damaged.
    """
    from lhotse.array import TemporalArray
    from lhotse.serialization import load_jsonl

    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        rows = list(load_jsonl(path))
        for line, row in enumerate(rows, 1):
            check_sources(row, f"{path}: line {line}")
        return {row["id"]: TemporalArray.from_dict(row[FIELD]) for row in rows}
    except LrsmsError:
        raise
    except Exception as error:  # gzip, JSON and Lhotse fail with types of their own
        raise LrsmsError(f"{path}: the manifest cannot be read ({error}); run stage 0 again") from error


def regions_path(array: TemporalArray) -> Path:
    """The NumPy file of an array."""
    return Path(array.array.storage_path) / array.array.storage_key


def probe(name: str, array: TemporalArray, duration: float, size: tuple[int, int] | None = None) -> Exclusion | None:
    """Read the regions of a recording of ``duration`` seconds whole, and return what is wrong with them, or None.

    Reasons: ``missing_video``, ``unreadable_video``, ``truncated_video`` (fewer frames than the manifest says),
    ``wrong_format`` (not uint8 with three dimensions), ``wrong_size`` (not square, or not ``size``), ``wrong_fps``
    (not 25 per second), ``short_video`` and ``long_video`` (more than 0.2 s from the sound's length) and
    ``blank_video`` (every pixel the same).
    """
    path = regions_path(array)
    if not path.is_file():
        return Exclusion(name, "missing_video", f"no such file: {path}")
    if abs(array.frame_shift - FRAME_SHIFT) > 1e-6:
        return Exclusion(name, "wrong_fps", f"{path}: {1 / array.frame_shift:g} frames per second; make them 25")
    try:
        regions = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = "truncated_video" if "mmap length" in str(error) else "unreadable_video"
        return Exclusion(name, reason, f"{path}: {error}")
    fault = _judge(regions, array, duration, size)
    return Exclusion(name, fault[0], f"{path}: {fault[1]}") if fault else None


def _judge(
    regions: np.ndarray, array: TemporalArray, duration: float, size: tuple[int, int] | None
) -> tuple[str, str] | None:
    if regions.dtype != np.uint8 or regions.ndim != 3:
        return "wrong_format", f"{regions.dtype} of shape {regions.shape}; expected uint8 (frames, rows, columns)"
    shape = " x ".join(map(str, regions.shape[1:]))
    if regions.shape[1] != regions.shape[2] or (size and regions.shape[1:] != tuple(size)):
        wanted = f"{size[0]} x {size[1]}, as the others" if size else "a square"
        return "wrong_size", f"regions of {shape} pixels; expected {wanted}"
    if len(regions) != array.num_frames:
        return "truncated_video", f"holds {len(regions)} of {array.num_frames} frames"
    difference = len(regions) * FRAME_SHIFT - duration
    if abs(difference) > TOLERANCE:
        reason = "short_video" if difference < 0 else "long_video"
        return reason, f"{len(regions) * FRAME_SHIFT:.2f} s of video with {duration:.2f} s of sound"
    if regions.size == 0 or regions.min() == regions.max():
        return "blank_video", "every pixel has the same value"
    return None


def common_size(manifests: Iterable[Mapping[str, TemporalArray]]) -> tuple[int, int] | None:
    """Rows and columns of most regions of all splits; the others are to be left out. None if there is none."""
    counts = Counter(tuple(array.shape[1:]) for mouths in manifests for array in mouths.values())
    return counts.most_common(1)[0][0] if counts else None


def attach(
    cuts: list[MonoCut],
    mouths: Mapping[str, TemporalArray],
    known: Iterable[Exclusion] = (),
    *,
    size: tuple[int, int] | None = None,
    num_jobs: int = 1,
    title: str = "cuts",
) -> tuple[list[MonoCut], list[Exclusion]]:
    """Give each cut the regions of its recording, after reading them whole.

    Args:
        cuts: at their recordings' own speed.
        mouths: by recording id.
        known: what stage 0 has listed already, by recording id.
        size: that all regions must have.

    Returns:
        All cuts in their order, with the custom field ``mouth`` if the video is good, and one row for each cut
        without.
    """
    recordings = {cut.recording.id: cut.recording for cut in cuts}
    listed = {row.id: row for row in known}
    names = [name for name in recordings if name in mouths]

    def check(name: str) -> Exclusion | None:
        return probe(name, mouths[name], recordings[name].duration, size)

    faults = thread_map(check, names, max_workers=num_jobs, desc=f"{title}: read mouth regions", unit="file")
    broken = {row.id: row for row in faults if row}
    attached, rows = [], []
    for cut in cuts:
        name = cut.recording.id
        problem = broken.get(name)
        if name not in mouths:
            problem = listed.get(name, Exclusion(name, "no_video", f"{MANIFEST} has no regions of recording {name}"))
        if problem is None:
            cut = replace(cut, custom={**(cut.custom or {}), FIELD: mouths[name]})
        else:
            rows.append(Exclusion(cut.id, problem.reason, problem.detail))
        attached.append(cut)
    return attached, rows


def perturb_speed(cut: Cut, factor: float) -> Cut:
    """Lhotse's lazy speed perturbation, with the mouth following the sound.

    Lhotse leaves custom arrays as they are. Here the array's frames are stretched over the new time axis (its
    ``frame_shift`` and ``start`` are divided by ``factor``), and loading takes 25 frames a second from it again: frame
    indices are repeated if speech is slowed down and skipped if it is sped up.
    """
    perturbed = cut.perturb_speed(factor)
    array = None if hasattr(cut, "tracks") else (cut.custom or {}).get(FIELD)  # joined cuts have no video
    if array is None:
        return perturbed
    array = replace(array, frame_shift=array.frame_shift / factor, start=array.start / factor)
    return replace(perturbed, custom={**cut.custom, FIELD: array})


def print_summary(split: str, cuts: int, rows: Iterable[Exclusion]) -> None:
    """Print how many of a split's cuts have video, and one line per reason why others have none."""
    rows = list(rows)
    print(f"{split}: {cuts - len(rows)} of {cuts} utterances with video")
    for reason, count in count_reasons(rows):
        print(f"{split}: {count} without video: {reason}")
