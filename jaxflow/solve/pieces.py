"""A long run in pieces of one program, each resumed from the one before: so that a person sees how far it is."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxflow.solve.trajectory import FINISHED, Trajectory

PyTree = Any


class Start(NamedTuple):
    """Where a run begins: what its first piece is given in the place of the one before it."""

    params: PyTree
    state: PyTree


def cut(times: Any, length: int) -> list[np.ndarray]:
    """The times of pieces of `length` intervals (the last may be shorter): each begins where the one before ends."""
    times = np.asarray(times)
    return [times[first : first + length + 1] for first in range(0, times.size - 1, length)]


def run_pieces(
    run: Callable[[Any, Any], Trajectory], start: Any, parts: Iterable[Any]
) -> Iterator[Trajectory]:
    """Yield the finished pieces `run(before, part)`, where `before` is the last piece, or at first the `start`."""
    before = start
    for part in parts:
        before = jax.block_until_ready(run(before, part))
        yield before


def join_pieces(parts: list[Trajectory]) -> Trajectory:
    """One trajectory of consecutive ones; the first of them that did not finish says how it ended."""
    axis = np.ndim(parts[0].status)

    def join(at, *arrays):
        later = (np.delete(x, 0, at) for x in arrays[1:])  # a part begins where the one before it ended
        return np.concatenate([arrays[0], *later], at)

    status, stopped = np.asarray(parts[-1].status), np.asarray(parts[-1].stopped)
    for part in reversed(parts):
        ended = np.asarray(part.status) != FINISHED  # in NumPy: there is nothing to compile
        status, stopped = np.where(ended, part.status, status), np.where(ended, part.stopped, stopped)
    joined: Any = lambda name: jax.tree.map(
        lambda *leaves: join(axis, *leaves), *(getattr(part, name) for part in parts)
    )
    total: Any = lambda name: np.sum([getattr(part, name) for part in parts], axis=0)
    return dataclasses.replace(
        parts[-1],
        times=join(0, *(part.times for part in parts)),
        values=joined("values"),
        observed=joined("observed"),
        steps=total("steps"),
        evaluations=total("evaluations"),
        status=status,
        stopped=stopped,
    )
