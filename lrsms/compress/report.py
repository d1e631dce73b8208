"""What a compression has come to: ``COMPRESSION.md``, ``compression.json`` and pictures beside the iterations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from lrsms.compress import pictures
from lrsms.compress.controllers import Finished
from lrsms.compress.iterate import Iteration, verdict_of
from lrsms.compress.search import finished_trials
from lrsms.files import write_json, write_text
from lrsms.provenance import provenance
from lrsms.scoring.report import markdown_table
from lrsms.scoring.results import without_folders
from lrsms.storage import open_study

UNITS = {"loss": "loss per utterance", "ctc": "WER of the CTC path, %", "beam": "WER of the beam search, %"}


def write_report(
    root: Path,
    iterations: Sequence[Iteration],
    *,
    storage: str | Path,
    fidelity: str,
    full_ranks: Mapping[str, int],
    budget: str,
) -> str:
    """Write table, JSON and pictures into ``root``.

    Args:
        root: folder of the iterations.
        iterations: from :func:`lrsms.compress.iterate.run`.
        storage: of the trials.
        fidelity: how trials were scored.
        full_ranks: path -> full rank of every layer of the search space.
        budget: ``parameters`` or ``macs``.

    Returns:
        The table.
    """
    searches, limits = {}, {}
    for iteration in iterations:
        chosen = json.loads((root / iteration.folder / "ranks.json").read_text())
        searches[iteration.folder] = finished_trials(open_study(storage, f"{root.name}/{iteration.folder}"))
        limits[iteration.folder] = chosen["limit"]
    drawn = _draw(root, iterations, searches, limits, fidelity, full_ranks)
    table = _table(iterations, searches, budget)
    write_text(root / "COMPRESSION.md", _page(root, table, drawn))
    content = {
        "budget": budget,
        "iterations": [{**asdict(iteration), "compression": iteration.compression} for iteration in iterations],
        "trials": {name: len(trials) for name, trials in searches.items()},
        **{key: without_folders(value) for key, value in provenance().items()},
    }
    if (root / "search_set.json").exists():
        search_set = json.loads((root / "search_set.json").read_text())
        content["search_set"] = {**search_set, "utterances": len(search_set["utterances"])}
    write_json(root / "compression.json", content)
    return table


def _draw(root, iterations, searches: dict[str, list[Finished]], limits, fidelity: str, full_ranks) -> list[str]:
    plans = {}
    for iteration in iterations:
        ranks = json.loads((root / iteration.folder / "ranks.json").read_text())["ranks"]
        plans[iteration.folder] = {
            path: ranks[path] / full if path in ranks else 1.0 for path, full in full_ranks.items()
        }
    unit = UNITS[fidelity]
    drawn = {
        "loop.png": pictures.loop(iterations, root / "loop.png"),
        "trials.png": pictures.trials(searches, iterations[0].original_cost, unit, root / "trials.png")
        if iterations
        else False,
        "best_so_far.png": pictures.best_so_far(searches, limits, unit, root / "best_so_far.png"),
        "ranks.png": pictures.ranks_over_iterations(plans, root / "ranks.png"),
    }
    return [name for name, exists in drawn.items() if exists]


def _table(iterations: Sequence[Iteration], searches: Mapping[str, Sequence[Finished]], budget: str) -> str:
    header = ("iteration", "from", budget, "x smaller", "trials", "dev WER %", "difference, points [95 %]", "")
    rows = [
        (
            iteration.folder,
            iteration.source,
            f"{iteration.cost:,.0f}",
            f"{iteration.compression:.2f}",
            str(len(searches[iteration.folder])),
            f"{iteration.wer:.2f}",
            f"{iteration.difference:+.2f} [{iteration.low:+.2f}, {iteration.high:+.2f}]",
            verdict_of(iteration),
        )
        for iteration in iterations
    ]
    return markdown_table(header, rows, left=2)


def _page(root: Path, table: str, drawn: Sequence[str]) -> str:
    origin = provenance()
    lines = ["# Compression", "", table, ""]
    lines += ["Differences to the original on dev: paired bootstrap over utterances.", ""]
    if (root / "search_set.json").exists():
        search_set = json.loads((root / "search_set.json").read_text())
        correlation = (
            f"; rank correlation of its error rate with all of dev's {search_set['correlation']:.2f} over "
            f"{search_set['candidates']} random candidates"
        )
        compared = correlation if search_set["candidates"] else ""  # none if all of dev is searched on
        lines += [f"Search set: {len(search_set['utterances'])} utterances{compared}.", ""]
    lines += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in drawn]
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    lines += [
        f"- command: `{without_folders(origin['command'])}`",
        f"- commit {origin['commit']}; {versions}",
        f"- machine: {origin['machine']}",
        "",
    ]
    return "\n".join(lines)
