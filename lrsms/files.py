"""Files that are whole or absent: each is written beside its place and then renamed into it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lrsms.errors import LrsmsError

_UNFINISHED = ".unfinished-"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_OTHER = (errno.EIO, errno.EFBIG, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EMFILE, errno.ESTALE)
FULL_DISK = "the disk is full; make room, and run the same command again"
_NO_SPACE = 1 << 16  # bytes; with no more than this left, a write that failed has failed for the lack of it

_cleaned: set[Path] = set()  # folders in which this process has looked for what others left


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
        LrsmsError: the disk is full or cannot be written to; says which of the two.
        OSError: the block has not written the file.
    """
    path = Path(path)
    try:
        with scratch_folder(path.parent) as folder, _full_disk_said(path):
            unfinished = folder / path.name
            yield unfinished
            os.replace(unfinished, path)
    except OSError as error:
        reason = reason_of_disk(error)
        if reason is None:
            raise
        raise LrsmsError(f"{path}: cannot be written: {reason}") from error


@contextmanager
def _full_disk_said(path: Path) -> Iterator[None]:
    """Libraries that write say with errors of their own that the disk is full, torch.save with a RuntimeError."""
    try:
        yield
    except LrsmsError:
        raise
    except Exception as error:
        if is_full(path.parent):
            raise LrsmsError(f"{path}: cannot be written: {FULL_DISK}") from error
        raise


def is_full(folder: Path) -> bool:
    """Whether the disk of a folder has no room left."""
    with suppress(OSError):
        return shutil.disk_usage(folder).free <= _NO_SPACE
    return False


def reason_of_disk(error: OSError) -> str | None:
    """What the disk or its permissions have to do with an error; None if they have nothing to do with it."""
    if error.errno in _FULL:
        return FULL_DISK
    if error.errno in _REFUSED:
        return f"{error.strerror}; give yourself the right, or choose another folder"
    return error.strerror if error.errno in _OTHER else None


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Give a folder of one's own inside ``parent``, which is removed with all it holds when the block ends.

    The kernel knows who holds it: what a process that was killed has left is removed by the next one that makes such
    a folder there. That one looks before its block and after it, for a process that is being killed gives up what it
    holds one after the other: others may be let in while its folder still counts as held.

    Raises:
        OSError: it cannot be made.
    """
    first = parent not in _cleaned
    if first:
        _cleaned.add(parent)
        _remove_abandoned(parent)
    folder, held = _held_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)
        if first:
            _remove_abandoned(parent)


def _held_folder(parent: Path) -> tuple[Path, int]:
    """A new folder, and its descriptor, which is locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=parent))
        try:
            held = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # it was taken for an abandoned one before it was locked
            continue
        with suppress(OSError):  # of a file system without locks, on which nothing is removed either
            fcntl.flock(held, fcntl.LOCK_EX)
        if folder.exists():
            return folder, held
        os.close(held)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_UNFINISHED}*"):
        with suppress(OSError):
            held = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)


@contextmanager
def exclusive(path: Path, busy: Callable[[], object]) -> Iterator[None]:
    """Let one process at a time into the block; a process that is killed leaves it.

    What it has forked, such as the workers of a torch.utils.data.DataLoader, may live on: it does not hold the block.

    Args:
        path: of a file that stands for the block while it is held; its folder exists.
        busy: called if another process is in the block, before this one waits; it may raise instead.
    """
    while True:
        file = path.open("a")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX leaves it open which of the two
            try:
                busy()
            except BaseException:
                file.close()
                raise
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError:  # of a file system without locks
            pass
        with suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # the one before has removed it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


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
