"""A long run in pieces of one program, each resumed from the one before: so that a person sees how far it is."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxflow.solve.trajectories.trajectory import FINISHED, Trajectory

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


def join(*runs: Trajectory) -> Trajectory:
    """One trajectory of consecutive ones, each of which begins where the one before it ended.

    **Arguments**

    - `runs`: trajectories with the same record, in their order; each was made with the `state` of the one before.

    **Returns** a `Trajectory` with all records; the record at a seam is kept once. Its `message` says how the first
    run that did not finish ended, and its `state` is that of the last run.

    **Raises** `TypeError` when one of them is not a trajectory; `ValueError` where one does not begin at the time at
    which the one before it ends, or their records differ in structure or shape.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> gd, loss = jf.optim.gd(0.5), lambda x: 0.5 * x @ x
    >>> first = jf.iterate(gd, loss, jnp.ones(1), steps=2)
    >>> rest = jf.iterate(gd, loss, first.params, steps=1, state=first.state)
    >>> print(jf.solve.join(first, rest).values[:, 0])
    [1.    0.5   0.25  0.125]
    """
    for run in runs:
        if not isinstance(run, Trajectory):
            raise TypeError(f"runs must be trajectories, got {type(run).__name__}.")
    if not runs:
        raise ValueError("runs must be at least one trajectory, got none.")
    shapes = lambda run, axis: jax.tree.map(
        lambda x: np.shape(x)[:axis] + np.shape(x)[axis + 1 :], (run.values, run.observed)
    )
    for before, after in itertools.pairwise(runs):
        end, begin = np.asarray(before.times)[..., -1], np.asarray(after.times)[..., 0]
        if np.shape(before.status) != np.shape(after.status) or end.shape != begin.shape:
            raise ValueError("runs must have the same members.")
        slack = 16 * np.finfo(end.dtype).eps * np.maximum(abs(end), abs(begin))
        if (abs(end - begin) > slack).any():
            raise ValueError(
                f"runs must each begin where the one before ends, but one ends at t = {end.max():.6g} and the next "
                f"begins at t = {begin.max():.6g}."
            )
        axis = np.ndim(before.status)
        if shapes(before, axis) != shapes(after, axis):
            raise ValueError(
                f"runs must have the same record, got {shapes(before, axis)} and then {shapes(after, axis)}."
            )
    return join_pieces([*runs])


def join_pieces(parts: list[Trajectory]) -> Trajectory:
    """One trajectory of consecutive ones; the first of them that did not finish says how it ended."""
    axis = np.ndim(parts[0].status)

    def join(at, *arrays):
        # A part begins where the one before it ended. NumPy's views copy nothing, and compile nothing.
        later = (np.asarray(x)[(slice(None),) * at + (slice(1, None),)] for x in arrays[1:])
        return np.concatenate([arrays[0], *later], at)

    status, stopped = np.asarray(parts[-1].status), np.asarray(parts[-1].stopped)
    for part in reversed(parts):
        ended = np.asarray(part.status) != FINISHED  # in NumPy: there is nothing to compile
        status, stopped = np.where(ended, part.status, status), np.where(ended, part.stopped, stopped)
    joined: Any = lambda name: jax.tree.map(
        lambda *leaves: join(axis, *leaves), *(getattr(part, name) for part in parts)
    )
    count: Any = lambda name: [np.asarray(getattr(part, name)) for part in parts]
    total: Any = lambda name: np.sum(count(name), axis=0, dtype=count(name)[0].dtype)
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
