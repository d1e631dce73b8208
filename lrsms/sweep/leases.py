"""Who runs which point: an Optuna study that every process of a sweep reads and writes.

A claim is a running trial. Optuna numbers the trials of a study in the order in which they were added, whoever adds
them, so that of two processes that claim one point at the same moment both see whose claim came first. What is
finished is not asked here: the experiments' folders say that, and a study may be deleted while nothing runs.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from lrsms.storage import has_ended, open_study, this_process

HEARTBEAT_SECONDS = 60
DEAD_SECONDS = 15 * 60  # a process of another machine that has not been heard of for so long has lost its claims


class Claims:
    """This process's view of the study.

    Args:
        storage: URL of an Optuna storage, or the file of a journal.
        study: name of the study, one for all who share experiments.

    Raises:
        LrsmsError: the storage cannot be opened.
    """

    def __init__(self, storage: str | Path, study: str) -> None:
        self._study = open_study(storage, study)
        self._owner = this_process()
        self._alive()
        # A point that any process ends from now on is ended for us too; what ended before may be tried again.
        self._ended_before = {trial.number for trial in self._trials() if trial.state.is_finished()}

    def take(self, point: str) -> int | None:
        """Claim ``point``.

        Returns:
            The claim's number, or None if another process has the point or has ended it meanwhile.
        """
        if self._blocked(point, self._trials()):
            return None
        token = uuid.uuid4().hex
        attributes = {"point": point, "claim": token, **self._owner}
        self._study.add_trial(optuna.create_trial(state=TrialState.RUNNING, user_attrs=attributes))
        trials = self._trials()
        number = next(trial.number for trial in trials if trial.user_attrs.get("claim") == token)
        if self._blocked(point, (trial for trial in trials if trial.number < number)):
            self.give_back(number)
            return None
        return number

    def done(self, number: int, error_rate: float) -> None:
        """The claimed point has ended well, with ``error_rate`` percent."""
        self._end(number, TrialState.COMPLETE, error_rate)

    def failed(self, number: int) -> None:
        """The claimed point has failed; a process that starts later may try it again."""
        self._end(number, TrialState.FAIL)

    def give_back(self, number: int) -> None:
        """The claimed point was not run to its end; any process may go on with it."""
        self._end(number, TrialState.PRUNED)

    def heartbeat(self) -> None:
        """Tell the other machines that this process lives; cheap to call often."""
        if time.time() - self._heard > HEARTBEAT_SECONDS:
            self._alive()

    def still_mine(self, numbers: Iterable[int]) -> set[int]:
        """The claims among these that no other machine has taken for dead."""
        running = {trial.number for trial in self._trials() if trial.state is TrialState.RUNNING}
        return running.intersection(numbers)

    def _alive(self) -> None:
        self._heard = time.time()
        self._study.set_user_attr(_heartbeat_key(self._owner), self._heard)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _blocked(self, point: str, trials: Iterable[FrozenTrial]) -> bool:
        """Whether one of ``trials`` keeps this process from running ``point``; claims of the dead are given back."""
        blocked = False
        for trial in trials:
            if trial.user_attrs.get("point") != point:
                continue
            if trial.state is TrialState.RUNNING and self._is_lost(trial):
                self.give_back(trial.number)
            elif trial.state is TrialState.RUNNING:
                blocked = True
            elif trial.state in (TrialState.COMPLETE, TrialState.FAIL):
                blocked |= trial.number not in self._ended_before
        return blocked

    def _is_lost(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs
        ended = has_ended(owner, self._owner)
        if ended is not None:
            return ended
        return time.time() - self._study.user_attrs.get(_heartbeat_key(owner), 0) > DEAD_SECONDS

    def _end(self, number: int, state: TrialState, value: float | None = None) -> None:
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another process gave it back just now
            self._study.tell(number, value, state, skip_if_finished=True)


def _heartbeat_key(owner: Mapping) -> str:
    return f"alive {owner.get('machine')} {owner.get('process')} {owner.get('started')}"
