"""Optuna's storages, shared by processes and machines that work on one search or one sweep."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import DBAPIError

from lrsms.errors import LrsmsError


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
            backend = optuna.storages.JournalStorage(JournalFileBackend(str(storage)))
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
