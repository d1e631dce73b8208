"""The search space: which layers can be given which ranks, and what each choice costs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lrsms.errors import LrsmsError
from lrsms.lowrank.plan import PlanEntry, round_rank

DENSE = "dense"
TIES = ("none", "qkv", "block", "role")
BUDGETS = ("parameters", "macs")


@dataclass(frozen=True)
class Layer:
    """One layer of the trained model.

    Attributes:
        path: in the model, such as ``encoder.encoders.0.feed_forward.w_1``.
        entry: its plan entry: role, shape, and how its size follows its rank.
        rank: the rank it has now; None if it is dense.
        positions: outputs per second of audio: its MACs are this times its weights.
    """

    path: str
    entry: PlanEntry
    rank: int | None = None
    positions: float = 0.0

    def cost(self, rank: int | None, budget: str) -> float:
        """Parameters, or MACs per second of audio, at ``rank``; None is as it is now."""
        entry = PlanEntry(**{**self.entry.__dict__, "rank": self.rank if rank is None else rank})
        return entry.parameters if budget == "parameters" else self.positions * entry.macs


@dataclass(frozen=True)
class Group:
    """Layers that share one choice.

    Attributes:
        name: of the Optuna parameter.
        layers: the layers.
        ranks: for each level, the rank of each layer; None keeps a layer as it is. Levels go from small to large, and
            the last keeps all of them.
    """

    name: str
    layers: tuple[Layer, ...]
    ranks: tuple[tuple[int | None, ...], ...]

    def cost(self, level: int, budget: str) -> float:
        """What the group costs at a level."""
        return sum(layer.cost(rank, budget) for layer, rank in zip(self.layers, self.ranks[level]))


@dataclass(frozen=True)
class SearchSpace:
    """All groups of a model.

    Attributes:
        groups: in module order.
        budget: ``parameters`` or ``macs``: what is counted.
        fixed: cost of everything that no group covers.
    """

    groups: tuple[Group, ...]
    budget: str
    fixed: float
    _costs: tuple[tuple[float, ...], ...] = field(init=False, repr=False)

    def __post_init__(self):
        costs = tuple(
            tuple(group.cost(level, self.budget) for level in range(len(group.ranks))) for group in self.groups
        )
        object.__setattr__(self, "_costs", costs)

    @classmethod
    def make(
        cls,
        layers: Sequence[Layer],
        ratios: Sequence,
        total: float,
        *,
        tie: str = "none",
        budget: str = "parameters",
        multiple: int = 4,
    ) -> SearchSpace:
        """Lay out the choices.

        Args:
            layers: everything that can be factored.
            ratios: rank ratios of the full rank, and ``dense``.
            total: cost of the whole model as it is.
            tie: ``none``, ``qkv`` (query, key and value of one attention), ``block`` (a role within a block) or
                ``role`` (all layers of a role): what shares one choice.
            budget: ``parameters`` or ``macs``.
            multiple: ranks are multiples of this.

        Raises:
            LrsmsError: a ratio outside (0, 1), or nothing to choose from.
        """
        numbers = ratio_numbers(ratios)
        members: dict[str, list[Layer]] = {}
        for layer in layers:
            members.setdefault(_group_name(layer, tie), []).append(layer)
        groups = []
        for name, tied in members.items():
            levels = _levels(tied, numbers, multiple)
            if len(levels) > 1:
                groups.append(Group(name, tuple(tied), levels))
        if not groups:
            raise LrsmsError(f"compress: no layer can be made smaller at the ratios {list(ratios)}")
        inside = sum(group.cost(len(group.ranks) - 1, budget) for group in groups)
        return cls(tuple(groups), budget, total - inside)

    @property
    def largest(self) -> tuple[int, ...]:
        """The choice that changes nothing."""
        return tuple(len(group.ranks) - 1 for group in self.groups)

    def cost(self, choice: Sequence[int]) -> float:
        """Cost of the whole model at a level for each group."""
        return self.fixed + sum(costs[level] for costs, level in zip(self._costs, choice))

    def costs(self, group: int) -> tuple[float, ...]:
        """Cost of one group at each of its levels."""
        return self._costs[group]

    def ranks(self, choice: Sequence[int]) -> dict[str, int | None]:
        """Path of every layer in the space, and its rank at this choice; None keeps it as it is."""
        return {
            layer.path: rank
            for group, level in zip(self.groups, choice)
            for layer, rank in zip(group.layers, group.ranks[level])
        }

    def check(self, limit: float) -> None:
        """Refuse a budget that no choice meets.

        Raises:
            LrsmsError: says the smallest cost that can be reached.
        """
        smallest = self.cost([0] * len(self.groups))
        if smallest > limit:
            now = self.cost(self.largest)
            raise LrsmsError(
                f"compress: a budget of {limit:,.0f} {self.budget} is out of reach: the smallest ratios leave "
                f"{smallest:,.0f}, {now / smallest:.2f}x fewer than now; add smaller ratios or roles"
            )

    def fit(self, preference: Sequence[float], limit: float) -> tuple[int, ...]:
        """The choice that spends a budget as ``preference`` would.

        All levels move up or down together until the cost meets the limit; what is left over is spent one level at a
        time on the groups that were rounded down most.

        Args:
            preference: wished level of each group, whole or not.
            limit: budget.
        """
        self.check(limit)
        low, high = -float(max(map(len, self._costs))), float(max(map(len, self._costs)))
        for _ in range(50):
            shift = (low + high) / 2
            low, high = (shift, high) if self.cost(self._clipped(preference, shift)) <= limit else (low, shift)
        choice = list(self._clipped(preference, low))
        spent = self.cost(choice)
        by_need = sorted(range(len(choice)), key=lambda i: choice[i] - (preference[i] + low))
        for index in by_need:
            if choice[index] + 1 < len(self._costs[index]):
                extra = self._costs[index][choice[index] + 1] - self._costs[index][choice[index]]
                if spent + extra <= limit:
                    choice[index] += 1
                    spent += extra
        return tuple(choice)

    def _clipped(self, preference: Sequence[float], shift: float) -> tuple[int, ...]:
        return tuple(min(len(costs) - 1, max(0, round(wish + shift))) for wish, costs in zip(preference, self._costs))


def ratio_numbers(ratios: Sequence, where: str = "compress: ratios") -> list[float]:
    """Rank ratios as numbers, in rising order without :data:`DENSE`.

    Raises:
        LrsmsError: one is neither a number between 0 and 1 nor :data:`DENSE`, or there is no number.
    """
    numbers = []
    for ratio in ratios:
        if ratio == DENSE:
            continue
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < 1:
            raise LrsmsError(f"{where}: {ratio!r} is not a number between 0 and 1, or {DENSE}")
        numbers.append(float(ratio))
    if not numbers:
        raise LrsmsError(f"{where}: {list(ratios)} has no number; write such as [0.12, 0.25, 0.5, {DENSE}]")
    return sorted(numbers)


def _group_name(layer: Layer, tie: str) -> str:
    part = layer.path.split(".")[0]
    if tie == "role":
        return f"{part}.{layer.entry.role}"
    if tie == "block":
        return f"{part}.{layer.entry.depth}.{layer.entry.role}"
    if tie == "qkv":
        return re.sub(r"\.linear_[qkv]$", ".linear_qkv", layer.path)
    return layer.path


def _levels(layers: Sequence[Layer], ratios: Sequence[float], multiple: int) -> tuple[tuple[int | None, ...], ...]:
    """Rank of each layer at each ratio, smallest first; a rank that saves nothing keeps the layer as it is."""
    levels: list[tuple[int | None, ...]] = []
    for ratio in ratios:
        ranks = tuple(_rank(layer, ratio, multiple) for layer in layers)
        if ranks not in levels and any(rank is not None for rank in ranks):
            levels.append(ranks)
    return (*levels, (None,) * len(layers))


def _rank(layer: Layer, ratio: float, multiple: int) -> int | None:
    entry = layer.entry
    full = entry.full_rank - (1 if entry.reader else 0)  # torch: an LSTM's projection is below its hidden size
    rank = round_rank(ratio * full, multiple, full)
    now = entry.break_even if layer.rank is None else layer.rank
    return rank if rank < now else None


def describe(space: SearchSpace, choice: Sequence[int]) -> Mapping[str, str]:
    """Group -> its ranks as text, for logs."""
    return {
        group.name: "/".join(DENSE if rank is None else str(rank) for rank in group.ranks[level])
        for group, level in zip(space.groups, choice)
    }
