"""Baseline: one ratio for all layers, the largest that the budget allows."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import Trial

from lrsms.compress.controllers.base import Context, Finished, Proposal


class Uniform:
    """Levels start at the smallest ratio, so equal wishes are equal ratios. Every trial is the same one."""

    sampler, objectives = None, 1

    def __init__(self, context: Context):
        self.levels = (0.0,) * len(context.space.groups)

    def propose(self, trial: Trial, history: Sequence[Finished]) -> Proposal:
        """Propose the one choice; it does not depend on the history."""
        return Proposal(self.levels)


def make(context: Context) -> Uniform:
    """Make the controller."""
    return Uniform(context)
