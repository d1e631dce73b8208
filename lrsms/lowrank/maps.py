"""Layer maps: how a role's rank is spread over depth, always at the budget of the uniform map."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

_SLOPE = 0.5  # a sloped map runs from (1 - slope) to (1 + slope) of the mean rank


def _linear(position: float) -> float:
    return 2 * position - 1


MAPS: dict[str, Callable[[float], float]] = {
    # relative depth in [0, 1] -> deviation from the mean in [-1, 1], symmetric so that it sums to zero
    "uniform": lambda position: 0.0,
    "linear": _linear,
    "linear_decreasing": lambda position: -_linear(position),
    "cosine": lambda position: -math.cos(math.pi * position),  # as linear, but flat at both ends
}


def spread_ranks(
    mean_rank: int, layers: int, layer_map: str | Sequence[float], *, multiple: int, largest: int
) -> list[int]:
    """Ranks of ``layers`` equal-shaped layers, first to last, that sum to ``layers * mean_rank``.

    ``linear`` gives deeper layers more (LR-SMS, arXiv 2410.07771, names a linear map; its slope is not public to
    us: ours runs from half to one and a half times the mean), ``linear_decreasing`` the other way round. The slope
    is cut if the top would pass ``largest``, so that a sloped map never turns a factored layer dense.

    Args:
        mean_rank: rank of the uniform map, a multiple of ``multiple`` or smaller than it.
        layers: number of layers, at least 1.
        layer_map: a key of :data:`MAPS`, or one positive weight per layer: ranks are in proportion to them, between
            one ``multiple`` and ``largest``.
        multiple: ranks are multiples of this.
        largest: no rank exceeds this (the largest rank below break-even).

    Raises:
        ValueError: the number of weights is not ``layers``.
    """
    unit = min(multiple, mean_rank)
    mean_units, most_units = mean_rank // unit, max(largest // unit, mean_rank // unit)
    if isinstance(layer_map, str):
        slope = min(_SLOPE, most_units / mean_units - 1, 1 - 1 / mean_units)
        positions = [index / (layers - 1) if layers > 1 else 0.5 for index in range(layers)]
        ideal = [mean_units * (1 + slope * MAPS[layer_map](position)) for position in positions]
    else:
        if len(layer_map) != layers:
            raise ValueError(f"{len(layer_map)} weights for {layers} layers")
        ideal = _in_proportion(layer_map, mean_units * layers, 1, most_units)
    return [units * unit for units in _round_keeping_sum(ideal, mean_units * layers)]


def stable_rank(matrix: torch.Tensor) -> float:
    """Squared Frobenius norm over squared spectral norm: between 1 and the rank of ``matrix``."""
    values = torch.linalg.svdvals(matrix.float())
    return float(values.square().sum() / values[0].square())


def _in_proportion(weights: Sequence[float], total: float, least: float, most: float) -> list[float]:
    """Shares of ``total`` in proportion to ``weights``, but each between ``least`` and ``most``."""
    low, high = 0.0, most / min(weights)
    for _ in range(100):  # the scale at which the clamped shares add up, by bisection
        scale = (low + high) / 2
        shares = [min(most, max(least, scale * weight)) for weight in weights]
        low, high = (scale, high) if sum(shares) < total else (low, scale)
    return shares


def _round_keeping_sum(values: list[float], total: int) -> list[int]:
    """Largest-remainder rounding: whole numbers that sum to ``total``."""
    floors = [math.floor(value + 1e-9) for value in values]
    # Among equal remainders the smaller value first, so that a map and its mirror image stay mirror images.
    order = [(round(floor - value, 9), value) for floor, value in zip(floors, values)]
    by_remainder = sorted(range(len(values)), key=order.__getitem__)
    for index in by_remainder[: total - sum(floors)]:
        floors[index] += 1
    return floors
