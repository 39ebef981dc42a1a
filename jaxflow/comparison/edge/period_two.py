"""The iterates without their oscillation of period two, for comparison with a central flow."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxflow._compiled import compiled
from jaxflow.solve import Trajectory

PyTree = Any


def midpoints(run: Trajectory) -> Trajectory:
    r"""Second-order midpoints $\frac14(\theta_{k-1} + 2\theta_k + \theta_{k+1})$ of the iterates of a run.

    At the edge of stability iterates alternate about a slower path. An oscillation $(-1)^k x$ cancels in the
    midpoints; of one that changes, only its second difference is left. Where the path itself is smooth they are
    $O(\eta^2)$ from it.

    **Arguments**

    - `run`: a trajectory of `iterate` whose `values` are the parameters at every step (`every=1`), leaves (T, …),
      T ≥ 3; or any other function of the iterates that is to be averaged in this way. Counts and flags, which have no
      midpoints, are those at the inner times.

    **Returns** a `Trajectory` with the inner T − 2 times and values. It works under `jit` and `vmap` (lanes first).

    **Raises** `ValueError` for fewer than three times, or iterates not recorded at every step.

    Source: Cohen, Damian, Talwalkar, Kolter & Lee 2024, 2410.24206.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> run = jf.iterate(jf.optim.gd(1.0), lambda x: x @ x, jnp.ones(1), steps=4)
    >>> print(run.values[:, 0], jf.midpoints(run).values[:, 0])
    [ 1. -1.  1. -1.  1.] [0. 0. 0.]
    """
    if run.times.shape[-1] < 3:
        raise ValueError(f"run must have at least 3 times, got {run.times.shape[-1]}.")
    axis = jnp.ndim(run.status)
    steps, last = run.steps, run.times.shape[-1] - 1
    known = hasattr(run.state, "optimizer") and not isinstance(steps, Tracer)
    if known and np.any(np.asarray(steps) != last):
        raise ValueError(
            f"run must be recorded at every step, got {np.max(steps)} steps at {last + 1} times."
        )

    times, values, observed = _inner_midpoints(run.times, run.values, run.observed, axis=axis)
    return dataclasses.replace(run, times=times, values=values, observed=observed)


@compiled(static=("axis",))
def _inner_midpoints(times, values, observed, axis):
    """The inner times, the middles of the values there, and what was observed there."""
    at = lambda x, i: lax.slice_in_dim(x, i, x.shape[axis] - 2 + i, axis=axis)

    def middle(x):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return at(x, 1)
        # Weighted before they are added, large numbers of a small type do not overflow.
        return 0.25 * at(x, 0) + 0.5 * at(x, 1) + 0.25 * at(x, 2)

    inner = jax.tree.map(lambda x: at(x, 1), observed)
    return times[..., 1:-1], jax.tree.map(middle, values), inner
