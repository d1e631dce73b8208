"""The ``low_rank:`` block of a training YAML, parsed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from lrsms.errors import LrsmsError, number_hint
from lrsms.lowrank.initialization import INITIALIZERS
from lrsms.lowrank.maps import MAPS

ROLES = (
    *("attention", "attention_pos", "cross_attention", "feed_forward", "convolution", "subsampling"),
    *("embedding", "output", "recurrent", "recurrent_input", "frontend", "fusion"),
)
RATIO_DEFINITIONS = ("full_rank", "parameters")
STABLE_RANK = "stable_rank"
TARGETS = ("parameters", "macs")
_OPTIONS = (
    *("of", "layer_map", "stable_rank_from", "init", "multiple", "ranks", "target"),
    *("frobenius_decay", "semi_orthogonal", "self_guided", "muon"),
)


@dataclass(frozen=True)
class LowRankConfig:
    """What a user asks for, before any layer is looked at.

    Attributes:
        ratios: role -> rank ratio in (0, 1]; a role left out stays dense.
        of: ``full_rank``, rank = ratio * min(in, out), or ``parameters``, rank = ratio * in * out / (in + out).
        layer_map: how ranks spread over depth: a key of :data:`lrsms.lowrank.maps.MAPS`, ``stable_rank``, or one
            positive weight per block.
        stable_rank_from: dense checkpoint whose stable ranks ``layer_map: stable_rank`` follows.
        init: how factors start, a key of :data:`lrsms.lowrank.initialization.INITIALIZERS`.
        multiple: ranks are rounded to a multiple of this.
        ranks: module path -> rank, overriding everything above; the module's own rank or 0 for dense.
        target: ``("parameters", 2.0)``, which ``2x`` stands for: scale all ratios until the whole model has so many
            times fewer; None to take the ratios as they are.
        frobenius_decay: training aid, see :mod:`lrsms.lowrank.frobenius_decay`; 0 for none.
        semi_orthogonal: training aid, see :mod:`lrsms.lowrank.semi_orthogonal`; 0 for none.
        self_guided: training aid, see :mod:`lrsms.lowrank.self_guided`: steps until the guide is gone; 0 for none.
        muon: training aid, see :mod:`lrsms.lowrank.muon`: learning rate, times the optimizer's; 0 for none.
    """

    ratios: Mapping[str, float] = field(default_factory=dict)
    of: str = "full_rank"
    layer_map: str | tuple[float, ...] = "uniform"
    stable_rank_from: str | None = None
    init: str = "svd"
    multiple: int = 8
    ranks: Mapping[str, int] = field(default_factory=dict)
    target: tuple[str, float] | None = None
    frobenius_decay: float = 0.0
    semi_orthogonal: float = 0.0
    self_guided: int = 0
    muon: float = 0.0

    @classmethod
    def parse(cls, block: Mapping | None, *, where: str = "low_rank") -> LowRankConfig:
        """Check a YAML block.

        Args:
            block: the mapping under ``low_rank:``; None means that nothing is factored.
            where: the key's full name for error messages, such as ``encoder_conf.low_rank``.

        Raises:
            LrsmsError: an unknown key, role, map or initialization, or a value out of its range.
        """
        if block is None:
            return cls()
        if not isinstance(block, Mapping):
            raise LrsmsError(f"{where}: {block!r} is not a mapping; write for example {where}: {{attention: 0.12}}")
        for key in block:
            if key not in ROLES + _OPTIONS:
                raise LrsmsError(
                    f"{where}.{key}: unknown key; roles are {', '.join(ROLES)}; options are {', '.join(_OPTIONS)}"
                )
        ratios = {role: _ratio(block[role], f"{where}.{role}") for role in ROLES if block.get(role) is not None}
        layer_map = _layer_map(block.get("layer_map", "uniform"), f"{where}.layer_map")
        source = block.get("stable_rank_from")
        if (layer_map == STABLE_RANK) != (source is not None):
            raise LrsmsError(
                f"{where}: layer_map: {STABLE_RANK} and stable_rank_from: <dense checkpoint> go together; "
                f"layer_map is {layer_map!r}, stable_rank_from {source!r}"
            )
        return cls(
            ratios=ratios,
            of=_choice(block.get("of", "full_rank"), RATIO_DEFINITIONS, f"{where}.of"),
            layer_map=layer_map,
            stable_rank_from=None if source is None else str(source),
            init=_choice(block.get("init", "svd"), tuple(INITIALIZERS), f"{where}.init"),
            multiple=_whole(block.get("multiple", 8), 1, f"{where}.multiple"),
            ranks=_ranks(block.get("ranks") or {}, f"{where}.ranks"),
            target=_target(block.get("target"), f"{where}.target"),
            frobenius_decay=_at_least_zero(block.get("frobenius_decay", 0), f"{where}.frobenius_decay"),
            semi_orthogonal=_strength(block.get("semi_orthogonal", 0), f"{where}.semi_orthogonal"),
            self_guided=_whole(block.get("self_guided") or 0, 0, f"{where}.self_guided"),
            muon=_at_least_zero(block.get("muon", 0), f"{where}.muon"),
        )

    def scaled(self, factor: float) -> LowRankConfig:
        """The same proportions with every ratio times ``factor``, none above 1."""
        return replace(self, ratios={role: min(1.0, ratio * factor) for role, ratio in self.ratios.items()})


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _ratio(value: object, where: str) -> float:
    if not _number(value) or not 0 < value <= 1:
        raise LrsmsError(f"{where}: {value!r} is not a rank ratio; write a number in (0, 1], or leave it out for dense")
    return float(value)


def _choice(value: object, allowed: tuple[str, ...], where: str) -> str:
    if value not in allowed:
        raise LrsmsError(f"{where}: {value!r} is unknown; choose one of {', '.join(allowed)}")
    return value


def _whole(value: object, least: int, where: str) -> int:
    if not _number(value) or value % 1 != 0 or value < least:
        raise LrsmsError(f"{where}: {value!r} is not a whole number of at least {least}")
    return int(value)


def _ranks(value: object, where: str) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise LrsmsError(f"{where}: {value!r} is not a mapping of module path to rank")
    return {str(path): _whole(rank, 0, f"{where}.{path}") for path, rank in value.items()}


def _layer_map(value: object, where: str) -> str | tuple[float, ...]:
    if isinstance(value, (list, tuple)):
        if not value or not all(_number(weight) and 0 < weight < float("inf") for weight in value):
            raise LrsmsError(f"{where}: {value!r} is not a list of positive numbers, one for each block")
        return tuple(map(float, value))
    if value not in (*MAPS, STABLE_RANK):
        raise LrsmsError(
            f"{where}: {value!r} is unknown; choose one of {', '.join(MAPS)}, {STABLE_RANK}, or write a list of weights"
        )
    return value


def _target(value: object, where: str) -> tuple[str, float] | None:
    if value is None:
        return None
    example = f"write for example {where}: 3x, or {where}: {{macs: 2.0x}}"
    if _number(value) or isinstance(value, str):
        value = {"parameters": value}
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in TARGETS:
        raise LrsmsError(f"{where}: {value!r} is not one of {', '.join(TARGETS)} with how many times fewer; {example}")
    ((what, times),) = value.items()
    try:
        number = float(str(times).removesuffix("x"))
    except ValueError:
        number = 0.0
    if not 1 < number < float("inf"):
        raise LrsmsError(f"{where}.{what}: {times!r} is not a number of times above 1; {example}")
    return what, number


def _at_least_zero(value: object, where: str) -> float:
    if not _number(value) or not 0 <= value < float("inf"):
        raise LrsmsError(f"{where}: {value!r} is not a number of at least 0{number_hint(value)}")
    return float(value)


def _strength(value: object, where: str) -> float:
    if not _number(value) or not 0 <= value < 2:
        raise LrsmsError(
            f"{where}: {value!r} is not a number from 0 to below 2, from where on its steps diverge; 1 is usual"
        )
    return float(value)
