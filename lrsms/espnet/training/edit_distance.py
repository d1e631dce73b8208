"""The package by which ESPnet counts errors while it trains, also if it is not installed."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType


def count_edits(reference: Sequence, hypothesis: Sequence) -> int:
    """Insertions, deletions and substitutions between two sequences of characters, words or numbers."""
    from kaldialign import edit_distance

    numbers: dict = {}
    reference, hypothesis = (
        [numbers.setdefault(token, len(numbers)) for token in tokens] for tokens in (reference, hypothesis)
    )
    return edit_distance(reference, hypothesis)["total"]


def provide_editdistance() -> None:
    """Have ``import editdistance`` succeed in this process: ESPnet 202611 does not require the package any more.

    It has no wheel for Python 3.13. If it is installed, nothing changes.
    """
    if "editdistance" not in sys.modules and importlib.util.find_spec("editdistance") is None:
        module = ModuleType("editdistance", "The one function of the package that ESPnet calls.")
        module.__spec__ = importlib.machinery.ModuleSpec("editdistance", None)
        vars(module)["eval"] = count_edits
        sys.modules["editdistance"] = module
