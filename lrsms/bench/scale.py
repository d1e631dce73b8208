"""How a training step's time grows with width, depth, utterance length and processes; and what many GPUs exchange."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lrsms.bench.distributed import TogetherTraining, free_port
from lrsms.bench.results import write_results
from lrsms.bench.sizes import write_arms
from lrsms.bench.timing import Spread
from lrsms.bench.workers import workers
from lrsms.scoring.report import markdown_table

FORECAST = (8, 64)  # GPUs
LINKS = {"100 Gbit/s Ethernet": 12.5e9, "NVLink, 450 GB/s a direction": 450e9}  # bytes per second, nominal


@dataclass(frozen=True)
class Variation:
    """One place in the sweep: what differs from the size's own configuration."""

    what: str
    value: float
    changes: Mapping
    seconds: float
    world: int = 1


def step_time_over_scale(
    benchmarks: Path,
    size: str,
    arms: Sequence[str],
    folder: Path,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    lengths: Sequence[float],
    worlds: Sequence[int],
    batch: int = 2,
    seconds: float = 8.0,
    steps: int = 3,
    vocab_size: int = 5000,
) -> str:
    """Training steps of the arms over one dimension at a time, side by side; each process computes on one thread.

    Args:
        benchmarks: folder of the sizes and arms.
        size, arms: of :func:`lrsms.bench.sizes.write_arms`; the first arm is what the others are compared with.
        folder: for the results.
        widths: of the encoder; heads of 64, feed-forward four times as wide.
        depths: blocks of the encoder.
        lengths: seconds of an utterance.
        worlds: processes that train together over gloo, ``batch`` utterances in each.
        batch, seconds: of a step.
        steps: timed of each, in turns, after one to warm up.
        vocab_size: tokens of the output.

    Returns:
        The tables.
    """
    variations = [Variation("width", width, _width(width), seconds) for width in widths]
    variations += [Variation("depth", depth, {"encoder_conf": {"num_blocks": depth}}, seconds) for depth in depths]
    variations += [Variation("utterance s", length, {}, length) for length in lengths]
    variations += [Variation("processes", world, {}, seconds, world) for world in worlds]
    results: list[dict] = []
    with tempfile.TemporaryDirectory() as scratch:
        for variation in tqdm(variations, desc="scale", unit="variation"):
            configs = write_arms(benchmarks, size, arms, Path(scratch), variation.changes)
            results += _measure(variation, dict(zip(arms, configs)), batch, steps, vocab_size)
        gradients = _gradients(write_arms(benchmarks, size, arms, Path(scratch)), arms, vocab_size)
    forecast = _forecast(gradients)
    table = write_results(
        folder,
        "scale",
        "Step time over scale",
        ("over", "value", "arm", "parameters", "step s [quartiles]", "audio s per s", "x faster"),
        [_row(result) for result in results],
        [
            f"Size {size}: one thread a process, batches of {batch} x {seconds:g} s a process where nothing else is "
            f"said, {steps} steps in turns after one to warm up. Faster: than {arms[0]} at the same value.",
            "\n## Gradients of one update\n",
            _forecast_table(forecast),
            "\nOn paper, not run: float32 gradients; in a ring all-reduce each process sends 2 (n - 1) / n times as "
            "many bytes, at the link's nominal speed, none of it hidden behind the backward pass as it would be.",
        ],
        {"results": results, "forecast": forecast, "links": LINKS, "size": size, "batch": batch},
        left=3,
    )
    return f"{table}\n\n{_forecast_table(forecast)}"


def _width(width: int) -> dict:
    heads = max(1, width // 64)
    return {
        "encoder_conf": {"output_size": width, "attention_heads": heads, "linear_units": 4 * width},
        "decoder_conf": {"attention_heads": heads, "linear_units": 4 * width},
    }


def _measure(variation: Variation, configs: Mapping[str, Path], batch: int, steps: int, vocab_size: int) -> list[dict]:
    makers: dict[tuple[str, int], tuple] = {}
    for arm, config in configs.items():
        port = free_port()
        for rank in range(variation.world):
            makers[arm, rank] = (TogetherTraining, (config, rank, variation.world, port), {"vocab_size": vocab_size})
    seconds: dict[str, list[float]] = {arm: [] for arm in configs}
    names = list(configs)
    with workers(makers) as started:
        for number in range(-1, steps):
            turn = number % len(names)
            for arm in names[turn:] + names[:turn]:
                team = [started[arm, rank] for rank in range(variation.world)]
                for worker in team:
                    worker.send("dummy_step", batch, variation.seconds)
                spent = max(worker.receive().seconds for worker in team)
                if number >= 0:
                    seconds[arm].append(spent)
        parameters = {arm: started[arm, 0].call("parameters") for arm in configs}
    base, results = Spread.of(seconds[names[0]]).median, []
    for arm in names:
        spread = Spread.of(seconds[arm])
        results.append(
            {
                **{"over": variation.what, "value": variation.value, "arm": arm, "parameters": parameters[arm]},
                **{"step": spread.__dict__, "times_faster": base / spread.median},
                "audio_per_second": variation.world * batch * variation.seconds / spread.median,
            }
        )
    return results


def _gradients(configs: Sequence[Path], arms: Sequence[str], vocab_size: int) -> dict[str, int]:
    bytes_of_arms = {}
    for arm, config in zip(arms, configs):
        options = {"vocab_size": vocab_size, "update": False}
        with workers({arm: (TogetherTraining, (config, 0, 1, 0), options)}) as started:
            bytes_of_arms[arm] = started[arm].call("gradient_bytes")
    return bytes_of_arms


def _forecast(gradients: Mapping[str, int]) -> list[dict]:
    rows = []
    for arm, size in gradients.items():
        for count in FORECAST:
            sent = 2 * (count - 1) / count * size
            times = {link: sent / speed for link, speed in LINKS.items()}
            rows.append({"arm": arm, "gpus": count, "gradient_bytes": size, "sent_bytes": sent, "seconds": times})
    return rows


def _forecast_table(forecast: Sequence[Mapping]) -> str:
    rows = [
        (
            *(row["arm"], str(row["gpus"]), f"{row['gradient_bytes'] / 1e6:,.0f}", f"{row['sent_bytes'] / 1e6:,.0f}"),
            *(f"{1e3 * seconds:.1f}" for seconds in row["seconds"].values()),
        )
        for row in forecast
    ]
    links = [f"ms, {link}" for link in LINKS]
    return markdown_table(("arm", "GPUs", "gradients MB", "sent by each MB", *links), rows)


def _row(result: Mapping) -> tuple[str, ...]:
    step = result["step"]
    return (
        *(result["over"], f"{result['value']:g}", result["arm"], f"{result['parameters']:,}"),
        f"{step['median']:.3f} [{step['low']:.3f}, {step['high']:.3f}]",
        *(f"{result['audio_per_second']:.2f}", f"{result['times_faster']:.2f}"),
    )
