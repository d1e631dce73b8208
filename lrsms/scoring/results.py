"""From every decoded split under ``exp`` to one list of results and the report files."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lrsms import stamp
from lrsms.errors import LrsmsError
from lrsms.files import write_json, write_text
from lrsms.fsa.options import CTC_ATTENTION
from lrsms.scoring import conditions
from lrsms.scoring.bootstrap import paired_bootstrap
from lrsms.scoring.condition_pictures import wer_over_snr
from lrsms.scoring.decoding import DecodingScores, score_decoding
from lrsms.scoring.pictures import learning_curves, rank_per_layer
from lrsms.scoring.report import report, summary_table
from lrsms.training_yaml import read_yaml

FILES = (
    "RESULTS.md",
    "results.json",
    "learning_curves.png",
    "rank_per_layer.png",
    conditions.TABLE,
    conditions.PICTURE,
)

_SUMMARY_KEYS = (
    *("config", "parameters", "dense_parameters", "macs_per_second", "dense_macs_per_second", "train_step_seconds"),
    *("epochs", "train_hours", "wall_seconds", "seed", "command", "commit", "versions", "machine"),
)
_DECODE_KEYS = ("split", "utterances", "rtf", "config", "command", "machine")


@dataclass(frozen=True)
class RecordedDecoding:
    """One ``exp/<experiment>/decode_<name>/<split>`` folder with what training and decoding recorded."""

    folder: Path
    experiment: Path  # the folder with summary.json
    decode: dict
    summary: dict


def _read_json(path: Path, keys: tuple[str, ...]) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LrsmsError(f"{path} is not JSON ({error}); run the stage that writes it again") from None
    absent = [key for key in keys if key not in content]
    if absent:
        raise LrsmsError(f"{path} lacks {', '.join(absent)}; run the stage that writes it again")
    return content


def find_decodings(exp_dir: Path) -> tuple[list[RecordedDecoding], list[str]]:
    """Finished decodings under ``exp_dir``, and a sentence for each thing that is not finished.

    Raises:
        LrsmsError: a ``decode.json`` or ``summary.json`` is malformed.
    """
    decodings, incomplete, decoded = [], [], set()
    for folder in sorted(path for path in exp_dir.glob("**/decode_*/*") if path.is_dir()):
        name = folder.relative_to(exp_dir).as_posix()
        experiment = next(
            (up for up in folder.parents if up.is_relative_to(exp_dir) and (up / "summary.json").exists()), None
        )
        if not (folder / "decode.json").exists():
            incomplete.append(f"`{name}` has no decode.json: its decoding has not finished")
        elif experiment is None:
            incomplete.append(f"`{name}` has no summary.json above it: its training has not finished")
        else:
            decode = _read_json(folder / "decode.json", _DECODE_KEYS)
            summary = _read_json(experiment / "summary.json", _SUMMARY_KEYS)
            decodings.append(RecordedDecoding(folder, experiment, decode, summary))
            decoded.add(experiment)
    trained = {path.parent for name in ("summary.json", "rank_plan.yaml") for path in exp_dir.glob(f"**/{name}")}
    for folder in sorted(trained - decoded):
        if folder.name != "warmup" and not list(folder.glob("decode_*/*")):  # a dense warm-up is not for decoding
            incomplete.append(f"`{folder.relative_to(exp_dir).as_posix()}` has not been decoded")
    return decodings, incomplete


def without_folders(value):
    """Shorten absolute paths, ``/home/me/corpus`` to ``.../corpus``: results are read on other machines.

    Paths below the working folder or the repository become relative to it.
    """
    if isinstance(value, str):
        for base in (Path.cwd(), Path(__file__).resolve().parents[2]):
            value = value.replace(f"{base}/", "")
        return re.sub(r"""(?<![\w.:/~-])/(?:[^\s/'":;,]+/)+(?=[^\s/])""", ".../", value)
    return value


def result_row(exp_dir: Path, decoding: RecordedDecoding, scores: DecodingScores) -> dict:
    """One object of results.json; error rates in percent, ``train_step_seconds`` and ``wall_seconds`` in seconds."""
    summary, decode = decoding.summary, decoding.decode
    row = {
        "experiment": decoding.experiment.relative_to(exp_dir).as_posix(),
        "decode": decoding.folder.parent.name,
        "split": decode["split"],
        **{key: summary[key] for key in _SUMMARY_KEYS},
        "utterances": scores.wer.total.sentences,
        "words": scores.wer.total.tokens,
        "missing_hypotheses": scores.missing,
        "wer": round(scores.wer.rate, 3),
        "wer_low": round(scores.wer.low, 3),
        "wer_high": round(scores.wer.high, 3),
        "cer": round(scores.cer.rate, 3),
        "cer_low": round(scores.cer.low, 3),
        "cer_high": round(scores.cer.high, 3),
        "rtf": decode["rtf"],
        "decode_method": decode.get("decode_method", CTC_ATTENTION),
        "k2_version": decode.get("k2_version"),
        "decode_config": decode["config"],
        "decode_command": decode["command"],
        "decode_machine": decode["machine"],
    }
    return {key: without_folders(value) for key, value in row.items()}


def _is_low_rank(experiment: Path) -> bool:
    plan = experiment / "rank_plan.yaml"
    return plan.exists() and any(layer["rank"] is not None for layer in read_yaml(plan)["layers"])


def compare(rows: list[dict], low_rank: list[bool], scores: list[DecodingScores]) -> list[dict]:
    """Compare every row with the reference of its split and decoding: the dense experiment with most parameters.

    Without a dense one, the experiment with most parameters is the reference.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row["split"], row["decode"]), []).append(index)
    comparisons = []
    for members in groups.values():
        reference, *others = sorted(members, key=lambda i: (low_rank[i], -rows[i]["parameters"], rows[i]["experiment"]))
        for other in others:
            a, b = scores[reference].wer.counts, scores[other].wer.counts
            difference = paired_bootstrap(
                [count.errors for count in a.values()],
                [count.errors for count in b.values()],
                [count.tokens for count in a.values()],
            )
            comparisons.append({"reference": rows[reference], "other": rows[other], **difference._asdict()})
    return comparisons


def _report_inputs(decodings: list[RecordedDecoding], data_dir: Path) -> list[Path]:
    inputs = []
    for decoding in decodings:
        inputs += [decoding.folder / "text", decoding.folder / "decode.json"]
        inputs += [decoding.experiment / name for name in ("summary.json", "rank_plan.yaml", "curves.json")]
        inputs.append(_cuts(data_dir, decoding))
    return inputs


def _cuts(data_dir: Path, decoding: RecordedDecoding) -> Path:
    return data_dir / decoding.decode["split"] / "cuts.jsonl.gz"


def write_results(data_dir: Path, exp_dir: Path, results_dir: Path | None = None, force: bool = False) -> str:
    """Score what is decoded under ``exp_dir``; write RESULTS.md, results.json and the pictures there.

    They are copied to ``results_dir`` if it is given. Returns the summary table. Does nothing but return it when no
    input has changed since the last time, unless ``force``.

    Raises:
        LrsmsError: nothing is decoded, or an input is missing or malformed.
    """
    decodings, incomplete = find_decodings(exp_dir)
    if not decodings:
        raise LrsmsError("; ".join([f"{exp_dir} holds no finished decoding; run stages 3 and 4", *incomplete]))
    marker = exp_dir / ".scored.json"
    state = {"incomplete": incomplete}
    inputs = [*_report_inputs(decodings, data_dir), *conditions.condition_inputs(exp_dir, data_dir)]
    written = all((exp_dir / name).exists() for name in ("RESULTS.md", "results.json"))
    if force or not written or not stamp.is_current(marker, state, inputs):
        _write(data_dir, exp_dir, decodings, incomplete)
        stamp.write(marker, state, inputs)
    else:
        print(f"{exp_dir / 'RESULTS.md'} is up to date; --force true writes it again")
    if results_dir is not None:
        results_dir.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (results_dir / name).unlink(missing_ok=True)
            if (exp_dir / name).exists():
                shutil.copyfile(exp_dir / name, results_dir / name)
    return summary_table(json.loads((exp_dir / "results.json").read_text(encoding="utf-8")))


def _write(data_dir: Path, exp_dir: Path, decodings: list[RecordedDecoding], incomplete: list[str]) -> None:
    scores = [
        score_decoding(decoding.folder, _cuts(data_dir, decoding))
        for decoding in tqdm(decodings, desc="scoring", unit="split")
    ]
    rows = [result_row(exp_dir, *pair) for pair in zip(decodings, scores, strict=True)]
    experiments = {row["experiment"]: decoding.experiment for row, decoding in zip(rows, decodings, strict=True)}
    drawn = {
        "learning_curves.png": learning_curves(experiments, exp_dir / "learning_curves.png"),
        "rank_per_layer.png": rank_per_layer(experiments, exp_dir / "rank_per_layer.png"),
    }
    pictures = [name for name, is_drawn in drawn.items() if is_drawn]
    comparisons = compare(rows, [_is_low_rank(decoding.experiment) for decoding in decodings], scores)
    content = report(rows, scores, comparisons, pictures, incomplete, _conditions(data_dir, exp_dir))
    write_text(exp_dir / "RESULTS.md", content)
    write_json(exp_dir / "results.json", rows)


def _conditions(data_dir: Path, exp_dir: Path) -> str:
    """The section on noise and missing streams, "" if no experiment has been decoded so."""
    scored = conditions.score_conditions(exp_dir, data_dir)
    wer_over_snr(scored, exp_dir / conditions.PICTURE)
    table = exp_dir / conditions.TABLE
    if not scored:
        table.unlink(missing_ok=True)
        return ""
    write_json(table, conditions.rows(scored))
    return without_folders(conditions.section(scored))
