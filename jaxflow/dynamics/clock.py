"""From step counts to time: schedules as functions of the clock that a run of the optimizer keeps."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._traceable import compiled, traceable
from jaxflow.optim.schedules import Schedule, check_rate


@traceable
def table(edges: jax.Array, values: jax.Array):
    """A function of t that is piecewise constant: `values[k]` from `edges[k]` to the next edge.

    The first value also holds before the first edge. Where edges coincide the last of their values counts.
    """
    # A time that is an edge up to the rounding of two ways to sum belongs to what begins there.
    early = edges * (1 - 16 * jnp.finfo(edges.dtype).eps)

    def schedule(t):
        k = jnp.searchsorted(early[1:], t.astype(edges.dtype), side="right")
        return values[k]

    return schedule


def in_time(schedule: Any, steps: int, clock: Any = None) -> Schedule:
    r"""A schedule over steps k as a function of the time: $\eta(t) = \eta_k$ for $t_k \le t < t_{k+1}$.

    The clock is the one that `iterate` keeps, $t_{k+1} = t_k + \eta_k$ from $t_0 = 0$. Give the result to a dynamics
    as its rate, and run it at the times of the discrete run.

    **Arguments**

    - `schedule`: a function `schedule(k) -> value`: one of `jaxflow.optim`, or any function of the step count.
    - `steps`: the number of steps to tabulate. The last value holds beyond them.
    - `clock`: the learning rate whose running sum is t, a number or a schedule. It is needed where `schedule` is not
      itself the learning rate but a batch size or a momentum.

    **Returns** a `Schedule`, a pytree whose leaves are the table: the times (`steps`,) and the values. It works under
    `jit`, `vmap` and `grad`.

    **Raises** `TypeError` when `schedule` is not a function; `ValueError` for `steps` < 1 or a negative clock.

    >>> import jaxflow as jf
    >>> rate = jf.dynamics.in_time(lambda k: 0.1 / (k + 1), 100)  # t_k = 0, 0.1, 0.15, 0.1833, …
    >>> print(rate(0.09), rate(0.12))
    0.1 0.05
    """
    if not callable(schedule):
        raise TypeError(f"schedule must be a function of the step count, got {schedule!r}.")
    _check.integer("steps", steps, 1)
    rate = schedule if clock is None else clock
    check_rate(rate, "clock")
    return table(*_tabulated(int(steps), schedule, rate))


@compiled(static=("steps",))
def _tabulated(steps, schedule, rate):
    """The times at which the steps begin, and their values; (`steps`,) each."""
    counts = jnp.arange(steps)  # integers, as `iterate` counts
    values = jnp.asarray(jax.vmap(schedule)(counts), float)
    if not callable(rate):
        return jnp.asarray(counts, float) * jnp.asarray(rate, float), values
    ends = jnp.cumsum(jnp.asarray(jax.vmap(rate)(counts), float))
    return jnp.append(jnp.zeros(1), ends[:-1]), values
