"""Files that are whole or absent: each is written beside its place and then renamed into it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
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


def copy_into(file: Path, folder: Path, name: str) -> None:
    """Copy ``file`` as ``name`` of ``folder``, as :func:`atomic_write` does; a file that is there already stays."""
    target = folder / name
    if target.exists() and target.samefile(file):
        return
    with atomic_write(target) as unfinished:
        shutil.copyfile(file, unfinished)


def write_json(path: Path, content: object) -> None:
    """Replace ``path`` by ``content`` as JSON, laid out as :func:`json_text` does, as :func:`atomic_write` does."""
    write_text(path, json_text(content) + "\n")


def json_text(content: object, indent: str = "") -> str:
    """JSON that is short and can be read and compared line by line.

    What fits into a line of 120 columns stands in one, such as a row of a table. In anything longer, numbers and words
    fill lines, and each list or mapping begins a line of its own.

    Args:
        content: what :func:`json.dumps` takes.
        indent: of the lines after the first.
    """
    line = json.dumps(content, ensure_ascii=False)
    if not isinstance(content, dict | list | tuple) or len(indent) + len(line) <= _WIDTH:
        return line
    inner = f"{indent} "
    if isinstance(content, dict):
        # dumps makes of each key what JSON has for it: a number, True or None is no string in Python.
        keys = [json.dumps({key: 0}, ensure_ascii=False)[1:-3] for key in content]
        values = [
            (f"{key} {json_text(value, inner)}", value) for key, value in zip(keys, content.values(), strict=True)
        ]
    else:
        values = [(json_text(value, inner), value) for value in content]
    begin, end = "{}" if isinstance(content, dict) else "[]"
    separator = f",\n{inner}"
    return f"{begin}\n{inner}{separator.join(_filled(values, len(inner)))}\n{indent}{end}"


_WIDTH = 119  # columns; a comma may follow


def _filled(values: Iterable[tuple[str, object]], indent: int) -> list[str]:
    """The texts of values as lines, each of as many numbers and words as it takes."""
    lines: list[str] = []
    shared = False
    for text, value in values:
        plain = not isinstance(value, dict | list | tuple)
        if shared and plain and indent + len(lines[-1]) + 2 + len(text) <= _WIDTH:
            lines[-1] += f", {text}"
        else:
            lines.append(text)
        shared = plain
    return lines
