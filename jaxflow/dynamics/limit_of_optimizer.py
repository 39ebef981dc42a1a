"""From an optimizer to its textbook differential equation, where one is known."""

from collections.abc import Callable
from typing import Any

from jaxflow import optim
from jaxflow.dynamics.base import Dynamics
from jaxflow.dynamics.diffusions.averaged_squares import adam, rmsprop
from jaxflow.dynamics.diffusions.summed_squares import adagrad
from jaxflow.dynamics.flows.damped_oscillators import heavy_ball
from jaxflow.dynamics.flows.first_order import effective_mass, gradient_flow, sign_descent
from jaxflow.dynamics.flows.hessian_flows import newton_flow


def _momentum(objective, learning_rate, beta, ema):
    friction, mass = 1 - beta, effective_mass(learning_rate, beta, nesterov=False)
    return heavy_ball(objective, 1.0, mass / friction) if ema else heavy_ball(objective, friction, mass)


def _nesterov(objective, learning_rate, beta, lookahead):
    del lookahead  # its two forms are one sequence, read off at points that settle to one equation
    return heavy_ball(objective, 1 - beta, effective_mass(learning_rate, beta, nesterov=True))


# By optimizer: the equation in terms of its hyperparameters, and the flags under which it has no such equation.
# `learning_rate` is left out where the equation has none, as the clock is all it sets; it may then be a schedule.
KNOWN: dict[str, tuple[Callable[..., Any], Callable[..., Dynamics], tuple[str, ...]]] = {
    "gd": (optim.gd, gradient_flow, ()),
    "momentum": (optim.momentum, _momentum, ("debias",)),
    "nesterov": (optim.nesterov, _nesterov, ()),
    "adagrad": (optim.adagrad, adagrad, ()),
    "rmsprop": (optim.rmsprop, rmsprop, ("eps_in_sqrt",)),
    "adam": (optim.adam, adam, ()),
    "sign": (optim.sign, sign_descent, ()),
    "newton": (optim.newton, newton_flow, ()),
}
WITHOUT_RATE = (gradient_flow, sign_descent, newton_flow)


def limit_of(optimizer: optim.Optimizer, objective: Callable[[Any], Any]) -> Dynamics:
    r"""The textbook differential equation of an optimizer, with its hyperparameters, on the clock t = kη.

    | optimizer | equation |
    |---|---|
    | `gd`, `sign`, `newton` | `gradient_flow`, `sign_descent`, `newton_flow` |
    | `momentum` | `heavy_ball` of friction 1 − β and mass $\frac\eta2(1+\beta)$; with `ema` both over 1 − β |
    | `nesterov` | `heavy_ball` of friction 1 − β and mass $\frac\eta2(1 - \beta + 2\beta^2)$ |
    | `adagrad`, `rmsprop`, `adam` | the dynamics of that name, without mini-batches |

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
    constructor = getattr(optimizer, "_static", (None,))[0]
    found = next((entry for entry in KNOWN.values() if entry[0] is constructor), None)
    chosen = optim.hyperparameters(optimizer)
    if found is None or any(chosen[name] for name in found[2]):
        raise ValueError(
            f"No textbook equation is known for {optimizer!r}; there is one for {', '.join(KNOWN)}. "
            "modified(optimizer, objective) finds the equation of any optimizer."
        )
    _, dynamics, flags = found
    dropped = (*flags, "learning_rate") if dynamics in WITHOUT_RATE else flags
    arguments = {name: value for name, value in chosen.items() if name not in dropped}
    for name, value in arguments.items():
        if callable(value):
            raise ValueError(
                f"{name} must be a number for a textbook equation, got the schedule {value!r}; "
                "modified(optimizer, objective) takes schedules."
            )
    return dynamics(objective, **arguments)
