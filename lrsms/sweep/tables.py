"""Tables of a sweep's findings, and their place in a recipe's RESULTS.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lrsms.errors import LrsmsError
from lrsms.files import write_text
from lrsms.scoring.report import markdown_table

FINDINGS = "findings"  # folder below a recipe's results
_HEADING = "\n## Sweeps\n"
_NEXT_HEADING = "\n## Provenance\n"
_EARLIER_NEXT_HEADING = "\n## How each was made\n"  # in pages that earlier versions have written
_HEADER = (
    *("arm", "seeds", "parameters", "x fewer", "MMACs/s", "x fewer", "step s"),
    *("WER %, mean [95 %]", "CER %", "difference over seeds [95 %]", "over utterances [95 %]"),
)


def findings_table(rows: Sequence[dict]) -> str:
    """One line per arm, from the objects under ``arms`` of a sweep's JSON, which are of one split."""
    judged = any(row.get("verdict") for row in rows)  # earlier versions wrote no such key
    cells = [
        (
            row["arm"],
            str(len(row["seeds"])),
            f"{row['parameters']:,}",
            _number(row["times_fewer_parameters"], ".2f"),
            _number(row["macs_per_second"] and row["macs_per_second"] / 1e6, ",.1f"),
            _number(row["times_fewer_macs"], ".2f"),
            _number(row["train_step_seconds"], ".3f"),
            interval_cell(row["wer_mean"], ".2f"),
            interval_cell(row["cer_mean"][:1], ".2f"),
            interval_cell(row["difference_over_seeds"], "+.2f"),
            interval_cell(row["difference_over_utterances"], "+.2f"),
            *([row["verdict"] or ""] if judged else []),
        )
        for row in rows
    ]
    return markdown_table((*_HEADER, *(["verdict"] if judged else [])), cells, left=1)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def interval_cell(values: Sequence[float | None] | None, form: str) -> str:
    """``mean [low, high]`` of those three; the mean alone if there is no interval."""
    if values is None:
        return ""
    mean, *bounds = (_number(value, form) for value in values)
    return mean if not bounds or values[1] is None else f"{mean} [{', '.join(bounds)}]"


def split_tables(content: dict) -> dict[str, str]:
    """The table of each split in a sweep's JSON."""
    splits = dict.fromkeys(row["split"] for row in content["arms"])
    return {split: findings_table([row for row in content["arms"] if row["split"] == split]) for split in splits}


def add_to_results(results_dir: Path) -> None:
    """Write the section "Sweeps" of ``results_dir/RESULTS.md`` anew from ``results_dir/findings/*.json``.

    Without a RESULTS.md nothing is written; without findings the section goes.

    Raises:
        LrsmsError: a JSON file there is not a sweep's.
    """
    page = results_dir / "RESULTS.md"
    if not page.exists():
        return
    text = page.read_text(encoding="utf-8").replace(_EARLIER_NEXT_HEADING, _NEXT_HEADING)
    before, heading, rest = text.partition(_HEADING)
    if heading:
        _, heading, rest = rest.partition(_NEXT_HEADING)
    else:
        before, heading, rest = text.partition(_NEXT_HEADING)
    sections = [_section(path) for path in sorted((results_dir / FINDINGS).glob("*.json"))]
    if sections:
        before += _HEADING + "\n" + "\n".join(sections)
    write_text(page, before + heading + rest)


def _section(path: Path) -> str:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tables = split_tables(content)
        title = content["title"]
    except (ValueError, KeyError, TypeError) as error:
        raise LrsmsError(f"{path} is not a sweep's ({error!r}); run the sweep with --report_only again") from error
    parts = [f"### {title}", ""]
    for split, table in tables.items():
        parts += [f"{split}:", ""] * (len(tables) > 1) + [table, ""]
    page = f"{FINDINGS}/{path.stem}.md"
    parts += [f"Pictures, configurations, and how each was made: [{page}]({page}).", ""]
    return "\n".join(parts)
