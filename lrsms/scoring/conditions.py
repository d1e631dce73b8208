"""WER over noise and missing streams: the tables and the picture of audio-visual experiments."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrsms.errors import LrsmsError
from lrsms.scoring.bootstrap import PairedDifference, paired_bootstrap
from lrsms.scoring.decoding import DecodingScores, score_decoding
from lrsms.scoring.report import markdown_table

PICTURE = "wer_over_snr.png"
TABLE = "conditions.json"
MODALITIES = ("audio", "video", "audiovisual")
_SEED = re.compile(r"_seed(\d+)$")
_FOLDERS = "**/conditions_*/*/*/decode.json"


@dataclass(frozen=True)
class ScoredCondition:
    """One experiment under one condition."""

    experiment: str
    decode: str
    split: str
    modality: str
    snr_db: float | None
    scores: DecodingScores
    noise: str  # voices and seed of the babble
    command: str

    @property
    def key(self) -> tuple[str, float | None]:
        """The condition under which the experiment was decoded."""
        return self.modality, self.snr_db


def conditions_folder(experiment: Path, config: Path, checkpoint: str, split: str) -> Path:
    """``<experiment>/conditions_<config>_<checkpoint>/<split>``, in which each condition has a folder."""
    name = config.stem.removeprefix("decode").strip("_")
    return experiment / "_".join(["conditions", *filter(None, [name]), checkpoint.removesuffix(".pth")]) / split


def condition_inputs(exp_dir: Path, data_dir: Path) -> list[Path]:
    """Files behind the tables: hypotheses, what decoding recorded, references."""
    folders = _folders(exp_dir)
    inputs = [folder / name for folder in folders for name in ("text", "decode.json")]
    return inputs + sorted({_cuts(data_dir, folder) for folder in folders})


def _folders(exp_dir: Path) -> list[Path]:
    return sorted(path.parent for path in exp_dir.glob(_FOLDERS))


def _cuts(data_dir: Path, folder: Path) -> Path:
    return data_dir / folder.parent.name / "cuts.jsonl.gz"


def score_conditions(exp_dir: Path, data_dir: Path) -> list[ScoredCondition]:
    """Score everything that ``lrsms.bin.conditions`` has decoded under ``exp_dir``.

    Raises:
        LrsmsError: a malformed ``decode.json`` or hypotheses that do not fit the references.
    """
    scored = []
    for folder in _folders(exp_dir):
        decode = json.loads((folder / "decode.json").read_text(encoding="utf-8"))
        if decode.get("modality") not in MODALITIES or "snr_db" not in decode:
            raise LrsmsError(f"{folder / 'decode.json'} says no condition; run python -m lrsms.bin.conditions again")
        experiment = folder.parents[2].relative_to(exp_dir).as_posix()
        scores = score_decoding(folder, _cuts(data_dir, folder))
        names = (experiment, folder.parents[1].name, folder.parent.name)
        noise = f"{decode.get('babble_voices', '?')} voices, seed {decode.get('seed', '?')}"
        condition = (decode["modality"], decode["snr_db"])
        scored.append(ScoredCondition(*names, *condition, scores, noise, str(decode.get("command", "?"))))
    return scored


def rows(scored: Iterable[ScoredCondition]) -> list[dict]:
    """One object for each experiment and condition; WER in percent, ``snr_db`` null without noise."""
    return [
        {
            "experiment": result.experiment,
            "decode": result.decode,
            "split": result.split,
            "modality": result.modality,
            "snr_db": result.snr_db,
            "wer": round(result.scores.wer.rate, 3),
            "wer_low": round(result.scores.wer.low, 3),
            "wer_high": round(result.scores.wer.high, 3),
            "cer": round(result.scores.cer.rate, 3),
            "utterances": result.scores.wer.total.sentences,
            "words": result.scores.wer.total.tokens,
        }
        for result in scored
    ]


def group_of(experiment: str) -> str:
    """Name of an experiment without its seed: what is averaged over seeds."""
    return _SEED.sub("", experiment)


def seed_of(experiment: str) -> int:
    """The seed that an experiment's name ends with; 0 if it has none."""
    named = _SEED.search(experiment)
    return int(named[1]) if named else 0


def snr_order(snrs: Iterable[float | None]) -> list[float | None]:
    """Without noise first, then from little noise to much."""
    return sorted(set(snrs), key=quiet_first)


def quiet_first(snr: float | None) -> float:
    """A key to sort ratios in dB by, None for no noise."""
    return float("-inf") if snr is None else -snr


def section(scored: Sequence[ScoredCondition], heading: str = "##") -> str:
    """Markdown: WER of every condition, what the video gains at each ratio, and low rank against dense."""
    parts = [f"{heading} WER over noise and modality", "", f"![WER over SNR]({PICTURE})", ""]
    several = len({(result.decode, result.split) for result in scored}) > 1
    for (decode, split), members in _by(scored, lambda result: (result.decode, result.split)).items():
        if several:
            parts += [f"{heading}# {decode}/{split}", ""]
        parts += [_wer_table(members), ""]
        gain = _gain_table(members)
        if gain:
            parts += ["What video adds to audio, WER difference in points, paired bootstrap over utterances:", ""]
            parts += [gain, ""]
        between = _between_table(members)
        if between:
            parts += [
                "Against the first configuration, all ratios and seeds together, paired bootstrap over utterances:",
                "",
            ]
            parts += [between, ""]
    parts += [
        "One checkpoint each: for audio the mouth regions are zeros, for video the samples are. Babble is of training "
        "utterances, the same for an utterance at every ratio.",
        "",
    ]
    made = dict.fromkeys((result.experiment, result.command, result.noise) for result in scored)
    parts += [*(f"- {experiment}: `{command}`; babble of {noise}" for experiment, command, noise in made), ""]
    return "\n".join(parts)


