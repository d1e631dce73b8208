"""What a model's layers see in calibration, on disk: for other processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lrsms.files import atomic_write
from lrsms.lowrank.truncation import Moments


def save_moments(moments: Mapping[str, Moments | Mapping[str, Moments]], path: Path) -> None:
    """Write what :func:`lrsms.lowrank.moments.input_moments` has found, for other processes; atomic."""
    plain = {
        path: vars(seen) if isinstance(seen, Moments) else {name: vars(half) for name, half in seen.items()}
        for path, seen in moments.items()
    }
    with atomic_write(path) as unfinished:
        torch.save(plain, unfinished)


def load_moments(path: Path) -> dict[str, Moments | dict[str, Moments]]:
    """What :func:`save_moments` wrote, the same to the last bit."""
    return {
        path: Moments(**values) if "count" in values else {half: Moments(**of) for half, of in values.items()}
        for path, values in torch.load(path, weights_only=True).items()
    }
