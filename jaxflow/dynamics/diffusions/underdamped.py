"""Langevin dynamics with inertia, stepped by a splitting that leaves a quadratic's position variance exact."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._gradients import gradient
from jaxflow._norms import root
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, add, scale
from jaxflow.dynamics.diffusions.first_order import normal_shape
from jaxflow.optim.schedules import check_rate, value_at

PyTree = Any


class LangevinState(NamedTuple):
    """The state of `underdamped_langevin`, three pytrees of one structure.

    - `params`: the parameters θ.
    - `velocity`: their velocity u.
    - `slope`: the gradient at the parameters, with which the next step starts.
    """

    params: PyTree
    velocity: PyTree
    slope: PyTree


@traceable
def underdamped_langevin(
    objective: Callable[[PyTree], jax.Array], temperature: Any, *, friction: Any = 1.0, mass: Any = 1.0
) -> Field:
    r"""Langevin dynamics with mass: $d\theta = u\,dt,\ m\,du = -\gamma u\,dt - \nabla L\,dt + \sqrt{2\gamma T} dW$.

    Its stationary law is Gibbs', $\propto e^{-(L(\theta) + m|u|^2/2)/T}$. The law of θ is therefore that of
    `jaxflow.dynamics.langevin` for every friction and mass, and the paths tend to those of `langevin` as m → 0 (γ =
    1).

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`.
    - `temperature` T: a number at least 0, in units of the loss, or a function of the time t.
    - `friction` γ: a number at least 0; what other authors call the rate of friction is γ/m.
    - `mass` m: a number above 0.

    **Returns** a `Dynamics`. Its state is a `LangevinState(params, velocity, slope)`, at rest at first. A step is
    BAOAB (Leimkuhler & Matthews 2013, 1203.5428): kick, move, the exact Ornstein–Uhlenbeck step of the velocity,
    move, kick, for one gradient. It is of weak order 2, and the stationary variance of a quadratic's θ is exact at
    any stable step, $dt < 2\sqrt{m/h}$. No discrete process belongs to it, so `integrate` needs `substeps` or
    `step_size`; steps of $0.1\sqrt{m/h}$ are fine ones. The noise is additive.

    **Raises** `TypeError` for an objective that is not callable, a hyperparameter that is not a number or complex
    parameters; `ValueError` for a negative temperature or friction, or a mass that is not positive.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> dynamics = jf.dynamics.underdamped_langevin(lambda x: 0.5 * jnp.sum(x**2), temperature=0.5)
    >>> path = jf.integrate(dynamics, jnp.zeros(1000), [0.0, 10.0], step_size=0.5, key=jax.random.key(0))
    >>> bool(abs(path.params.var() - 0.5) < 0.1)
    True
    """
    if not callable(objective):
        raise TypeError(f"objective must be an Objective or a function of the parameters, got {objective!r}.")
    check_rate(temperature, "temperature")
    _check.require_nonnegative(friction=friction)
    _check.require_positive(mass=mass)
    slope = gradient(objective)
    rest = lambda params: jax.tree.map(jnp.zeros_like, params)

    def drift(t, state):
        force = add(slope(state.params), scale(friction, state.velocity))
        # The slope is a function of the parameters, kept for the next step; it does not flow.
        return LangevinState(state.velocity, scale(-1 / mass, force), rest(state.params))

    def diffusion(t, state, xi):
        amplitude = root(2 * friction * value_at(temperature, t)) / mass
        return LangevinState(rest(state.params), scale(amplitude, xi), rest(state.params))

    def step(t, state, dt, xi):
        lost = -jnp.expm1(-friction * dt / mass)
        random = root(lost * (2 - lost) * value_at(temperature, t + dt / 2) / mass)
        half = dt / 2
        velocity = add(state.velocity, scale(-half / mass, state.slope))
        params = add(state.params, scale(half, velocity))
        velocity = add(scale(1 - lost, velocity), scale(random, xi))
        params = add(params, scale(half, velocity))
        force = slope(params)
        return LangevinState(params, add(velocity, scale(-half / mass, force)), force)

    return Field(
        drift=drift,
        init=lambda params: LangevinState(params, rest(params), slope(params)),
        params=lambda state: state.params,
        diffusion=diffusion,
        brownian=lambda state: normal_shape(state.params),
        step=step,
        additive=True,
    )
