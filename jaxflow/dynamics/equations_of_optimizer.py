"""From an optimizer to its differential equations in the table: the textbook ODE and the SDE."""

import inspect
from collections.abc import Callable
from typing import Any

import optax

from jaxflow import _check, optim
from jaxflow.dynamics.base import Dynamics
from jaxflow.dynamics.clock import schedule_in_time
from jaxflow.dynamics.groups import grouped
from jaxflow.dynamics.noise.batch_temperature import accumulated_batches
from jaxflow.dynamics.parts_of_optimizer import Parts, groups_of, parts_of
from jaxflow.dynamics.penalty import penalized
from jaxflow.objective import Objective, require_data
from jaxflow.optim.multi_steps import accumulation_of, as_transformation
from jaxflow.optim.table import formula_of, names_with


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


def _objective_of(parts: Parts, objective: Any) -> Any:
    """The objective with the penalties that stand before the optimizer."""
    for strength in parts.penalties:
        objective = penalized(objective, strength)
    return objective


def _put_in_time(chosen: dict[str, Any], steps: int | None) -> dict[str, Any]:
    """Hyperparameters with functions of the time in the place of schedules over steps."""
    rate = chosen.get("learning_rate")

    def put(value):
        if not callable(value):
            return value
        if steps is None:
            raise ValueError(f"steps must be given to put the schedule {value!r} on the clock, got None.")
        return schedule_in_time(value, steps, None if value is rate else rate)

    return {name: put(value) for name, value in chosen.items()}


def _put_on_clock(equation: Dynamics, rate: Any, time_step: Any) -> Dynamics:
    """An equation on the clock t = kη, on that on which a step takes the time `time_step`."""
    if time_step is None:
        return equation
    if rate is None or callable(rate):
        raise ValueError(
            f"time_step must be None for an equation whose learning rate is not a number, got {time_step!r}."
        )
    return (rate / time_step) * equation


def _compose(optimizer: Any, equation_of: Callable[[Parts], Dynamics], time_step: Any) -> Dynamics:
    """The equation of one optimizer, or of groups that have one each."""
    optimizer = as_transformation(optimizer)
    if time_step is not None:
        _check.require_positive(time_step=time_step)
    rate_of = lambda parts: optim.hyperparameters(parts.optimizer).get("learning_rate")
    groups = groups_of(optimizer)
    if groups is None:
        parts = parts_of(optimizer)
        return _put_on_clock(equation_of(parts), rate_of(parts), time_step)
    if time_step is None:
        try:
            optim.learning_rate_of(optimizer)
        except ValueError:
            rates = ", ".join(repr(rate_of(parts)) for parts in groups.optimizers.values())
            raise ValueError(
                f"time_step must be the time of a step where groups differ in their rates ({rates}), got None."
            ) from None
    equations = {
        label: _put_on_clock(equation_of(parts), rate_of(parts), time_step)
        for label, parts in groups.optimizers.items()
    }
    return grouped(equations, groups.labels)


def limit_of(
    optimizer: optim.Optimizer | optax.MultiSteps,
    objective: Callable[[Any], Any],
    *,
    steps: int | None = None,
    time_step: Any = None,
) -> Dynamics:
    r"""The textbook differential equation of an optimizer, with its hyperparameters, on the clock t = kη.

    | optimizer | equation |
    |---|---|
    | `gd`, `sign`, `newton` | `gradient_flow`, `sign_descent`, `newton_flow` |
    | `momentum` | `heavy_ball` of friction 1 − β and mass $\frac\eta2(1+\beta)$; with `ema` both over 1 − β |
    | `nesterov` | `heavy_ball` of friction 1 − β and mass $\frac\eta2(1 - \beta + 2\beta^2)$ |
    | `adagrad`, `rmsprop`, `adam` | the dynamics of that name |
    | `sgdw`, `adamw` | those of `momentum` and `adam` with $-\lambda\theta$ added to $\dot\theta$ |

    A mass m and friction f settle to $\dot\theta = -\frac gf - \frac m{f^3}Hg$. With these masses that is the
    method's modified equation, `momentum_loss_flow`. The equation of Su, Boyd & Candès, `nesterov`, belongs to a β
    that rises to 1, on another clock. The docstring of each equation says what it assumes and where it was
    published; `sde_of` has the SDEs for mini-batches.

    **Compositions.** In a `chain`, `l2_regularization` before the optimizer adds $\frac\lambda2|\theta|^2$ to the
    objective, and so $\lambda\theta$ to the gradient, to its averages and to its square. Decoupled decay is a drift
    of its own, which no preconditioner divides. An `optax.MultiSteps` has the equation of the optimizer in it, on the
    clock of its updates: `iterate` keeps that clock with `time_step=` η/k, where k mini-batches make an update.
    optax's `sgd`, `sign_sgd`, `adam`, `adamw`, `rmsprop`, `adagrad` and `add_decayed_weights`, made `traceable`, are
    taken as the optimizers here that take the same steps. `optax.multi_transform`, made `traceable`, has an equation
    for each of its groups, with the gradient at the parameters of all.

    **Arguments**

    - `optimizer`: one of those in the table, or such a composition.
    - `objective`: an `Objective` or any function `loss(params) -> scalar`.
    - `steps`: the number of steps for which schedules over steps are tabulated as functions of the time
      (`schedule_in_time`); needed where the equation depends on a schedule.
    - `time_step`: the time of a step, a number above 0. Default: the learning rate. It must be given where groups
      differ in their rates. Each group then moves at its own speed times its rate over `time_step`.

    **Returns** a `Dynamics`.

    **Raises** `ValueError`, which names the optimizer and those known, for an optimizer without such an equation, or
    for a schedule without `steps`, or groups of different rates without `time_step`: `modified` finds the equation
    of any optimizer. `TypeError` when `optimizer` is not one.

    >>> import jax.numpy as jnp, optax, jaxflow as jf
    >>> jf.dynamics.limit_of(jf.optim.momentum(0.5, 0.5), jnp.sum)
    heavy_ball(objective=sum, friction=0.5, mass=0.375)
    >>> jf.dynamics.limit_of(jf.optim.traceable(optax.rmsprop)(0.5), jnp.sum)
    rmsprop(objective=sum, learning_rate=0.5, decay=0.9, eps=1e-08, eps_in_sqrt=True)
    """
    inner, _ = accumulation_of(optimizer) or (optimizer, 1)

    def equation_of(parts):
        found = _equation(parts.optimizer, "flow")
        if found is None:
            raise ValueError(
                f"No textbook equation is known for {parts.shown}; there is one for {', '.join(names_with('flow'))}. "
                "modified(optimizer, objective) finds the equation of any optimizer."
            )
        equation, arguments = found
        return equation(_objective_of(parts, objective), **_put_in_time(arguments, steps))

    return _compose(inner, equation_of, time_step)


