"""``compress.yaml``, parsed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated

from msgspec import Meta

from lrsms.compress.controllers import CONTROLLERS
from lrsms.compress.iterate import Loop
from lrsms.compress.space import BUDGETS, DENSE, TIES, ratio_numbers
from lrsms.errors import LrsmsError
from lrsms.lowrank.config import ROLES
from lrsms.lowrank.truncation import METHODS
from lrsms.typed_config import Count, Number, Times, WholeNumber, choice, from_yaml

FIDELITIES = ("loss", "ctc", "beam")
PARTS = ("encoder", "decoder", "ctc")


Epochs = Annotated[list[WholeNumber], Meta(min_length=1, description="a list of them, one for each iteration")]
Confidence = Annotated[float, Meta(ge=0, lt=1, description="a number from 0 to below 1, such as 0.975")]
Calibration = Annotated[Mapping, Meta(description="a mapping with split, utterances")]
SearchSetOptions = Annotated[Mapping, Meta(description="a mapping with split, utterances, candidates")]
Finetuning = Annotated[Mapping, Meta(description="a mapping with epochs and ESPnet's options")]


@dataclass(frozen=True)
class _Calibration:
    split: str = ""
    utterances: Count = 1


@dataclass(frozen=True)
class _SearchSet(_Calibration):
    candidates: Count = 1


@dataclass(frozen=True)
class _Finetune:
    epochs: WholeNumber | Epochs = 0


@dataclass(frozen=True)
class CompressConfig:
    """Options of ``conf/compress.yaml``, where each has its comment."""

    budget: str = choice("parameters", BUDGETS)
    target: Times = 8.0
    compression: Times = 1.5
    max_iterations: Count = 8
    tolerance: Number = Loop.tolerance
    confidence: Confidence = Loop.confidence
    retries: WholeNumber = 1
    roles: tuple[str, ...] | None = tuple(role for role in ROLES if role != "output")
    parts: tuple[str, ...] | None = None
    ratios: tuple[float | str, ...] = (0.05, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5, DENSE)
    tie: str = choice("none", TIES)
    bands: tuple[Count, ...] | None = None
    band_ranks: tuple[Count, ...] | None = None
    rehearsal: WholeNumber = 1200
    multiple: Count = 2
    truncation: str = choice("whitened", METHODS)
    calibration: Calibration = field(default_factory=lambda: {"split": "train", "utterances": 50})
    controller: str = choice("sensitivity", CONTROLLERS)
    trials: Count = 300
    seed: WholeNumber = 0
    prune: bool = True
    fidelity: str = choice("loss", FIDELITIES)
    survivors: Count = 5
    survivor_fidelity: str | None = choice("ctc", (*FIDELITIES, None))
    search_set: SearchSetOptions = field(default_factory=lambda: {"split": "dev", "utterances": 100, "candidates": 60})
    finetune: Finetuning = field(default_factory=lambda: {"epochs": 6})

    @classmethod
    def parse(cls, content: Mapping, where: str) -> CompressConfig:
        """Check the content of a YAML file.

        Args:
            content: its mapping.
            where: its name, for messages.

        Raises:
            LrsmsError: an unknown key, or a value that is not what the key takes.
        """
        config = from_yaml(cls, content, where, separator=": ")
        config._check(where)
        return config

    def _check(self, where: str) -> None:
        for role in self.roles or ():
            if role not in ROLES:
                raise LrsmsError(f"{where}: roles: {role!r} is unknown; any of {', '.join(ROLES)}")
        ratio_numbers(self.ratios, f"{where}: ratios")
        if self.band_ranks is not None and len(self.band_ranks) != len(self.bands or ()) + 1:
            raise LrsmsError(
                f"{where}: band_ranks: {list(self.band_ranks)}: one for each band, of which bands: "
                f"{list(self.bands or ())} makes {len(self.bands or ()) + 1 if self.bands else 'none'}"
            )
        if self.band_ranks is not None and "output" in (self.roles or ROLES):
            raise LrsmsError(f"{where}: band_ranks: they are not searched then; leave output out of roles")
        for part in self.parts or ():
            if part not in PARTS:
                raise LrsmsError(f"{where}: parts: {part!r} is unknown; any of {', '.join(PARTS)}")
        from_yaml(_Calibration, self.calibration, f"{where}: calibration")
        from_yaml(_SearchSet, self.search_set, f"{where}: search_set")
        ours = {key: value for key, value in self.finetune.items() if key == "epochs"}  # the others are ESPnet's
        from_yaml(_Finetune, ours, f"{where}: finetune")
        for key in ("distill_temperature", "distill_encoder_weight"):
            if self.finetune.get(key) and not self.finetune.get("distill_weight"):
                raise LrsmsError(
                    f"{where}: finetune.{key}: {self.finetune[key]!r} has no teacher without distill_weight; write one "
                    "above 0, such as 0.5, or leave it out"
                )

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
        return Loop(**{option.name: getattr(self, option.name) for option in fields(Loop)})
