"""When the fast paths step aside for ESPnet's own code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain_paths() -> Iterator[None]:
    """Within this context every module computes as ESPnet does: for counting work, and for comparing."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def plain_wanted() -> bool:
    """True within :func:`plain_paths`, and while a model is exported: its graph is to hold ESPnet's operations."""
    return _plain.get() or torch.compiler.is_exporting() or torch.jit.is_tracing()
