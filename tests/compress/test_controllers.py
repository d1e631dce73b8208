"""Controllers on a problem whose answer is known."""

import itertools

import optuna
import pytest
import toy

from lrsms.compress.controllers import CONTROLLERS, Context, Finished, make
from lrsms.compress.controllers.sensitivity import plan
from lrsms.errors import LrsmsError

WEIGHTS = (5.0, 0.1, 3.0, 0.2, 0.1)


def problem(seed=0, trials=60, share=0.6):
    space = toy.space(5, ratios=(0.05, 0.1, 0.2, 0.3, "dense"))
    limit = share * space.cost(space.largest)
    values = {group.layers[0].path: [1.0 / (1 + i) for i in range(40)] for group in space.groups}
    return space, limit, Context(space, limit, seed, trials, values)


def run(name, seed=0, trials=60):
    """The least error of a search without the rest of the machinery."""
    space, limit, context = problem(seed, trials)
    score = toy.additive_error(space, WEIGHTS)
    controller = make(name, context)
    study = optuna.create_study(sampler=controller.sampler, directions=["minimize"] * controller.objectives)
    history = []
    for _ in range(trials):
        trial = study.ask()
        proposal = controller.propose(trial, history)
        exact = tuple(round(level) for level in proposal.levels)
        choice = exact if proposal.exact else space.fit(proposal.levels, limit)
        error, cost = score(space.ranks(choice)), space.cost(choice)
        history.append(Finished(trial.number, proposal.levels, choice, error, cost))
        study.tell(trial, error if controller.objectives == 1 else (error, cost))
    return min(one.error for one in history if one.cost <= limit), history


def brute_force():
    space, limit, _ = problem()
    score = toy.additive_error(space, WEIGHTS)
    choices = itertools.product(*(range(len(group.ranks)) for group in space.groups))
    return min(score(space.ranks(choice)) for choice in choices if space.cost(choice) <= limit)


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize("share", [0.3, 0.45, 0.6, 0.8, 1.0])
def test_dynamic_programming_equals_brute_force(share):
    space, limit, _ = problem(share=share)
    score = toy.additive_error(space, WEIGHTS)
    curves = []
    for group, one in enumerate(space.groups):
        singles = [[*space.largest[:group], level, *space.largest[group + 1 :]] for level in range(len(one.ranks))]
        curves.append([score(space.ranks(single)) for single in singles])
    choice = plan(space, curves, limit)
    choices = itertools.product(*(range(len(group.ranks)) for group in space.groups))
    best = min(score(space.ranks(other)) for other in choices if space.cost(other) <= limit)
    assert space.cost(choice) <= limit
    assert score(space.ranks(choice)) == pytest.approx(best)


def test_sensitivity_finds_the_optimum_of_errors_that_add_up():
    best, history = run("sensitivity")
    assert best == pytest.approx(brute_force())
    singles = [one for one in history if sum(a != b for a, b in zip(one.choice, problem()[0].largest)) == 1]
    assert len(singles) >= 20


def test_sensitivity_knows_levels_that_it_had_no_trials_for():
    """Error falls steeply with rank at first: one trial a group, at its lowest level, is enough to plan by."""
    ratios = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, "dense")
    space = toy.space(5, ratios=ratios)
    weights = (50.0, 20.0, 10.0, 5.0, 2.0)

    def error(choice):
        dense = len(ratios) - 1
        return 3.0 + sum(w * 0.5**level for w, level in zip(weights, choice) if level < dense)

    context = Context(space, 0.5 * space.cost(space.largest), 0, 20, {})
    controller = make("sensitivity", context)
    lowest = [controller._single(group, 0) for group in range(5)]
    history = [Finished(n, one, one, error(one), space.cost(one)) for n, one in enumerate([space.largest, *lowest])]
    choices = itertools.product(*(range(len(group.ranks)) for group in space.groups))
    best = min(error(choice) for choice in choices if space.cost(choice) <= context.limit)
    planned = plan(space, controller._curves(history), context.limit)
    assert error(planned) - 3.0 <= 1.5 * (best - 3.0)
    # A group that no trial has seen is not taken for one that nothing depends on.
    planned = plan(space, controller._curves(history[:1] + history[2:]), context.limit)
    assert planned[0] > 0


def test_sensitivity_leaves_trials_for_candidates_within_the_budget():
    best, history = run("sensitivity", trials=10)
    assert best < float("inf") and sum(one.cost <= problem()[1] for one in history) >= 3


def test_reinforce_learns_the_optimum_of_a_toy():
    found = [run("reinforce", seed, trials=200) for seed in (0, 1, 2)]
    for _, history in found:
        early = sum(one.error for one in history[:40]) / 40
        late = sum(one.error for one in history[-40:]) / 40
        assert late < 0.8 * early  # it proposes better ones, it does not only stumble on one
    assert min(best for best, _ in found) == pytest.approx(brute_force(), abs=0.05)


@pytest.mark.parametrize("name", ["tpe", "cmaes", "nsga2", "random"])
def test_every_searching_controller_beats_its_own_first_tenth(name):
    best, history = run(name, trials=100)
    early = [one.error for one in history[:10] if one.cost <= problem()[1]]
    assert best < min(early, default=float("inf"))
    assert best <= (8 if name == "tpe" else 1.5) * brute_force() + 0.2


def test_uniform_gives_all_layers_one_ratio_and_energy_one_share():
    _, history = run("uniform", trials=2)
    assert len(set(history[0].choice)) <= 2 and max(history[0].choice) - min(history[0].choice) <= 1
    _, history = run("energy", trials=3)
    assert len(set(history[0].choice)) <= 2  # equal spectra, equal levels
    assert all(one.cost <= problem()[1] for one in history)


def test_energy_spends_more_on_a_flat_spectrum():
    space, limit, context = problem()
    flat = space.groups[2].layers[0].path
    context.values[flat] = [1.0] * 40
    proposal = make("energy", context).propose(optuna.create_study().ask(), [])
    assert proposal.levels[2] > max(level for index, level in enumerate(proposal.levels) if index != 2)


@pytest.mark.parametrize("name", [name for name in CONTROLLERS if name not in ("tpe", "nsga2")])
def test_a_resumed_search_proposes_the_same(name):
    _, history = run(name, trials=30)
    _, _, context = problem(trials=30)
    study = optuna.create_study()
    trials = [study.ask() for _ in range(25)]
    controller = make(name, context)  # a new process that reads the history
    assert controller.propose(trials[-1], history[:24]).levels == history[24].levels or name == "reinforce"
    assert len(controller.propose(trials[-1], history[:24]).levels) == 5


def test_an_unknown_controller_is_refused():
    with pytest.raises(LrsmsError, match="controller: 'bayes' is unknown; one of reinforce"):
        make("bayes", problem()[2])


@pytest.mark.parametrize("trials", [6, 12, 40])
def test_sensitivity_begins_with_equal_energy_and_so_is_never_worse(trials):
    _, energies = run("energy", trials=trials)
    best, history = run("sensitivity", trials=trials)
    starts = min(6, trials // 2)
    assert [one.choice for one in history[:starts]] == [one.choice for one in energies[:starts]]
    assert best <= min(one.error for one in history[:starts])
