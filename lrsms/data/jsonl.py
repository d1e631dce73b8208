"""Compressed JSON lines: Lhotse's manifests, the same bytes for the same content.

Lhotse's own writers leave the time and the name of the file in gzip's header.
"""

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path


def write_jsonl(path: Path, items: Iterable[Mapping], compresslevel: int = 9) -> int:
    """Write one line of JSON for each item to ``path`` (``.jsonl.gz``); returns their number.

    Args:
        path: of the file.
        items: such as the ``to_dict()`` of recordings, supervisions or cuts; taken one by one.
        compresslevel: gzip's.
    """
    count = 0
    with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel, file, mtime=0) as packed:
        with io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as lines:
            for item in items:
                lines.write(json.dumps(item, ensure_ascii=False) + "\n")
                count += 1
    return count


def put_in_place(temporary: Path, final: Path) -> None:
    """Let ``temporary`` take the place of ``final``, unless both hold the same lines.

    Then ``final`` stays as it is: trainings of earlier versions know it by its compressed bytes.
    """
    if final.exists() and _same_lines(temporary, final):
        temporary.unlink()
    else:
        os.replace(temporary, final)


def _same_lines(*paths: Path) -> bool:
    try:
        with gzip.open(paths[0], "rb") as first, gzip.open(paths[1], "rb") as second:
            return all(one == other for one, other in zip_longest(first, second))
    except (OSError, EOFError, zlib.error):  # a damaged file is not the same
        return False
