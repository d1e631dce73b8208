"""Manifests of others are data: what in them would be executed, or fetched, is refused before Lhotse opens it.

Lhotse runs a source of type ``command`` in a shell, and so it does with a URL that begins with ``pipe:`` and with the
name of an ``.sph`` file, which it hands to sph2pipe; arrays of type ``memory_raw`` and ``pillow_memory`` are pickles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lrsms.errors import LrsmsError

_PLAIN_NAME = re.compile(r"[\w./+@=,:%~-]+")  # which mean nothing else to a shell
# Arrays in files, and in memory without a pickle; the others are pickles, or are fetched.
_ARRAYS = frozenset(
    "numpy_files numpy_hdf5 lilcom_files lilcom_hdf5 chunked_lilcom_hdf5 lilcom_chunky memory_lilcom memory_npy "
    "pillow_files".split()
)


def danger_of(kind: object, source: object) -> str | None:
    """Why a source of sound is not opened; None if it may be.

    Args:
        kind: the ``type`` of Lhotse's ``AudioSource``.
        source: its ``source``.
    """
    if kind == "command":
        return "a command, which is not executed; write its sound into a file and name that"
    text = str(source)
    if kind == "url" and not re.match(r"[a-z][a-z0-9+.]*://", text):
        return "not the URL of a file, such as https://host/a.flac"
    if kind == "file" and (text.startswith("pipe:") or text == "-"):
        return "a command, which is not executed; name a sound file"
    if kind == "file" and text.lower().endswith(".sph") and not _PLAIN_NAME.fullmatch(text):
        return "an .sph file, whose name goes through a shell; rename it to letters, digits and . _ - + @ = , : % ~"
    return None


def check_sources(content: object, where: str) -> None:
    """Look at a line of a manifest, at any depth, for sources and arrays that are not opened.

    Args:
        content: what JSON holds.
        where: file and line, for the message.

    Raises:
        LrsmsError: names ``where``, the source or kind of array, and what would be right.
    """
    if isinstance(content, Mapping):
        if "source" in content and "type" in content:
            why = danger_of(content["type"], content["source"])
            if why is not None:
                raise LrsmsError(f"{where}: source {_short(content['source'])}: refused, it is {why}")
        kind = content.get("storage_type")
        if kind is not None and kind not in _ARRAYS:
            raise LrsmsError(
                f"{where}: storage_type {_short(kind)}: refused, it is none of an array that is read as data: "
                f"{', '.join(sorted(_ARRAYS))}"
            )
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            if isinstance(part, Mapping | list):
                check_sources(part, where)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
