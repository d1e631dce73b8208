"""Configurations over seeds, from result files that runs have written, here or on other machines.

A sweep compares what lies in its own folder. A recipe that is run once for each seed leaves a ``results.json`` with one
row of each, and models are seldom kept as long as their results: these files are enough for means over seeds and for
verdicts about them, and not for what needs utterances.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.ticker import NullLocator

from lrsms.errors import LrsmsError
from lrsms.files import write_json, write_text
from lrsms.provenance import provenance
from lrsms.scoring.conditions import MODALITIES, group_of, quiet_first, seed_of
from lrsms.scoring.pictures import STYLE, name_legend, save
from lrsms.scoring.report import markdown_table
from lrsms.scoring.results import without_folders
from lrsms.sweep.intervals import difference_interval, not_inferior, rate_interval
from lrsms.sweep.tables import interval_cell

TABLE, PAGE, PICTURE = "seeds.json", "seeds.md", "seeds.png"
_COLORS = ("0.15", "C0", "C1", "C2", "C3", "C4", "C5", "C6")


@dataclass(frozen=True)
class Rate:
    """What one seed of a configuration has reached under one condition; ``wer`` in percent."""

    configuration: str
    condition: str
    seed: int
    wer: float
    words: int
    source: str


@dataclass(frozen=True)
class Row:
    """A configuration under one condition: error rates in percent by seed, intervals as ``(mean, low, high)``."""

    configuration: str
    condition: str
    seeds: tuple[int, ...]
    wer: tuple[float, ...]
    wer_mean: tuple[float | None, ...]
    difference_over_seeds: tuple[float | None, ...] | None
    verdict: str | None


def read_rates(path: Path) -> list[Rate]:
    """The error rates in a ``results.json``, a ``conditions.json`` or a sweep's JSON.

    The first two name a configuration by its experiment without ``_seed<number>``; ``conditions.json`` has no other
    word of the seed, which is 0 if the name has none. A sweep's configurations are its arms.

    Raises:
        LrsmsError: the file is none of these.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [Rate(*fields, source=str(path)) for fields in _fields(content)]
    except OSError as error:
        raise LrsmsError(f"{path}: {error.strerror}; give results.json, conditions.json or a sweep's JSON") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LrsmsError(
            f"{path} is neither results.json nor conditions.json nor a sweep's JSON ({error!r}); give one of these"
        ) from error


def _fields(content) -> Iterable[tuple[str, str, int, float, int]]:
    if isinstance(content, dict):
        for arm in content["arms"]:
            for seed, wer in zip(arm["seeds"], arm["wer"], strict=True):
                yield arm["arm"], arm["split"], seed, wer, arm["words"]
        return
    if content and "modality" in content[0]:
        content = sorted(content, key=lambda row: (MODALITIES.index(row["modality"]), quiet_first(row["snr_db"])))
    for row in content:
        name = row["experiment"]
        if "modality" in row:
            snr = "clean" if row["snr_db"] is None else f"{row['snr_db']:g} dB"
            condition = f"{row['split']}, {row['modality']}" + (f", {snr}" if row["modality"] != "video" else "")
            seed = seed_of(name)
        else:
            condition, seed = f"{row['split']}, {row['decode']}", row["seed"]
        yield group_of(name), condition, seed, row["wer"], row["words"]


def compare_seeds(rates: Sequence[Rate], reference: str, margin: float | None) -> list[Row]:
    """Every configuration against ``reference`` under each condition that both have, the reference first.

    Args:
        rates: of all files; the order of conditions and configurations is theirs.
        reference: name of a configuration.
        margin: points of WER by which a configuration may be worse and count as no worse; None for no verdicts.

    Raises:
        LrsmsError: there is no such configuration, a seed occurs twice under one condition, or the same condition has
            other numbers of words in it: its test sets differ.
    """
    names = list(dict.fromkeys(rate.configuration for rate in rates))
    if reference not in names:
        raise LrsmsError(f"--reference {reference}: the files have {', '.join(names) or 'no configuration'}")
    table: dict[tuple[str, str], dict[int, Rate]] = {}
    for rate in rates:
        seeds = table.setdefault((rate.condition, rate.configuration), {})
        if rate.seed in seeds:
            raise LrsmsError(
                f"{rate.source}: seed {rate.seed} of {rate.configuration} ({rate.condition}) is in "
                f"{seeds[rate.seed].source} as well; give one of the two"
            )
        seeds[rate.seed] = rate
    rows = []
    for condition in dict.fromkeys(rate.condition for rate in rates):
        base = table.get((condition, reference))
        if base is None:
            continue
        for name in (reference, *(name for name in names if name != reference)):
            if found := table.get((condition, name)):
                _check_words([*base.values(), *found.values()])
                rows.append(_row(found, base if name != reference else None, margin))
    return rows


def _check_words(rates: Sequence[Rate]) -> None:
    first = rates[0]
    for rate in rates:
        if rate.words != first.words:
            raise LrsmsError(
                f"{rate.source}: {rate.configuration} ({rate.condition}) was tested on {rate.words:,} words, "
                f"{first.configuration} in {first.source} on {first.words:,}; only results on one test set compare"
            )


