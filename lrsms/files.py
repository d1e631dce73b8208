"""Files that are whole or absent: each is written beside its place and then renamed into it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a place to write a file at, which takes the place of ``path`` when the block ends.

    Until then ``path`` stays as it was, also if the block raises or the process is killed. The place lies in a folder
    of its own inside the folder of ``path``: processes that write the same file do not meet, and the file has its final
    name while it is written, for names matter to those who write (``numpy.savez`` and OpenCV go by the ending;
    ``torch.save`` and gzip store the name). Several files take their places together if their blocks end together,
    as in a ``contextlib.ExitStack``.

    Args:
        path: of the file; its folder exists.

    Raises:
        OSError: the file cannot be written, or the block has not written it.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        yield unfinished
        os.replace(unfinished, path)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8, as :func:`atomic_write` does."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Replace ``path`` by ``content`` as JSON, each value on a line of its own, as :func:`atomic_write` does."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
