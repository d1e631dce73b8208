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
from lrsms.scoring.bootstrap import PairedDifference, least_bound, paired_bootstrap, upper_bound

_REACHED = 0.999  # of a target: parameters come in whole ranks


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
        tolerance: points of WER that may be lost against the original: the margin of non-inferiority.
        confidence: an iteration is accepted if with this confidence dev shows a loss of at most ``tolerance``. At 0.975
            the upper end of the 95 % interval counts, at 0.5 the observed loss, at 0.05 a loss has to be
            significant to be rejected, and at 0 none is rejected.
        retries: after a rejection, try again with the square root of the step it tried, so many times.
    """

    compression: float = 1.5
    target: float = 8.0
    max_iterations: int = 8
    tolerance: float = 0.5
    confidence: float = 0.975
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
        bound: WER lost at most, with the loop's confidence; None in files of 0.1.0, like the following.
        tolerance: what it was compared with.
        words: of dev.
        words_needed: of a dev set that would show the tolerance at this loss; None if it is shown, or none could.
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
    bound: float | None = None
    tolerance: float | None = None
    words: int | None = None
    words_needed: int | None = None

    @property
    def compression(self) -> float:
        """How many times smaller the model is than the original."""
        return self.original_cost / self.cost


def run(toolkit: Toolkit, original: Path, root: Path, loop: Loop, start: Path | None = None) -> list[Iteration]:
    """Compress ``original`` until the error rate suffers or the target is reached.

    Args:
        toolkit: does the work.
        original: the trained experiment.
        root: ``iter1``, ``iter2``, ... are made here, and the link ``best`` to the last one accepted.
        loop: options.
        start: what the first iteration makes smaller, if it is not the original itself.

    Returns:
        All iterations, rejected ones too, in order.

    Raises:
        LrsmsError: not one iteration was possible within the search space, the start is at the target already, or dev
            has too few words to accept any.
    """
    root.mkdir(parents=True, exist_ok=True)
    reference, original_cost = toolkit.dev_errors(original), toolkit.cost(original)
    if not (root / "iter1" / "accepted.json").exists():
        _check_dev(sum(reference.words), loop)
    if loop.confidence < 0.5:
        print(f"confidence {loop.confidence:g}: accepts what dev cannot show to be worse; 0.975 asks for the contrary")
    source, step, retries = start or original, loop.compression, loop.retries
    cost = toolkit.cost(source)
    if source != original:
        refuse_if_reached(str(source), original_cost / cost, loop.target, "it")
    done: list[Iteration] = []
    while (
        sum(earlier.accepted for earlier in done) < loop.max_iterations
        and original_cost / cost < loop.target * _REACHED
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
    verdict = accept(reference, errors, loop)
    iteration = Iteration(
        folder=folder.name,
        source=source.name,
        cost=toolkit.cost(folder),
        original_cost=original_cost,
        wer=errors.rate,
        original_wer=reference.rate,
        difference=verdict.comparison.difference,
        low=verdict.comparison.low,
        high=verdict.comparison.high,
        accepted=verdict.accepted,
        bound=verdict.bound,
        tolerance=loop.tolerance,
        words=sum(reference.words),
        words_needed=verdict.words_needed,
    )
    write_json(finished, asdict(iteration))
    return iteration


@dataclass(frozen=True)
class Verdict:
    """Whether a model is no worse than the original, and what that rests on; fields as of :class:`Iteration`."""

    accepted: bool
    comparison: PairedDifference
    bound: float
    words_needed: int | None


def accept(reference: Errors, errors: Errors, loop: Loop) -> Verdict:
    """Non-inferiority: dev has to show that no more than the tolerance is lost.

    That no loss can be shown is not enough: the smaller dev is, the more loss it would let through.
    """
    counts = reference.errors, errors.errors, reference.words
    comparison, bound = paired_bootstrap(*counts), upper_bound(*counts, loop.confidence)
    accepted = bound <= loop.tolerance or not loop.confidence
    words_needed = None if accepted else _words_needed(sum(reference.words), comparison.difference, bound, loop)
    return Verdict(accepted, comparison, bound, words_needed)


def _words_needed(words: int, difference: float, bound: float, loop: Loop) -> int | None:
    """Words of a dev set on which this difference would be within the tolerance: its bound falls with their root."""
    lost = max(0.0, difference)
    if lost >= loop.tolerance:
        return None
    spread = words * ((bound - difference) / (loop.tolerance - lost)) ** 2
    return math.ceil(max(spread, _least_words(loop)))


def _least_words(loop: Loop) -> float:
    """Words of a dev set on which a model without one added error is within the tolerance."""
    return least_bound(1, loop.confidence) / loop.tolerance if loop.tolerance else math.inf


def refuse_if_reached(where: str, smaller: float, target: float, what: str) -> None:
    """Refuse a start that leaves the loop nothing to do.

    Raises:
        LrsmsError: ``what`` is ``smaller`` times smaller than the original, which is the target already.
    """
    if smaller >= target * _REACHED:
        raise LrsmsError(
            f"{where}: {what} is {smaller:.3g} times smaller already: target: {target:g} leaves the loop nothing to "
            "do; take larger band_ranks, or a larger target"
        )


def _check_dev(words: int, loop: Loop) -> None:
    """Refuse a dev set on which not even the original's own output could be accepted.

    Raises:
        LrsmsError: says how many words it would take, and what tolerance these can show.
    """
    if not words:
        raise LrsmsError("compress: dev has no words, so no loss can be measured")
    least = least_bound(words, loop.confidence)
    if least > loop.tolerance:
        needed = f"at least {math.ceil(_least_words(loop)):,}" if loop.tolerance else "more than any dev set has"
        raise LrsmsError(
            f"compress: dev's {words:,} words are too few to show a loss of at most {loop.tolerance:g} points, which "
            f"takes {needed}; take a larger dev set (--valid_split), or write tolerance: {least + 0.01:.2f} or more"
        )


def _sentence(iteration: Iteration) -> str:
    return (
        f"{iteration.folder}: {iteration.compression:.2f}x smaller, dev WER {iteration.wer:.2f} % "
        f"(original {iteration.original_wer:.2f} %, {iteration.difference:+.2f} [{iteration.low:+.2f}, "
        f"{iteration.high:+.2f}]): {verdict_of(iteration)}"
    )


def verdict_of(iteration: Iteration) -> str:
    """Accepted or rejected, and why."""
    if iteration.bound is None:  # of 0.1.0, which accepted what was not significantly worse
        return "accepted" if iteration.accepted else "rejected"
    shown = f"at most {iteration.bound:+.2f} points are lost, tolerance {iteration.tolerance:g}"
    if iteration.accepted:
        return f"accepted, {shown}"
    if iteration.words_needed is None:
        return f"rejected, {shown}"
    return (
        f"rejected, {shown}: dev's {iteration.words:,} words are too few to show it at this loss, which takes about "
        f"{iteration.words_needed:,}"
    )


def _link(link: Path, target: str) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
