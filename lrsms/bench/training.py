"""How fast models train: forward, backward and update on made-up speech, each model in a process of its own."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from lrsms.bench.results import write_results
from lrsms.bench.timing import Spread
from lrsms.bench.workers import Worker, workers
from lrsms.espnet.bench.dummy import DummyTraining, Step, check_precision


def train_speed(
    configs: Sequence[Path],
    folder: Path,
    *,
    batches: Sequence[int],
    seconds: float,
    steps: int = 5,
    spread: float = 0.2,
    device: str = "cpu",
    precisions: Sequence[str] = ("fp32",),
    **options,
) -> str:
    """Training steps of each config, in turns; the results are written after each precision and batch.

    Args:
        configs: training YAMLs; the first is what the others are compared with.
        folder: for the results.
        batches: utterances in a batch; with several, each in turn.
        seconds, spread: of :meth:`lrsms.espnet.bench.dummy.DummyTraining.dummy_step`.
        steps: timed steps of each config; one more before them warms up.
        device, **options: of :class:`lrsms.espnet.bench.dummy.DummyTraining`.
        precisions: any of :data:`lrsms.espnet.bench.dummy.PRECISIONS`; with several, each in turn.

    Returns:
        The table.

    Raises:
        LrsmsError: a config that training would refuse, an unknown precision, or no memory for the models side by side.
    """
    for precision in precisions:
        check_precision(precision, device)
    options = {"device": device, **options}
    makers = {str(path): (DummyTraining, (path,), options) for path in configs}
    results: list[dict] = []
    table = ""
    with workers(makers, on_gpu=device != "cpu") as arms:
        for precision, batch in itertools.product(precisions, batches):
            for arm in arms.values():
                arm.call("use_precision", precision)
            if batch == batches[0]:
                _compile(arms, device)
            taken = _in_turns(arms, steps, device, batch=batch, seconds=seconds, spread=spread)
            found = [_result(path, arm, taken[path]) for path, arm in arms.items()]
            for result in found:
                result |= {"precision": precision, "batch": batch}
                result["times_faster"] = result["audio_per_second"] / found[0]["audio_per_second"]
                result["memory_share"] = result["memory"] / found[0]["memory"]
            results += found
            given = {**options, "batches": list(batches), "seconds": seconds, "spread": spread, "steps": steps}
            table = _write(folder, results, given)
    return table


def _write(folder: Path, results: Sequence[Mapping], options: Mapping) -> str:
    on_gpu = options["device"] == "cuda"
    where = torch.cuda.get_device_name() if on_gpu else f"CPU, {options.get('threads', 1)} thread(s)"
    memory = "of torch on the GPU" if on_gpu else "the most that the process has had"
    turns = "config after config" if on_gpu else "in turns"
    return write_results(
        folder,
        "train",
        "Training speed",
        (
            *("configuration", "precision", "batch", "parameters", "audio s per s", "x faster"),
            *(
                "step s [quartiles]",
                "forward s",
                "backward s",
                "update s",
                "CPU s",
                "peak memory GiB",
                "of the first's",
            ),
        ),
        [_row(result) for result in results],
        [
            f"{where}; bf16: autocast; fp32: without TF32. The longest utterance of a batch has {options['seconds']:g} "
            f"s, the shortest is {options['spread']:.0%} shorter; {options['steps']} steps, {turns}, after "
            "one to warm up, medians. Each model in a process of its own; CPU s: processor time of a step; memory: "
            f"{memory}. Faster: audio per second of the whole step, than the first at the same precision and batch."
        ],
        {"results": results, "options": options},
    )


def _compile(arms: Mapping[str, Worker], device: str) -> None:
    """Let all arms take their first steps on a GPU beside each other: those that torch compiles take minutes."""
    for seed in (0, 1) if device == "cuda" else ():
        for arm in arms.values():
            arm.send("dummy_step", batch=2 + seed, seconds=4.0 + seed, seed=seed)
        for arm in arms.values():
            arm.receive()


def _in_turns(arms: Mapping[str, Worker], steps: int, device: str, **step) -> dict[str, list[Step]]:
    """On a GPU one after another, whose memory does not hold all; on a CPU in turns, for it has other work as well."""
    names = list(arms)
    taken: dict[str, list[Step]] = {name: [] for name in names}
    with tqdm(total=(steps + 1) * len(names), desc="training steps", unit="step", delay=2) as bar:

        def take(name: str, number: int) -> None:
            measured = arms[name].call("dummy_step", **step, seed=number + 1)
            if number >= 0:
                taken[name].append(measured)
            bar.update()

        if device == "cuda":
            for name in names:
                arms[name].call("forget_peak_memory")
                for number in range(-1, steps):
                    take(name, number)
                arms[name].call("release_memory")
            return taken
        for number in range(-1, steps):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                take(name, number)
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
            result["precision"],
            str(result["batch"]),
            f"{result['parameters']:,}",
            f"{result['audio_per_second']:.2f}",
            f"{result['times_faster']:.2f}",
        ),
        f"{step['median']:.3f} [{step['low']:.3f}, {step['high']:.3f}]",
        *(f"{result[part]:.3f}" for part in ("forward", "backward", "update", "cpu")),
        *(f"{result['memory'] / 2**30:.2f}", f"{result['memory_share']:.2f}"),
    )
