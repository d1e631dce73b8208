"""Times side by side: what is compared takes turns, so that whatever else the machine does falls on all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tqdm import tqdm

Key = TypeVar("Key")  # names what is compared: a word, or several in a tuple


@dataclass(frozen=True)
class Spread:
    """Repeated seconds: median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Median and quartiles of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def side_by_side(
    arms: Mapping[Key, Callable[[], object]], *, rounds: int, warm_up: int = 1, desc: str = "rounds"
) -> dict[Key, list[float]]:
    """Seconds of each arm in each round; in every round each arm runs once, the order turning by one.

    Args:
        arms: name -> what is timed.
        rounds: that count.
        warm_up: rounds before, that do not count.
        desc: of the progress bar.
    """
    names = list(arms)
    seconds: dict[Key, list[float]] = {name: [] for name in names}
    for number in tqdm(range(-warm_up, rounds), desc=desc, unit="round", leave=False, delay=2):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began = time.perf_counter()
            arms[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds
