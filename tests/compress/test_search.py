"""One search over a storage that outlives its processes."""

import multiprocessing

import optuna
import pytest
import toy
from optuna.trial import TrialState

from lrsms.compress.search import Search, finished_trials
from lrsms.errors import LrsmsError
from lrsms.storage import open_study

WEIGHTS = (5.0, 0.1, 3.0, 0.2, 0.1)


def make_search(folder, controller="random", trials=20, score=None, **options):
    space = toy.space(5, ratios=(0.05, 0.1, 0.2, 0.3, "dense"))
    return Search(
        space=space,
        limit=options.pop("limit", 0.6 * space.cost(space.largest)),
        controller=controller,
        trials=trials,
        seed=0,
        values={group.layers[0].path: [1.0] * 40 for group in space.groups},
        cheap=score or toy.additive_error(space, WEIGHTS),
        storage=folder / "optuna.journal",
        name="toy",
        **options,
    )


def counted(search):
    return finished_trials(open_study(search.storage, search.name))


def test_the_best_trial_is_within_the_budget(tmp_path):
    search = make_search(tmp_path, trials=30)
    best = search.run()
    assert best.user_attrs["cost"] <= search.limit
    assert best.user_attrs["error"] == min(one.error for one in counted(search) if one.cost <= search.limit)
    assert len(counted(search)) == 30


@pytest.mark.parametrize("controller", ["tpe", "cmaes", "nsga2", "sensitivity", "reinforce", "uniform", "energy"])
def test_every_controller_searches(controller, tmp_path):
    search = make_search(tmp_path, controller, trials=25)
    assert search.run().user_attrs["cost"] <= search.limit
    assert len(counted(search)) == 25


class Killed(BaseException):
    pass


def test_a_killed_search_goes_on_with_no_trial_lost_or_run_twice(tmp_path):
    calls = []

    def score(ranks, partial):
        calls.append(ranks)
        if len(calls) == 8:
            raise Killed
        return toy.additive_error(toy.space(5), WEIGHTS)(ranks)

    with pytest.raises(Killed):
        make_search(tmp_path, "random", 20, score).run()
    study = open_study(tmp_path / "optuna.journal", "toy")
    before = {one.number: one.error for one in finished_trials(study)}
    assert len(before) == 7
    running = study.get_trials(states=(TrialState.RUNNING,))
    # as if the process had ended: a trial that nobody runs any more
    running[0].user_attrs["owner"]["started"] = "0"
    study._storage.set_trial_user_attr(running[0]._trial_id, "owner", running[0].user_attrs["owner"])
    search = make_search(tmp_path, "random", 20, score)
    search.run()
    after = {one.number: one.error for one in counted(search)}
    assert len(after) == 20 and before.items() <= after.items()
    assert len(calls) <= 8 + 13  # 13 were left; a choice known already is not scored again
    assert search.run().number in after and len(counted(search)) == 20  # a finished search runs nothing


def _work(folder):
    make_search(folder, "random", 40).run_trials(progress=False)


def test_workers_share_the_trials(tmp_path):
    make_search(tmp_path, "random", 40)._study(type("C", (), {"objectives": 1, "sampler": None}))
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = counted(make_search(tmp_path, "random", 40))
    assert len(found) == 40 == len({one.number for one in found})


def test_a_repeated_choice_is_not_scored_again(tmp_path):
    calls = []

    def score(ranks, partial):
        calls.append(ranks)
        return 1.0

    make_search(tmp_path, "uniform", 10, score).run()
    assert len(calls) == 1


def test_survivors_are_scored_dearly_and_decide(tmp_path):
    asked = []

    def dear(ranks, partial):
        asked.append(ranks)
        return -len(asked)  # the last one asked wins

    search = make_search(tmp_path, trials=30, dear=dear, survivors=4)
    best = search.run()
    assert len(asked) == 4
    assert search.space.ranks(best.user_attrs["choice"]) == asked[-1]
    assert search.run().number == best.number and len(asked) == 4  # remembered


def test_hopeless_trials_are_pruned_after_their_first_batches(tmp_path):
    batches = []

    def score(ranks, partial):
        error = toy.additive_error(toy.space(5), WEIGHTS)(ranks)
        for step in range(10):
            batches.append(step)
            partial(step, error)
        return error

    search = make_search(tmp_path, "random", 60, score)
    best = search.run()
    study = open_study(search.storage, search.name)
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    assert len(pruned) > 10 and len(batches) < 10 * 50
    errors = [trial.user_attrs["error"] for trial in pruned]
    assert min(errors) > best.user_attrs["error"]
    batches.clear()
    make_search(tmp_path / "all", "random", 20, score, prune=False).run()
    assert len(batches) % 10 == 0


def test_a_budget_out_of_reach_is_refused_before_any_trial(tmp_path):
    with pytest.raises(LrsmsError, match="out of reach"):
        make_search(tmp_path, limit=1001).run()


def test_no_trial_within_the_budget_is_said(tmp_path):
    with pytest.raises(LrsmsError, match="none of 3 trials met the budget"):
        make_search(tmp_path, "nsga2", 3, limit=1850).run()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
