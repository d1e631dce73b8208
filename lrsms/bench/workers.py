"""Arms of a comparison in processes of their own, which take turns: each has its own memory, threads and allocator."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TypeVar

from lrsms.errors import LrsmsError
from lrsms.processes import Context, start_context

Key = TypeVar("Key")


class Worker:
    """A process that holds one object and calls its methods when told.

    Args:
        context: how its process is started.
        make: class or function that makes the object; importable by name.
        *args, **kwargs: of it.
    """

    def __init__(self, context: Context, make: Callable, *args, **kwargs):
        self._pipe, inner = context.Pipe()
        self._process = context.Process(target=_serve, args=(inner, make, args, kwargs), daemon=True)
        self._process.start()
        inner.close()

    def ready(self) -> None:
        """Wait until the object is made.

        Raises:
            LrsmsError: it could not be.
        """
        self._answer()

    def call(self, method: str, *args, **kwargs):
        """What the method returns.

        Raises:
            LrsmsError: what went wrong in the process, or that it ended.
        """
        self.send(method, *args, **kwargs)
        return self.receive()

    def send(self, method: str, *args, **kwargs) -> None:
        """Have the method called, without waiting for it."""
        self._pipe.send((method, args, kwargs))

    def receive(self):
        """What the method called last returns; errors as in :meth:`call`."""
        return self._answer()

    def _answer(self):
        try:
            good, answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise LrsmsError(
                f"a benchmark's process ended with status {self._process.exitcode}; -9 means that memory ran out: "
                f"take a smaller --size, --batch or --seconds"
            ) from None
        if not good:
            raise LrsmsError(answer)
        return answer

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()


def _serve(pipe: Connection, make: Callable, args: tuple, kwargs: dict) -> None:
    try:
        held = make(*args, **kwargs)
        pipe.send((True, None))
        while True:
            method, args, kwargs = pipe.recv()
            pipe.send((True, getattr(held, method)(*args, **kwargs)))
    except EOFError:
        return
    except LrsmsError as error:
        pipe.send((False, str(error)))
    except Exception:
        pipe.send((False, traceback.format_exc()))


@contextmanager
def workers(makers: Mapping[Key, tuple[Callable, tuple, dict]], on_gpu: bool = False) -> Iterator[dict[Key, Worker]]:
    """A worker for each arm; all are ended with the context.

    They are made one after the other, for the sake of memory; those that use a GPU at once: each imports for itself.

    Args:
        makers: arm -> what makes its object, with positional and keyword arguments.
        on_gpu: whether they use a GPU.
    """
    started: dict[Key, Worker] = {}
    try:
        for name, (make, args, kwargs) in makers.items():
            started[name] = Worker(start_context(make.__module__, on_gpu), make, *args, **kwargs)
            if not on_gpu:
                started[name].ready()
        for worker in started.values() if on_gpu else ():
            worker.ready()
        yield started
    finally:
        for worker in started.values():
            worker.close()
