"""Benchmarks of the compressor's search: truncations, controllers, and how many trials a minute has."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lrsms.bench import pictures
from lrsms.bench.results import write_results
from lrsms.bench.timing import Spread, side_by_side
from lrsms.compress.factors import FactorCache, SlicedModel
from lrsms.compress.search import finished_trials
from lrsms.compress.space import DENSE, SearchSpace
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.compress.model import Compressible
from lrsms.espnet.compress.toolkit import EspnetToolkit, with_ranks
from lrsms.lowrank.truncation import METHODS
from lrsms.sweep.intervals import mean_interval

_FINE = [*(number / 40 for number in range(1, 40)), DENSE]
_UNITS = {"loss": "loss per utterance", "ctc": "CTC WER %", "beam": "WER %"}


def truncations(toolkit: EspnetToolkit, split: str, times: Sequence[float], fidelities: Sequence[str], folder: Path):
    """``plain``, ``whitened`` and ``activation_pca`` at the same uniform ratio of every layer, without fine-tuning.

    Args:
        toolkit: of the experiment.
        split: utterances to score on.
        times: how many times fewer parameters.
        fidelities: scores to take: ``loss``, ``ctc``, ``beam``.
        folder: for the results.

    Returns:
        The table.
    """
    compressible = toolkit.open(toolkit.original)
    evaluator = toolkit.evaluator(compressible, compressible.utterances(toolkit.cuts(split)))
    cost = toolkit.cost(toolkit.original)
    space = SearchSpace.make(toolkit.searched(compressible), _FINE, cost, budget=toolkit.config.budget, multiple=1)
    for x in times:
        space.check(cost / x)
    arms = [(x, method) for x in times for method in METHODS]
    results = [{"times": 1.0, "method": "original", **{name: evaluator.score(name) for name in fidelities}}]
    for x, method in tqdm(arms, desc="truncations", unit="model", delay=2):
        ranks = space.ranks(space.fit([0.0] * len(space.groups), cost / x))
        with toolkit.sliced(compressible, method).at(ranks):
            results.append({"times": x, "method": method, **{name: evaluator.score(name) for name in fidelities}})
    rows = [
        (f"{result['times']:g}x", str(result["method"]), *(f"{result[name]:.2f}" for name in fidelities))
        for result in results
    ]
    return write_results(
        folder,
        "truncation",
        "Truncation without fine-tuning",
        (f"fewer {toolkit.config.budget}", "truncation", *(_UNITS[name] for name in fidelities)),
        rows,
        [
            f"`{toolkit.original.name}`, one ratio for {_roles(toolkit)}, {len(evaluator.utterances)} utterances of "
            f"{split}, moments of {toolkit.config.calibration.get('utterances', 50)} utterances of training data."
        ],
        {"experiment": toolkit.original.name, "split": split, "results": results},
        left=2,
    )


def _roles(toolkit: EspnetToolkit) -> str:
    roles = toolkit.config.roles
    return "all layers" if roles is None else f"all layers of {', '.join(roles)}"


def controllers(
    toolkit: EspnetToolkit, times: float, names: Sequence[str], seeds: Sequence[int], split: str, folder: Path
):
    """All controllers on one search, trial by trial in turns: at equal trials, and at equal time.

    Args:
        toolkit: of the experiment; its ``config.trials`` is the number of trials.
        times: how many times smaller.
        names: of the controllers.
        seeds: of each.
        split: utterances that had no part in the search, to score what each has found.
        folder: for the results.

    Returns:
        The table.
    """
    arms = _search_all(toolkit, times, names, seeds)
    compressible = toolkit.open(toolkit.original)
    held_out = toolkit.evaluator(compressible, compressible.utterances(toolkit.cuts(split)))
    sliced = toolkit.sliced(compressible, toolkit.config.truncation)
    clock = _common_clock(arms)
    for arm in tqdm(arms, desc=f"scores on {split}", unit="model", delay=2):
        arm["at_trials"], arm["at_time"] = arm["best"][-1], pictures.best_at(arm, clock)
        with sliced.at(arm.pop("ranks")):
            arm["loss"], arm["ctc"] = held_out.score("loss"), held_out.score("ctc")
    rows = []
    for name in names:
        mine = [arm for arm in arms if arm["controller"] == name]
        cells = [_mean([arm[key] for arm in mine]) for key in ("at_trials", "at_time", "loss", "ctc")]
        distinct = np.mean([arm["distinct"] for arm in mine])
        rows.append((name, *cells, f"{distinct:.0f}", f"{np.mean([arm['seconds'][-1] for arm in mine]):.0f}"))
    rows.sort(key=lambda row: float(row[1].split()[0]))
    pictures.controllers(arms, clock, _UNITS[toolkit.config.fidelity], folder / "controllers.png")
    unit = _UNITS[toolkit.config.fidelity]
    return write_results(
        folder,
        "controllers",
        "Controllers",
        (
            *("controller", f"{unit}, {toolkit.config.trials} trials", f"after {clock:.0f} s"),
            *(f"{split}: loss", f"{split}: CTC WER %", "distinct trials", "seconds"),
        ),
        rows,
        [
            f"`{toolkit.original.name}` at {times:g}x fewer {toolkit.config.budget}, {toolkit.config.truncation} "
            f"truncation, no fine-tuning; mean and 95 % interval of {len(seeds)} seeds. The searches took turns, one "
            f"trial each; a candidate tried before is not scored again. {clock:.0f} s: what `random` took."
        ],
        {"experiment": toolkit.original.name, "times": times, "split": split, "clock": clock, "arms": arms},
        pictures=["controllers.png"],
    )


def _search_all(toolkit: EspnetToolkit, times: float, names: Sequence[str], seeds: Sequence[int]) -> list[dict]:
    limit, config = toolkit.cost(toolkit.original) / times, toolkit.config
    arms, searches = [], []
    for name in names:
        for seed in seeds:
            toolkit.config = dataclasses.replace(config, controller=name, seed=seed)
            search = toolkit.open_search(toolkit.original, limit, f"{name} {seed}")
            journal = toolkit.root / "controllers" / f"{name}_{seed}.journal"
            journal.parent.mkdir(parents=True, exist_ok=True)
            search = dataclasses.replace(search, storage=journal)
            arms.append({"controller": name, "seed": seed})
            searches.append(search)
    toolkit.config = config
    running = [search.steps() for search in searches]
    studies = [next(steps)[0] for steps in running]
    for _ in tqdm(range(config.trials), desc="controllers", unit="trial of each"):
        for steps in running:
            next(steps, None)
    for arm, search, study in zip(arms, searches, studies):
        trials = [trial for trial in study.get_trials(deepcopy=False) if "error" in trial.user_attrs]
        errors = [trial.error if trial.cost <= limit else np.inf for trial in finished_trials(study)]
        arm["best"] = np.minimum.accumulate(errors).tolist()
        arm["seconds"] = np.cumsum([trial.duration.total_seconds() for trial in trials]).tolist()
        arm["distinct"] = len({tuple(trial.user_attrs["choice"]) for trial in trials})
        arm["ranks"] = search.space.ranks(search.best(study).user_attrs["choice"])
    return arms


def _common_clock(arms: Sequence[dict]) -> float:
    """Seconds that the baseline of random draws took, which thinks about nothing; without it, the quickest arm's."""
    times = [arm["seconds"][-1] for arm in arms if arm["controller"] == "random"]
    return float(np.median(times)) if times else min(arm["seconds"][-1] for arm in arms)


