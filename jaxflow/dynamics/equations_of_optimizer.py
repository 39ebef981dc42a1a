"""From an optimizer to its differential equations in the table: the textbook ODE and the SDE."""

import inspect
from collections.abc import Callable
from typing import Any

from jaxflow import _check, optim
from jaxflow.dynamics.base import Dynamics
from jaxflow.dynamics.clock import schedule_in_time
from jaxflow.dynamics.flows.damped_oscillators import heavy_ball
from jaxflow.dynamics.flows.first_order import effective_mass
from jaxflow.objective import Objective
from jaxflow.optim.table import formula_of, names_with


def heavy_ball_of_momentum(objective, learning_rate, beta, ema):
    """The damped oscillator whose friction and mass are those of `optim.momentum`."""
    friction, mass = 1 - beta, effective_mass(learning_rate, beta, nesterov=False)
    return heavy_ball(objective, 1.0, mass / friction) if ema else heavy_ball(objective, friction, mass)


def heavy_ball_of_nesterov(objective, learning_rate, beta, lookahead):
    """The damped oscillator whose friction and mass are those of `optim.nesterov`."""
    del lookahead  # its two forms are one sequence, read off at points that settle to one equation
    return heavy_ball(objective, 1 - beta, effective_mass(learning_rate, beta, nesterov=True))


def _equation(optimizer: Any, fact: str) -> tuple[Callable[..., Dynamics], dict[str, Any]] | None:
    """An equation of the table and the hyperparameters it takes; `None` where one that it does not take is on."""
    equation = formula_of(optimizer, fact)
    if equation is None:
        return None
    taken, chosen = inspect.signature(equation).parameters, optim.hyperparameters(optimizer)
    # The learning rate is left out where it only sets the clock; it may then be a schedule.
    if any(value for name, value in chosen.items() if name not in (*taken, "learning_rate")):
        return None
    return equation, {name: value for name, value in chosen.items() if name in taken}


def limit_of(optimizer: optim.Optimizer, objective: Callable[[Any], Any]) -> Dynamics:
    r"""The textbook differential equation of an optimizer, with its hyperparameters, on the clock t = kη.

    | optimizer | equation |
    |---|---|
    | `gd`, `sign`, `newton` | `gradient_flow`, `sign_descent`, `newton_flow` |
    | `momentum` | `heavy_ball` of friction 1 − β and mass $\frac\eta2(1+\beta)$; with `ema` both over 1 − β |
    | `nesterov` | `heavy_ball` of friction 1 − β and mass $\frac\eta2(1 - \beta + 2\beta^2)$ |
    | `adagrad`, `rmsprop`, `adam` | the dynamics of that name |

    A mass m and friction f settle to $\dot\theta = -\frac gf - \frac m{f^3}Hg$. With these masses that is the
    method's modified equation, `momentum_loss_flow`. The equation of Su, Boyd & Candès, `nesterov`, belongs to a β
    that rises to 1, on another clock. The docstring of each equation says what it assumes and where it was
    published; `sde_of` has the SDEs for mini-batches.

    **Arguments**

    - `optimizer`: one of those in the table, with numbers as hyperparameters.
    - `objective`: an `Objective` or any function `loss(params) -> scalar`.

    **Returns** a `Dynamics`.

    **Raises** `ValueError`, which names the optimizer and those known, for an optimizer without such an equation, or
    with a schedule where a number is needed: `modified` finds the equation of any optimizer.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> jf.dynamics.limit_of(jf.optim.momentum(0.5, 0.5), jnp.sum)
    heavy_ball(objective=sum, friction=0.5, mass=0.375)
    """
    found = _equation(optimizer, "flow")
    if found is None:
        raise ValueError(
            f"No textbook equation is known for {optimizer!r}; there is one for {', '.join(names_with('flow'))}. "
            "modified(optimizer, objective) finds the equation of any optimizer."
        )
    equation, arguments = found
    for name, value in arguments.items():
        if callable(value):
            raise ValueError(
                f"{name} must be a number for a textbook equation, got the schedule {value!r}; "
                "modified(optimizer, objective) takes schedules."
            )
    return equation(objective, **arguments)


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
    that belong to them (`sgd`, `momentum_sgd`, `nesterov_sgd`, `rmsprop_sde`, `adam_sde`, `sign_sgd`) say what they
    assume and where they were published.

    **Arguments**

    - `optimizer`: one of those, with its own hyperparameters, numbers or schedules.
    - `objective`: an `Objective` with data.
    - `batch_size` B: the number of examples per gradient, a number above 0 or a function of the time t.
    - `replacement`: whether the batches are independent draws, or fresh ones without replacement at each step
      (static).
    - `steps`: the number of steps for which schedules over steps are tabulated as functions of the time
      (`schedule_in_time`); needed where there is a schedule.
    - `order`: the order of the equation, where the dynamics has several: `sgd`, `momentum_sgd` and `nesterov_sgd`. By
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
        _check.require_positive(batch_size=batch_size)  # None would be the flow without noise
    found = _equation(optimizer, "sde")
    if found is None:
        raise ValueError(
            f"No SDE is known for {optimizer!r}; there is one for {', '.join(names_with('sde'))}."
        )
    equation, chosen = found
    rate = chosen["learning_rate"]

    def put_in_time(value):
        if not callable(value):
            return value
        if steps is None:
            raise ValueError(f"steps must be given to put the schedule {value!r} on the clock, got None.")
        return schedule_in_time(value, steps, None if value is rate else rate)

    arguments = {name: put_in_time(value) for name, value in chosen.items()}
    if order is not None:
        if "order" not in inspect.signature(equation).parameters:
            raise ValueError(
                f"order must be None for {optimizer!r}, whose SDE has one order only, got {order!r}."
            )
        arguments["order"] = order
    return equation(objective, batch_size=batch_size, **arguments, replacement=replacement)
