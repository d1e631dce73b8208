"""Mouth regions of all videos of a corpus, and a contact sheet of them to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from lhotse.array import TemporalArray
from tqdm.contrib.concurrent import thread_map

from lrsms.avsr.mouth import SIZE, extract_mouth
from lrsms.avsr.video import VideoError
from lrsms.data.excluded import Exclusion
from lrsms.data.manifests import Split
from lrsms.data.mouths import describe, regions_path, save_regions
from lrsms.files import atomic_write

_GAP = 2  # pixels between the regions of a contact sheet
_TITLE = 14  # pixels of a line of text above each row


def extract_all(
    videos: Mapping[str, Path], folder: Path, *, size: int = SIZE, num_jobs: int = 1, title: str = "video"
) -> tuple[dict[str, TemporalArray], list[Exclusion]]:
    """Find the mouth in every video and store its regions, as ``folder/<size>/<id>.npy``.

    What an earlier run has stored from the same file is kept. One clip takes 0.75 MB for each 80 frames of 96 x 96.

    Args:
        videos: by recording id.
        folder: of the regions.
        size: pixels of a region's side.

    Returns:
        The regions by recording id, and one row for each video of no use.
    """
    cv2.setNumThreads(1)  # clips side by side, not one over all cores

    def extract(item: tuple[str, Path]) -> TemporalArray | Exclusion:
        name, video = item
        path = folder / str(size) / f"{name}.npy"
        try:
            return _stored(path, video) or save_regions(path, extract_mouth(video, size))
        except VideoError as error:
            return Exclusion(name, error.reason, str(error))

    results = thread_map(extract, list(videos.items()), max_workers=num_jobs, desc=f"{title}: find mouths", unit="clip")
    pairs = list(zip(videos, results))
    arrays = {name: result for name, result in pairs if isinstance(result, TemporalArray)}
    return arrays, [result for _, result in pairs if isinstance(result, Exclusion)]


def _stored(path: Path, video: Path) -> TemporalArray | None:
    """What an earlier run has made of ``video``, unless it has changed since or the regions cannot be read."""
    if not (path.exists() and video.exists() and path.stat().st_mtime > video.stat().st_mtime):
        return None
    try:
        return describe(path, np.load(path, mmap_mode="r", allow_pickle=False).shape)
    except (OSError, ValueError, EOFError):
        return None


def contact_sheet(path: Path, mouths: Mapping[str, TemporalArray], *, rows: int = 8, columns: int = 10) -> None:
    """Write a PNG of ``rows`` clips, evenly chosen, with ``columns`` frames of each, evenly spaced in time.

    Args:
        path: of the picture; atomic.
        mouths: regions by recording id.
    """
    names = list(mouths)
    chosen = [names[index] for index in np.unique(np.linspace(0, len(names) - 1, min(rows, len(names))).astype(int))]
    strips = []
    for name in chosen:
        regions = np.load(regions_path(mouths[name]), mmap_mode="r")
        frames = regions[np.linspace(0, len(regions) - 1, columns).astype(int)]
        strip = np.full((_TITLE + frames.shape[1], columns * (frames.shape[2] + _GAP)), 255, dtype=np.uint8)
        cv2.putText(strip, name, (1, _TITLE - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 0, 1, cv2.LINE_AA)
        for column, frame in enumerate(frames):
            left = column * (frames.shape[2] + _GAP)
            strip[_TITLE:, left : left + frames.shape[2]] = frame
        strips.append(strip)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as unfinished:
        cv2.imwrite(str(unfinished), np.vstack(strips))


def add_mouths(
    splits: Mapping[str, Split], videos: Mapping[str, Path], output_dir: Path, *, size: int, num_jobs: int, title: str
) -> None:
    """Find the mouths of all splits' recordings, and write a contact sheet of them, ``output_dir/mouths.png``.

    Args:
        splits: get their ``mouths`` and ``without_video``.
        videos: by recording id.
        size: pixels of a mouth region's side.
    """
    used = {item.id for split in splits.values() for item in split.recordings}
    wanted = {name: path for name, path in videos.items() if name in used}
    arrays, lost = extract_all(wanted, output_dir.absolute() / "mouth", size=size, num_jobs=num_jobs, title=title)
    lost += [Exclusion(name, "missing_video", "a sound without a video") for name in sorted(used - videos.keys())]
    for split in splits.values():
        names = {item.id for item in split.recordings}
        split.mouths = {name: array for name, array in arrays.items() if name in names}
        split.without_video = [row for row in lost if row.id in names]
    if arrays:
        sheet = output_dir / "mouths.png"
        contact_sheet(sheet, arrays)
        print(f"{title}: {len(arrays)} clips with mouth regions; look at {sheet}")
