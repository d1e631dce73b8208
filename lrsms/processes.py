"""How helper processes are started, wherever one process is not enough.

What a helper is given is pickled: paths, options, numbers. A model that is open would be sent as one file descriptor
for each of its tensors, of which multiprocessing takes 256: helpers open their own, or read a file.
"""

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, SpawnContext

Context = ForkServerContext | SpawnContext


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
    return context


@contextmanager
def helpers(count: int, work: Callable, *args) -> Iterator[None]:
    """Within this context so many processes call ``work(*args)`` on the CPU; with it they are ended.

    Their work is what others do if they do not: one that has failed shows its own traceback, and is named on stderr.
    """
    context = start_context(work.__module__, on_gpu=False)
    started = [context.Process(target=work, args=args, daemon=True) for _ in range(count)]
    for process in started:
        process.start()
    try:
        yield
    finally:
        for process in started:
            if process.exitcode:
                print(f"{process.name} ended with status {process.exitcode}; its work was done here", file=sys.stderr)
            process.terminate()


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
