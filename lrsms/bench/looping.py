"""Single-shot compression at growing levels against the iterative loop: the comparison of arXiv 2008.02897."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from lrsms.bench import pictures
from lrsms.bench.results import write_results
from lrsms.compress import iterate
from lrsms.compress.iterate import Errors, Iteration
from lrsms.errors import LrsmsError
from lrsms.espnet.compress.toolkit import EspnetToolkit
from lrsms.scoring.bootstrap import paired_bootstrap


def single_shot_and_loop(toolkit: EspnetToolkit, levels: Sequence[float], split: str, folder: Path) -> str:
    """Compress in one step to each level, and step by step; score all of them on ``split``.

    Every single shot has its own search, truncation and fine-tuning, with as many trials and epochs as an iteration
    of the loop has; the smallest comes once more with as many epochs as all of the loop's iterations together, so that
    what the loop gains is not mere training. Killed, the same call goes on.

    Args:
        toolkit: of the experiment, with the loop's options; experiments come below ``toolkit.root``.
        levels: of the single shots, times smaller.
        split: of test data; looked at only after the last training.
        folder: for the results.

    Returns:
        The table.
    """
    runs = []
    for level in levels:
        single = {"compression": level, "target": level, "max_iterations": 1, "retries": 0, "tolerance": 100.0}
        runs += [("single shot", root, iteration) for root, iteration in _run(toolkit, f"single_{level:g}x", single)]
    loop = _run(toolkit, "loop", {})
    if loop:
        long = {**single, "finetune": {**toolkit.config.finetune, "epochs": _epochs(*loop[-1])}}
        runs += [
            ("single shot", root, iteration) for root, iteration in _run(toolkit, f"single_{levels[-1]:g}x_long", long)
        ]
    runs += [("loop", root, iteration) for root, iteration in loop]
    reference = toolkit.errors(toolkit.original, split)
    size = toolkit.cost(toolkit.original)
    results = [_result("original", toolkit.original.name, 1.0, size, 0, None, reference, reference)]
    for way, root, iteration in runs:
        errors = toolkit.errors(root / iteration.folder, split)
        epochs = _epochs(root, iteration)
        name = root.name if way == "single shot" else iteration.folder
        results.append(_result(way, name, iteration.compression, iteration.cost, epochs, iteration, errors, reference))
    pictures.single_shot_and_loop(results, split, folder / "loop.png")
    return write_results(
        folder,
        "loop",
        "Single shot against the loop",
        (
            *("way", "experiment", "x smaller", toolkit.config.budget, "epochs"),
            *("dev WER %", f"{split} WER %", "difference, points [95 %]", "P(not worse)", ""),
        ),
        [_row(result) for result in results],
        [
            f"`{toolkit.original.name}`; each single shot: one search of {toolkit.config.trials} trials "
            f"({toolkit.config.controller}), truncation ({toolkit.config.truncation}) and fine-tuning, as in one "
            "iteration of the loop (`_long`: with the epochs of all). Epochs: of fine-tuning since the original. "
            f"Differences to the original on {split}: paired bootstrap over utterances; P(not worse): share of "
            "resamples without more errors."
        ],
        {"experiment": toolkit.original.name, "split": split, "results": results},
        left=2,
        pictures=["loop.png"],
    )


def _run(toolkit: EspnetToolkit, name: str, changes: dict) -> list[tuple[Path, Iteration]]:
    config = dataclasses.replace(toolkit.config, **changes)
    inner = dataclasses.replace(toolkit, config=config, root=toolkit.root / name)
    inner.root.mkdir(parents=True, exist_ok=True)
    chosen = toolkit.root / "search_set.json"  # one for all
    if chosen.exists() and not (inner.root / chosen.name).exists():
        shutil.copy(chosen, inner.root)
    print(f"{name}:")
    try:
        done = iterate.run(inner, toolkit.original, inner.root, config.loop)
    except LrsmsError as error:  # beyond what the search space can reach
        print(f"{name}: {error}")
        done = []
    if (inner.root / chosen.name).exists() and not chosen.exists():
        shutil.copy(inner.root / chosen.name, toolkit.root)
    return [(inner.root, iteration) for iteration in done]


def _epochs(root: Path, iteration: Iteration) -> int:
    """Of fine-tuning, all iterations that led here together."""
    own = json.loads((root / iteration.folder / "summary.json").read_text())["epochs"]
    before = root / iteration.source / "accepted.json"
    return own + (_epochs(root, Iteration(**json.loads(before.read_text()))) if before.exists() else 0)


def _result(
    way: str,
    name: str,
    times: float,
    cost: float,
    epochs: int,
    iteration: Iteration | None,
    errors: Errors,
    reference: Errors,
) -> dict:
    comparison = paired_bootstrap(reference.errors, errors.errors, reference.words)
    return {
        **{"way": way, "experiment": name, "times": times, "cost": cost, "epochs": epochs},
        "dev_wer": None if iteration is None else iteration.wer,
        "accepted": None if iteration is None else iteration.accepted,
        "wer": errors.rate,
        **{
            "difference": comparison.difference,
            "low": comparison.low,
            "high": comparison.high,
            "not_worse": comparison.not_worse,
        },
    }


def _row(result: dict) -> tuple[str, ...]:
    verdict = "" if result["way"] != "loop" else "accepted" if result["accepted"] else "rejected"
    return (
        *(
            result["way"],
            result["experiment"],
            f"{result['times']:.2f}",
            f"{result['cost']:,.0f}",
            str(result["epochs"]),
        ),
        *("-" if result["dev_wer"] is None else f"{result['dev_wer']:.2f}", f"{result['wer']:.2f}"),
        *(
            f"{result['difference']:+.2f} [{result['low']:+.2f}, {result['high']:+.2f}]",
            f"{result['not_worse']:.3f}",
            verdict,
        ),
    )