def sde_of(
    optimizer: optim.Optimizer | optax.MultiSteps,
    objective: Objective,
    batch_size: Any,
    *,
    replacement: bool = True,
    steps: int | None = None,
    order: int | None = None,
    time_step: Any = None,
) -> Dynamics:
    r"""The SDE of an optimizer on mini-batches of `batch_size`, on the clock that `iterate` keeps.

    SDEs are known for `gd`, `momentum`, `nesterov`, `rmsprop`, `adam` and `sign`. The docstrings of the dynamics
    that belong to them (`sgd`, `momentum_sgd`, `nesterov_sgd`, `rmsprop_sde`, `adam_sde`, `sign_sgd`) say what they
    assume and where they were published. `sgdw` and `adamw` have those of `momentum` and `adam` with
    $-\lambda\theta\,dt$ added to $d\theta$, of weak order 1 in ηλ.

    Chains with `l2_regularization` and optimizers of optax are taken as in `limit_of`: the penalty changes the
    gradient and leaves its noise. An `optax.MultiSteps` that averages k mini-batches has the noise of batches k times
    as large, and the clock of its updates: `iterate` keeps that clock with `time_step=` η/k. The groups of an
    `optax.multi_transform` have one mini-batch, and so noises that depend on each other as its gradients do.

    **Arguments**

    - `optimizer`: one of those, with its own hyperparameters, numbers or schedules.
    - `objective`: an `Objective` with data.
    - `batch_size` B: the number of examples per gradient, a number above 0 or a function of the time t.
    - `replacement`: whether the batches are independent draws, or fresh ones without replacement at each step
      (static).
    - `steps`: the number of steps for which schedules over steps are tabulated as functions of the time
      (`schedule_in_time`); needed where there is a schedule.
    - `order`: the order of the equation, where the dynamics has several: `sgd`, `momentum_sgd` and `nesterov_sgd`. By
      default it is the dynamics' own default. With decoupled decay it is that of the equation without decay.
    - `time_step`: as in `limit_of`.

    **Returns** a `Dynamics`.

    **Raises** `ValueError`, which names the optimizer, where no SDE is known, for a schedule without `steps`, or
    for an order where there is only one equation; `TypeError` when `optimizer` is not one, or for an objective
    without data.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> jf.dynamics.sde_of(jf.optim.momentum(0.1, 0.5), objective, 1).time_step
    0.1
    """
    if not callable(batch_size):
        _check.require_positive(batch_size=batch_size)  # None would be the flow without noise
    inner, accumulated = accumulation_of(optimizer) or (optimizer, 1)

    def equation_of(parts):
        found = _equation(parts.optimizer, "sde")
        if found is None:
            raise ValueError(
                f"No SDE is known for {parts.shown}; there is one for {', '.join(names_with('sde'))}."
            )
        equation, chosen = found
        arguments = _put_in_time(chosen, steps)
        if order is not None:
            if "order" not in inspect.signature(equation).parameters:
                raise ValueError(
                    f"order must be None for {parts.shown}, whose SDE has one order only, got {order!r}."
                )
            arguments["order"] = order
        size = require_data(objective, "Mini-batches")
        batches = accumulated_batches(batch_size, size, replacement, accumulated)
        return equation(_objective_of(parts, objective), **batches, **arguments)

    return _compose(inner, equation_of, time_step)
