"""Equations of the table that take an optimizer's hyperparameters where the dynamics itself has others."""

from collections.abc import Callable
from typing import Any

from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Dynamics
from jaxflow.dynamics.decoupled_decay import decayed
from jaxflow.dynamics.diffusions.averaged_squares import adam_sde
from jaxflow.dynamics.diffusions.inertial import momentum_sgd
from jaxflow.dynamics.flows.averaged_squares import adam as adam_flow
from jaxflow.dynamics.flows.damped_oscillators import heavy_ball
from jaxflow.dynamics.flows.first_order import effective_mass
from jaxflow.optim.schedules import value_at


@traceable
def friction_in_time(beta):
    """The friction 1 − β of a momentum that is a function of the time."""
    return lambda t: 1 - beta(t)


@traceable
def mass_in_time(learning_rate, beta, nesterov, ema):
    """The mass of momentum whose rate or β, or both, are functions of the time."""

    def mass(t):
        rate, b = value_at(learning_rate, t), value_at(beta, t)
        return effective_mass(rate, b, nesterov) / (1 - b if ema else 1.0)

    return mass


def _ball(objective, learning_rate, beta, nesterov=False, ema=False) -> Dynamics:
    if callable(learning_rate) or callable(beta):
        mass = mass_in_time(learning_rate, beta, nesterov, ema)
        return heavy_ball(objective, 1.0 if ema else _friction(beta), mass)
    friction, mass = 1 - beta, effective_mass(learning_rate, beta, nesterov)
    return heavy_ball(objective, 1.0, mass / friction) if ema else heavy_ball(objective, friction, mass)


def _friction(beta: Any) -> Any:
    return friction_in_time(beta) if callable(beta) else 1 - beta


def heavy_ball_of_momentum(objective, learning_rate, beta, ema):
    """The damped oscillator whose friction and mass are those of `optim.momentum`."""
    return _ball(objective, learning_rate, beta, ema=ema)


def heavy_ball_of_nesterov(objective, learning_rate, beta, lookahead):
    """The damped oscillator whose friction and mass are those of `optim.nesterov`."""
    del lookahead  # its two forms are one sequence, read off at points that settle to one equation
    return _ball(objective, learning_rate, beta, nesterov=True)


def _add_decoupled_decay(
    make: Callable[[Any], Dynamics], learning_rate, weight_decay, multiplier
) -> Dynamics:
    r"""`make(rate)` with decoupled decay, in either of its forms, on the clock t = k · `learning_rate`.

    The paper's form, $\theta \leftarrow \theta - \mu(\alpha u + \lambda\theta)$, is the default form of rate μα and
    decay λ/α. On the clock kα it goes μ times as fast as on its own, kμα.
    """
    if multiplier is None:
        return decayed(make(learning_rate), weight_decay)
    for name, value in (("multiplier", multiplier), ("learning_rate", learning_rate)):
        if callable(value):
            raise ValueError(
                f"{name} must be a number for an equation with multiplier=, whose clock is not that of the schedule, "
                f"got {value!r}."
            )
    return multiplier * decayed(make(multiplier * learning_rate), weight_decay / learning_rate)


def sgdw_flow(objective, learning_rate, beta, weight_decay, multiplier):
    """The heavy ball of `optim.sgdw`, with its decay."""
    return _add_decoupled_decay(
        lambda rate: _ball(objective, rate, beta), learning_rate, weight_decay, multiplier
    )


def sgdw_sde(
    objective, learning_rate, batch_size, beta, weight_decay, multiplier, *, replacement=True, order=2
):
    """`momentum_sgd` with the decay of `optim.sgdw`."""

    def make(rate):
        return momentum_sgd(objective, rate, batch_size, beta, replacement=replacement, order=order)

    return _add_decoupled_decay(make, learning_rate, weight_decay, multiplier)


def adamw_flow(objective, learning_rate, b1, b2, eps, weight_decay, multiplier):
    """The `adam` dynamics with the decay of `optim.adamw`."""
    make = lambda rate: adam_flow(objective, rate, b1=b1, b2=b2, eps=eps)
    return _add_decoupled_decay(make, learning_rate, weight_decay, multiplier)


def adamw_sde(
    objective, learning_rate, batch_size, b1, b2, eps, weight_decay, multiplier, *, replacement=True
):
    """`adam_sde` with the decay of `optim.adamw`."""
    make = lambda rate: adam_sde(objective, rate, batch_size, b1, b2, eps, replacement=replacement)
    return _add_decoupled_decay(make, learning_rate, weight_decay, multiplier)
