"""Text files of others, whose lines end where their programs end them: at line feeds.

``str.splitlines`` also ends a line at U+2028, U+0085, form feeds and more, which occur within transcripts. Excel and
Notepad put a byte order mark in front, and ``cat`` carries it into the middle of a file.
"""

from __future__ import annotations

import re
from pathlib import Path

from lrsms.errors import LrsmsError

_MARK = "\ufeff"
_SPACE = " \t\n\v\f\r"  # what ends a word for Kaldi; a no-break space is a character like others


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, without line feeds and carriage returns at their ends, and without byte order marks.

    Raises:
        LrsmsError: it is missing or unreadable, not UTF-8, holds a NUL, or ends its lines with carriage returns alone.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise LrsmsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise LrsmsError(f"{path}: not UTF-8 text ({error}); convert it with iconv") from None
    if "\0" in text:
        raise LrsmsError(f"{path}: line {text[: text.index(chr(0))].count(chr(10)) + 1} holds a NUL; is it UTF-16?")
    if "\r" in text.strip("\r\n") and "\n" not in text:
        raise LrsmsError(f"{path}: its lines end with carriage returns alone; convert it with tr '\\r' '\\n'")
    return [line.rstrip("\r").lstrip(_MARK) for line in text.removesuffix("\n").split("\n")]


def split_words(line: str, count: int = -1) -> list[str]:
    """Words of a line as Kaldi parts them, at ASCII white space.

    Args:
        line: of a table.
        count: of words at most that are taken off; what is behind them is one, without white space at its ends.
    """
    line = line.strip(_SPACE)
    return re.split(f"[{_SPACE}]+", line, maxsplit=max(0, count)) if line else []
