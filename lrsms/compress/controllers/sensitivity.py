"""Equal energy, per-layer sensitivity curves, the exact budgeted choice, then exchanges around the best of all.

The first trials are those of :mod:`lrsms.compress.controllers.energy`, which cost next to nothing and are hard to beat
from nowhere. Then every group is tried at every level by itself, all others dense. As if errors added up, dynamic
programming finds the choice of least total error within the budget (cf. ASVD, Yuan et al. 2023). They do not quite add
up: the trials that are left move one level between groups of the best choice so far.

If there are too few trials for every level, what a level adds to the error is taken between its neighbors on a
logarithmic scale: it falls with the rank about as the rest of a spectrum does, steeply at first. On a straight line
from the lowest level to none at all, all between look far worse than they are. (tiny.en of Whisper at half of its
weights, 18 trials for 24 groups: a loss of 51 by straight lines, 9.3 this way.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.trial import Trial

from lrsms.compress.controllers import energy
from lrsms.compress.controllers.base import Context, Finished, Proposal

_SHARE = 0.6  # of the trials, at most, for the curves
_LEFT = 0.03  # of what a group's lowest level adds: what a level just below dense is taken to add, in between
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
        self.singles = [space.largest, *(self._single(*change) for change in order)]  # the first is what they add to
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
        """What each group's levels add to the error by themselves; the last, dense, adds nothing.

        A level that was not measured is taken between its neighbors, a group that was not as the worst of all.
        """
        space = self.context.space
        errors = {finished.choice: finished.error for finished in history}
        base = errors.get(space.largest, min(errors.values(), default=0.0))
        added = [
            {
                level: max(errors[choice] - base, 0.0)
                for level in range(len(group.ranks) - 1)
                if (choice := self._single(index, level)) in errors
            }
            for index, group in enumerate(space.groups)
        ]
        worst = max((most for known in added for most in known.values()), default=0.0)
        return [_curve(known or {0: worst}, len(group.ranks) - 1) for known, group in zip(added, space.groups)]

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


def _curve(added: dict[int, float], top: int) -> list[float]:
    """Error that each level up to ``top``, the dense one, adds, by those that are known."""
    least = max(added.values()) * 1e-4 + 1e-12  # of what looks like none at all
    logarithms = {level: math.log(max(error, least)) for level, error in added.items()}
    logarithms[top] = max(logarithms.values()) + math.log(_LEFT)
    return [added.get(level, math.exp(_between(logarithms, level))) for level in range(top)] + [0.0]


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
