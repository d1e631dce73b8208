"""A sweep's YAML: which experiments it consists of."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from lrsms.errors import LrsmsError

_KEYS = ("base", "folder", "token_type", "vocab_size", "seeds", "reference", "set", "grid", "arms", "title")


@dataclass(frozen=True)
class Arm:
    """One configuration, trained once per seed.

    Attributes:
        name: of its experiments, ``<name>_seed<k>``.
        config: the whole training configuration.
        values: what the grid set, key -> value; empty for an arm written out under ``arms``.
    """

    name: str
    config: Mapping
    values: Mapping


@dataclass(frozen=True)
class Sweep:
    """A parsed sweep.

    Attributes:
        path: the YAML file.
        title: heading of its report.
        folder: name of the folder of its experiments; sweeps that share it share equal arms.
        token_type, vocab_size: the tokeniser of stage 2.
        seeds: of training.
        reference: arm that the others are compared with.
        arms: all configurations, in the order of the file.
    """

    path: Path
    title: str
    folder: str
    token_type: str
    vocab_size: int
    seeds: tuple[int, ...]
    reference: str
    arms: tuple[Arm, ...]

    @classmethod
    def read(cls, path: Path) -> Sweep:
        """Parse ``path``.

        Raises:
            LrsmsError: an unknown key, a missing base, no arm, two arms of one name, or an unknown reference.
        """
        content = _read_mapping(path)
        for key in content:
            if key not in _KEYS:
                raise LrsmsError(f"{path}: {key}: unknown key; a sweep takes {', '.join(_KEYS)}")
        base = _read_mapping(_find(path, content.get("base")))
        common = _mapping(content.get("set"), f"{path}: set")
        arms = [*_written_arms(path, content.get("arms"), base, common), *_grid_arms(path, content, base, common)]
        names = [arm.name for arm in arms]
        if not arms:
            raise LrsmsError(f"{path}: no experiment; write arms: or grid:")
        for name in names:
            if names.count(name) > 1:
                raise LrsmsError(f"{path}: two arms are called {name!r}")
        reference = content.get("reference", names[0])
        if reference not in names:
            raise LrsmsError(f"{path}: reference: {reference!r} is no arm; one of {', '.join(names)}")
        return cls(
            path=path,
            title=content.get("title", path.stem),
            folder=content.get("folder", path.stem),
            token_type=content.get("token_type", "char"),
            vocab_size=content.get("vocab_size", 500),
            seeds=_seeds(content.get("seeds", [0]), path),
            reference=reference,
            arms=tuple(arms),
        )


def _read_mapping(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LrsmsError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise LrsmsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise LrsmsError(f"{path}: the top level is not a mapping")
    return dict(content)


def _find(path: Path, base: object) -> Path:
    """The training YAML named by ``base:``, relative to the working folder or beside the sweep."""
    if not isinstance(base, str):
        raise LrsmsError(f"{path}: base: {base!r}: write the training YAML that every arm starts from")
    for candidate in (Path(base), path.parent / base, path.parent / Path(base).name):
        if candidate.exists():
            return candidate
    raise LrsmsError(f"{path}: base: {base}: no such file, neither here nor beside the sweep")


def _mapping(value: object, where: str) -> dict:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise LrsmsError(f"{where}: {value!r} is not a mapping of YAML keys to values")
    return dict(value)


def _seeds(value: object, path: Path) -> tuple[int, ...]:
    seeds = value if isinstance(value, list) else [value]
    if not seeds or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds):
        raise LrsmsError(f"{path}: seeds: {value!r} is not a list of whole numbers")
    if len(set(seeds)) != len(seeds):
        raise LrsmsError(f"{path}: seeds: {value!r} names one twice")
    return tuple(seeds)


def _written_arms(path: Path, arms: object, base: Mapping, common: Mapping) -> Iterable[Arm]:
    for name, changes in _mapping(arms, f"{path}: arms").items():
        changes = _mapping(changes, f"{path}: arms.{name}")
        yield Arm(_safe(str(name), path), changed(base, {**common, **changes}, path), {})


def _grid_arms(path: Path, content: Mapping, base: Mapping, common: Mapping) -> Iterable[Arm]:
    grid = _mapping(content.get("grid"), f"{path}: grid")
    if not grid:
        return
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise LrsmsError(f"{path}: grid.{key}: {values!r} is not a list of values")
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values))
        name = _safe(",".join(f"{short_key(key)}={value}" for key, value in point.items()), path)
        changes = {single: value for keys, value in point.items() for single in keys.split()}
        yield Arm(
            name, changed(base, {**common, **changes}, path), {short_key(key): value for key, value in point.items()}
        )


def short_key(keys: str) -> str:
    """``encoder_conf.low_rank.attention decoder_conf.low_rank.attention`` -> ``attention``."""
    return keys.split()[0].rpartition(".")[2]


def _safe(name: str, path: Path) -> str:
    """The name as part of a folder's name."""
    name = re.sub(r"\s+", "", name)
    if not re.fullmatch(r"[\w.,=\[\]+-]+", name) or name.startswith("."):
        raise LrsmsError(f"{path}: arm {name!r}: write letters, digits and any of . , = + - _ [ ]")
    return name


def changed(base: Mapping, changes: Mapping, path: Path) -> dict:
    """A copy of ``base`` with dotted keys set; a value of ``null`` under a dotted key removes it.

    Raises:
        LrsmsError: a key leads through something that is not a mapping.
    """
    config = copy.deepcopy(dict(base))
    for dotted, value in changes.items():
        *parents, last = str(dotted).split(".")
        place = config
        for depth, key in enumerate(parents):
            if place.get(key) is None:
                place[key] = {}
            place = place[key]
            if not isinstance(place, dict):
                raise LrsmsError(f"{path}: {dotted}: {'.'.join(parents[: depth + 1])} is not a mapping")
        if value is None and parents:
            place.pop(last, None)
        else:
            place[last] = copy.deepcopy(value)
    return config
