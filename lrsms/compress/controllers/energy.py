"""Baseline: keep the same share of energy everywhere (Kaldi's ``apply-svd`` threshold; the papers' manual ranks).

The energy of a layer is the sum of its components' importance, squared; later trials raise it to other powers.
"""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import Trial

from lrsms.compress.controllers.base import Context, Finished, Proposal
from lrsms.compress.space import Group

POWERS = (2.0, 1.0, 1.5, 3.0, 0.75, 4.0)


class Energy:
    """One threshold for all layers, the largest that the budget allows."""

    sampler, objectives = None, 1

    def __init__(self, context: Context):
        self.context = context

    def propose(self, trial: Trial, history: Sequence[Finished]) -> Proposal:
        """Propose with another power in each trial; the first is the energy itself."""
        power = POWERS[trial.number % len(POWERS)]
        space, low, high = self.context.space, 0.0, 1.0
        shares = [self._shares(group, power) for group in space.groups]
        for _ in range(40):
            threshold = (low + high) / 2
            fits = space.cost(_levels(shares, threshold)) <= self.context.limit
            low, high = (threshold, high) if fits else (low, threshold)
        return Proposal(tuple(map(float, _levels(shares, low))))

    def _shares(self, group: Group, power: float) -> list[float]:
        """Share of energy that each level keeps, of all layers of the group together."""
        shares = []
        for ranks in group.ranks:
            total = part = 0.0
            for layer, rank in zip(group.layers, ranks):
                energy = [value**power for value in self.context.values[layer.path]]
                total += sum(energy)
                part += sum(energy[:rank])
            shares.append(part / total if total else 1.0)
        return shares


def _levels(shares: list[list[float]], threshold: float) -> list[int]:
    """The lowest level of each group that keeps the threshold."""
    return [
        next((level for level, share in enumerate(of_group) if share >= threshold), len(of_group) - 1)
        for of_group in shares
    ]


def make(context: Context) -> Energy:
    """Make the controller."""
    return Energy(context)
