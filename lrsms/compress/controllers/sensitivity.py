"""Equal energy, per-layer sensitivity curves, the exact budgeted choice, then exchanges around the best of all.

The first trials are those of :mod:`lrsms.compress.controllers.energy`, which cost next to nothing and are hard to beat
from nowhere. Then every group is tried at every level by itself, all others dense. As if errors added up, dynamic
programming finds the choice of least total error within the budget (cf. ASVD, Yuan et al. 2023). They do not quite add
up: the trials that are left move one level between groups of the best choice so far.
"""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import Trial

from lrsms.compress.controllers import energy
from lrsms.compress.controllers.base import Context, Finished, Proposal

_SHARE = 0.6  # of the trials, at most, for the curves
_STATES = 20_000  # cost values kept apart in dynamic programming; below that many, the choice is exact


class Sensitivity:
    """The controller that this module describes."""

    sampler, objectives = None, 1

    def __init__(self, context: Context):
        self.context = context
        space = context.space
        # Coarse levels of all groups before fine ones: a search cut short has seen the whole model.
        order = [
            (group, level) for group in range(len(space.groups)) for level in range(len(space.groups[group].ranks) - 1)
        ]
        order = sorted(order, key=lambda change: (_bits(change[1]), change))[: int(_SHARE * context.trials)]
        self.singles = [self._single(*change) for change in order]
        self.energy, self.starts = energy.make(context), min(len(energy.POWERS), context.trials // 2)

    def _single(self, group: int, level: int) -> tuple[int, ...]:
        choice = list(self.context.space.largest)
        choice[group] = level
        return tuple(choice)

    def propose(self, trial: Trial, history: Sequence[Finished]) -> Proposal:
        """Propose equal energy, a single change, the planned choice, or an exchange."""
        tried = {finished.choice for finished in history}
        if trial.number < self.starts:
            return self.energy.propose(trial, history)
        number = trial.number - self.starts
        if number < len(self.singles):
            return Proposal(self.singles[number], exact=True)
        space, limit = self.context.space, self.context.limit
        planned = plan(space, self._curves(history), limit)
        if planned not in tried and number == len(self.singles):
            return Proposal(planned, exact=True)
        fitting = [finished for finished in history if finished.cost <= limit]
        best = min(fitting, key=lambda finished: finished.error).choice if fitting else planned
        return Proposal(self._exchange(best, trial.number, tried), exact=True)

    def _curves(self, history: Sequence[Finished]) -> list[list[float]]:
        """Error of each group's levels by itself; levels not measured between their neighbors."""
        space = self.context.space
        errors = {finished.choice: finished.error for finished in history}
        base = min(errors.values(), default=0.0)
        curves = []
        for group, group_of_layers in enumerate(space.groups):
            top = len(group_of_layers.ranks) - 1
            known = {
                level: errors[self._single(group, level)]
                for level in range(top)
                if self._single(group, level) in errors
            }
            known[top] = errors.get(space.largest, base)
            curves.append([_between(known, level) for level in range(top + 1)])
        return curves

    def _exchange(self, best: tuple[int, ...], number: int, tried: set) -> tuple[int, ...]:
        """One group down a level, others up as far as the budget goes; a new choice if there is one."""
        space, generator = self.context.space, self.context.generator(number)
        candidate = best
        for _ in range(50):
            levels = list(best)
            lower = [index for index, level in enumerate(levels) if level > 0]
            for index in generator.permutation(lower)[: 1 + generator.integers(3)]:
                levels[index] -= 1
            for index in generator.permutation(len(levels)):
                raised = [*levels[:index], levels[index] + 1, *levels[index + 1 :]]
                if raised[index] < len(space.groups[index].ranks) and space.cost(raised) <= self.context.limit:
                    levels = raised
            candidate = tuple(levels)
            if candidate not in tried:
                break
        return candidate


def _bits(level: int) -> int:
    """0, then 2, then 1 and 3, ...: how finely levels must be spaced to reach this one."""
    return 0 if level == 0 else 10 - (level & -level).bit_length()


def _between(known: dict[int, float], level: int) -> float:
    """Interpolate piecewise linearly; outside of what is known, take the nearest value."""
    below = max((k for k in known if k <= level), default=None)
    above = min((k for k in known if k >= level), default=None)
    if below is None:
        return known[min(known)]
    if above is None:
        return known[below]
    if below == above:
        return known[below]
    share = (level - below) / (above - below)
    return (1 - share) * known[below] + share * known[above]


def plan(space, curves: Sequence[Sequence[float]], limit: float) -> tuple[int, ...]:
    """The choice with the least sum of errors whose cost is within ``limit``: dynamic programming over groups.

    Exact while no more than 20,000 costs are reachable; beyond, costs are rounded up to so many steps, and the
    choice stays within the limit.

    Args:
        space: the search space.
        curves: error of every level of every group.
        limit: budget.

    Raises:
        LrsmsError: no choice meets the budget.
    """
    space.check(limit)
    room = limit - space.fixed
    states: dict[float, tuple[float, tuple[int, ...]]] = {0.0: (0.0, ())}
    rest = [min(space.costs(group)) for group in range(len(space.groups))]
    for group, curve in enumerate(curves):
        least_to_come = sum(rest[group + 1 :])
        reached: dict[float, tuple[float, tuple[int, ...]]] = {}
        for spent, (error, levels) in states.items():
            for level, cost in enumerate(space.costs(group)):
                total = spent + cost
                if total + least_to_come <= room:
                    state = (error + curve[level], (*levels, level))
                    if total not in reached or state < reached[total]:
                        reached[total] = state
        states = _undominated(reached, room)
    return min(states.values())[1]


def _undominated(states: dict, room: float) -> dict:
    """States that no cheaper one beats; of too many, the best in each step of cost."""
    frontier, best = {}, float("inf")
    for spent in sorted(states):
        error = states[spent][0]
        if error < best:
            frontier[spent], best = states[spent], error
    if len(frontier) <= _STATES:
        return frontier
    thinned: dict[int, tuple] = {}
    for spent, state in frontier.items():  # in rising cost, falling error: the last of a step is its best
        thinned[int(spent / room * _STATES)] = (spent, state)
    return dict(thinned.values())


def make(context: Context) -> Sensitivity:
    """Make the controller."""
    return Sensitivity(context)
