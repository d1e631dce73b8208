"""Manifests of cuts as stage 1 leaves them, read one cut after the other, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrsms.data.sources import check_sources
from lrsms.errors import LrsmsError

if TYPE_CHECKING:
    from lhotse import CutSet
    from lhotse.cut import Cut


def read_cuts(path: Path, sampling_rate: int | None = None) -> CutSet:
    """The cuts of a manifest, read anew whenever they are gone through.

    Args:
        path: of the manifest.
        sampling_rate: in Hz, of the model that is to hear them; None for any.

    Raises:
        LrsmsError: no such file; and as the cuts are gone through, for one that cannot be read, would be executed or
            fetched (:mod:`lrsms.data.sources`), or has another sampling rate.
    """
    from lhotse import CutSet

    if not path.exists():
        raise LrsmsError(f"{path}: no such manifest of cuts; run stage 1 first")
    return CutSet(_Cuts(path, sampling_rate))


@dataclass
class _Cuts:
    """Goes through a manifest; Lhotse's ``CutSet`` is lazy around it, and goes to other processes with it."""

    path: Path
    sampling_rate: int | None

    def __iter__(self) -> Iterator[Cut]:
        for line, content in _lines(self.path):
            where = f"{self.path}: line {line}"
            check_sources(content, where)
            yield self._made(content, where)

    def _made(self, content: dict, where: str) -> Cut:
        from lhotse.cut import Cut
        from lhotse.serialization import deserialize_item

        try:
            cut = deserialize_item(content)
        except Exception as error:  # of Lhotse, which takes a wrong field in many ways
            raise LrsmsError(f"{where}: no cut that Lhotse reads ({type(error).__name__}: {error})") from error
        if not isinstance(cut, Cut):
            raise LrsmsError(f"{where}: a {type(cut).__name__}, not a cut; run stage 1")
        if self.sampling_rate is not None and cut.sampling_rate != self.sampling_rate:
            raise LrsmsError(
                f"{where}: {cut.id} has {cut.sampling_rate} Hz, but the model hears {self.sampling_rate}; run stage 1 "
                f"with --fs {self.sampling_rate}"
            )
        return cut


def _lines(path: Path) -> Iterator[tuple[int, dict]]:
    from lhotse.serialization import load_jsonl

    line = 0
    try:
        for line, content in enumerate(load_jsonl(path), 1):
            yield line, content
    except Exception as error:  # of gzip and JSON, each with types of its own
        raise LrsmsError(f"{path}: damaged behind line {line} ({error}); run stage 1 again") from error