def _mean(values: Sequence[float]) -> str:
    if not np.all(np.isfinite(values)):
        return "-"
    interval = mean_interval(values)
    return (
        f"{interval.mean:.2f}"
        if interval.low is None
        else f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
    )


def trials_per_minute(toolkit: EspnetToolkit, times: float, rounds: int, folder: Path):
    """One trial by slicing on the search set, against the naive way: factorize, write, load, decode all of dev.

    Both by one process on one thread, in turns, on the same random candidates.

    Args:
        toolkit: of the experiment.
        times: how many times smaller the candidates are.
        rounds: how often each is timed.
        folder: for the results.

    Returns:
        The table.
    """
    torch.set_num_threads(1)
    limit = toolkit.cost(toolkit.original) / times
    search = toolkit.open_search(toolkit.original, limit, "trials")
    generator = np.random.default_rng(toolkit.config.seed)

    def candidate() -> dict:
        wishes = [generator.uniform(0, len(group.ranks) - 1) for group in search.space.groups]
        return search.space.ranks(search.space.fit(wishes, limit))

    compressible = toolkit.open(toolkit.original)
    sliced = toolkit.sliced(compressible, toolkit.config.truncation)
    evaluator = toolkit.search_evaluator(compressible, sliced, search.space)

    def slice_and_score(fidelity: str) -> None:
        with sliced.at(candidate()):
            evaluator.score(fidelity)

    arms: dict[str, Callable[[], None]] = {
        f"sliced, {name}": functools.partial(slice_and_score, name) for name in ("loss", "ctc", "beam")
    }
    arms["naive: factorize, write, load, beam search on dev"] = lambda: _naive_trial(toolkit, candidate())
    seconds = side_by_side(arms, rounds=rounds, desc="trials")
    spreads = {name: Spread.of(values) for name, values in seconds.items()}
    naive = list(spreads.values())[-1].median
    rows = [
        (
            name,
            f"{spread.median:.2f} [{spread.low:.2f}, {spread.high:.2f}]",
            f"{60 / spread.median:.1f}",
            f"{naive / spread.median:.1f}x",
        )
        for name, spread in spreads.items()
    ]
    return write_results(
        folder,
        "trials",
        "Trials per minute",
        ("trial", "seconds [quartiles]", "per minute", "against naive"),
        rows,
        [
            f"`{toolkit.original.name}`, candidates {times:g}x smaller, one process, one thread, {rounds} rounds in "
            "turns; sliced trials are scored on the search set. A search adds its own thinking (see the controllers)."
        ],
        {"experiment": toolkit.original.name, "seconds": seconds},
    )


def _naive_trial(toolkit: EspnetToolkit, ranks: dict) -> None:
    """What a script around the toolkit would do for one candidate."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "candidate"
        compressible = Compressible(Experiment(toolkit.original, toolkit.checkpoint))
        ranks, cache = compressible.with_own_ranks(ranks), FactorCache(Path(scratch) / "factors")
        model = SlicedModel(compressible.model, compressible.layers, cache, "plain", {}).snapshot(ranks)
        state = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
        Experiment(folder, toolkit.checkpoint).write(with_ranks(compressible, ranks), state)
        toolkit.errors(folder, toolkit.valid_split)
