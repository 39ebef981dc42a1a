"""Long runs in pieces of one compiled program, so that a person sees progress."""

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

import jaxflow as jf

CHUNKS = 20


class Progress:
    """One bar over several runs of equal share; quiet when the output is not a terminal."""

    def __init__(self, names: tuple[str, ...]):
        self.names = iter(names)
        form = "{desc:<14} {bar} {percentage:3.0f} % [{elapsed}<{remaining}]"
        self.bar = tqdm(total=float(len(names)), bar_format=form, file=sys.stderr, disable=None, leave=False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def start(self) -> None:
        """The next run begins."""
        self.bar.set_description_str(next(self.names))

    def advance(self, share: float) -> None:
        """A share of the present run is done."""
        self.bar.update(share)


def iterate_in_chunks(run: Callable, params: Any, steps: int, every: int, progress: Progress):
    """`run(params, state, steps)` in about `CHUNKS` pieces, each resumed from the last: trajectory and seconds."""
    records = -(-steps // every)
    length = every * -(-records // CHUNKS)
    progress.start()
    began, parts, done, state = time.perf_counter(), [], 0, None
    while done < steps:
        piece = min(length, steps - done)
        part = jax.block_until_ready(run(params, state, piece))
        parts, params, state, done = [*parts, part], part.params, part.state, done + piece
        progress.advance(piece / steps)
    return _join(parts), time.perf_counter() - began


def flow_in_chunks(dynamics, params, times: jax.Array, record, progress: Progress):
    """`integrate` over about `CHUNKS` pieces of `times`, the solver chosen by stiffness in each."""
    length = -(-(times.size - 1) // CHUNKS)
    progress.start()
    began, parts = time.perf_counter(), []
    for first in range(0, times.size - 1, length):
        piece = times[first : first + length + 1]
        part = jf.integrate(dynamics, params, piece, solver="auto", record=record)
        parts, params = [*parts, jax.block_until_ready(part)], part.params
        progress.advance((piece.size - 1) / (times.size - 1))
    return _join(parts), time.perf_counter() - began


def _join(parts: list[jf.Trajectory]) -> jf.Trajectory:
    """One trajectory from consecutive ones; the first of them that did not finish says how it ended."""
    axis = parts[0].status.ndim
    later = lambda x, at: jax.lax.slice_in_dim(x, 1, x.shape[at], axis=at)
    joined = lambda at, *xs: jnp.concatenate([xs[0], *(later(x, at) for x in xs[1:])], at)
    status, stopped = parts[-1].status, parts[-1].stopped
    for part in reversed(parts):
        status = jnp.where(part.status != 0, part.status, status)
        stopped = jnp.where(part.status != 0, part.stopped, stopped)
    return dataclasses.replace(
        parts[-1],
        times=joined(0, *(part.times for part in parts)),
        values=jax.tree.map(lambda *xs: joined(axis, *xs), *(part.values for part in parts)),
        steps=sum(part.steps for part in parts),
        evaluations=sum(part.evaluations for part in parts),
        status=status,
        stopped=stopped,
    )
