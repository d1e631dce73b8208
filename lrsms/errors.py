"""The one exception a user is meant to read, and what most often raises it: a key that is not known."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


class LrsmsError(Exception):
    """Something the user can put right.

    The message names the file, key and value concerned and what would be right. Every command prints it
    as one line and exits with status 1; a stack trace means a defect of ours.
    """


def refuse_unknown(keys: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """Refuse keys that are not allowed, suggesting the nearest one that is.

    Args:
        keys: as they are written.
        allowed: in the order in which the message lists them.
        where: file and block, for the message.

    Raises:
        LrsmsError: a key is not allowed.
    """
    allowed = list(allowed)
    for key in keys:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes: {', '.join(allowed)}"
            raise LrsmsError(f"{where}: unknown key {key!r}; {hint}")


def number_hint(value: object) -> str:
    """What to write in place of text that is meant as a number: YAML 1.1 knows ``2.0e-3`` and reads ``2e-3`` as text.

    Returns:
        The end of a message, empty if ``value`` is not such text.
    """
    if not isinstance(value, str):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    plain = value.strip() if value.strip().isdecimal() else repr(number)
    plain = plain.replace("e", ".0e") if "." not in plain else plain
    return f"; YAML reads it as text: write {plain}"
