"""Utterances that were left out, and why: ``excluded.tsv`` of a split, ``data/<split>/``, and of a training.

The file has the columns ``id``, ``stage``, ``reason`` and ``detail``. Each stage owns its rows: writing
those of one stage keeps the rows of the others.
"""

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lrsms.files import exclusive, write_text

COLUMNS = ("id", "stage", "reason", "detail")


class Exclusion(NamedTuple):
    """One utterance (or recording) left out.

    Attributes:
        id: utterance id, or recording id if no utterance exists.
        reason: a short fixed word such as ``truncated``, by which exclusions are counted.
        detail: what was found and, if there is one, the remedy.
    """

    id: str
    reason: str
    detail: str = ""


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def write_excluded(path: Path, stage: str, rows: Iterable[Exclusion]) -> None:
    """Replace the rows of ``stage`` in ``path`` by ``rows``; atomic, other stages' rows stay first.

    Of commands that run side by side and write the same file, each waits for its turn.
    """
    new = [dict(zip(COLUMNS, map(_one_line, (row.id, stage, row.reason, row.detail)))) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_name(f".{path.name}.lock"), busy=lambda: None):
        of_other_stages = [row for row in _read_rows(path) if row["stage"] != stage]
        lines = [dict(zip(COLUMNS, COLUMNS)), *of_other_stages, *new]
        write_text(path, "".join("\t".join(row[column] for column in COLUMNS) + "\n" for row in lines))


def read_excluded(path: Path, stage: str | None = None) -> list[Exclusion]:
    """Rows of ``path``, of one ``stage`` or of all; a missing file means that nothing was left out."""
    rows = _read_rows(path)
    return [Exclusion(row["id"], row["reason"], row["detail"]) for row in rows if stage in (None, row["stage"])]


def count_reasons(rows: Iterable[Exclusion]) -> list[tuple[str, int]]:
    """``(reason, count)`` pairs, the most frequent first."""
    return Counter(row.reason for row in rows).most_common()


def print_summary(split: str, rows: Iterable[Exclusion]) -> None:
    """Print one line per reason, such as ``dev: 3 excluded: truncated``."""
    for reason, count in count_reasons(rows):
        print(f"{split}: {count} excluded: {reason}")


def top_reasons(rows: Iterable[Exclusion], limit: int = 3) -> str:
    """One clause for an error message: the most frequent reasons, each with its count and an example."""
    rows = list(rows)
    clauses = []
    for reason, count in count_reasons(rows)[:limit]:
        example = next(row for row in rows if row.reason == reason)
        clauses.append(f"{reason} x {count} (such as {example.id}: {_one_line(example.detail) or 'no detail'})")
    return "; ".join(clauses)
