"""Optuna's storages, shared by processes and machines that work on one search or one sweep."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.exc import DBAPIError

from lrsms.errors import LrsmsError

_LEFT_SECONDS = 30  # Optuna's grace: a lock is held for milliseconds


def open_study(storage: str | Path, name: str, **options) -> optuna.Study:
    """The study of that name, made if there is none.

    Args:
        storage: URL of an Optuna storage, or the file of a journal.
        name: of the study.
        options: of ``optuna.create_study``.

    Raises:
        LrsmsError: the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if isinstance(storage, Path):
            storage.parent.mkdir(parents=True, exist_ok=True)
            backend = optuna.storages.JournalStorage(JournalFileBackend(str(storage), OwnedLock(storage)))
            return optuna.create_study(storage=backend, study_name=name, load_if_exists=True, **options)
        return _open_database(storage, name, options)
    except Exception as error:  # of Optuna, SQLAlchemy, a database's driver or the operating system
        reason = "".join(str(error).strip().splitlines()[:1])
        remedy = (
            "remove it while nothing runs" if isinstance(storage, Path) else "write such as sqlite:////folder/file.db"
        )
        raise LrsmsError(
            f"{storage}: cannot be opened as a storage of Optuna ({type(error).__name__}: {reason}); {remedy}"
        ) from error


def _open_database(url: str, name: str, options: Mapping) -> optuna.Study:
    for seconds in (0.5, 1, 2):
        try:
            return optuna.create_study(storage=url, study_name=name, load_if_exists=True, **options)
        except DBAPIError:  # such as "table studies already exists": another process is making them at this moment
            time.sleep(seconds * (1 + random.random()))
    return optuna.create_study(storage=url, study_name=name, load_if_exists=True, **options)


class OwnedLock(JournalFileSymlinkLock):
    """The lock of a journal: a link that says who holds it, so that one left by a killed process is taken at once.

    Optuna's own link names the journal. A killed process leaves it, and others wait 30 s; if the journal's path is
    relative, the link leads nowhere, its age is never seen, and they wait for ever.

    Args:
        journal: the file; the link ``<journal>.lock`` lies beside it.
    """

    def __init__(self, journal: Path):
        super().__init__(str(journal))
        self._link = journal.absolute().with_name(f"{journal.name}.lock")

    def acquire(self) -> bool:
        """Wait until the lock is ours."""
        seconds = 0.001
        while True:
            try:
                self._link.symlink_to(json.dumps(this_process()))
                return True
            except FileExistsError:
                holder = self._holder()
            if holder is not None and self._is_left(holder) and holder == self._holder():
                with contextlib.suppress(OSError):  # another waiter was quicker
                    self.release()
                continue
            time.sleep(seconds)
            seconds = min(2 * seconds, 0.5)

    def release(self) -> None:
        """Let others have it."""
        released = self._link.with_name(f"{self._link.name}.{uuid.uuid4()}")
        self._link.rename(released)
        released.unlink()

    def _holder(self) -> tuple[str, float] | None:
        """What the link says, and when it was made; None if there is none any more."""
        try:
            made = self._link.lstat().st_mtime
            return (os.readlink(self._link) if self._link.is_symlink() else ""), made
        except OSError:
            return None

    def _is_left(self, holder: tuple[str, float]) -> bool:
        text, made = holder
        try:
            ended = has_ended(json.loads(text), this_process())
        except (ValueError, KeyError, AttributeError, TypeError):  # Optuna's own, of an earlier version
            ended = None
        return time.time() - made > _LEFT_SECONDS if ended is None else ended


def this_process() -> dict:
    """Who this process is: ``machine``, ``process`` and ``started``, for :func:`has_ended` on any machine."""
    return {"machine": _machine(), "process": os.getpid(), "started": _started(os.getpid())}


def has_ended(owner: Mapping, observer: Mapping) -> bool | None:
    """Whether a process has ended, seen from ``observer``; both as :func:`this_process` describes them.

    None if it is another machine's, of which nothing can be said from here.
    """
    if owner.get("machine") != observer["machine"]:
        return None
    return _started(owner["process"]) != owner["started"]


def _machine() -> str:
    """The host; on Linux also its boot and the container, within which alone a process number means something."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _started(process: int) -> str | None:
    """When a process of this machine began, in the kernel's ticks; None if it has ended."""
    if not Path("/proc/self/stat").exists():
        return _signaled(process)
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else fields[18]


def _signaled(process: int) -> str | None:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"
