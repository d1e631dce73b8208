"""Utterances that are joined in the manifests: supervisions of a split one after the other, no sound written.

``joined.jsonl.gz`` beside a split's recordings and supervisions lists them, one object in each line: ``id``, and
``parts``, the ids of its supervisions. Stage 1 then makes a cut of each line, with Lhotse's ``append``, in place of one
of each supervision. A line with one part is that part alone.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrsms.data.excluded import Exclusion
from lrsms.data.jsonl import atomic_jsonl, write_jsonl
from lrsms.errors import LrsmsError

if TYPE_CHECKING:
    from lhotse import MonoCut
    from lhotse.cut import Cut

MANIFEST = "joined.jsonl.gz"


@dataclass(frozen=True)
class Joined:
    """An utterance of several parts.

    Attributes:
        id: of the utterance.
        parts: ids of the supervisions of its split that follow each other in it; at least one.
    """

    id: str
    parts: tuple[str, ...]


def write_joined(folder: Path, utterances: Iterable[Joined]) -> None:
    """Write ``joined.jsonl.gz`` of a split's folder."""
    with atomic_jsonl(folder / MANIFEST) as path:
        write_jsonl(path, ({"id": item.id, "parts": list(item.parts)} for item in utterances))


def read_joined(folder: Path) -> list[Joined] | None:
    """The utterances of ``joined.jsonl.gz``; None if the split has no such file.

    Raises:
        LrsmsError: the file is damaged, or a line is malformed.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [_parse(line, f"{path}: line {number}") for number, line in enumerate(file, 1)]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise LrsmsError(f"{path}: damaged ({error}); run stage 0 again with --force true") from error


def _parse(line: str, where: str) -> Joined:
    expected = 'expected {"id": text, "parts": a list of supervision ids, at least one}'
    try:
        content = json.loads(line)
    except ValueError as error:
        raise LrsmsError(f"{where}: not JSON ({error}); {expected}") from error
    if not isinstance(content, dict) or content.keys() != {"id", "parts"}:
        raise LrsmsError(f"{where}: {line.strip()[:80]}: {expected}")
    name, parts = content["id"], content["parts"]
    right = isinstance(parts, list) and bool(parts) and all(isinstance(part, str) for part in parts)
    if not (isinstance(name, str) and name.split() == [name] and right):
        raise LrsmsError(f"{where}: {line.strip()[:80]}: {expected}")
    return Joined(name, tuple(parts))


def join(
    utterances: Sequence[Joined], cuts: Sequence[MonoCut], exclusions: Sequence[Exclusion], where: str
) -> tuple[list[Cut], list[Exclusion]]:
    """Make a cut of each utterance.

    Args:
        utterances: what to join.
        cuts: one of each supervision that can be used, bearing its id.
        exclusions: of the other supervisions.
        where: file, for messages.

    Returns:
        One cut of each utterance whose parts can all be used, and an exclusion of each other utterance.

    Raises:
        LrsmsError: a part is no supervision of the split.
    """
    by_id = {cut.id: cut for cut in cuts}
    lost = {item.id: item for item in exclusions}
    joined, left_out = [], []
    for item in utterances:
        missing = [part for part in item.parts if part not in by_id]
        unknown = [part for part in missing if part not in lost]
        if unknown:
            raise LrsmsError(f"{where}: {item.id}: parts: {unknown[0]!r} is no supervision of this split")
        if missing:
            fault = lost[missing[0]]
            left_out.append(Exclusion(item.id, fault.reason, f"its part {fault.id}: {fault.detail}"))
        else:
            joined.append(_append(item, by_id))
    return joined, left_out


def _append(item: Joined, by_id: Mapping[str, MonoCut]) -> Cut:
    from lhotse import SupervisionSegment

    first, *others = (by_id[part] for part in item.parts)
    said = [cut.supervisions[0] for cut in (first, *others)]
    cut: Cut = first.drop_supervisions()
    for other in others:
        cut = cut.append(other.drop_supervisions())
    speakers = list(dict.fromkeys(part.speaker for part in said if part.speaker))
    languages = {part.language for part in said}
    supervision = SupervisionSegment(
        id=item.id,
        recording_id=item.id,
        start=0.0,
        duration=cut.duration,
        channel=0,
        text=" ".join(str(part.text) for part in said),
        speaker="+".join(speakers) or None,
        language=languages.pop() if len(languages) == 1 else None,
    )
    _first_track(cut).supervisions = [supervision]
    return cut.with_id(item.id)


def _first_track(cut: Cut) -> MonoCut:
    tracks = getattr(cut, "tracks", None)
    return cut if tracks is None else tracks[0].cut  # a MixedCut has the supervisions of its tracks
