"""How fast models train: forward, backward and update on made-up speech, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from lrsms.bench.results import write_results
from lrsms.espnet.step_time import time_steps


def train_speed(configs: Sequence[Path], folder: Path, *, threads: int | None = None, **options) -> str:
    """Training steps of each config, in turns.

    Args:
        configs: training YAMLs; the first is what the others are compared with.
        folder: for the results.
        threads: of torch; None for its own number.
        **options: of :func:`lrsms.espnet.step_time.time_steps`.

    Returns:
        The table.

    Raises:
        LrsmsError: a config that training would refuse.
    """
    if threads:
        torch.set_num_threads(threads)
    found = time_steps(configs, **options)
    rows = [
        (
            *(Path(one.config).stem, f"{one.parameters:,}"),
            *(f"{seconds:.3f}" for seconds in (one.forward, one.backward, one.step)),
            *(f"{found[0].step / one.step:.2f}", f"{one.update:.3f}"),
            f"{one.memory / 2**30:.1f}" if one.memory else "-",
        )
        for one in found
    ]
    device = (
        torch.cuda.get_device_name() if options["device"] == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    )
    precision = "bfloat16 autocast" if options["amp"] else "float32"
    return write_results(
        folder,
        "train",
        "Training speed",
        (
            *("configuration", "parameters", "forward s", "backward s", "both s", "x faster", "update s"),
            "GPU memory GiB",
        ),
        rows,
        [
            f"{device}, {precision}, batches of {options['batch']} x {options['seconds']:g} s, medians of "
            f"{options['steps']} steps in turns after one to warm up. Faster: forward and backward, than the first."
        ],
        {"results": [asdict(one) for one in found], "options": options},
    )
