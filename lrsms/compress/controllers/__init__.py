"""Controllers: what proposes the next candidate. One file each; :func:`make` finds them by name."""

from __future__ import annotations

import importlib

from lrsms.compress.controllers.base import Context, Controller, Finished, Proposal
from lrsms.errors import LrsmsError

CONTROLLERS = ("reinforce", "tpe", "cmaes", "nsga2", "sensitivity", "random", "uniform", "energy")


def make(name: str, context: Context) -> Controller:
    """A controller by its name in ``compress.yaml``.

    Raises:
        LrsmsError: no controller has that name.
    """
    if name not in CONTROLLERS:
        raise LrsmsError(f"compress: controller: {name!r} is unknown; one of {', '.join(CONTROLLERS)}")
    return importlib.import_module(f"lrsms.compress.controllers.{name}").make(context)


__all__ = ["CONTROLLERS", "Context", "Controller", "Finished", "Proposal", "make"]
