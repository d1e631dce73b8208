"""Common Voice: sentences that contributors read, of any language. Texts stay as they are.

It takes a release as Mozilla distributes it, today's or the first:

- ``train.tsv``, ``dev.tsv``, ``test.tsv`` with columns ``path`` and ``sentence``, and ``clips/``;
- ``cv-valid-train.csv``, ``cv-valid-dev.csv``, ``cv-valid-test.csv`` with columns ``filename`` and ``text`` (v1, 2017);
- or one ``clips.tsv`` with columns ``id``, ``split`` and ``text``, and ``clips/<id>.<format>``.

Where a release names the speaker (``client_id``), the utterances bear it; v1 does not, and the same person may be in
several splits.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lrsms.command_line import run_verb
from lrsms.data.corpus_command import CorpusParser, run_corpus
from lrsms.data.manifests import UNKNOWN_SPEAKER, Split, open_recordings, pair, require_layout, save_splits
from lrsms.errors import LrsmsError

SPLITS = ("train", "dev", "test")


class _Tabs(csv.excel_tab):  # sentences hold quotation marks that do not close: they mean nothing
    quoting = csv.QUOTE_NONE


class Row(NamedTuple):
    """One utterance of a table: id, audio file, text, speaker and gender."""

    id: str
    path: Path
    text: str
    speaker: str | None
    gender: str | None


def read_rows(corpus_dir: Path, split: str) -> list[Row]:
    """The rows of a split, whichever layout the corpus has.

    Raises:
        LrsmsError: no table, a column is missing, or it is not UTF-8.
    """
    if (corpus_dir / "clips.tsv").exists():
        table = corpus_dir / "clips.tsv"
        rows = [row for row in _table(table, _Tabs, ("id", "split", "text")) if row["split"] == split]
        files = {path.stem: path for path in (corpus_dir / "clips").iterdir()}
        paths = (files.get(row["id"], corpus_dir / "clips" / row["id"]) for row in rows)
        return [_row(row["id"], path, row["text"], row) for row, path in zip(rows, paths)]
    if (corpus_dir / f"cv-valid-{split}.csv").exists():
        table = corpus_dir / f"cv-valid-{split}.csv"
        rows = _table(table, csv.excel, ("filename", "text"))
        return [_row(_id(row["filename"]), corpus_dir / row["filename"], row["text"], row) for row in rows]
    table = corpus_dir / f"{split}.tsv"
    rows = _table(table, _Tabs, ("path", "sentence"))
    return [_row(_id(row["path"]), corpus_dir / "clips" / row["path"], row["sentence"], row) for row in rows]


def _id(path: str) -> str:
    return path.rpartition(".")[0].replace("/", "-")


def _row(name: str, path: Path, text: str, row: dict) -> Row:
    return Row(name, path, text.strip(), row.get("client_id") or None, row.get("gender") or None)


def _table(path: Path, dialect: type[csv.Dialect], columns: Iterable[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, dialect=dialect)
            rows = list(reader)
            found = reader.fieldnames or []
    except UnicodeDecodeError as error:
        raise LrsmsError(f"{path}: not UTF-8 text ({error})") from None
    missing = [column for column in columns if column not in found]
    if missing:
        raise LrsmsError(f"{path}: has no column {missing[0]}; its columns are {', '.join(found) or 'none'}")
    short = next((number for number, row in enumerate(rows, 2) if any(row[column] is None for column in columns)), None)
    if short:
        raise LrsmsError(f"{path}: line {short} has too few columns")
    return rows


def _read_split(corpus_dir: Path, split: str, num_jobs: int, language: str) -> Split:
    from lhotse import SupervisionSegment

    rows = read_rows(corpus_dir, split)
    paths = {row.id: row.path for row in rows}
    recordings, exclusions = open_recordings(paths, num_jobs=num_jobs, title=f"Common Voice {split}")
    supervisions = [
        SupervisionSegment(
            id=row.id,
            recording_id=row.id,
            start=0.0,
            duration=recordings[row.id].duration,
            language=language,
            speaker=row.speaker or UNKNOWN_SPEAKER,
            gender=row.gender,
            text=row.text,
        )
        for row in rows
        if row.id in recordings
    ]
    return pair(recordings.values(), supervisions, exclusions, f"{corpus_dir}: {split}")


def prepare_commonvoice(corpus_dir: Path | None, output_dir: Path, *, num_jobs: int, language: str = "English") -> None:
    """Write the manifests of ``train``, ``dev`` and ``test``.

    Args:
        corpus_dir: a release, see the module.
        output_dir: receives ``<split>/{recordings,supervisions}.jsonl.gz``.
        num_jobs: threads.
        language: of the release, for the manifests.

    Raises:
        LrsmsError: the layout is none of those, or what :func:`read_rows` raises.
    """
    if corpus_dir is not None and not (corpus_dir / "clips.tsv").exists():
        first = (corpus_dir / "cv-valid-train.csv").exists()
        layout = [f"cv-valid-{split}.csv" if first else f"{split}.tsv" for split in SPLITS]
        require_layout(corpus_dir, layout if first else [*layout, "clips"])
    else:
        require_layout(corpus_dir, ["clips.tsv", "clips"] if corpus_dir is not None else [f"{s}.tsv" for s in SPLITS])
    assert corpus_dir is not None
    save_splits(output_dir, {split: _read_split(corpus_dir, split, num_jobs, language) for split in SPLITS})


def parser() -> CorpusParser:
    """Options of the command."""
    options = CorpusParser("commonvoice", __doc__)
    options.add_source("--corpus_dir", help="a release: train.tsv, dev.tsv, test.tsv and clips/, or as v1 has it")
    options.add_argument("--language", default="English", help="of the release")
    return options


def _prepare(args: argparse.Namespace) -> None:
    prepare_commonvoice(args.corpus_dir, args.output_dir, num_jobs=args.num_jobs, language=args.language)


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 0 with the options ``argv``, by default those of the command line."""
    run_corpus(parser(), _prepare, argv)


if __name__ == "__main__":
    run_verb(main)
