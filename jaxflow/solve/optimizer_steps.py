"""One step of an optimizer, the clock it advances and the state that resumes a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow.solve.trajectory import DIVERGED, FINISHED, Trajectory, is_finite

PyTree = Any


class IterationState(NamedTuple):
    """What resumes a run: steps taken, the clock, the optimizer's and the estimator's states."""

    step: jax.Array
    time: jax.Array
    optimizer: PyTree
    estimator: PyTree


def clock(rate, start_step, start_time, steps: int, ends: np.ndarray) -> jax.Array:
    """The times after `ends` (n,), from 0 to `steps`, of the next steps; shape (n,)."""
    if callable(rate):
        rates = jax.vmap(rate)(start_step + jnp.arange(steps, dtype=start_step.dtype))
        sums = jnp.cumsum(jnp.asarray(rates, start_time.dtype))
        return start_time + jnp.pad(sums, (1, 0))[ends]
    return start_time + jnp.asarray(ends, start_time.dtype) * jnp.asarray(rate, start_time.dtype)


def end_time(rate, first, time, steps) -> jax.Array:
    """The time after a traced number of steps; a scalar.

    Under a schedule a sum with Kahan's compensation: naively, half a unit is lost a step.
    """
    if not callable(rate):
        return time + steps.astype(time.dtype) * jnp.asarray(rate, time.dtype)

    def add(k, carry):
        total, lost = carry
        move = jnp.asarray(rate(first + k), total.dtype) - lost
        new = total + move
        return new, (new - total) - move

    total, lost = lax.fori_loop(0, steps, add, (jnp.zeros_like(time), jnp.zeros_like(time)))
    return time + (total - lost)


def start(optimizer, params: PyTree, estimator_state: PyTree = ()) -> IterationState:
    """The state of a run that has not begun."""
    return begin(optimizer.init(params), estimator_state)


def begin(optimizer_state: PyTree, estimator_state: PyTree = ()) -> IterationState:
    """The state, for `iterate`, of a run that begins at t = 0 with this state of its optimizer, such as one that
    `jaxflow.dynamics.optimizer_state` made of a flow's."""
    return IterationState(jnp.zeros([], jnp.int32), jnp.zeros([], float), optimizer_state, estimator_state)


def check_state(state: PyTree, expected: PyTree, owner: str) -> None:
    """Refuse a state to go on from that is of another kind or shape than `expected`, that of `owner`."""
    shapes = lambda tree: [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
    if jax.tree.structure(state) != jax.tree.structure(expected) or shapes(state) != shapes(expected):
        raise ValueError(
            f"state must be one of {owner}, with leaves of shapes {shapes(expected)}, got {type(state).__name__} "
            f"with leaves of shapes {shapes(state)}."
        )


def finish(times, values, params, state, steps, bad: Callable[[], jax.Array]) -> Trajectory:
    """A trajectory from its parts; `bad()` tells the records, all but the first, that are not finite.

    It is called, inside the program too, only where the run has diverged.
    """
    diverged = ~is_finite(params)
    last = times.size - 1

    def first_bad():
        return jnp.min(jnp.where(bad(), jnp.arange(1, last + 1), last))

    stopped = times[lax.cond(diverged, first_bad, lambda: jnp.asarray(last))]
    status = jnp.where(diverged, DIVERGED, FINISHED)
    return Trajectory(times, values, params, state, steps, steps, status, stopped)
