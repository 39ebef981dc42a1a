"""One step of an optimizer, the clock it advances and the state that resumes a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow import _check
from jaxflow.solve.trajectories.trajectory import DIVERGED, FINISHED, Trajectory, is_finite

PyTree = Any


class IterationState(NamedTuple):
    """What resumes a run of `iterate`: it is the `state` of a trajectory, and is given back as `state=`.

    - `step`: the number of steps taken; an int32 scalar.
    - `time`: the clock after them; a float scalar.
    - `optimizer`: the optimizer's own state.
    - `estimator`: the state of the estimator of the gradient; `()` for most.
    - `key`: the raw numbers of the run's random key, which NumPy and files hold; the run goes on with it unless it
      is given another one. `None` for raw keys and other kinds than JAX's default, which must be given again.
    - `watch`: what metrics and recorders remember of what they have seen; `()` where nothing does.
    - `model`: the state of the model, where the objective has one.
    """

    step: jax.Array
    time: jax.Array
    optimizer: PyTree
    estimator: PyTree
    key: jax.Array | None = None
    watch: PyTree = ()
    model: PyTree = None


def keep_key(key: jax.Array | None) -> jax.Array | None:
    """A key as a state keeps it."""
    if key is None or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return None
    default = str(jax.random.key_impl(key)) == jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
    return jax.random.key_data(key) if default else None


def kept_key(state: IterationState) -> jax.Array | None:
    """The key of a run that goes on."""
    return None if state.key is None else jax.random.wrap_key_data(state.key)


def key_of_losses(key: jax.Array) -> jax.Array:
    """The key of a step from which its random losses are drawn, another than that of its batch."""
    return jax.random.fold_in(key, 2**31 - 1)


def end_time(rate, first, time, steps) -> jax.Array:
    """The time after a traced number of steps; a scalar.

    Under a schedule it is a sum with Kahan's compensation. A plain sum would lose half a unit at each step.
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
    """Make the state with which `iterate` starts at t = 0 from a given state of its optimizer.

    It is for an optimizer whose buffers are not empty at the start, such as those that
    `jaxflow.dynamics.optimizer_state` takes from a flow.

    **Arguments**

    - `optimizer_state`: a state of the optimizer, shaped as its `init(params)`.
    - `estimator_state`: a state of the estimator of the gradient; the default suits all but `epochs`.

    **Returns** an `IterationState` at step 0 and time 0, for `iterate(…, state=…)`.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> momentum, loss = jf.optim.momentum(0.1, 0.5), lambda x: 0.5 * x @ x
    >>> pushed = jax.tree.map(lambda leaf: leaf + 1.0, momentum.init(jnp.zeros(1)))  # a velocity of 1
    >>> print(jf.iterate(momentum, loss, jnp.zeros(1), steps=1, state=jf.solve.begin(pushed)).params)
    [-0.05]
    """
    return IterationState(jnp.zeros([], jnp.int32), jnp.zeros([], float), optimizer_state, estimator_state)


def check_state(state: PyTree, expected: PyTree, owner: str) -> None:
    """Refuse a state to go on from whose kind or shapes differ from those of `expected`, the state of `owner`."""
    _check.require_like("state", state, expected, f"be one of {owner}")


def finish(
    times,
    values,
    params,
    state,
    steps,
    bad: Callable[[], jax.Array],
    observed: PyTree = None,
    last: Any = None,
) -> Trajectory:
    """Make a trajectory from its parts; `bad()` tells which records, the first left out, are not finite.

    It is called (inside the program too) only where the run has diverged. `last` is the place of the last record that
    was reached, by default that of the last one.
    """
    diverged = ~is_finite(params)
    last = jnp.asarray(times.size - 1 if last is None else last)

    def first_bad():
        places = jnp.where(bad(), jnp.arange(1, times.size, dtype=last.dtype), last)
        return jnp.min(places) if places.size else last

    stopped = times[lax.cond(diverged, first_bad, lambda: last)]
    status = jnp.where(diverged, DIVERGED, FINISHED).astype(jnp.int32)  # in double precision too
    return Trajectory(
        times=times,
        values=values,
        params=params,
        state=state,
        steps=steps,
        evaluations=steps,
        status=status,
        stopped=stopped,
        observed=observed,
    )
