"""How helper processes are started, wherever one process is not enough, and how all of a command's end together.

What a helper is given is pickled: paths, options, numbers. A model that is open would be sent as one file descriptor
for each of its tensors, of which multiprocessing takes 256: helpers open their own, or read a file.

A command that is interrupted or terminated ends its helpers (:func:`end_together`); a helper ends when the process
that has started it does, however that came about (:func:`be_helper`); and a verb ends with the recipe that has started
it (:func:`end_with_recipe`), for a shell that is killed leaves what it runs behind.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext

Context = ForkServerContext | SpawnContext
_RECIPE = "LRSMS_RECIPE_PROCESS"  # the variable in which run.sh leaves its process number
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 30


class Terminated(SystemExit):
    """Raised in the main thread of a command that is told to end by SIGTERM or SIGHUP."""


def end_together() -> None:
    """Have signals that end this process end the processes that it has started, and then raise an exception.

    SIGINT raises ``KeyboardInterrupt``, SIGTERM and SIGHUP raise :class:`Terminated`; a signal that is ignored stays
    so, such as SIGHUP after ``nohup``.
    """
    owner = os.getpid()

    def end(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a fork of this process, which has its own work to leave
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for child in multiprocessing.active_children():
            child.terminate()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def be_helper() -> None:
    """Make this process, which multiprocessing has started, end with its parent; Ctrl-C is for the parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def end_with_recipe() -> None:
    """Make this process end when the run.sh that has started it does; nothing if none has."""
    number = os.environ.pop(_RECIPE, "")
    if number.isdigit():
        threading.Thread(target=_watch, args=(int(number),), daemon=True).start()


def _watch(recipe: int) -> None:
    # One whose parent has not asked for its status is still there as a number, but no longer anyone's parent.
    is_parent = os.getppid() == recipe
    while os.getppid() == recipe if is_parent else _runs(recipe):
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(128 + signal.SIGTERM)


def _runs(process: int) -> bool:
    with suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


def start_context(module: str, on_gpu: bool) -> Context:
    """How to start processes that will import ``module``, which takes seconds if it imports ESPnet.

    Without GPU they are forked from a server that has imported it once; a fork of the calling process itself is unsafe
    after torch has used threads. A server that has imported ESPnet has also counted the GPUs, and what it forks can
    neither use nor choose them: processes that use a GPU each start from nothing.

    Args:
        module: importable name.
        on_gpu: whether the processes are to use a GPU.
    """
    if on_gpu:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lrsms.bin", module])  # lrsms.bin makes imports quick
    with interrupts_blocked():
        forkserver.ensure_running()
    return context


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C for processes started within this context, and for theirs: it is for the command alone.

    A helper that ignores it (:func:`be_helper`) has imported much before it can say so.
    """
    resource_tracker.ensure_running()  # which would unblock the interrupt
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def helpers(count: int, work: Callable, *args) -> Iterator[None]:
    """Within this context so many processes call ``work(*args)`` on the CPU; with it they are ended.

    Their work is what others do if they do not: one that has failed shows its own traceback, and is named on stderr.
    """
    context = start_context(work.__module__, on_gpu=False)
    started = [context.Process(target=_help, args=(work, *args), daemon=True) for _ in range(count)]
    for process in started:
        process.start()
    try:
        yield
    finally:
        for process in started:
            if process.exitcode:
                print(f"{process.name} ended with status {process.exitcode}; its work was done here", file=sys.stderr)
            process.terminate()


def _help(work: Callable, *args) -> None:
    be_helper()
    work(*args)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within this context torch computes on one thread, as helpers do: the number changes a sum's last bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
