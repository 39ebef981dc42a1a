"""From an optimizer to the stochastic differential equation that its mini-batch steps follow."""

import inspect
from collections.abc import Callable
from typing import Any

from jaxflow import _check, optim
from jaxflow.dynamics.base import Dynamics
from jaxflow.dynamics.clock import in_time
from jaxflow.dynamics.diffusions.averaged_squares import adam, rmsprop
from jaxflow.dynamics.diffusions.first_order import sgd
from jaxflow.dynamics.diffusions.inertial import momentum, nesterov_sgd
from jaxflow.dynamics.diffusions.sign_of_gradient import sign_sgd
from jaxflow.objective import Objective

# What a dynamics is given of an optimizer's hyperparameters, and which of them no SDE here describes.
KNOWN: dict[str, tuple[Callable[..., Any], Callable[..., Dynamics], tuple[str, ...], tuple[str, ...]]] = {
    "gd": (optim.gd, sgd, (), ()),
    "momentum": (optim.momentum, momentum, ("beta", "ema"), ("debias",)),
    "nesterov": (optim.nesterov, nesterov_sgd, ("beta",), ("lookahead",)),
    "rmsprop": (optim.rmsprop, rmsprop, ("decay", "eps"), ("eps_in_sqrt",)),
    "adam": (optim.adam, adam, ("b1", "b2", "eps"), ()),
    "sign": (optim.sign, sign_sgd, (), ()),
}


def sde_of(
    optimizer: optim.Optimizer,
    objective: Objective,
    batch_size: Any,
    *,
    replacement: bool = True,
    steps: int | None = None,
    order: int | None = None,
) -> Dynamics:
    """The SDE of an optimizer on mini-batches of `batch_size`, on the clock that `iterate` keeps.

    SDEs are known for `gd`, `momentum`, `nesterov`, `rmsprop`, `adam` and `sign`. The docstrings of the dynamics
    that belong to them (`sgd`, `momentum`, `nesterov_sgd`, `rmsprop`, `adam`, `sign_sgd`) say what they assume and
    where they were published.

    **Arguments**

    - `optimizer`: one of those, with its own hyperparameters, numbers or schedules.
    - `objective`: an `Objective` with data.
    - `batch_size` B: the number of examples per gradient, a number above 0 or a function of the time t.
    - `replacement`: whether the batches are independent draws, or fresh ones without replacement at each step
      (static).
    - `steps`: the number of steps for which schedules over steps are tabulated as functions of the time (`in_time`);
      needed where there is a schedule.
    - `order`: the order of the equation, where the dynamics has several: `sgd`, `momentum` and `nesterov_sgd`. By
      default it is the dynamics' own default.

    **Returns** a `Dynamics`.

    **Raises** `ValueError`, which names the optimizer, where no SDE is known, for a schedule without `steps`, or
    for an order where there is only one equation; `TypeError` for an objective without data.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> jf.dynamics.sde_of(jf.optim.momentum(0.1, 0.5), objective, 1).time_step
    0.1
    """
    if not callable(batch_size):
        _check.positive(batch_size=batch_size)  # None would be the flow without noise
    constructor = getattr(optimizer, "_static", (None,))[0]
    found = next((entry for entry in KNOWN.values() if entry[0] is constructor), None)
    chosen = optim.hyperparameters(optimizer)
    if found is None or any(chosen[name] for name in found[3]):
        raise ValueError(f"No SDE is known for {optimizer!r}; there is one for {', '.join(KNOWN)}.")
    _, dynamics, names, _ = found
    rate = chosen["learning_rate"]

    def timed(value):
        if not callable(value):
            return value
        if steps is None:
            raise ValueError(f"steps must be given to put the schedule {value!r} on the clock, got None.")
        return in_time(value, steps, None if value is rate else rate)

    arguments = {name: timed(chosen[name]) for name in names}
    if order is not None:
        if "order" not in inspect.signature(dynamics).parameters:
            raise ValueError(
                f"order must be None for {optimizer!r}, whose SDE has one order only, got {order!r}."
            )
        arguments["order"] = order
    return dynamics(objective, timed(rate), batch_size, **arguments, replacement=replacement)
