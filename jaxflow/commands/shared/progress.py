"""Long runs in pieces of one compiled program, so that a person sees progress."""

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import jaxflow as jf
from jaxflow.solve.trajectory import FINISHED

CHUNKS = 25


class Progress:
    """One bar over several runs, given by name with their shares of it; quiet when the output is not a terminal."""

    def __init__(self, shares: dict[str, float]):
        self.shares = iter(shares.items())
        self.share = 0.0
        form = "{desc:<14} {bar} {percentage:3.0f} % [{elapsed}<{remaining}]"
        total = sum(shares.values())
        self.bar = tqdm(total=total, bar_format=form, file=sys.stderr, disable=None, leave=False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def start(self) -> None:
        """The next run begins."""
        name, self.share = next(self.shares)
        self.bar.set_description_str(name)

    def advance(self, part: float) -> None:
        """A part of the present run is done."""
        self.bar.update(part * self.share)


def iterate_in_chunks(run: Callable, params: Any, state: Any, steps: int, every: int, progress: Progress):
    """`run(params, state, steps)` in about `CHUNKS` pieces, each resumed from the last: trajectory and seconds."""
    length = every * _piece(steps // every if steps % every == 0 else -(-steps // every))
    progress.start()
    began, parts, done = time.perf_counter(), [], 0
    while done < steps:
        piece = min(length, steps - done)
        part = jax.block_until_ready(run(params, state, piece))
        parts, params, state, done = [*parts, part], part.params, part.state, done + piece
        progress.advance(piece / steps)
    return _join(parts), time.perf_counter() - began


def solve_in_chunks(run: Callable, state: Any, times: Any, progress: Progress, chunks: int = CHUNKS):
    """`run(state, times, piece)` over about `chunks` pieces of `times`, each from the last one's state."""
    times = np.asarray(times)
    length = _piece(times.size - 1, chunks)
    progress.start()
    began, parts = time.perf_counter(), []
    for piece, first in enumerate(range(0, times.size - 1, length)):
        some = times[first : first + length + 1]
        part = jax.block_until_ready(run(state, some, piece))
        parts, state = [*parts, part], part.state
        progress.advance((some.size - 1) / (times.size - 1))
    return _join(parts), time.perf_counter() - began


def timed(run: Callable[[], Any], progress: Progress):
    """The next run in one piece, and its seconds."""
    progress.start()
    began = time.perf_counter()
    result = jax.block_until_ready(run())
    progress.advance(1.0)
    return result, time.perf_counter() - began


def _piece(intervals: int, chunks: int = CHUNKS) -> int:
    """The number of intervals in a chunk: a divisor where there is one, as another length compiles once more."""
    few = range(chunks, chunks // 4, -1)
    return next((intervals // n for n in few if intervals % n == 0), -(-intervals // chunks))


def _join(parts: list[jf.Trajectory]) -> jf.Trajectory:
    """One trajectory from consecutive ones; the first of them that did not finish says how it ended."""
    axis = np.ndim(parts[0].status)

    def joined(at, *arrays):
        later = (np.delete(x, 0, at) for x in arrays[1:])  # a part begins where the one before it ended
        return np.concatenate([arrays[0], *later], at)

    status, stopped = np.asarray(parts[-1].status), np.asarray(parts[-1].stopped)
    for part in reversed(parts):
        ended = np.asarray(part.status) != FINISHED
        status, stopped = np.where(ended, part.status, status), np.where(ended, part.stopped, stopped)
    total: Any = lambda name: np.sum([getattr(part, name) for part in parts], axis=0)
    return dataclasses.replace(
        parts[-1],
        times=joined(0, *(part.times for part in parts)),
        values=jax.tree.map(lambda *xs: joined(axis, *xs), *(part.values for part in parts)),
        steps=total("steps"),
        evaluations=total("evaluations"),
        status=status,
        stopped=stopped,
    )
