"""Checkpoints: read without executing what is in them, refuse what does not fit, survive a killed save."""

from __future__ import annotations

import datetime
import logging
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy
import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.lowrank import low_rank_layers

# What ESPnet's reporter stores beside weights: durations, and means as numpy scalars.
_REPORTER_TYPES = [
    datetime.timedelta,
    numpy.dtype,
    numpy._core.multiarray.scalar,
    *(type(numpy.dtype(name)) for name in ("float32", "float64", "int64", "bool")),
]
CHECKPOINT, PREVIOUS = "checkpoint.pth", "checkpoint.previous.pth"


def read_checkpoint(path: Path) -> dict:
    """Load a ``.pth`` file on the CPU, memory-mapped, executing nothing.

    Raises:
        LrsmsError: the file is missing, truncated, or would execute code on loading.
    """
    if not path.exists():
        raise LrsmsError(f"{path}: no such checkpoint")
    try:
        with torch.serialization.safe_globals(_REPORTER_TYPES):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported class" in str(error):
            raise LrsmsError(
                f"{path}: refused, it holds more than weights and would execute code on loading"
            ) from error
        raise LrsmsError(f"{path}: truncated or not a checkpoint") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise LrsmsError(f"{path}: truncated or not a checkpoint") from error


def is_whole(path: Path) -> bool:
    """True when every byte of a checkpoint that torch saved is there (its archive's checksums agree)."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile raises many types for a damaged archive
        return False


def check_fits(model: nn.Module, config: Path, checkpoint: Path) -> None:
    """Refuse a checkpoint whose factored layers are not those of the model.

    Args:
        model: the model that ``config`` builds.
        config: its ``config.yaml``, for the message.
        checkpoint: the weights about to be loaded, compared by name and shape.

    Raises:
        LrsmsError: one of the two is low-rank where the other is dense or of another rank, or weights of a low-rank
            model are missing. A sentence that names both files and the first such layer.
    """
    weights = read_checkpoint(checkpoint)
    weights = weights.get("module", weights)  # DeepSpeed's form
    factored = dict(low_rank_layers(model))
    for path, layer in factored.items():
        if f"{path}.weight" in weights:
            raise LrsmsError(
                f"{checkpoint} is dense at {path}, but {config} builds that layer low-rank (rank {layer.rank}); open it "
                f"with the config.yaml it was trained with, or start a training from it with --init_param"
            )
        stored = weights.get(f"{path}.0.weight")
        if stored is not None and stored.shape[0] != layer.rank:
            raise LrsmsError(
                f"{checkpoint} has rank {stored.shape[0]} at {path}, but {config} builds rank {layer.rank}; "
                f"open it with the config.yaml it was trained with"
            )
    wanted = model.state_dict()
    for name in wanted:
        path = name.removesuffix(".weight")
        if name not in weights and path != name and f"{path}.0.weight" in weights and f"{path}.1.weight" in weights:
            rank = weights[f"{path}.0.weight"].shape[0]
            raise LrsmsError(
                f"{checkpoint} is low-rank at {path} (rank {rank}), but {config} builds that layer dense; "
                f"open it with the config.yaml it was trained with (encoder: lowrank_...)"
            )
    missing = [name for name in wanted if name not in weights] if factored else []
    if missing:
        raise LrsmsError(f"{checkpoint} lacks {len(missing)} weights that {config} needs, such as {missing[0]}")


def keep_previous(folder: Path) -> None:
    """Copy the last whole checkpoint aside: ESPnet overwrites it in place, and a kill meanwhile would lose both."""
    current = folder / CHECKPOINT
    if current.exists():
        partial = folder / f"{PREVIOUS}.partial"
        shutil.copyfile(current, partial)
        os.replace(partial, folder / PREVIOUS)


def repair(folder: Path) -> None:
    """Make an experiment folder that a kill may have left half-written fit for resuming.

    A broken ``checkpoint.pth`` is replaced by the one before (set aside by :func:`keep_previous`), or removed when
    there is none. The last epoch's weights, saved after the checkpoint, are written again from it when broken.
    What was done is logged as a warning.
    """
    current, previous = folder / CHECKPOINT, folder / PREVIOUS
    if current.exists() and not is_whole(current):
        if is_whole(previous):
            logging.warning(f"{current} is half-written; resuming from the checkpoint before it")
            shutil.copyfile(previous, f"{current}.partial")
            os.replace(f"{current}.partial", current)
        else:
            logging.warning(f"{current} is half-written and there is none before it; training starts again")
            current.unlink()
    if current.exists():
        state = read_checkpoint(current)
        epoch = max(state["reporter"]["stats"], default=0)
        weights = folder / f"{epoch}epoch.pth"
        if epoch and not is_whole(weights):
            logging.warning(f"{weights} is missing or half-written; written again from {current}")
            torch.save(state["model"], weights)
            relink(folder / "latest.pth", weights.name)


def relink(link: Path, target: str) -> None:
    """Point a symbolic link at ``target``, replacing what was there."""
    link.unlink(missing_ok=True)
    link.symlink_to(target)
