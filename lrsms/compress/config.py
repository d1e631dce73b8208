"""``compress.yaml``, parsed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from lrsms.compress.controllers import CONTROLLERS
from lrsms.compress.iterate import Loop
from lrsms.compress.space import BUDGETS, DENSE, TIES
from lrsms.compress.truncation import METHODS
from lrsms.errors import LrsmsError, refuse_unknown
from lrsms.lowrank.config import ROLES

FIDELITIES = ("loss", "ctc", "beam")


@dataclass(frozen=True)
class CompressConfig:
    """Options of ``conf/compress.yaml``, where each has its comment."""

    budget: str = "parameters"
    target: float = 8.0
    compression: float = 1.5
    max_iterations: int = 8
    tolerance: float = 0.0
    confidence: float = 0.05
    retries: int = 1
    roles: tuple[str, ...] | None = tuple(role for role in ROLES if role != "output")
    ratios: tuple = (0.05, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5, DENSE)
    tie: str = "none"
    multiple: int = 2
    truncation: str = "whitened"
    calibration: Mapping = field(default_factory=lambda: {"split": "train", "utterances": 50})
    controller: str = "sensitivity"
    trials: int = 300
    seed: int = 0
    prune: bool = True
    fidelity: str = "loss"
    survivors: int = 5
    survivor_fidelity: str | None = "ctc"
    search_set: Mapping = field(default_factory=lambda: {"split": "dev", "utterances": 100, "candidates": 60})
    finetune: Mapping = field(default_factory=lambda: {"epochs": 6})

    @classmethod
    def parse(cls, content: Mapping, where: str) -> CompressConfig:
        """Check the content of a YAML file.

        Args:
            content: its mapping.
            where: its name, for messages.

        Raises:
            LrsmsError: an unknown key, or a value that is not what the key takes.
        """
        refuse_unknown(content, [one.name for one in fields(cls)], where)
        config = cls(**{key: _frozen(value) for key, value in content.items()})
        config._check(where)
        return config

    def _check(self, where: str) -> None:
        for key, allowed in {
            "budget": BUDGETS,
            "tie": TIES,
            "truncation": METHODS,
            "controller": CONTROLLERS,
            "fidelity": FIDELITIES,
            "survivor_fidelity": (*FIDELITIES, None),
        }.items():
            if getattr(self, key) not in allowed:
                names = ", ".join("null" if name is None else name for name in allowed)
                raise LrsmsError(f"{where}: {key}: {getattr(self, key)!r} is unknown; one of {names}")
        for key, least in {
            "trials": 1,
            "survivors": 1,
            "multiple": 1,
            "max_iterations": 1,
            "retries": 0,
            "seed": 0,
        }.items():
            _number(getattr(self, key), f"{where}: {key}", least, whole=True)
        for key, least in {"target": 1.0, "compression": 1.0, "tolerance": 0.0, "confidence": 0.0}.items():
            _number(getattr(self, key), f"{where}: {key}", least)
        if self.target == 1 or self.compression == 1:
            raise LrsmsError(f"{where}: target and compression: write how many times smaller, above 1")
        for role in self.roles or ():
            if role not in ROLES:
                raise LrsmsError(f"{where}: roles: {role!r} is unknown; any of {', '.join(ROLES)}")
        _check_mapping(self.calibration, f"{where}: calibration", ("split", "utterances"))
        _check_mapping(self.search_set, f"{where}: search_set", ("split", "utterances", "candidates"))
        if not isinstance(self.finetune, Mapping):
            raise LrsmsError(f"{where}: finetune: {self.finetune!r} is not a mapping")
        epochs = self.finetune.get("epochs", 0)
        if epochs == []:
            raise LrsmsError(f"{where}: finetune.epochs: [] is empty; write a number, or one for each iteration")
        for number in epochs if isinstance(epochs, list) else [epochs]:
            _number(number, f"{where}: finetune.epochs", 0, whole=True)

    def finetuning(self, iteration: int) -> dict:
        """Options of one iteration's fine-tuning, counted from 1: ``epochs`` and schedule in numbers."""
        options = {"epochs": 0, **self.finetune}
        if isinstance(options["epochs"], list):
            options["epochs"] = options["epochs"][min(iteration, len(options["epochs"])) - 1]
        schedule = options.get("scheduler_conf") or {}
        if "epochs" in schedule.values():
            options["scheduler_conf"] = {
                key: options["epochs"] if value == "epochs" else value for key, value in schedule.items()
            }
        return options

    @property
    def loop(self) -> Loop:
        """Options of the iteration."""
        return Loop(**{one.name: getattr(self, one.name) for one in fields(Loop)})


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _number(value: object, where: str, least: float, whole: bool = False) -> None:
    good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool) and value >= least
    if not good:
        raise LrsmsError(f"{where}: {value!r} is not a {'whole ' if whole else ''}number of at least {least}")


def _check_mapping(value: object, where: str, keys: tuple[str, ...]) -> None:
    if not isinstance(value, Mapping):
        raise LrsmsError(f"{where}: {value!r} is not a mapping with {', '.join(keys)}")
    refuse_unknown(value, keys, where)
    for key in keys[1:]:
        if key in value:
            _number(value[key], f"{where}.{key}", 1, whole=True)
