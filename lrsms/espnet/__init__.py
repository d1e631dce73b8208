"""The bridge to ESPnet: importing this package adds the low-rank classes to ESPnet's registries.

Examples:
    >>> import lrsms.espnet
    >>> from espnet2.bin.asr_inference import Speech2Text
    >>> recognizer = Speech2Text("exp/tag/config.yaml", "exp/tag/valid.acc.ave.pth")

This is the only package of ours that imports ESPnet. ESPnet's task takes seconds to import, so the classes are
registered when it is imported, which may be later than this package, or never.

The import registers, and installs one more thing: models of other people are read as data before ESPnet's loader, which
unpickles, sees them (:mod:`lrsms.espnet.plugin.safe_loading`). It prints nothing, redirects nothing, and leaves log,
warnings, environment, memory and all other modules of the process as they are; what our commands set for their own
process is in :mod:`lrsms.startup`. ESPnet's other tasks do with their own files what they do without the import.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable

_TASK, _EVERY_TASK = "espnet2.tasks.asr", "espnet2.tasks.abs_task"


def register() -> None:
    """Add the low-rank classes to ESPnet's registries now. Calling it again changes nothing."""
    from lrsms.espnet.plugin import register

    guard()
    register.register()


def guard() -> None:
    """Have every task of ESPnet open models through :mod:`lrsms.espnet.plugin.safe_loading`.

    Calling it again changes nothing.
    """
    from espnet2.tasks import abs_task

    from lrsms.espnet.plugin import safe_loading

    safe_loading.install(abs_task)


class _Registration(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module of ESPnet as Python itself would, and calls ``then`` once it is loaded."""

    def __init__(self, module: str, then: Callable[[], None]):
        self.module, self.then = module, then

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            assert spec.loader is not None
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader  # what Python would have left in its place
        self.loader.exec_module(module)
        self.then()


for _module, _then in ((_EVERY_TASK, guard), (_TASK, register)):
    if _module in sys.modules:
        _then()
    elif not any(isinstance(finder, _Registration) and finder.module == _module for finder in sys.meta_path):
        sys.meta_path.insert(0, _Registration(_module, _then))
