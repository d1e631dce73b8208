"""How much of the work that a factored layer saves becomes time: one linear layer, by shape and rank."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from lrsms.bench.results import write_results
from lrsms.bench.sizes import STOCK, write_arms
from lrsms.bench.timing import Spread, side_by_side
from lrsms.errors import LrsmsError
from lrsms.espnet.config import read_yaml
from lrsms.lowrank import LowRankLinear

TENSORLY = "tensorly-torch"


def shapes_of(given: Sequence[str] | None, benchmarks: Path, size: str) -> list[tuple[int, int]]:
    """Shapes ``(in, out)`` from the command line, or those of a size: its feed-forward layers and attention.

    Raises:
        LrsmsError: a shape that is not two whole numbers, or an unknown size.
    """
    if not given:
        with tempfile.TemporaryDirectory() as scratch:
            (config,) = write_arms(benchmarks, size, [STOCK], Path(scratch))
            encoder = read_yaml(config)["encoder_conf"]
        width, wide = encoder["output_size"], encoder["linear_units"]
        return [(width, wide), (wide, width), (width, width)]
    shapes = []
    for text in given:
        sizes = text.split("x")
        if len(sizes) != 2 or not all(size.isdigit() and int(size) > 0 for size in sizes):
            raise LrsmsError(f"--shapes: {text!r} is not a shape; write in and out features as 768x3072")
        shapes.append((int(sizes[0]), int(sizes[1])))
    return shapes


def layer_speed(
    shapes: Sequence[tuple[int, int]],
    ratios: Sequence[float],
    folder: Path,
    *,
    frames: int = 4000,
    rounds: int = 10,
    threads: int = 1,
    device: str = "cpu",
    amp: bool = False,
) -> str:
    """Each shape dense, factored by this package, as two plain ``nn.Linear``, and by tensorly-torch where installed.

    Args:
        shapes: ``(in, out)`` of the layers.
        ratios: ranks as shares of ``min(in, out)``.
        folder: for the results.
        frames: rows of the input.
        rounds: timed passes of each, in turns, after two to warm up.
        threads, device: of torch.
        amp: bfloat16 (autocast).

    Returns:
        The table.

    Raises:
        LrsmsError: a ratio outside (0, 1).
    """
    for ratio in ratios:
        if not 0 < ratio < 1:
            raise LrsmsError(f"--ratios: {ratio!r} is not in (0, 1)")
    torch.set_num_threads(threads)
    results = []
    for inputs, outputs in shapes:
        x = torch.randn(frames, inputs, device=device)
        ranks = {ratio: max(1, round(min(inputs, outputs) * ratio)) for ratio in ratios}
        layers: dict[tuple[str, float | None], nn.Module] = {("dense", None): nn.Linear(inputs, outputs)}
        for ratio, rank in ranks.items():
            layers["ours", ratio] = LowRankLinear(inputs, outputs, rank=rank)
            layers["two nn.Linear", ratio] = nn.Sequential(
                nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs)
            )
            tensorized = _tensorly(inputs, outputs, rank)
            if tensorized is not None:
                layers[TENSORLY, ratio] = tensorized
        for what in ("forward", "forward and backward"):
            arms = {key: _pass(layer.to(device), x, what != "forward", amp) for key, layer in layers.items()}
            seconds = side_by_side(arms, rounds=rounds, warm_up=2, desc=f"{inputs} x {outputs}, {what}")
            base = Spread.of(seconds["dense", None]).median
            for key, values in seconds.items():
                name, share = key
                spread = Spread.of(values)
                times = 1.0 if share is None else inputs * outputs / (ranks[share] * (inputs + outputs))
                weights = sum(matrix.numel() for matrix in layers[key].parameters() if matrix.dim() > 1)
                results.append(
                    {
                        **{"in": inputs, "out": outputs, "layer": name, "ratio": share, "pass": what},
                        **{"rank": share and ranks[share], "weights": weights, "seconds": spread.__dict__},
                        **{"flop_ratio": times, "times_faster": base / spread.median},
                        "share": base / spread.median / times,
                    }
                )
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {threads} thread(s)"
    missing = "" if any(result["layer"] == TENSORLY for result in results) else f" {TENSORLY} is not installed."
    return write_results(
        folder,
        "layer",
        "Speed of one layer",
        (
            *("in x out", "layer", "rank", "pass", "weights", "ms [quartiles]", "x faster", "x fewer FLOPs"),
            "share achieved",
        ),
        [_row(result) for result in results],
        [
            f"{where}, {'bfloat16 autocast' if amp else 'float32'}, {frames} frames, medians of {rounds} in turns. "
            "Share achieved: times faster over times fewer FLOPs. Weights: without biases. "
            f"{TENSORLY}: CP of the matrix with the same rank, kept factorized.{missing}"
        ],
        {"results": results, "frames": frames, "threads": threads, "device": device, "amp": amp},
        left=2,
    )


def _tensorly(inputs: int, outputs: int, rank: int) -> nn.Module | None:
    """Its factorized layer (CP of the matrix, multiplied factor by factor); None where it is not installed."""
    try:
        import tltorch
    except ImportError:
        return None
    return tltorch.FactorizedLinear((inputs,), (outputs,), factorization="cp", rank=rank, implementation="factorized")


def _pass(layer: nn.Module, x: torch.Tensor, backward: bool, amp: bool) -> Callable[[], None]:
    leaf = x.clone().requires_grad_(backward)

    def run() -> None:
        with torch.set_grad_enabled(backward), torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
            y = layer(leaf)
        if backward:
            leaf.grad = None
            layer.zero_grad()
            y.backward(torch.ones_like(y))
        if x.is_cuda:
            torch.cuda.synchronize()

    return run


def _row(result: dict) -> tuple[str, ...]:
    spread = result["seconds"]
    low_rank = result["rank"] is not None
    return (
        *(
            f"{result['in']} x {result['out']}",
            result["layer"],
            str(result["rank"] or "-"),
            result["pass"],
            f"{result['weights']:,}",
        ),
        f"{spread['median'] * 1e3:.2f} [{spread['low'] * 1e3:.2f}, {spread['high'] * 1e3:.2f}]",
        *(
            f"{result['times_faster']:.2f}",
            f"{result['flop_ratio']:.2f}",
            f"{result['share']:.0%}" if low_rank else "-",
        ),
    )
