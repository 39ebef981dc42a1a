"""Fair timing: compile first, then take turns, wait for every result, and compare medians."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def medians(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each contestant, the median over rounds in which each has its turn; compilation left out."""
    for contestant in contestants.values():
        jax.block_until_ready(contestant())
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            begin = time.perf_counter()
            jax.block_until_ready(contestant())
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}
