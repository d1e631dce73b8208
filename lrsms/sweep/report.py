"""What a sweep has found: a table with mean and 95 % interval over seeds, and pictures."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from lrsms.errors import LrsmsError
from lrsms.provenance import provenance
from lrsms.scoring.bootstrap import PairedDifference, paired_bootstrap
from lrsms.scoring.decoding import score_decoding
from lrsms.scoring.report import markdown_table
from lrsms.scoring.results import without_folders
from lrsms.sweep.pictures import error_over_parameters, error_over_value, learning_curves
from lrsms.sweep.points import Arm
from lrsms.sweep.runner import Point, Runner


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; the interval is infinite where one value alone is known."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isinf(self.low):
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over seeds with Student's 95 % interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def difference_interval(reference: Sequence[float], values: Sequence[float]) -> Interval:
    """Difference of two means with Welch's 95 % interval: seeds of two arms share nothing but their number."""
    difference = statistics.fmean(values) - statistics.fmean(reference)
    if min(len(reference), len(values)) < 2:
        return Interval(difference, -math.inf, math.inf)
    terms = [statistics.variance(group) / len(group) for group in (reference, values)]
    error = math.sqrt(sum(terms))
    if error == 0:
        return Interval(difference, difference, difference)
    freedom = error**4 / sum(term**2 / (len(group) - 1) for term, group in zip(terms, (reference, values)))
    half = stats.t.ppf(0.975, freedom) * error
    return Interval(difference, difference - half, difference + half)


@dataclass(frozen=True)
class ArmResult:
    """The finished points of one arm on one split; error rates in percent, by seed."""

    arm: Arm
    split: str
    points: list[Point]
    summaries: list[dict]
    wer: list[float]
    cer: list[float]
    errors: list[list[int]]  # word errors of each utterance, by seed
    words: list[int]

    def pooled(self) -> list[int]:
        """Word errors of each utterance, summed over seeds."""
        return [sum(seeds) for seeds in zip(*self.errors)]


def collect(runner: Runner, split: str) -> list[ArmResult]:
    """Score every finished point of ``runner`` on ``split``."""
    found = []
    for arm in runner.sweep.arms:
        points = [point for point in runner.points() if point.arm is arm and runner.finished(point)]
        if points:
            cuts = runner.data_dir / split / "cuts.jsonl.gz"
            scores = [score_decoding(runner.decode_folder(point, split), cuts) for point in points]
            found.append(
                ArmResult(
                    arm=arm,
                    split=split,
                    points=points,
                    summaries=[json.loads((point.experiment / "summary.json").read_text()) for point in points],
                    wer=[score.wer.rate for score in scores],
                    cer=[score.cer.rate for score in scores],
                    errors=[[count.errors for count in score.wer.counts.values()] for score in scores],
                    words=[count.tokens for count in scores[0].wer.counts.values()],
                )
            )
    return found


def compare(reference: ArmResult, other: ArmResult) -> PairedDifference | None:
    """Paired bootstrap over utterances of the arms' errors summed over the seeds both have."""
    both = min(len(reference.points), len(other.points))
    if reference is other:
        return None
    a, b = ([sum(seeds) for seeds in zip(*arm.errors[:both])] for arm in (reference, other))
    return paired_bootstrap(a, b, [both * words for words in reference.words])


