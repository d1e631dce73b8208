"""RankPlan: which layer gets which rank, and what that costs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.lowrank.config import LowRankConfig
from lrsms.lowrank.layers import matrix_shape
from lrsms.lowrank.maps import spread_ranks


@dataclass(frozen=True)
class PlanEntry:
    """One layer that a role covers.

    Attributes:
        module: path of the layer, as in ``named_modules()``.
        role: the YAML role it belongs to.
        depth: index of its block in the stack, 0 where there is none.
        inputs, outputs: shape of its matrix; a convolution's kernel area counts into ``inputs``.
        rank: inner dimension, None when it stays dense.
        note: why it stays dense, where the plan decided that.
    """

    module: str
    role: str
    depth: int
    inputs: int
    outputs: int
    rank: int | None
    note: str = ""

    @property
    def dense_parameters(self) -> int:
        """Weights of the dense matrix (bias apart: factoring does not change it)."""
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """Weights stored; equal to the multiply-accumulates per output position."""
        return self.dense_parameters if self.rank is None else self.rank * (self.inputs + self.outputs)


@dataclass(frozen=True)
class RankPlan:
    """Every layer that the configured roles cover, in module order."""

    config: LowRankConfig
    entries: tuple[PlanEntry, ...]

    @classmethod
    def make(cls, model: nn.Module, roles: Mapping[str, str], config: LowRankConfig, where: str = "low_rank") -> RankPlan:
        """Look at a dense model and choose ranks.

        Args:
            model: an encoder or decoder with dense layers.
            roles: regular expression of a module path (matched whole) -> role.
            config: what the user asked for.
            where: the YAML key, for error messages.

        Raises:
            LrsmsError: a role or an explicit path that the model has no layer for, or a rank too large.
        """
        entries = [
            PlanEntry(path, role, _depth(path), shape[1], shape[0], None)
            for path, module in model.named_modules()
            if (role := _role_of(path, roles)) and (shape := matrix_shape(module))
        ]
        present = {entry.role for entry in entries}
        for role in config.ratios:
            if role not in present:
                raise LrsmsError(
                    f"{where}.{role}: {type(model).__name__} has no such layer with these options; "
                    f"it has {', '.join(sorted(present)) or 'none'}"
                )
        ranked = _rank_groups(entries, config)
        return cls(config, tuple(_override(ranked, model, config.ranks, where)))

    @property
    def parameters(self) -> int:
        """Weights of all planned layers as stored."""
        return sum(entry.parameters for entry in self.entries)

    @property
    def dense_parameters(self) -> int:
        """Weights of all planned layers if they were dense."""
        return sum(entry.dense_parameters for entry in self.entries)

    def table(self) -> str:
        """The plan as a text table, one row per layer."""
        rows = [("module", "role", "in x out", "rank", "parameters", "of dense", "")]
        for entry in self.entries:
            rank = "dense" if entry.rank is None else str(entry.rank)
            share = f"{100 * entry.parameters / entry.dense_parameters:.0f} %"
            shape = f"{entry.inputs} x {entry.outputs}"
            rows.append((entry.module, entry.role, shape, rank, f"{entry.parameters:,}", share, entry.note))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        left = {0, 1, 6}
        lines = [
            "  ".join(
                cell.ljust(width) if column in left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths))
            ).rstrip()
            for row in rows
        ]
        return "\n".join(lines)


def save_plans(path: Path, plans: Mapping[str, RankPlan], totals: Mapping) -> None:
    """Write the plans of a model's parts (``encoder``, ``decoder``) as one YAML file.

    Args:
        path: file to write.
        plans: part -> its plan; module paths are prefixed with the part.
        totals: numbers of the whole model to store beside them.
    """
    parts = {
        part: {"of": plan.config.of, "layer_map": plan.config.layer_map, "init": plan.config.init}
        for part, plan in plans.items()
    }
    layers = [
        {
            **asdict(entry),
            "module": f"{part}.{entry.module}",
            "parameters": entry.parameters,
            "dense_parameters": entry.dense_parameters,
        }
        for part, plan in plans.items()
        for entry in plan.entries
    ]
    path.write_text(yaml.safe_dump({"totals": dict(totals), "parts": parts, "layers": layers}, sort_keys=False))


def _role_of(path: str, roles: Mapping[str, str]) -> str | None:
    for pattern, role in roles.items():
        if re.fullmatch(pattern, path):
            return role
    return None


def _depth(path: str) -> int:
    numbers = re.findall(r"\.(\d+)(?=\.)", path)  # a trailing number (embed.conv.2) is not a block's
    return int(numbers[0]) if numbers else 0


def _family(entry: PlanEntry) -> tuple:
    """Layers that differ only in their block's index: a map spreads rank over these."""
    return re.sub(rf"\b{entry.depth}\b", "*", entry.module, count=1), entry.inputs, entry.outputs


def _rank_groups(entries: list[PlanEntry], config: LowRankConfig) -> list[PlanEntry]:
    families: dict[tuple, list[PlanEntry]] = {}
    for entry in entries:
        families.setdefault(_family(entry), []).append(entry)
    chosen = {}
    for family in families.values():
        ratio = config.ratios.get(family[0].role)
        for entry, (rank, note) in zip(family, _family_ranks(family[0], len(family), ratio, config)):
            chosen[entry.module] = replace(entry, rank=rank, note=note)
    return [chosen[entry.module] for entry in entries]


def _family_ranks(entry: PlanEntry, layers: int, ratio: float | None, config: LowRankConfig) -> list[tuple]:
    if ratio is None:
        return [(None, "")] * layers
    full, break_even = min(entry.inputs, entry.outputs), entry.dense_parameters / (entry.inputs + entry.outputs)
    rank = round_rank(ratio * (full if config.of == "full_rank" else break_even), config.multiple, full)
    if rank >= break_even:
        return [(None, f"rank {rank} reaches break-even at {break_even:.0f}")] * layers
    largest = _largest_multiple_below(break_even, config.multiple)
    ranks = spread_ranks(rank, layers, config.layer_map, multiple=config.multiple, largest=largest)
    return [(value, "") for value in ranks]


def round_rank(rank: float, multiple: int, full: int) -> int:
    """Nearest multiple, at least one of it, never above ``full``; layers thinner than a multiple round to 1 and up."""
    if full <= multiple:
        return max(1, min(full, round(rank)))
    return min(full, max(multiple, multiple * round(rank / multiple)))


def _largest_multiple_below(bound: float, multiple: int) -> int:
    largest = int(bound // multiple) * multiple
    return largest - multiple if largest == bound else largest


def _override(entries: list[PlanEntry], model: nn.Module, ranks: Mapping[str, int], where: str) -> list[PlanEntry]:
    modules = dict(model.named_modules())
    by_path = {entry.module: entry for entry in entries}
    for path, rank in ranks.items():
        shape = matrix_shape(modules[path]) if path in modules else None
        if shape is None:
            raise LrsmsError(f"{where}.ranks.{path}: {type(model).__name__} has no layer of that path to factor")
        if rank > min(shape):
            raise LrsmsError(f"{where}.ranks.{path}: {rank} exceeds the full rank {min(shape)}; write 0 for dense")
        known = by_path.get(path, PlanEntry(path, "explicit", _depth(path), shape[1], shape[0], None))
        by_path[path] = replace(known, rank=rank or None, note="explicit")
    order = {path: index for index, path in enumerate(modules)}
    return sorted(by_path.values(), key=lambda entry: order[entry.module])
