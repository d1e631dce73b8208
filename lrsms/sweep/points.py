"""A sweep's YAML: which experiments it consists of.

Every arm is the training YAML ``base`` with the keys of ``set`` and then its own written over it, by the rule of
:mod:`lrsms.training_yaml`. ``arms`` names them one by one, ``grid`` makes one of every combination of its values. Keys
are dotted, such as ``encoder_conf.dropout_rate``; a key of the grid may be several with spaces between them, which take
the same value.

``tune`` is a grid of its own: each arm is trained with every combination of its values, at the first seed, and keeps
the one that has the fewest word errors on dev. ``margin`` says how many points of WER an arm may be worse than the
reference and still count as no worse; it is named before anything is trained. ``until: converged`` doubles the epochs
until no arm gains, see :mod:`lrsms.sweep.convergence`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from lrsms.defaults import TOKEN_TYPES
from lrsms.errors import LrsmsError
from lrsms.training_yaml import changed, read_training_yaml, read_yaml
from lrsms.typed_config import Count, WholeNumber, choice, from_yaml

_NAME = r"[\w,=\[\]+-][\w.,=\[\]+-]*"  # what may be part of a folder's name


@dataclass(frozen=True)
class Arm:
    """One configuration, trained once per seed.

    Attributes:
        name: of its experiments, ``<name>_seed<k>``.
        config: the whole training configuration.
        values: what the grid set, short key -> value; empty for an arm written out under ``arms``.
        of: the arm that this one is tuned for; None if there is no tuning.
    """

    name: str
    config: Mapping
    values: Mapping
    of: str | None = None


FolderName = Annotated[str, Meta(pattern=rf"^{_NAME}\Z", description="the name of a folder, without its path")]
Seeds = Annotated[list[WholeNumber], Meta(min_length=1, description="a list of them, such as [0, 1, 2]")]


Margin = Annotated[float, Meta(gt=0, le=100, description="points of WER, above 0")]


@dataclass(frozen=True)
class _Content:
    """A sweep's YAML as it is written."""

    title: object = None
    base: object = None
    folder: FolderName | None = None
    token_type: str = choice("char", TOKEN_TYPES)
    vocab_size: Count = 500
    seeds: WholeNumber | Seeds = 0
    reference: object = None
    set: object = None
    arms: object = None
    grid: object = None
    tune: object = None
    margin: Margin | None = None
    until: Literal["converged"] | None = None


@dataclass(frozen=True)
class Point:
    """One training and its decodings; ``key`` is the name of its folder."""

    arm: Arm
    seed: int
    experiment: Path

    @property
    def key(self) -> str:
        return self.experiment.name

    @property
    def log(self) -> Path:
        """What the process that ran it printed."""
        return self.experiment / "sweep.log"


@dataclass(frozen=True)
class Sweep:
    """A parsed sweep.

    Attributes:
        path: the YAML file.
        title: heading of its report.
        folder: name of the folder of its experiments; sweeps that share it share equal arms.
        token_type, vocab_size: the tokenizer of stage 2.
        seeds: of training.
        reference: arm that the others are compared with.
        arms: all configurations, in the order of the file.
        candidates: if arms are tuned, each with every combination of values; else none.
        margin: points of WER by which an arm may be worse than the reference and count as no worse.
        until_converged: whether epochs are doubled until no arm gains by it.
    """

    path: Path
    title: str
    folder: str
    token_type: str
    vocab_size: int
    seeds: tuple[int, ...]
    reference: str
    arms: tuple[Arm, ...]
    candidates: tuple[Arm, ...] = ()
    margin: float | None = None
    until_converged: bool = False

    @classmethod
    def read(cls, path: Path) -> Sweep:
        """Parse ``path``.

        Raises:
            LrsmsError: an unknown or malformed key, a missing base, no arm, two arms of one name, an unknown reference.
        """
        content = from_yaml(_Content, read_yaml(path), str(path), separator=": ")
        base = read_training_yaml(_find_base(path, content.base))
        base = changed(base, _mapping(content.set, f"{path}: set"), f"{path}: set")
        arms = (*_written_arms(path, content.arms, base), *_grid_arms(path, content.grid, base))
        names = [arm.name for arm in arms]
        if not arms:
            raise LrsmsError(f"{path}: no experiment; write arms: or grid:")
        for name in names:
            if names.count(name) > 1:
                raise LrsmsError(f"{path}: two arms are called {name!r}; give one another name")
        reference = names[0] if content.reference is None else str(content.reference)
        if reference not in names:
            raise LrsmsError(f"{path}: reference: {reference!r} is no arm; one of {', '.join(names)}")
        return cls(
            path=path,
            title=path.stem if content.title is None else str(content.title),
            folder=path.stem if content.folder is None else content.folder,
            token_type=content.token_type,
            vocab_size=content.vocab_size,
            seeds=_seeds(path, content.seeds),
            reference=reference,
            arms=arms,
            candidates=tuple(_candidates(path, content.tune, arms)),
            margin=content.margin,
            until_converged=content.until is not None,
        )

    def tuning(self) -> Sweep:
        """The sweep of all candidates, at the first seed."""
        reference = next(arm.name for arm in self.candidates if arm.of == self.reference)
        return replace(self, arms=self.candidates, candidates=(), seeds=self.seeds[:1], reference=reference)

    def tuned(self, chosen: Sequence[Arm]) -> Sweep:
        """This sweep with candidates in the place of the arms that they are of."""
        reference = next(arm.name for arm in chosen if arm.of == self.reference)
        return replace(self, arms=tuple(chosen), candidates=(), reference=reference)

    def longer(self, factor: int) -> Sweep:
        """Every arm with so many times the epochs, and a schedule of so many times the steps.

        Raises:
            LrsmsError: an arm does not say its epochs.
        """
        if factor == 1:
            return self
        arms = tuple(_longer(self.path, arm, factor) for arm in self.arms)
        reference = next(new.name for new, old in zip(arms, self.arms) if old.name == self.reference)
        return replace(self, arms=arms, reference=reference)

    def differences(self, arm: Arm) -> dict[str, object]:
        """Dotted keys whose value in ``arm`` is not that of the reference; None if ``arm`` does not have the key."""
        reference = next(flat(other.config) for other in self.arms if other.name == self.reference)
        own = flat(arm.config)
        keys = [*own, *(key for key in reference if key not in own)]
        return {key: own.get(key) for key in keys if own.get(key, _ABSENT) != reference.get(key, _ABSENT)}