def write_report(runner: Runner, results_dir: Path | None = None) -> str:
    """Write ``<sweep>.md``, ``<sweep>.json`` and pictures into the sweep's folder, and into ``results_dir``.

    Returns:
        The table.

    Raises:
        LrsmsError: nothing is finished.
    """
    results = {split: collect(runner, split) for split in runner.test_splits}
    if not any(results.values()):
        raise LrsmsError(f"{runner.folder} holds no finished experiment of {runner.sweep.path}")
    tables = {split: _table(arms, runner.sweep.reference) for split, arms in results.items() if arms}
    for folder in filter(None, (runner.folder, results_dir)):
        folder.mkdir(parents=True, exist_ok=True)
        pictures = _draw(runner, results, folder)
        (folder / f"{runner.sweep.path.stem}.md").write_text(_page(runner, results, tables, pictures), encoding="utf-8")
        rows = [row for split, arms in results.items() for row in _rows(arms, runner.sweep.reference)]
        content = {"sweep": runner.sweep.title, "reference": runner.sweep.reference, "arms": rows, **_origin(results)}
        (folder / f"{runner.sweep.path.stem}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return "\n\n".join(tables.values())


def _reference(arms: list[ArmResult], name: str) -> ArmResult | None:
    return next((arm for arm in arms if arm.arm.name == name), None)


def _rows(arms: list[ArmResult], reference_name: str) -> list[dict]:
    reference = _reference(arms, reference_name)
    rows = []
    for result in arms:
        summary = result.summaries[0]
        wer = mean_interval(result.wer)
        row = {
            "arm": result.arm.name,
            "values": dict(result.arm.values),
            "split": result.split,
            "seeds": [point.seed for point in result.points],
            "parameters": summary["parameters"],
            "dense_parameters": summary["dense_parameters"],
            "macs_per_second": summary["macs_per_second"],
            "train_step_seconds": statistics.median(summary["train_step_seconds"] for summary in result.summaries),
            "wall_seconds": statistics.median(summary["wall_seconds"] for summary in result.summaries),
            "wer": result.wer,
            "cer": result.cer,
            "wer_mean": wer.mean,
            "wer_low": _finite(wer.low),
            "wer_high": _finite(wer.high),
        }
        if reference is not None and reference is not result:
            seeds, pooled = difference_interval(reference.wer, result.wer), compare(reference, result)
            row["difference_over_seeds"] = [seeds.mean, _finite(seeds.low), _finite(seeds.high)]
            row["difference_over_utterances"] = list(pooled[:3])
        rows.append(row)
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _table(arms: list[ArmResult], reference_name: str) -> str:
    header = (
        "arm",
        "seeds",
        "parameters",
        "x fewer",
        "MMACs/s",
        "step s",
        "WER %, mean [95 %]",
        "CER %",
        "difference [95 %]",
    )
    reference = _reference(arms, reference_name)
    rows = []
    for result in arms:
        summary = result.summaries[0]
        base = reference.summaries[0]["parameters"] if reference else summary["dense_parameters"]
        difference = "" if reference in (None, result) else _signed(difference_interval(reference.wer, result.wer))
        step = statistics.median(item["train_step_seconds"] for item in result.summaries)
        rows.append(
            (
                result.arm.name,
                str(len(result.points)),
                f"{summary['parameters']:,}",
                f"{base / summary['parameters']:.2f}",
                f"{summary['macs_per_second'] / 1e6:.1f}",
                f"{step:.3f}",
                str(mean_interval(result.wer)),
                f"{statistics.fmean(result.cer):.2f}",
                difference,
            )
        )
    return markdown_table(header, rows, left=1)


def _signed(found: Interval) -> str:
    if math.isinf(found.low):
        return f"{found.mean:+.2f}"
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def _draw(runner: Runner, results: dict[str, list[ArmResult]], folder: Path) -> list[str]:
    """Draw the pictures of the first split that has results; returns their names."""
    stem, arms = runner.sweep.path.stem, next(arms for arms in results.values() if arms)
    drawn = {
        f"{stem}_parameters.png": error_over_parameters(
            [(arm.arm.name, arm.summaries[0]["parameters"], arm.wer) for arm in arms],
            runner.sweep.reference,
            folder / f"{stem}_parameters.png",
        ),
        f"{stem}_values.png": error_over_value(
            [(arm.arm.values, arm.wer) for arm in arms], folder / f"{stem}_values.png"
        ),
        f"{stem}_curves.png": learning_curves(
            {arm.arm.name: [point.experiment / "curves.json" for point in arm.points] for arm in arms},
            folder / f"{stem}_curves.png",
        ),
    }
    return [name for name, exists in drawn.items() if exists]


def _origin(results: dict[str, list[ArmResult]]) -> dict:
    """Who trained the points: machine and versions of all of them, commits of each."""
    summaries = [summary for arms in results.values() for arm in arms for summary in arm.summaries]
    return {
        "command": without_folders(summaries[0]["command"]),
        "commits": sorted({summary["commit"] for summary in summaries}),
        "machines": sorted({summary["machine"] for summary in summaries}),
        "versions": summaries[0]["versions"],
        "reported_by": without_folders(provenance()["command"]),
    }


def _page(runner: Runner, results: dict, tables: dict[str, str], pictures: list[str]) -> str:
    origin = _origin(results)
    points = runner.points()
    unfinished = [point.key for point in points if not runner.finished(point)]
    parts = [f"# {runner.sweep.title}", ""]
    for split, table in tables.items():
        parts += [f"## {split}", "", table, ""]
    parts += [
        f"Means over seeds {', '.join(map(str, runner.sweep.seeds))} with Student's 95 % interval; differences are to "
        f"`{runner.sweep.reference}`, with Welch's. Step: one training step, one thread, other experiments beside it.",
        "",
    ]
    parts += [f"![{name}]({name})\n" for name in pictures]
    if unfinished:
        parts += [f"Not finished: {', '.join(unfinished)}.", ""]
    parts += [
        f"- command: `{origin['command']}`",
        f"- sweep: `{without_folders(str(runner.sweep.path))}`, every arm's YAML is its `base` with the keys it names",
        f"- commits {', '.join(origin['commits'])}; {', '.join(f'{k} {v}' for k, v in origin['versions'].items())}",
        f"- machine: {'; '.join(origin['machines'])}",
        "",
    ]
    return "\n".join(parts)