def _by(scored: Iterable[ScoredCondition], key) -> dict:
    groups: dict = {}
    for result in scored:
        groups.setdefault(key(result), []).append(result)
    return groups


def _wer_table(scored: Sequence[ScoredCondition]) -> str:
    snrs = snr_order(result.snr_db for result in scored)
    header = ["experiment", "modality", *("clean" if snr is None else f"{snr:g} dB" for snr in snrs)]
    lines = []
    for experiment, members in _by(scored, lambda result: result.experiment).items():
        for modality in MODALITIES:
            rates = {result.snr_db: result.scores.wer.rate for result in members if result.modality == modality}
            if rates:
                lines.append([experiment, modality, *_rates(rates, snrs, modality)])
    for group, members in _by(scored, lambda result: group_of(result.experiment)).items():
        seeds = {result.experiment for result in members}
        for modality in MODALITIES if len(seeds) > 1 else ():
            means = _means(members, modality)
            if means:
                lines.append([f"mean of {len(seeds)} {group}", modality, *_rates(means, snrs, modality)])
    return markdown_table(header, lines)


def _rates(rates: Mapping[float | None, float], snrs: Sequence[float | None], modality: str) -> list[str]:
    if modality == "video":  # no sound, no noise: one number for all
        return [f"{rates[None]:.2f}", *["same"] * (len(snrs) - 1)]
    return [f"{rates[snr]:.2f}" if snr in rates else "-" for snr in snrs]


def _means(scored: Iterable[ScoredCondition], modality: str) -> dict[float | None, float]:
    rates: dict[float | None, list[float]] = {}
    for result in scored:
        if result.modality == modality:
            rates.setdefault(result.snr_db, []).append(result.scores.wer.rate)
    return {snr: sum(values) / len(values) for snr, values in rates.items()}


def _gain_table(scored: Sequence[ScoredCondition]) -> str:
    """A table of audio-visual minus audio at each ratio."""
    lines = []
    snrs = snr_order(result.snr_db for result in scored)
    for experiment, members in _by(scored, lambda result: result.experiment).items():
        by_key = {result.key: [result] for result in members}
        cells = []
        for snr in snrs:
            audio, audiovisual = by_key.get(("audio", snr)), by_key.get(("audiovisual", snr))
            cells.append(_difference(_paired(audio, audiovisual)) if audio and audiovisual else "-")
        if any(cell != "-" for cell in cells):
            lines.append([experiment, *cells])
    header = ["experiment", *("clean" if snr is None else f"{snr:g} dB" for snr in snrs)]
    return markdown_table(header, lines, left=1) if lines else ""


def _between_table(scored: Sequence[ScoredCondition]) -> str:
    """Every other configuration minus the first, each modality over all conditions, and seeds, that both have."""
    groups = {
        group: list(_by(members, lambda result: result.experiment).values())
        for group, members in _by(scored, lambda result: group_of(result.experiment)).items()
    }
    first, *others = groups
    lines = []
    for other in others:
        seeds = list(zip(groups[first], groups[other]))
        for modality in MODALITIES:
            sides: tuple[list[ScoredCondition], list[ScoredCondition]] = ([], [])
            for pair in seeds:
                by_key = [{result.key: result for result in members if result.modality == modality} for members in pair]
                shared = [key for key in by_key[0] if key in by_key[1]]
                for side, table in zip(sides, by_key):
                    side.extend(table[key] for key in shared)
            if sides[0]:
                difference = _paired(*sides)
                cells = [_difference(difference), f"{difference.not_worse:.3f}"]
                conditions = len({result.key for result in sides[0]})
                lines.append([other, first, modality, str(len(seeds)), str(conditions), *cells])
    header = ("configuration", "compared with", "modality", "seeds", "conditions")
    return markdown_table((*header, "WER difference, points [95 %]", "P(not worse)"), lines, left=3) if lines else ""


def _paired(a: Sequence[ScoredCondition], b: Sequence[ScoredCondition]) -> PairedDifference:
    """Compare two sides paired by utterance: an utterance's errors and words are summed over all conditions."""
    sums = []
    for side in (a, b):
        errors: dict[str, int] = {}
        tokens: dict[str, int] = {}
        for result in side:
            for name, count in result.scores.wer.counts.items():
                errors[name] = errors.get(name, 0) + count.errors
                tokens[name] = tokens.get(name, 0) + count.tokens
        sums.append((errors, tokens))
    (errors_a, tokens), (errors_b, _) = sums
    names = sorted(errors_a)
    first, second, words = ([table[name] for name in names] for table in (errors_a, errors_b, tokens))
    return paired_bootstrap(first, second, words)


def _difference(comparison: PairedDifference) -> str:
    return f"{comparison.difference:+.2f} [{comparison.low:+.2f}, {comparison.high:+.2f}]"
