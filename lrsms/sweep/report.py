"""What a sweep has found: a page with tables and pictures, and a JSON file with every number."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Collection, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from lrsms.errors import LrsmsError
from lrsms.files import write_json, write_text
from lrsms.provenance import provenance
from lrsms.scoring.bootstrap import PairedDifference, paired_bootstrap
from lrsms.scoring.decoding import DecodingScores, score_decoding
from lrsms.scoring.pictures import after_warmup
from lrsms.scoring.report import markdown_table
from lrsms.scoring.results import without_folders
from lrsms.sweep.attainment import attainments
from lrsms.sweep.convergence import LEAST_GAIN, Length
from lrsms.sweep.intervals import difference_interval, not_inferior, rate_interval
from lrsms.sweep.pictures import draw, picture_files
from lrsms.sweep.points import Arm, Point
from lrsms.sweep.runner import Runner
from lrsms.sweep.tables import FINDINGS, add_to_results, split_tables

_EXPERIMENT_KEYS = ("epochs", "train_hours", "wall_seconds", "train_step_seconds", "command", "commit", "machine")
_SUMMARY_KEYS = (*_EXPERIMENT_KEYS, "parameters", "dense_parameters", "macs_per_second", "versions")
_DECODE_KEYS = ("config", "checkpoint", "rtf", "commit", "machine")
_REMEDY = "remove its folder and run the sweep again"


@dataclass(frozen=True)
class ArmResult:
    """The finished points of one arm on one split, all lists by seed."""

    arm: Arm
    split: str
    points: list[Point]
    summaries: list[dict]  # of training
    decodes: list[dict]  # of decoding
    scores: list[DecodingScores]

    @property
    def wer(self) -> list[float]:
        """Word error rate of each seed in percent."""
        return [score.wer.rate for score in self.scores]

    @property
    def cer(self) -> list[float]:
        """Character error rate of each seed in percent."""
        return [score.cer.rate for score in self.scores]

    def word_errors(self, seeds: Collection[int]) -> list[int]:
        """Errors of each utterance, summed over ``seeds``."""
        chosen = [s.wer.counts.values() for p, s in zip(self.points, self.scores, strict=True) if p.seed in seeds]
        return [sum(count.errors for count in counts) for counts in zip(*chosen, strict=True)]


def collect(runner: Runner, split: str) -> list[ArmResult]:
    """Score every finished point of ``runner`` on ``split``."""
    results = []
    finished = [point for point in runner.points() if runner.finished(point)]
    for arm in runner.sweep.arms:
        points = [point for point in finished if point.arm is arm]
        if points:
            folders = [runner.decode_folder(point, split) for point in points]
            summaries = [_read_json(point.experiment / "summary.json", _SUMMARY_KEYS) for point in points]
            decodes = [_read_json(folder / "decode.json", _DECODE_KEYS) for folder in folders]
            scores = [score_decoding(folder, runner.cuts(split)) for folder in folders]
            results.append(ArmResult(arm, split, points, summaries, decodes, scores))
    return results


def _read_json(path: Path, keys: Sequence[str]) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LrsmsError(f"{path} is missing or not JSON ({error}); {_REMEDY}") from error
    absent = [key for key in keys if key not in content]
    if absent:
        raise LrsmsError(f"{path} lacks {', '.join(absent)}; {_REMEDY}")
    return content


def _curve(experiment: Path) -> dict[str, list]:
    """What was measured on the dev set after each epoch, those of a dense warm-up before the others."""
    curve = _read_json(experiment / "curves.json", ["valid"])["valid"]
    if (experiment / "warmup" / "curves.json").exists():
        warmup = _read_json(experiment / "warmup" / "curves.json", ["valid"])["valid"]
        curve = after_warmup(warmup, curve)
    return curve


def compare(reference: ArmResult, other: ArmResult) -> PairedDifference | None:
    """Paired bootstrap over utterances of the word errors summed over the seeds that both have, if any."""
    seeds = {point.seed for point in reference.points} & {point.seed for point in other.points}
    if not seeds:
        return None
    words = [len(seeds) * count.tokens for count in reference.scores[0].wer.counts.values()]
    return paired_bootstrap(reference.word_errors(seeds), other.word_errors(seeds), words)


def write_report(
    runner: Runner,
    results_dir: Path | None = None,
    tuning: Runner | None = None,
    lengths: Sequence[Sequence[Length]] = (),
) -> str:
    """Write ``<sweep>.md``, ``<sweep>.json`` and pictures into the sweep's folder, and into ``results_dir/findings``.

    Args:
        runner: of the sweep, its arms tuned.
        results_dir: of a recipe.
        tuning: what tuned them, if anything did.
        lengths: what was tried until they had converged, if they were to.

    Returns:
        The tables.

    Raises:
        LrsmsError: nothing is finished, or what is finished cannot be scored.
    """
    results = [result for split in runner.test_splits for result in collect(runner, split)]
    if not results:
        raise LrsmsError(f"{runner.folder} holds no finished experiment of {runner.sweep.path}")
    content = _content(runner, results)
    if tuning is not None:
        content["tuning"] = _tuning(tuning, runner)
    if lengths:
        content["lengths"] = [asdict(length) for row in lengths for length in row]
        content["converged"] = {length.arm for length in lengths[-1]}.isdisjoint(arm.name for arm in runner.sweep.arms)
    curves = {result.arm.name: [_curve(point.experiment) for point in result.points] for result in results}
    content |= _attained(content, curves)
    folder, stem = runner.folder, runner.sweep.path.stem
    pictures = draw(content, curves, folder, stem)
    write_text(folder / f"{stem}.md", _page(content, pictures))
    write_json(folder / f"{stem}.json", content)
    if results_dir:
        findings = results_dir / FINDINGS
        findings.mkdir(parents=True, exist_ok=True)
        for path in picture_files(findings, stem):
            path.unlink(missing_ok=True)
        for name in (f"{stem}.md", f"{stem}.json", *pictures):
            shutil.copyfile(folder / name, findings / name)
        add_to_results(results_dir)
    return "\n\n".join(split_tables(content).values())


def _content(runner: Runner, results: list[ArmResult]) -> dict:
    """The JSON file; error rates in percent, intervals as ``[mean, low, high]``."""
    sweep = runner.sweep
    reference = {result.split: result for result in results if result.arm.name == sweep.reference}
    versions = [summary["versions"] for result in results for summary in result.summaries]
    return {
        "title": sweep.title,
        "sweep": without_folders(str(sweep.path)),
        "reference": sweep.reference,
        "reference_config": next(dict(arm.config) for arm in sweep.arms if arm.name == sweep.reference),
        "seeds": list(sweep.seeds),
        "margin": sweep.margin,
        "unfinished": [point.key for point in runner.points() if not runner.finished(point)],
        "arms": [_row(runner, result, reference.get(result.split)) for result in results],
        "versions": [packages for index, packages in enumerate(versions) if packages not in versions[:index]],
        "reported_by": {key: without_folders(value) for key, value in provenance().items()},
    }


def _attained(content: dict, curves: dict[str, list[dict]]) -> dict:
    """How soon the arms are as good on dev as the reference is at the end, by what chose its checkpoint."""
    criteria = content["reference_config"].get("best_model_criterion") or []
    key, best = next(((key, best) for phase, key, best in criteria if phase == "valid"), ("acc", "max"))
    rows = [row for row in content["arms"] if row["split"] == content["arms"][0]["split"]]
    found = attainments(rows, curves, content["reference"], key, best)
    if found is None or len(rows) == 1:
        return {}
    target, arms = found
    return {"attained": {"key": key, "value": round(target, 6), "arms": [asdict(arm) for arm in arms]}}


def _tuning(tuning: Runner, runner: Runner) -> list[dict]:
    """WER on dev of all candidates, and which were chosen."""
    chosen = {arm.name for arm in runner.sweep.arms}
    points = [point for point in tuning.points() if tuning.finished(point)]
    return [
        {"arm": point.arm.name, "wer": round(tuning.error_rate(point), 4), "chosen": point.arm.name in chosen}
        for point in points
    ]


def _row(runner: Runner, result: ArmResult, reference: ArmResult | None) -> dict:
    summary = result.summaries[0]
    over_seeds = over_utterances = verdict = None
    if reference is not None and reference is not result:
        over_seeds = astuple(difference_interval(reference.wer, result.wer))
        pooled = compare(reference, result)
        over_utterances = pooled and pooled[:3]
        if runner.sweep.margin is not None:
            verdict = not_inferior(over_seeds, runner.sweep.margin)
    return {
        "arm": result.arm.name,
        "split": result.split,
        "values": dict(result.arm.values),
        "differs_from_reference": runner.sweep.differences(result.arm),
        "seeds": [point.seed for point in result.points],
        "parameters": summary["parameters"],
        "dense_parameters": summary["dense_parameters"],
        "times_fewer_parameters": _times_fewer(reference, summary, "parameters"),
        "macs_per_second": summary["macs_per_second"],
        "times_fewer_macs": _times_fewer(reference, summary, "macs_per_second"),
        "train_step_seconds": statistics.median(item["train_step_seconds"] for item in result.summaries),
        "wer": [round(rate, 4) for rate in result.wer],
        "cer": [round(rate, 4) for rate in result.cer],
        "wer_mean": rate_interval(result.wer),
        "cer_mean": rate_interval(result.cer),
        "difference_over_seeds": over_seeds,
        "difference_over_utterances": over_utterances,
        "verdict": verdict,
        "words": result.scores[0].wer.total.tokens,
        "experiments": [_experiment(*parts) for parts in zip(result.points, result.summaries, result.decodes)],
    }


def _times_fewer(reference: ArmResult | None, summary: dict, key: str) -> float | None:
    if reference is None or not reference.summaries[0][key] or not summary[key]:
        return None
    return reference.summaries[0][key] / summary[key]


def _experiment(point: Point, summary: dict, decode: dict) -> dict:
    """How one point was trained and decoded."""
    trained = {key: without_folders(summary[key]) for key in _EXPERIMENT_KEYS}
    decoded = {key: without_folders(decode[key]) for key in _DECODE_KEYS}
    return {"experiment": point.key, "seed": point.seed, **trained, "decoding": decoded}


def _page(content: dict, pictures: dict[str, str]) -> str:
    """The Markdown page.

    Args:
        pictures: what each shows by its file name.
    """
    parts = [f"# {content['title']}", "", "Written by `python3 -m lrsms.bin.sweep`; running it again replaces it.", ""]
    for split, table in split_tables(content).items():
        parts += [f"## {split}", "", table, ""]
    parts += [
        f"WER and CER: means over seeds {', '.join(map(str, content['seeds']))}, with Student's interval. Differences "
        f"are to `{content['reference']}`, in points of WER: over seeds with Welch's interval, over utterances by the "
        "paired bootstrap, the errors of all seeds that both have summed. The first says what other seeds may change, "
        "the second what another test set may.",
        "",
        "x fewer: than the reference. MMACs/s: million multiply-accumulates of the model's forward pass per second of "
        "audio. Step: one training step (forward, backward, update), median over seeds; experiments beside it slow it.",
        "",
    ]
    if content["margin"] is not None:
        parts += [
            "Verdict: an arm is not inferior if the upper end of the interval over seeds is at most "
            f"{content['margin']:g} points, a margin that the sweep's YAML names, and inferior if the lower end "
            "is above it.",
            "",
        ]
    if content.get("tuning"):
        rows = [(row["arm"], f"{row['wer']:.2f}", "yes" if row["chosen"] else "") for row in content["tuning"]]
        parts += ["## Tuning", "", markdown_table(("candidate", "WER % on dev", "chosen"), rows, left=1), ""]
        parts += [f"Each at seed {content['seeds'][0]}; the chosen ones were then trained with all seeds.", ""]
    if content.get("attained"):
        attained = content["attained"]
        shares = [
            (row["arm"], str(row["epochs"]), _share(row["work"]), _share(row["time"]))
            if row["epochs"]
            else (row["arm"], "not reached", "", "")
            for row in attained["arms"]
        ]
        header = ("arm", "epochs", "of its work", "of its time")
        parts += ["## As good as the reference", "", markdown_table(header, shares, left=1), ""]
        parts += [
            f"Epochs after which dev's {attained['key']}, mean over seeds, is for the first time as good as that of "
            f"`{content['reference']}` after its last epoch, {attained['value']:.4f}. Work: multiply-accumulates until "
            "then, of those of the reference's whole training. Time: epochs times the step above, likewise.",
            "",
        ]
    if content.get("lengths"):
        rows = [(row["arm"], str(row["epochs"]), f"{row['loss']:.4f}") for row in content["lengths"]]
        parts += ["## Convergence", "", markdown_table(("arm", "epochs", "least loss on dev"), rows, left=1), ""]
        ended = f"Twice the epochs of the arms above gain less than {LEAST_GAIN:.0%} of any arm's dev loss."
        parts += [ended if content["converged"] else "Arms still gain by more epochs: they have not converged.", ""]
    if content["unfinished"]:
        parts += [f"Not finished: {', '.join(content['unfinished'])}.", ""]
    parts += [f"![{shows}]({name})\n" for name, shows in pictures.items()]
    parts += ["## Configurations", "", f"Beside `{content['reference']}`:", ""]
    for name, differs in {row["arm"]: row["differs_from_reference"] for row in content["arms"]}.items():
        keys = ", ".join(f"{key}: {_plain(value)}" for key, value in differs.items())
        parts += [f"- {name}: `{keys}`"] if differs else []
    return "\n".join([*parts, "", *_made(content), ""])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _plain(value: object) -> str:
    return "removed" if value is None else str(value)


def _made(content: dict) -> list[str]:
    experiments = [experiment for row in content["arms"] for experiment in row["experiments"]]

    def every(key: str) -> list[str]:
        return sorted({experiment[key] for experiment in experiments})

    decoding = experiments[0]["decoding"]
    versions = [
        "; " + ", ".join(f"{name} {version}" for name, version in packages.items()) for packages in content["versions"]
    ]
    return [
        "## Provenance",
        "",
        f"- sweep `{content['sweep']}`: {', '.join(f'`{command}`' for command in every('command'))}",
        f"- decoding: configuration `{decoding['config']}`, checkpoint {decoding['checkpoint']}",
        f"- commit {', '.join(every('commit'))}{''.join(versions)}",
        f"- machine: {'; '.join(every('machine'))}",
    ]