def _row(found: dict[int, Rate], base: dict[int, Rate] | None, margin: float | None) -> Row:
    rates = [found[seed] for seed in sorted(found)]
    wer = [rate.wer for rate in rates]
    difference = verdict = None
    if base is not None:
        difference = astuple(difference_interval([rate.wer for rate in base.values()], wer))
        verdict = None if margin is None else not_inferior(difference, margin)
    seeds = tuple(rate.seed for rate in rates)
    return Row(rates[0].configuration, rates[0].condition, seeds, tuple(wer), rate_interval(wer), difference, verdict)


def write_seeds(paths: Sequence[Path], reference: str, margin: float | None, output_dir: Path) -> str:
    """Compare the configurations in ``paths``, write ``seeds.{md,json,png}`` into ``output_dir``, return the table.

    Raises:
        LrsmsError: as :func:`read_rates` and :func:`compare_seeds` do.
    """
    rates = [rate for path in paths for rate in read_rates(path)]
    rows = compare_seeds(rates, reference, margin)
    files = [without_folders(str(path)) for path in paths]
    made = {key: without_folders(value) for key, value in provenance().items()}
    output_dir.mkdir(parents=True, exist_ok=True)
    _draw(rows, output_dir / PICTURE)
    content = {"reference": reference, "margin": margin, "files": files, "rows": [asdict(row) for row in rows]}
    write_json(output_dir / TABLE, {**content, "reported_by": made})
    compared = {row.configuration for row in rows}
    left_out = dict.fromkeys(rate.configuration for rate in rates if rate.configuration not in compared)
    table = _table(rows)
    if left_out:
        table += f"\n\nLeft out, for there is no condition that `{reference}` has as well: {', '.join(left_out)}."
    write_text(output_dir / PAGE, _page(table, reference, margin, files, made))
    return table


def _table(rows: Sequence[Row]) -> str:
    judged = any(row.verdict for row in rows)
    header = ("condition", "configuration", "seeds", "WER % of each", "mean [95 %]", "difference over seeds [95 %]")
    cells = [
        (
            *(row.condition, row.configuration, str(len(row.seeds)), ", ".join(f"{rate:.2f}" for rate in row.wer)),
            *(interval_cell(row.wer_mean, ".2f"), interval_cell(row.difference_over_seeds, "+.2f")),
            *([row.verdict or ""] if judged else []),
        )
        for row in rows
    ]
    return markdown_table((*header, *(["verdict"] if judged else [])), cells)


def _page(table: str, reference: str, margin: float | None, files: Sequence[str], made: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    parts = [
        "# Over seeds",
        "",
        "Written by `python3 -m lrsms.bin.seeds`; running it again replaces it.",
        "",
        table,
        "",
    ]
    parts += [
        f"Means over seeds with Student's interval; differences to `{reference}`, in points of WER, with Welch's.",
        "",
    ]
    if margin is not None:
        parts += [
            f"Verdict: not inferior if the upper end of the difference's interval is at most {margin:g} points, and "
            "inferior if the lower end is above it.",
            "",
        ]
    parts += [f"![error rates of all seeds]({PICTURE})", "", "## Provenance", ""]
    parts += [f"- {name}" for name in files]
    parts += [f"- `{made['command']}`", f"- commit {made['commit']}; {versions}", f"- machine: {made['machine']}", ""]
    return "\n".join(parts)


def _draw(rows: Sequence[Row], picture: Path) -> None:
    """A dot for each seed, and the mean with its interval: one column a condition, one color a configuration."""
    conditions = list(dict.fromkeys(row.condition for row in rows))
    names = list(dict.fromkeys(row.configuration for row in rows))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(max(4.5, 1.5 + 0.8 * len(conditions)), 4.5), layout="constrained")
        for number, name in enumerate(names):
            color, shift = _COLORS[number % len(_COLORS)], 0.6 * ((number + 0.5) / len(names) - 0.5)
            for row in (row for row in rows if row.configuration == name):
                x = conditions.index(row.condition) + shift
                axis.plot([x] * len(row.wer), row.wer, "o", color=color, alpha=0.6, markersize=5, markeredgewidth=0)
                mean, low, high = row.wer_mean
                if low is not None and high is not None:
                    axis.plot([x, x], [low, high], color=color, linewidth=1, alpha=0.5)
                axis.plot([x], [mean], "_", color=color, markersize=11, markeredgewidth=2)
            axis.plot([], [], "o-", color=color, label=name)
        splits = {condition.partition(", ")[0] for condition in conditions}
        labels = [c.partition(", ")[2] if len(splits) == 1 else c.replace(", ", "\n", 1) for c in conditions]
        axis.set_xticks(range(len(conditions)), labels, rotation=60, ha="right", rotation_mode="anchor")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_ylabel("WER, %: seeds, mean, 95 % interval")
        axis.set_ylim(0, 1.15 * max(max(row.wer) for row in rows))  # an interval of two seeds would dwarf all others
        name_legend(figure, axis.get_legend_handles_labels()[0])
        save(figure, picture)
        plt.close(figure)
