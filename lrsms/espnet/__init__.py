"""The bridge to ESPnet: importing this package adds the low-rank classes to ESPnet's registries.

>>> import lrsms.espnet
>>> from espnet2.bin.asr_inference import Speech2Text
>>> recogniser = Speech2Text("exp/tag/config.yaml", "exp/tag/valid.acc.ave.pth")

This is the only package of ours that imports ESPnet. ESPnet's task takes seconds to import, so the classes are
registered when it is imported, which may be later than this package, or never.
"""

import importlib.abc
import importlib.util
import sys

import lrsms.espnet.compat  # noqa: F401  (before any other import of ESPnet: it keeps them quiet)

_TASK = "espnet2.tasks.asr"


def register() -> None:
    """Add the low-rank classes to ESPnet's registries now. Calling it again changes nothing."""
    from lrsms.espnet import registry

    registry.register()


class _Registration(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ESPnet's task as Python itself would, and registers once it is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name != _TASK:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        from lrsms.espnet.compat import nothing_printed

        module.__spec__.loader = module.__loader__ = self.loader  # what Python would have left there
        with nothing_printed():  # ESPnet's imports report what optional parts they did not find
            self.loader.exec_module(module)
        register()


if _TASK in sys.modules:
    register()
elif not any(isinstance(finder, _Registration) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Registration())
