"""From step counts to time: schedules as functions of the clock that a run of the optimizer keeps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._moved import alias_of
from jaxflow._traceable import traceable
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


def schedule_in_time(schedule: Any, steps: int, clock: Any = None) -> Schedule:
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
    >>> rate = jf.dynamics.schedule_in_time(lambda k: 0.1 / (k + 1), 100)  # t_k = 0, 0.1, 0.15, 0.1833, …
    >>> print(rate(0.09), rate(0.12))
    0.1 0.05
    """
    if not callable(schedule):
        raise TypeError(f"schedule must be a function of the step count, got {schedule!r}.")
    _check.require_integer("steps", steps, 1)
    rate = schedule if clock is None else clock
    check_rate(rate, "clock")
    return table(*_tabulate(int(steps), schedule, rate))


def step_times(
    rate: Any, first: Any, steps: int, ends: np.ndarray | None = None, dtype: Any = float
) -> jax.Array | np.ndarray:
    r"""The clock of a run: $\sum_{k=f}^{f+e-1} \eta_k$, the time that passes in e steps from step f on.

    - `rate`: the learning rate, a number or a schedule, which is a function of the step count.
    - `first`: the count f at the first of the steps, an integer that may be traced.
    - `steps`: how many steps there are.
    - `ends` (n,): the numbers e, each from 0 to `steps`; all of them by default.

    Returns the times (n,) in `dtype`: with NumPy where the rate is a plain number.
    """
    ends = np.arange(steps + 1) if ends is None else ends
    if not callable(rate):
        return np.asarray(ends, dtype) * (rate if isinstance(rate, float) else jnp.asarray(rate, dtype))
    first = jnp.asarray(first)
    rates = jax.vmap(rate)(first + jnp.arange(steps, dtype=first.dtype))
    return jnp.pad(jnp.cumsum(jnp.asarray(rates, dtype)), (1, 0))[ends]


@compiled(static=("steps",))
def _tabulate(steps, schedule, rate):
    """The times at which the steps begin, and their values; (`steps`,) each."""
    values = jnp.asarray(jax.vmap(schedule)(jnp.arange(steps)), float)  # of integers, as `iterate` counts
    return step_times(rate, 0, steps, np.arange(steps)), values


in_time = alias_of("jaxflow.dynamics.in_time", "jaxflow.dynamics.schedule_in_time", schedule_in_time)
