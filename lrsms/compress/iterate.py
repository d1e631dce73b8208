"""The loop: search, truncate, fine-tune, accept or not, and again from what was accepted (arXiv 2008.02897).

Every step leaves a file in the iteration's folder; the same command after a kill goes on from the last one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from lrsms.errors import LrsmsError
from lrsms.files import write_json
from lrsms.scoring.bootstrap import paired_bootstrap


@dataclass(frozen=True)
class Errors:
    """Word errors on the dev set: errors and words of each utterance, in the same order."""

    errors: Sequence[int]
    words: Sequence[int]

    @property
    def rate(self) -> float:
        """WER in percent."""
        return 100.0 * sum(self.errors) / max(1, sum(self.words))


class Toolkit(Protocol):
    """The steps of the loop that need to know the models."""

    def cost(self, experiment: Path) -> float:
        """Cost of an experiment's model, in the unit of the budget."""

    def search(self, experiment: Path, limit: float, name: str) -> Mapping[str, int]:
        """Path -> rank of the best candidate within ``limit``; layers left out stay as they are."""

    def finetune(self, experiment: Path, ranks: Mapping[str, int], folder: Path) -> None:
        """Truncate the experiment's model to ``ranks`` and train it in ``folder``."""

    def dev_errors(self, experiment: Path) -> Errors:
        """Errors of an experiment's model on the dev set, by full decoding."""


@dataclass(frozen=True)
class Loop:
    """Options of the loop.

    Attributes:
        compression: how many times fewer after each iteration.
        target: stop when the whole is so many times smaller than the original.
        max_iterations: stop after so many accepted ones.
        tolerance: points of WER that dev may lose against the original.
        confidence: an iteration is accepted if the loss is at most ``tolerance`` in at least this share of
            bootstrap resamples; 0.5 asks for the observed loss itself.
        retries: after a rejection, try again with the square root of the step it tried, so many times.
    """

    compression: float = 1.5
    target: float = 8.0
    max_iterations: int = 8
    tolerance: float = 0.0
    confidence: float = 0.05
    retries: int = 1


@dataclass(frozen=True)
class Iteration:
    """What one iteration came to, as ``accepted.json`` has it.

    Attributes:
        folder: name of its experiment.
        source: name of the experiment it started from.
        cost, original_cost: of its model, and of the first.
        wer, original_wer: on dev, in percent.
        difference, low, high: WER lost against the original, with its 95 % interval (paired bootstrap).
        accepted: whether the next goes on from here.
    """

    folder: str
    source: str
    cost: float
    original_cost: float
    wer: float
    original_wer: float
    difference: float
    low: float
    high: float
    accepted: bool

    @property
    def compression(self) -> float:
        """How many times smaller the model is than the original."""
        return self.original_cost / self.cost


def run(toolkit: Toolkit, original: Path, root: Path, loop: Loop) -> list[Iteration]:
    """Compress ``original`` until the error rate suffers or the target is reached.

    Args:
        toolkit: does the work.
        original: the trained experiment.
        root: ``iter1``, ``iter2``, ... are made here, and the link ``best`` to the last one accepted.
        loop: options.

    Returns:
        All iterations, rejected ones too, in order.

    Raises:
        LrsmsError: not one iteration was possible within the search space.
    """
    root.mkdir(parents=True, exist_ok=True)
    reference, original_cost = toolkit.dev_errors(original), toolkit.cost(original)
    source, cost, step, retries = original, original_cost, loop.compression, loop.retries
    done: list[Iteration] = []
    while (
        sum(earlier.accepted for earlier in done) < loop.max_iterations and original_cost / cost < loop.target * 0.999
    ):
        folder = root / f"iter{len(done) + 1}"
        # The last step goes no further than asked.
        limit = max(cost / step, original_cost / loop.target)
        try:
            iteration = _iterate(toolkit, source, folder, limit, reference, original_cost, loop)
        except OutOfReach as error:
            if not done:
                raise LrsmsError(str(error)) from error
            print(f"{folder.name}: {error}")
            break
        done.append(iteration)
        print(_sentence(iteration))
        if iteration.accepted:
            source, cost, step = folder, iteration.cost, loop.compression
            _link(root / "best", folder.name)
        elif retries > 0:
            retries, step = retries - 1, math.sqrt(cost / limit)
        else:
            break
    return done


class OutOfReach(LrsmsError):
    """No choice of ranks meets the budget."""


def _iterate(toolkit, source: Path, folder: Path, limit: float, reference: Errors, original_cost: float, loop: Loop):
    finished = folder / "accepted.json"
    if finished.exists():
        return Iteration(**json.loads(finished.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    chosen = folder / "ranks.json"
    if not chosen.exists():
        ranks = toolkit.search(source, limit, folder.name)
        write_json(chosen, {"source": source.name, "limit": limit, "ranks": dict(ranks)})
    toolkit.finetune(source, json.loads(chosen.read_text())["ranks"], folder)
    errors = toolkit.dev_errors(folder)
    accepted, comparison = accept(reference, errors, loop)
    iteration = Iteration(
        folder=folder.name,
        source=source.name,
        cost=toolkit.cost(folder),
        original_cost=original_cost,
        wer=errors.rate,
        original_wer=reference.rate,
        difference=comparison.difference,
        low=comparison.low,
        high=comparison.high,
        accepted=accepted,
    )
    write_json(finished, asdict(iteration))
    return iteration


def accept(reference: Errors, errors: Errors, loop: Loop):
    """Whether dev WER is worse than the original's by no more than the tolerance, and the paired bootstrap."""
    comparison = paired_bootstrap(reference.errors, errors.errors, reference.words)
    words = sum(reference.words)
    # The tolerance as errors taken off the candidate, spread over utterances by their words.
    allowed = [loop.tolerance / 100.0 * count for count in reference.words]
    lenient = [error - less for error, less in zip(errors.errors, allowed)]
    share = paired_bootstrap(reference.errors, lenient, reference.words).not_worse if words else 1.0
    return share >= loop.confidence, comparison


def _sentence(iteration: Iteration) -> str:
    verdict = "accepted" if iteration.accepted else "rejected"
    return (
        f"{iteration.folder}: {iteration.compression:.2f}x smaller, dev WER {iteration.wer:.2f} % "
        f"(original {iteration.original_wer:.2f} %, {iteration.difference:+.2f} [{iteration.low:+.2f}, "
        f"{iteration.high:+.2f}]): {verdict}"
    )


def _link(link: Path, target: str) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
