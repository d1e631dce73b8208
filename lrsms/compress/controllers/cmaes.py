"""CMA-ES (Hansen and Ostermeier 2001): an evolving normal distribution over the wishes.

Optuna's sampler keeps its state as a pickle in the study's storage, which may come from elsewhere; ours follows from
the finished trials, told again to the package ``cmaes``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from cmaes import CMA
from optuna.trial import Trial

from lrsms.compress.controllers.base import Context, Finished, Proposal

SPREAD = 0.3  # of the range of each wish, at the start: what Hansen (2016, arXiv 1604.00772) recommends


class CmaEs:
    """Starts in the middle of every range; one group alone is beyond it, and drawn at random."""

    sampler, objectives = None, 1

    def __init__(self, context: Context):
        self.context = context
        self.largest = np.array([len(group.ranks) - 1 for group in context.space.groups], float)

    def propose(self, trial: Trial, history: Sequence[Finished]) -> Proposal:
        """Draw from the distribution that the generations so far have come to."""
        generator = self.context.generator(trial.number)
        if len(self.largest) == 1:
            wishes = generator.uniform(size=1)
        else:
            wishes = self._evolved(history, int(generator.integers(2**31))).ask()
        return Proposal(tuple(map(float, wishes * self.largest)))

    def _evolved(self, history: Sequence[Finished], seed: int) -> CMA:
        groups = len(self.largest)
        optimizer = CMA(np.full(groups, 0.5), SPREAD, np.tile([0.0, 1.0], (groups, 1)), seed=seed)
        size = optimizer.population_size
        scored = [one for one in history if not math.isnan(one.error)]
        for start in range(0, len(scored) - size + 1, size):
            optimizer.tell([(np.array(one.levels) / self.largest, one.error) for one in scored[start : start + size]])
        return optimizer


def make(context: Context) -> CmaEs:
    """Make the controller."""
    return CmaEs(context)