_ABSENT = object()
# Of scheduler_conf: what counts the steps or epochs of a whole training.
_LENGTHS = ("first_cycle_steps", "T_max", "total_steps", "epochs", "total_iters", "num_training_steps")


def _longer(path: Path, arm: Arm, factor: int) -> Arm:
    epochs = arm.config.get("max_epoch")
    if not isinstance(epochs, int):
        raise LrsmsError(f"{path}: until: arm {arm.name!r} has no max_epoch that could be doubled; write one")
    schedule = dict(arm.config.get("scheduler_conf") or {})
    scaled = {key: factor * value for key, value in schedule.items() if key in _LENGTHS and isinstance(value, int)}
    config = {**arm.config, "max_epoch": factor * epochs}
    if schedule:
        config["scheduler_conf"] = schedule | scaled
    return replace(arm, name=f"{arm.name},epochs={factor * epochs}", config=config)


def _find_base(path: Path, base: object) -> Path:
    """The training YAML named by ``base:``, relative to the working folder or beside the sweep."""
    if not isinstance(base, str):
        raise LrsmsError(f"{path}: base: {base!r}: write the training YAML that every arm starts from")
    for candidate in (Path(base), path.parent / base, path.parent / Path(base).name):
        if candidate.is_file():
            return candidate
    raise LrsmsError(f"{path}: base: {base}: no such file, neither here nor beside the sweep")


def _mapping(value: object, where: str) -> dict:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise LrsmsError(f"{where}: {value!r} is not a mapping of YAML keys to values")
    return dict(value)


def _seeds(path: Path, seeds: int | Sequence[int]) -> tuple[int, ...]:
    seeds = (seeds,) if isinstance(seeds, int) else tuple(seeds)
    if len(set(seeds)) != len(seeds):
        raise LrsmsError(f"{path}: seeds: {list(seeds)} has a seed twice")
    return seeds


def _written_arms(path: Path, arms: object, base: Mapping) -> Iterator[Arm]:
    for name, changes in _mapping(arms, f"{path}: arms").items():
        where = f"{path}: arms.{name}"
        name = re.sub(r"\s+", "", str(name))
        if not re.fullmatch(_NAME, name):
            raise LrsmsError(f"{where}: an arm's name takes letters, digits and any of . , = + - _ [ ]")
        yield Arm(name, changed(base, _mapping(changes, where), where), {})


def _grid_arms(path: Path, grid: object, base: Mapping) -> Iterator[Arm]:
    for name, changes, values in _combinations(f"{path}: grid", grid, "; write such arms under arms:"):
        yield Arm(name, changed(base, changes, f"{path}: grid"), values)


def _candidates(path: Path, tune: object, arms: Sequence[Arm]) -> Iterator[Arm]:
    where = f"{path}: tune"
    combinations = list(_combinations(where, tune))
    for arm in arms if combinations else ():
        for name, changes, values in combinations:
            yield Arm(f"{arm.name},{name}", changed(arm.config, changes, where), {**arm.values, **values}, arm.name)


def _combinations(where: str, grid: object, remedy: str = "") -> Iterator[tuple[str, dict, dict]]:
    """Of each combination of a grid's values: its name, what it changes, and its values by their short keys."""
    grid = _mapping(grid, where)
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise LrsmsError(f"{where}.{key}: {values!r} is not a list of values")
        for value in values:
            if not re.fullmatch(_NAME, _without_spaces(value)):
                raise LrsmsError(f"{where}.{key}: {value!r} cannot be part of a folder's name{remedy}")
    short = _short_keys(list(map(str, grid)))
    for point in itertools.product(*grid.values()) if grid else ():
        changes = {key: value for keys, value in zip(grid, point, strict=True) for key in str(keys).split()}
        name = ",".join(f"{key}={_without_spaces(value)}" for key, value in zip(short, point, strict=True))
        yield name, changes, dict(zip(short, point, strict=True))


def _without_spaces(value: object) -> str:
    return re.sub(r"\s+", "", str(value))


def _short_keys(keys: list[str]) -> list[str]:
    """Last part of each key, such as ``attention``; if two are then alike, the keys as they are."""
    first = [key.split()[0] for key in keys]
    short = [key.rpartition(".")[2] for key in first]
    return short if len(set(short)) == len(short) else first


def flat(config: Mapping, prefix: str = "") -> dict[str, object]:
    """``{"a": {"b": 1}}`` -> ``{"a.b": 1}``."""
    values: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values
