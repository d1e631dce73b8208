"""How fast models train: forward, backward and update on made-up speech, each model in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from lrsms.bench.results import write_results
from lrsms.bench.timing import Spread
from lrsms.bench.workers import Worker, workers
from lrsms.espnet.bench.dummy import DummyTraining, Step


def train_speed(
    configs: Sequence[Path],
    folder: Path,
    *,
    batch: int,
    seconds: float,
    steps: int = 5,
    spread: float = 0.2,
    device: str = "cpu",
    amp: bool = False,
    **options,
) -> str:
    """Training steps of each config, in turns.

    Args:
        configs: training YAMLs; the first is what the others are compared with.
        folder: for the results.
        batch, seconds, spread: of :meth:`lrsms.espnet.bench.dummy.DummyTraining.dummy_step`.
        steps: timed steps of each config; one more before them warms up.
        device, amp, **options: of :class:`lrsms.espnet.bench.dummy.DummyTraining`.

    Returns:
        The table.

    Raises:
        LrsmsError: a config that training would refuse, or no memory for the models side by side.
    """
    options = {"device": device, "amp": amp, **options}
    makers = {str(path): (DummyTraining, (path,), options) for path in configs}
    with workers(makers, on_gpu=device != "cpu") as arms:
        taken = _in_turns(arms, steps, batch=batch, seconds=seconds, spread=spread)
        results = [_result(path, arm, taken[path]) for path, arm in arms.items()]
    base = results[0]
    for result in results:
        result["times_faster"] = result["audio_per_second"] / base["audio_per_second"]
        result["memory_share"] = result["memory"] / base["memory"]
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {options.get('threads', 1)} thread(s)"
    precision = "bfloat16 autocast" if amp else "float32"
    memory = "of torch on the GPU" if device == "cuda" else "the most that the process has had"
    return write_results(
        folder,
        "train",
        "Training speed",
        (
            *("configuration", "parameters", "audio s per s", "x faster", "step s [quartiles]"),
            *("forward s", "backward s", "update s", "CPU s", "peak memory GiB", "of the first's"),
        ),
        [_row(result) for result in results],
        [
            f"{where}, {precision}, batches of {batch} utterances, the longest of {seconds:g} s and the shortest "
            f"{spread:.0%} shorter; {steps} steps in turns after one to warm up, medians. Each model in a process of "
            f"its own; CPU s: processor time of a step; memory: {memory}. "
            "Faster: audio per second of the whole step, than the first."
        ],
        {"results": results, "options": {**options, "batch": batch, "seconds": seconds, "spread": spread}},
    )


def _in_turns(arms: Mapping[str, Worker], steps: int, **step) -> dict[str, list[Step]]:
    names = list(arms)
    taken: dict[str, list[Step]] = {name: [] for name in names}
    with tqdm(total=(steps + 1) * len(names), desc="training steps", unit="step", delay=2) as bar:
        for number in range(-1, steps):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                measured = arms[name].call("dummy_step", **step, seed=number + 1)
                if number >= 0:
                    taken[name].append(measured)
                bar.update()
    return taken


def _result(path: str, arm: Worker, steps: Sequence[Step]) -> dict:
    whole = Spread.of([step.seconds for step in steps])
    parts = ("forward", "backward", "update")
    return {
        "config": Path(path).stem,
        "parameters": arm.call("parameters"),
        "audio_per_second": steps[0].audio / whole.median,
        "step": asdict(whole),
        "cpu": statistics.median(step.cpu for step in steps),
        **{part: statistics.median(getattr(step, part) for step in steps) for part in parts},
        "memory": arm.call("peak_memory"),
    }


def _row(result: Mapping) -> tuple[str, ...]:
    step = result["step"]
    return (
        *(
            result["config"],
            f"{result['parameters']:,}",
            f"{result['audio_per_second']:.2f}",
            f"{result['times_faster']:.2f}",
        ),
        f"{step['median']:.3f} [{step['low']:.3f}, {step['high']:.3f}]",
        *(f"{result[part]:.3f}" for part in ("forward", "backward", "update", "cpu")),
        *(f"{result['memory'] / 2**30:.2f}", f"{result['memory_share']:.2f}"),
    )
