"""Compressed JSON lines: Lhotse's manifests, the same bytes for the same content.

Lhotse's own writers leave the time and the name of the file in gzip's header.
"""

import gzip
import io
import json
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

from lrsms.files import atomic_write


def write_jsonl(path: Path, items: Iterable[Mapping], compresslevel: int = 9) -> int:
    """Write one line of JSON for each item to ``path`` (``.jsonl.gz``); returns their number.

    Args:
        path: of the file.
        items: such as the ``to_dict()`` of recordings, supervisions or cuts; taken one by one.
        compresslevel: gzip's.
    """
    count = 0
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel, file, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as lines,
    ):
        for item in items:
            lines.write(json.dumps(item, ensure_ascii=False) + "\n")
            count += 1
    return count


@contextmanager
def atomic_jsonl(path: Path) -> Iterator[Path]:
    """Give a place to write a manifest at, as :func:`lrsms.files.atomic_write` does.

    If ``path`` has held the same lines before, it keeps its bytes: trainings of earlier versions know it by these.
    """
    with atomic_write(path) as unfinished:
        yield unfinished
        if path.exists() and _same_lines(unfinished, path):
            shutil.copy2(path, unfinished)


def _same_lines(*paths: Path) -> bool:
    try:
        with gzip.open(paths[0], "rb") as first, gzip.open(paths[1], "rb") as second:
            return all(line == other for line, other in zip_longest(first, second))
    except (OSError, EOFError, zlib.error):  # a damaged file is not the same
        return False
