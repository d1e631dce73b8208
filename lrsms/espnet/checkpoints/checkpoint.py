"""Checkpoints: read without executing what is in them, refuse what does not fit, survive a killed save."""

from __future__ import annotations

import datetime
import functools
import logging
import pickle
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy
import torch
from torch import nn

from lrsms.defaults import DEFAULT_CHECKPOINT
from lrsms.errors import LrsmsError
from lrsms.espnet.compat import current_names
from lrsms.files import atomic_write
from lrsms.lowrank import low_rank_layers
from lrsms.lowrank.layers import matrix_shape
from lrsms.lowrank.recurrent import LSTMInput

# What ESPnet's reporter stores beside weights: durations, and means as numpy scalars.
REPORTER_TYPES = [
    datetime.timedelta,
    numpy.dtype,
    numpy._core.multiarray.scalar,
    *(type(numpy.dtype(name)) for name in ("float32", "float64", "int64", "bool")),
]
_BLOCK = 1 << 20  # bytes read at once
CHECKPOINT, PREVIOUS = "checkpoint.pth", "checkpoint.previous.pth"


def read_checkpoint(path: Path) -> dict:
    """Load a ``.pth`` file on the CPU, memory-mapped, executing nothing.

    Raises:
        LrsmsError: the file is missing, truncated, damaged, or would execute code on loading.
    """
    if not path.is_file():
        raise LrsmsError(f"{path}: {'a folder, not a checkpoint' if path.is_dir() else 'no such checkpoint'}")
    damaged = damaged_record(path)
    if damaged is not None:
        raise LrsmsError(f"{path}: damaged: the checksum of {damaged} in it does not agree; copy the file again")
    try:
        with torch.serialization.safe_globals(REPORTER_TYPES):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # what a damaged or hostile pickle raises has many types
        marks = ("GLOBAL", "Unsupported class") if isinstance(error, pickle.UnpicklingError) else ("TorchScript",)
        if any(mark in str(error) for mark in marks):
            raise LrsmsError(
                f"{path}: refused, it holds more than weights and would execute code on loading"
            ) from error
        raise LrsmsError(f"{path}: truncated or not a checkpoint") from error


def read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """The weights of a model as ESPnet saves them, read as :func:`read_checkpoint` does; DeepSpeed's form too.

    Raises:
        LrsmsError: as :func:`read_checkpoint`, or the file holds something else than named weights.
    """
    weights = read_checkpoint(path)
    weights = weights.get("module", weights) if isinstance(weights, Mapping) else weights
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise LrsmsError(f"{path}: holds no weights by name but {type(weights).__name__}; give a model's .pth file")
    if "optimizers" in weights and "model" in weights:
        raise LrsmsError(
            f"{path}: is the state of a training; give the weights beside it, such as {DEFAULT_CHECKPOINT}"
        )
    if not any(isinstance(value, torch.Tensor) for value in weights.values()):
        raise LrsmsError(f"{path}: holds no weights")
    check_finite(weights, str(path))
    return weights


def check_finite(weights: Mapping[str, object], where: str) -> None:
    """Refuse weights that are NaN or infinite: a model of them recognizes nothing, and says nothing.

    A tensor of 0 and minus infinity alone is a mask.

    Raises:
        LrsmsError: names ``where``, the first such tensor and how many of its numbers are none.
    """
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor) or not (value.is_floating_point() or value.is_complex()):
            continue
        if value.is_quantized or torch.isfinite(value).all():
            continue
        if not value.is_complex() and bool(((value == 0) | (value == -torch.inf)).all()):
            continue
        count = int((~torch.isfinite(value)).sum())
        raise LrsmsError(
            f"{where}: {name}: {count:,} of {value.numel():,} numbers are NaN or infinite; the training that made it "
            f"has diverged, or the file is damaged"
        )


