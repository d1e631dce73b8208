"""What a benchmark leaves: ``<name>.md`` and ``<name>.json``, with the command, versions and machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lrsms.files import write_json, write_text
from lrsms.provenance import provenance
from lrsms.scoring.report import markdown_table
from lrsms.scoring.results import without_folders


def write_results(
    folder: Path,
    name: str,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    data: Mapping,
    *,
    left: int = 1,
    pictures: Sequence[str] = (),
) -> str:
    """Write both files.

    Args:
        folder: made where it does not exist.
        name: of the files, without suffix.
        title: heading.
        header: of the table.
        rows: of the table, as text.
        notes: one sentence or more each, below the table.
        data: what the JSON file holds beside where it comes from.
        left: columns that are left-aligned.
        pictures: file names in ``folder``.

    Returns:
        The table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    origin = {key: without_folders(value) for key, value in provenance().items()}
    table = markdown_table(header, rows, left=left)
    versions = ", ".join(f"{package} {version}" for package, version in origin["versions"].items())
    lines = [f"# {title}", "", table, "", *notes, ""]
    lines += [f"![{picture.removesuffix('.png').replace('_', ' ')}]({picture})\n" for picture in pictures]
    lines += [f"- command: `{origin['command']}`", f"- commit {origin['commit']}; {versions}"]
    lines += [f"- machine: {origin['machine']}", ""]
    write_text(folder / f"{name}.md", "\n".join(lines))
    write_json(folder / f"{name}.json", {**data, **origin})
    return table
