"""The ``low_rank:`` block of a training YAML, parsed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lrsms.errors import LrsmsError
from lrsms.lowrank.initialization import INITIALIZERS
from lrsms.lowrank.maps import MAPS

ROLES = ("attention", "attention_pos", "feed_forward", "convolution", "subsampling")
RATIO_DEFINITIONS = ("full_rank", "parameters")


@dataclass(frozen=True)
class LowRankConfig:
    """What a user asks for, before any layer is looked at.

    Attributes:
        ratios: role -> rank ratio in (0, 1]; a role left out stays dense.
        of: ``full_rank``, rank = ratio * min(in, out), or ``parameters``, rank = ratio * in * out / (in + out).
        layer_map: how ranks spread over depth, a key of :data:`lrsms.lowrank.maps.MAPS`.
        init: how factors start, a key of :data:`lrsms.lowrank.initialization.INITIALIZERS`.
        multiple: ranks are rounded to a multiple of this.
        ranks: module path -> rank, overriding everything above; the module's own rank or 0 for dense.
    """

    ratios: Mapping[str, float] = field(default_factory=dict)
    of: str = "full_rank"
    layer_map: str = "uniform"
    init: str = "svd"
    multiple: int = 8
    ranks: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, block: Mapping | None, *, where: str = "low_rank") -> LowRankConfig:
        """Check a YAML block.

        Args:
            block: the mapping under ``low_rank:``; None means that nothing is factored.
            where: the key's full name for error messages, such as ``encoder_conf.low_rank``.

        Raises:
            LrsmsError: an unknown key, role, map or initialisation, or a value out of its range.
        """
        if block is None:
            return cls()
        if not isinstance(block, Mapping):
            raise LrsmsError(f"{where}: {block!r} is not a mapping; write for example {where}: {{attention: 0.12}}")
        options = ("of", "layer_map", "init", "multiple", "ranks")
        for key in block:
            if key not in ROLES + options:
                raise LrsmsError(
                    f"{where}.{key}: unknown key; roles are {', '.join(ROLES)}; options are {', '.join(options)}"
                )
        ratios = {role: _ratio(block[role], f"{where}.{role}") for role in ROLES if block.get(role) is not None}
        return cls(
            ratios=ratios,
            of=_choice(block.get("of", "full_rank"), RATIO_DEFINITIONS, f"{where}.of"),
            layer_map=_choice(block.get("layer_map", "uniform"), tuple(MAPS), f"{where}.layer_map"),
            init=_choice(block.get("init", "svd"), tuple(INITIALIZERS), f"{where}.init"),
            multiple=_whole(block.get("multiple", 8), 1, f"{where}.multiple"),
            ranks=_ranks(block.get("ranks") or {}, f"{where}.ranks"),
        )


def _number(value: object) -> bool:
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
