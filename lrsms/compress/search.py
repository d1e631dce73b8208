"""One search: propose, truncate by slicing, score cheaply, keep the best, score those dearly.

Every trial is in Optuna's storage as soon as it is scored; a killed search goes on from there, and several processes or
machines can work on one storage at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

from lrsms.compress.controllers import Context, Finished, make
from lrsms.compress.space import SearchSpace
from lrsms.errors import LrsmsError
from lrsms.storage import has_ended, open_study, this_process

# ranks -> error; called with each partial error, it may raise Hopeless
Score = Callable[[dict, Callable[[int, float], None]], float]


class Hopeless(Exception):
    """A trial that is not worth finishing."""


@dataclass(frozen=True)
class Search:
    """What to search, and how.

    Attributes:
        space: the choices.
        limit: budget.
        controller: name, see :data:`lrsms.compress.controllers.CONTROLLERS`.
        trials: how many, over all workers.
        seed: of everything random.
        values: importance of the components of each layer's factors.
        cheap: scores a candidate in every trial.
        dear: scores the survivors; None when the cheap score decides.
        survivors: how many.
        storage: URL, or path of a journal file.
        name: of the study in the storage.
        prune: stop trials early that fall behind the better half.
    """

    space: SearchSpace
    limit: float
    controller: str
    trials: int
    seed: int
    values: dict
    cheap: Score
    storage: str | Path
    name: str
    dear: Score | None = None
    survivors: int = 5
    prune: bool = True

    def run(self) -> FrozenTrial:
        """Run what is left of the search, wait for the trials of others, and choose.

        Returns:
            The best trial within the budget; ``user_attrs["choice"]`` are its levels.

        Raises:
            LrsmsError: the budget is out of reach, or no trial met it.
        """
        study = self.run_trials()
        while _running(study):  # of other workers
            time.sleep(0.5)
            _fail_lost(study)
        return self.best(study)

    def run_trials(self, progress: bool = True) -> optuna.Study:
        """Run trials until all workers together have run the number asked for."""
        with tqdm(total=self.trials, desc=self.name, unit="trial", dynamic_ncols=True, disable=not progress) as bar:
            for study, scored in self.steps():  # noqa: B007 (the last one is returned)
                bar.update(min(self.trials, scored) - bar.n)
        return study

    def steps(self) -> Iterator[tuple[optuna.Study, int]]:
        """The same, one trial at a time: yields study and scored trials before each, and once when all are done."""
        self.space.check(self.limit)
        controller = make(self.controller, Context(self.space, self.limit, self.seed, self.trials, self.values))
        study = self._study(controller)
        while True:
            history = _history(study)
            yield study, len(history)
            if len(history) + _running(study) >= self.trials:
                return
            trial = study.ask()
            if _before(study, trial.number) >= self.trials:  # others were quicker
                study.tell(trial, state=TrialState.FAIL)
                return
            self._try(study, trial, controller, history)

    def _study(self, controller) -> optuna.Study:
        sampler = controller.sampler or optuna.samplers.RandomSampler(seed=self.seed)
        study = open_study(self.storage, self.name, directions=["minimize"] * controller.objectives, sampler=sampler)
        _fail_lost(study)
        if self.prune and controller.objectives == 1:
            # Not before a tenth of the trials has shown what is usual.
            study.pruner = optuna.pruners.PercentilePruner(50, n_startup_trials=max(5, self.trials // 10))
        return study

    def _try(self, study: optuna.Study, trial: Trial, controller, history: Sequence[Finished]) -> None:
        trial.set_user_attr("owner", this_process())
        proposal = controller.propose(trial, history)
        exact = tuple(round(level) for level in proposal.levels)
        choice = exact if proposal.exact else self.space.fit(proposal.levels, self.limit)
        cost = self.space.cost(choice)
        trial.set_user_attr("levels", list(proposal.levels))
        trial.set_user_attr("choice", list(choice))
        trial.set_user_attr("cost", cost)
        known = next((finished for finished in history if finished.choice == choice), None)
        last = [float("inf")]

        def partial(step: int, error: float) -> None:
            last[0] = error
            if controller.objectives == 1 and self.prune and cost <= self.limit:
                trial.report(error, step)
                if trial.should_prune():
                    raise Hopeless

        try:
            error = known.error if known is not None else self.cheap(self.space.ranks(choice), partial)
        except Hopeless:
            trial.set_user_attr("error", last[0])
            study.tell(trial, state=TrialState.PRUNED)
            return
        trial.set_user_attr("error", error)
        study.tell(trial, error if controller.objectives == 1 else (error, cost))

    def best(self, study: optuna.Study) -> FrozenTrial:
        """The best finished trial within the budget; the survivors are scored dearly, once.

        Raises:
            LrsmsError: no trial met the budget.
        """
        fitting = [
            trial
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial.user_attrs["cost"] <= self.limit
        ]
        if not fitting:
            raise LrsmsError(f"compress: none of {self.trials} trials met the budget; give it more trials")
        unique: dict[tuple, FrozenTrial] = {}
        for trial in sorted(fitting, key=lambda trial: (trial.user_attrs["error"], trial.number)):
            unique.setdefault(tuple(trial.user_attrs["choice"]), trial)
        ranked = list(unique.values())
        if self.dear is None or len(ranked) == 1:
            return ranked[0]
        scored = []
        for trial in tqdm(
            ranked[: self.survivors], desc=f"{self.name}: survivors", unit="candidate", leave=False, delay=2
        ):
            dear = study.user_attrs.get(f"dear {trial.number}")  # a finished trial itself cannot be written to
            if dear is None:
                dear = self.dear(self.space.ranks(trial.user_attrs["choice"]), lambda step, error: None)
                study.set_user_attr(f"dear {trial.number}", dear)
            scored.append((dear, trial.user_attrs["error"], trial.number, trial))
        return min(scored)[-1]


def finished_trials(study: optuna.Study) -> list[Finished]:
    """Scored trials, in the order of their numbers."""
    return _history(study)


def _fail_lost(study: optuna.Study) -> None:
    """Give up trials whose process was killed, so that their place in the count is free again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get("owner")
        ended = has_ended(owner, this_process()) if owner else True
        # Another machine says every trial anew who it is: one that has not ended a trial for an hour is gone.
        silent = trial.datetime_start is not None and (datetime.now() - trial.datetime_start).total_seconds() > 3600
        if ended or (ended is None and silent):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _scored(study: optuna.Study) -> list[FrozenTrial]:
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return [trial for trial in study.get_trials(deepcopy=False, states=states) if "error" in trial.user_attrs]


def _history(study: optuna.Study) -> list[Finished]:
    return [
        Finished(
            trial.number,
            tuple(trial.user_attrs["levels"]),
            tuple(trial.user_attrs["choice"]),
            trial.user_attrs["error"],
            trial.user_attrs["cost"],
        )
        for trial in _scored(study)
    ]


def _before(study: optuna.Study, number: int) -> int:
    """Trials that count towards the total and came first."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    return sum(trial.number < number for trial in study.get_trials(deepcopy=False, states=states))


def _running(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