@functools.lru_cache(maxsize=64)
def _damaged_record(path: Path, size: int, changed: int) -> str | None:
    """As :func:`damaged_record`; each state of a file is gone through once."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.serialization.set_crc32_options(False) leaves 0 for every checksum.
            names = (entry.filename for entry in archive.infolist() if entry.CRC)
            return next((name for name in names if not _agrees(archive, name)), None)
    except Exception:  # no archive, or not a whole one: torch will say so
        return None


def _agrees(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        with archive.open(name) as record:
            while record.read(_BLOCK):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def damaged_record(path: Path) -> str | None:
    """The first record of a file that torch saved whose checksum does not agree; None if all do, or it has none.

    ``torch.load`` does not look at them.
    """
    stat = path.stat()
    return _damaged_record(path.resolve(), stat.st_size, stat.st_mtime_ns)


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
    weights = current_names(model, read_weights(checkpoint))
    factored = dict(low_rank_layers(model))
    for path, module in model.named_modules():
        if isinstance(module, LSTMInput):
            continue  # looked at with its LSTM
        if path not in factored and not isinstance(module, nn.LSTM) and matrix_shape(module) is None:
            continue
        _refuse(path, factored, _stored_rank(weights, path, module), config, checkpoint)
        if isinstance(module, nn.LSTM):
            inner = f"{path}.input"
            projection = weights.get(f"{inner}.weight")
            _refuse(inner, factored, 0 if projection is None else len(projection), config, checkpoint)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in weights] if factored else []
    if missing:
        raise LrsmsError(f"{checkpoint} lacks {len(missing)} weights that {config} needs, such as {missing[0]}")


def _refuse(path: str, factored: Mapping, stored: int | None, config: Path, checkpoint: Path) -> None:
    built = factored[path].rank if path in factored else 0
    if stored is None or stored == built:
        return
    if built == 0:
        raise LrsmsError(
            f"{checkpoint} is low-rank at {path} (rank {stored}), but {config} builds that layer dense; "
            f"open it with the config.yaml it was trained with (encoder: lowrank_...)"
        )
    if stored == 0:
        raise LrsmsError(
            f"{checkpoint} is dense at {path}, but {config} builds that layer low-rank (rank {built}); open it "
            f"with the config.yaml it was trained with, or start a training from it with --init_param"
        )
    raise LrsmsError(
        f"{checkpoint} has rank {stored} at {path}, but {config} builds rank {built}; "
        f"open it with the config.yaml it was trained with"
    )


def _stored_rank(weights: dict, path: str, module: nn.Module) -> int | None:
    """Rank at which ``weights`` hold a layer: 0 for dense, None if they do not hold it."""
    if isinstance(module, nn.LSTM):
        dense, ranked = f"{path}.weight_hh_l0", (f"{path}.weight_hr_l0", 0)
    elif isinstance(module, nn.LSTMCell):
        dense, ranked = f"{path}.weight_hh", (f"{path}.gates.1.weight", 1)
    elif path.endswith(".gates"):
        dense, ranked = f"{path.removesuffix('.gates')}.weight_hh", (f"{path}.1.weight", 1)
    else:
        dense, ranked = f"{path}.weight", (f"{path}.1.weight", 1)
    name, dimension = ranked
    if name in weights:
        return weights[name].shape[dimension]
    return 0 if dense in weights else None


def keep_previous(folder: Path) -> None:
    """Copy the last whole checkpoint aside: ESPnet overwrites it in place, and a kill meanwhile would lose both."""
    current = folder / CHECKPOINT
    if current.exists():
        with atomic_write(folder / PREVIOUS) as unfinished:
            shutil.copyfile(current, unfinished)


def repair(folder: Path) -> None:
    """Make an experiment folder that a kill may have left half-written fit for resuming.

    A broken ``checkpoint.pth`` is replaced by the one before (set aside by :func:`keep_previous`), or removed when
    there is none. The last epoch's weights, saved after the checkpoint, are written again from it if they are broken.
    What was done is logged as a warning.
    """
    current, previous = folder / CHECKPOINT, folder / PREVIOUS
    if current.exists() and not is_whole(current):
        if is_whole(previous):
            logging.warning(f"{current} is half-written; resuming from the checkpoint before it")
            with atomic_write(current) as unfinished:
                shutil.copyfile(previous, unfinished)
        else:
            logging.warning(f"{current} is half-written and there is none before it; training starts again")
            current.unlink()
    if current.exists():
        state = read_checkpoint(current)
        epoch = max(state["reporter"]["stats"], default=0)
        weights = folder / f"{epoch}epoch.pth"
        if epoch and not is_whole(weights):
            logging.warning(f"{weights} is missing or half-written; written again from {current}")
            write_whole(state["model"], weights)
            relink(folder / "latest.pth", weights.name)


def rename_epochs(folder: Path, model: nn.Module, epochs: Iterable[int]) -> None:
    """Write epochs that another version of ESPnet saved again by ``model``'s names: averaging adds equal names up.

    What was done is logged.

    Args:
        folder: of the experiment.
        model: that goes on.
        epochs: the finished ones; a later file is what a killed run was writing.
    """
    for path in (folder / f"{epoch}epoch.pth" for epoch in sorted(epochs)):
        if not path.exists():  # not among the best, and removed
            continue
        weights = read_weights(path)
        renamed = current_names(model, weights)
        if renamed.keys() != weights.keys():
            logging.warning(f"{path}: by the names of another version of ESPnet; written again by this one's")
            write_whole({name: renamed[name] for name in model.state_dict() if name in renamed} | renamed, path)


def write_whole(weights: dict, path: Path) -> None:
    """Save ``weights`` so that ``path`` is never half-written."""
    with atomic_write(path) as unfinished:
        torch.save(weights, unfinished)


def relink(link: Path, target: str) -> None:
    """Point a symbolic link at ``target``, replacing what was there."""
    link.unlink(missing_ok=True)
    link.symlink_to(target)
