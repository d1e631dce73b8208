"""Processes of their own for the points of a sweep, none of which outlives the runner."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from lrsms.errors import LrsmsError
from lrsms.processes import Context, be_helper, interrupts_blocked, start_context

_PATIENCE_SECONDS = 10


def threads_for_each(nj: int) -> int:
    """A share of the cores for each of ``nj`` processes, and no more than OMP_NUM_THREADS if that is set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // nj, int(allowed) if allowed.isdigit() else cores))


def prepare(module: str, threads: int, ngpu: int) -> Context:
    """How to make processes of ``threads`` threads each, which will import ``module`` and with it ESPnet."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
    return start_context(module, on_gpu=bool(ngpu))


def start(process: BaseProcess, gpu: int | None) -> None:
    """Start ``process`` so that it sees no GPU but the one given, if any: the ``gpu``-th of those this process sees."""
    if gpu is None:
        process.start()
        return
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = before.split(",")[gpu] if before else str(gpu)
    try:
        with interrupts_blocked():
            process.start()
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def run_here(work: Callable, log_file: Path, *arguments) -> None:
    """Call ``work(*arguments)`` in this process, whose output goes to the end of ``log_file``."""
    # The mask does not always reach here: starting multiprocessing's resource tracker unblocks the interrupt again.
    # And a runner that is killed cannot stop its processes: the next one would train the same points beside them.
    be_helper()
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("a", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)  # in the log, what is printed and what fails are in their order
    try:
        work(*arguments)
    except LrsmsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def stop(processes: Sequence[BaseProcess]) -> None:
    """End the processes that run; one that has not started, or has ended, is left alone."""
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.terminate()
    for process in alive:
        process.join(_PATIENCE_SECONDS)
        process.kill()
        process.join()
