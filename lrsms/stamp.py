"""Remember what a stage was made from, so that an unchanged stage is skipped.

A stamp is a small JSON file beside a stage's output. It holds the stage's arguments and a fingerprint of
every input: the SHA-256 of a file's content, unpacked if it is a ``.gz``, whose header may have a time; of a
folder, that of its file names. Arguments that are mappings are compared as mappings: the order of their keys does not
count.
"""

import ast
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

from lrsms.files import exclusive, write_json

_BLOCK = 1 << 20  # bytes read at once
_UNPACKED = "unpacked "  # before the hash of what a .gz holds


def _fingerprint(path: Path) -> str:
    if not path.exists():
        return "missing"
    if path.is_dir():
        names = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
        return "folder " + hashlib.sha256("\n".join(names).encode()).hexdigest()
    if path.suffix == ".gz":
        try:
            with gzip.open(path, "rb") as file:
                return _UNPACKED + _sha256(file)
        except (OSError, EOFError, zlib.error):  # damaged: the stage will say so
            pass
    with path.open("rb") as file:
        return _sha256(file)


def _sha256(file: IO[bytes] | gzip.GzipFile) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _earlier_fingerprints(path: Path) -> set[str]:
    """What earlier versions recorded of a file: the hash of its bytes on the disk; above 4 MiB, size and time."""
    if not path.is_file():
        return set()
    stat = path.stat()
    with path.open("rb") as file:
        return {_sha256(file), f"{stat.st_size} bytes at {stat.st_mtime_ns}"}


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
    now = _state(arguments, inputs)
    if isinstance(recorded, dict) and _same_arguments(recorded.get("arguments"), now["arguments"]):
        recorded = {**recorded, "arguments": now["arguments"]}
    return recorded == now or _is_current_of_earlier(recorded, now)


def differences(stamp: Path, arguments: Mapping, inputs: Iterable[Path]) -> list[str]:
    """Names of the arguments and input files that are not those for which ``stamp`` was written.

    Empty if it is current, and if it is missing or damaged, of which nothing can be said.
    """
    if is_current(stamp, arguments, inputs):
        return []
    try:
        recorded = json.loads(stamp.read_text())
        before = {kind: dict(recorded[kind]) for kind in ("arguments", "inputs")}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    now = _state(arguments, inputs)
    return [
        name
        for kind, values in now.items()
        for name in {**values, **before[kind]}
        if values.get(name) != before[kind].get(name)
    ]


def _same_arguments(recorded: object, now: Mapping[str, str]) -> bool:
    if not isinstance(recorded, dict) or recorded.keys() != now.keys():
        return False
    return all(recorded[key] == value or _ordered(recorded[key]) == _ordered(value) for key, value in now.items())


def _ordered(text: object) -> object:
    """The text of a Python value, its mappings' keys in alphabetical order; another text as it is."""
    try:
        return json.dumps(ast.literal_eval(str(text)), sort_keys=True)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _is_current_of_earlier(recorded: object, now: Mapping) -> bool:
    """True if a stamp that an earlier version has written is current."""
    if not isinstance(recorded, dict) or recorded.get("arguments") != now["arguments"]:
        return False
    before = recorded.get("inputs")
    if not isinstance(before, dict) or before.keys() != now["inputs"].keys():
        return False
    return all(
        before[path] == fingerprint or before[path] in _earlier_fingerprints(Path(path))
        for path, fingerprint in now["inputs"].items()
    )


def write(stamp: Path, arguments: Mapping, inputs: Iterable[Path]) -> None:
    """Record that the stage has finished; call it last, after every output is in place."""
    stamp.parent.mkdir(parents=True, exist_ok=True)
    write_json(stamp, _state(arguments, inputs))


def run_stage(name: str, data_dir: Path, is_done: Callable[[], bool], work: Callable[[], object]) -> None:
    """Call ``work``, unless ``is_done``; of stages that write into one folder, each waits for its turn.

    Args:
        name: of the stage, for what is said.
        data_dir: the folder.
        is_done: whether the stage has run and nothing has changed since; asked again after waiting.
        work: the stage, which ends with :func:`write`.
    """

    def skipped() -> bool:
        done = is_done()
        if done:
            print(f"{name} is up to date, skipped (--force true runs it again)")
        return done

    if skipped():
        return
    folder = data_dir / ".stamps"
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{name}: waiting for another command that is preparing {data_dir}"
    with exclusive(folder / "lock", busy=lambda: print(busy, flush=True)):
        if not skipped():
            work()
