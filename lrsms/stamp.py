"""Remember what a stage was made from, so that an unchanged stage is skipped.

A stamp is a small JSON file beside a stage's output. It holds the stage's arguments and a fingerprint of
every input file: the content's SHA-256 up to 4 MiB, size and modification time above.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from lrsms.files import write_json

_HASH_LIMIT = 4 << 20  # bytes; larger inputs (audio, archives) are told apart by size and time


def _fingerprint(path: Path) -> str:
    if not path.exists():
        return "missing"
    if path.is_dir():
        names = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
        return "folder " + hashlib.sha256("\n".join(names).encode()).hexdigest()
    stat = path.stat()
    if stat.st_size > _HASH_LIMIT:
        return f"{stat.st_size} bytes at {stat.st_mtime_ns}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _state(arguments: Mapping, inputs: Iterable[Path]) -> dict:
    return {
        "arguments": {key: str(value) for key, value in sorted(arguments.items())},
        "inputs": {str(path): _fingerprint(Path(path)) for path in sorted(map(str, inputs))},
    }


def is_current(stamp: Path, arguments: Mapping, inputs: Iterable[Path]) -> bool:
    """True when ``stamp`` was written for the same arguments and the same input contents."""
    try:
        recorded = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return False
    return recorded == _state(arguments, inputs)


def write(stamp: Path, arguments: Mapping, inputs: Iterable[Path]) -> None:
    """Record that the stage has finished; call it last, after every output is in place."""
    stamp.parent.mkdir(parents=True, exist_ok=True)
    write_json(stamp, _state(arguments, inputs))
