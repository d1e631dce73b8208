"""What a controller is given and what it hands back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from optuna.samplers import BaseSampler
from optuna.trial import Trial

from lrsms.compress.space import SearchSpace


@dataclass(frozen=True)
class Context:
    """The problem.

    Attributes:
        space: groups and their levels.
        limit: budget, in the space's unit.
        seed: of everything random.
        trials: how many there will be.
        values: path -> importance of the components of that layer's factors, falling.
    """

    space: SearchSpace
    limit: float
    seed: int
    trials: int
    values: Mapping[str, Sequence[float]]

    def generator(self, number: int) -> np.random.Generator:
        """Random numbers that depend on seed and trial alone, so that a resumed search proposes the same."""
        return np.random.default_rng([self.seed, number])


@dataclass(frozen=True)
class Proposal:
    """A candidate: wished level of each group.

    The search spends the budget as the wishes would (:meth:`SearchSpace.fit`), unless ``exact``: then whole levels
    are taken as they are, whatever they cost.
    """

    levels: tuple[float, ...]
    exact: bool = False


@dataclass(frozen=True)
class Finished:
    """A trial that has been scored: number, what was wished, what was tried, its error and its cost."""

    number: int
    levels: tuple[float, ...]
    choice: tuple[int, ...]
    error: float
    cost: float


class Controller(Protocol):
    """Proposes candidates from what is known so far.

    Attributes:
        sampler: Optuna's, for controllers that are one of Optuna's; else None.
        objectives: 1, the error; or 2, error and cost.
    """

    sampler: BaseSampler | None
    objectives: int

    def propose(self, trial: Trial, history: Sequence[Finished]) -> Proposal:
        """The candidate of ``trial``.

        Args:
            trial: Optuna's, with its number.
            history: finished trials, in the order of their numbers.
        """
        ...
