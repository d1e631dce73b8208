"""Baseline: wishes drawn at random."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import Trial

from lrsms.compress.controllers.base import Context, Finished, Proposal


class Random:
    """Every level of every group equally likely, then brought to the budget."""

    sampler, objectives = None, 1

    def __init__(self, context: Context):
        self.context = context

    def propose(self, trial: Trial, history: Sequence[Finished]) -> Proposal:
        """Propose a choice that does not depend on the history."""
        generator = self.context.generator(trial.number)
        return Proposal(tuple(generator.uniform(0, len(group.ranks) - 1) for group in self.context.space.groups))


def make(context: Context) -> Random:
    """Make the controller."""
    return Random(context)
