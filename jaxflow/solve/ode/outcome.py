"""How a solve ended, and when: what a solver says of it, and what its state shows."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.solve.ode.problem import Problem, Solution, largest
from jaxflow.solve.trajectories.trajectory import DIVERGED, FINISHED, LEFT, TOO_SMALL, is_finite

PyTree = Any


def find_ending(problem: Problem, found: Solution, times: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How the solve ended, as a code, and when, on the clock of `times` (T,).

    With fixed steps nothing stops the solve where the state is lost; the first value to show the loss dates it.
    """
    code, stopped = found.code, times[0] + found.time.astype(times.dtype)
    size_before, size = largest(problem.start, found.end)
    lost = ~jnp.isfinite(size)
    if not problem.is_adaptive:
        blown, bad = (code == FINISHED) & lost, ~jax.vmap(is_finite)(found.values)
        stopped = jnp.where(blown & bad.any(), times[jnp.argmax(bad)], stopped)
        code = jnp.where(blown, DIVERGED, code)
    moderate = ~lost & (size < _huge_growth(problem.start.dtype) * (1 + size_before))
    code = jnp.where(((code == LEFT) | (code == TOO_SMALL)) & ~moderate, DIVERGED, code)
    began = times[0] + problem.times[0].astype(times.dtype)
    return jnp.where(problem.alive, code, DIVERGED), jnp.where(problem.alive, stopped, began)


def _huge_growth(dtype) -> float:
    """The growth beyond which a state was blowing up: that of 1/t within the shortest time the clock resolves."""
    return min(1e6, float(jnp.finfo(dtype).eps) ** -0.75)
