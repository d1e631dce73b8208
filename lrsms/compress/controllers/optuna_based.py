"""What the controllers that are Optuna's samplers share: one wish per group, a number between its levels."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.samplers import BaseSampler
from optuna.trial import Trial

from lrsms.compress.controllers.base import Context, Finished, Proposal


class OptunaController:
    """A controller whose proposals are a sampler's.

    Args:
        context: the problem.
        sampler: of Optuna.
        objectives: 1 or 2; with two, candidates are not brought to the budget.
    """

    def __init__(self, context: Context, sampler: BaseSampler, objectives: int = 1):
        self.space, self.sampler, self.objectives = context.space, sampler, objectives

    def propose(self, trial: Trial, history: Sequence[Finished]) -> Proposal:
        """Ask the sampler; it knows the history from the study."""
        levels = tuple(trial.suggest_float(group.name, 0, len(group.ranks) - 1) for group in self.space.groups)
        if self.objectives == 2:
            return Proposal(tuple(map(round, levels)), exact=True)
        return Proposal(levels)
