"""A quiet terminal: what ESPnet prints, logs and warns of beside the point is kept from the user of a command."""

from __future__ import annotations

import contextlib
import importlib.abc
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

_PACKAGES = ("espnet", "espnet2")


@contextlib.contextmanager
def nothing_printed() -> Iterator[None]:
    """Keep the terminal quiet within this context."""
    # The files, not sys.stdout itself: ESPnet's print_config keeps the sys.stdout of its import as a default argument.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in saved:
            os.dup2(null, number)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)
        os.close(null)


def quiet_espnet() -> None:
    """Keep ESPnet's remarks from the terminal of this process. Calling it again changes nothing.

    While its modules are imported nothing is printed (they report which optional parts they did not find); later,
    messages about ESPnet's own code and about error rates over no words are left out.
    """
    if any(isinstance(finder, _QuietFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _QuietFinder())
    # Of an error rate over no words, early in a training.
    for message in ("Mean of empty slice", "invalid value encountered in scalar divide"):
        warnings.filterwarnings("ignore", category=RuntimeWarning, message=message, module=r"numpy\.")
    # On every forward pass, about a spelling of autocast that is ESPnet's own.
    warnings.filterwarnings("ignore", category=FutureWarning, message=r"`torch.cuda.amp.autocast", module=r"espnet2\.")
    # ESPnet's programs run inside lrsms.espnet.__main__, where typeguard looks for their source.
    warnings.filterwarnings("ignore", message="instrumentor did not find the target function")
    logging.getLogger().addFilter(_is_of_interest)


def _is_of_interest(record: logging.LogRecord) -> bool:
    """At every step of an LSTM decoder ESPnet warns of a list of lengths that is its own."""
    return "make_pad_mask with a list" not in str(record.msg)


class _QuietFinder(importlib.abc.MetaPathFinder):
    """Finds ESPnet's modules as the finders behind it do, and has them loaded with nothing printed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in _PACKAGES:
            return None
        finders = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in finders)), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _QuietLoader(spec.loader)
        return spec


class _QuietLoader(importlib.abc.Loader):
    loading = 0  # modules that are being loaded now: one imports the next

    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader  # what Python would have left there
        with contextlib.nullcontext() if _QuietLoader.loading else nothing_printed():
            _QuietLoader.loading += 1
            try:
                self.loader.exec_module(module)
            finally:
                _QuietLoader.loading -= 1

    def __getattr__(self, name: str):  # get_source and the like
        return getattr(self.loader, name)
