"""Configurations that are compared: a dense YAML of ESPnet's for each size, and what each arm changes in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from lrsms.errors import LrsmsError
from lrsms.espnet.config import check_keys, read_training_yaml, read_yaml

SIZES = ("tiny", "base", "paper")
STOCK = "stock"
_ARM_KEYS = ("classes", "encoder_conf", "decoder_conf", "optim_conf")


def write_arms(folder: Path, size: str, arms: Sequence[str], into: Path, changes: Mapping | None = None) -> list[Path]:
    """A training YAML for each arm, named ``<size>_<arm>.yaml``.

    Args:
        folder: of ``<size>_dense.yaml`` and ``arms.yaml``.
        size: one of :data:`SIZES`.
        arms: names in ``arms.yaml``.
        into: folder to write to.
        changes: part (``encoder_conf``, ...) -> options that replace the size's.

    Raises:
        LrsmsError: no such size or arm, or a key that an arm cannot have.
    """
    if size not in SIZES:
        raise LrsmsError(f"--size: {size!r} is unknown; one of {', '.join(SIZES)}")
    known = read_yaml(folder / "arms.yaml")
    written = []
    for name in arms:
        if name not in known:
            raise LrsmsError(f"--arms: {name!r} is not in {folder / 'arms.yaml'}; there are {', '.join(known)}")
        arm = known[name] or {}
        check_keys(arm, _ARM_KEYS, f"{folder / 'arms.yaml'}: {name}")
        config = read_training_yaml(folder / f"{size}_dense.yaml")
        for part, options in (changes or {}).items():
            config[part] = {**(config.get(part) or {}), **options}
        for part in _ARM_KEYS[1:]:
            if arm.get(part):
                config[part] = {**(config.get(part) or {}), **arm[part]}
        if arm.get("classes") == "lowrank":
            config |= {part: f"lowrank_{config[part]}" for part in ("encoder", "decoder")}
        written.append(into / f"{size}_{name}.yaml")
        written[-1].write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return written
