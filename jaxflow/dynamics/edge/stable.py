"""Stable flows: the differential equation of a preconditioned method, without oscillation.

Up to the edge of stability the iterates follow it; past the edge they leave it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxflow._traceable import traceable
from jaxflow.curvature.products import check_objective, real_parameters
from jaxflow.dynamics.base import Field, add, scale
from jaxflow.dynamics.edge.methods import Method, flat_loss, flat_moment, method_of, moment_of
from jaxflow.optim.schedules import value_at

PyTree = Any
PARTS = 2  # of a central flow's substep, which takes at most one time constant of what is fastest
LEAST = 1e-12  # learning rate: a step at 0 takes next to no time


class StableState(NamedTuple):
    """The state of a `stable_flow`.

    - `params`: the parameters.
    - `second_moment` ν: the one after the update at `params`; like the parameters, or a number, which is 0 where
      the method has no second moment.
    - `steps`: the step count, a float scalar.
    """

    params: PyTree
    second_moment: PyTree
    steps: jax.Array


@traceable
def stable_flow(optimizer: optax.GradientTransformation, objective: Callable[[PyTree], jax.Array]) -> Field:
    r"""The stable flow: `central_flow` without the oscillation, an ordinary differential equation.

    On the clock t = kη: $\dot w = -D^{-1}\nabla L$ with D = 1 for gradient descent, $\sqrt\nu + \epsilon$ for the
    others, and $\eta\dot\nu = \frac{1-\beta_2}{\beta_2}(\nabla L^2 - \nu)$ for RMSProp (its scalar form: |∇L|²),
    $\eta\dot\nu = \nabla L^2$ for AdaGrad. ν is that *after* the update at w, which is why its rate is divided by
    β₂. For gradient descent it is gradient flow.

    **Arguments**

    - `optimizer`: `gd`, `scalar_rmsprop`, `rmsprop` or `adagrad`, with a number or a schedule as learning rate;
      or an `optax.MultiSteps` of one, whose flow is that of its updates.
    - `objective`: an `Objective` on all data, or any function `loss(params) -> scalar`.

    **Returns** a `Dynamics`. Its state is a `StableState`; ν starts at one update of the optimizer's first state.

    **Raises** `ValueError` for another optimizer; `TypeError` for an objective that is not a loss.

    Source: Cohen, Damian, Talwalkar, Kolter & Lee 2024, 2410.24206.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.stable_flow(jf.optim.gd(0.1), lambda x: 0.5 * jnp.sum(x**2))
    >>> print(jf.integrate(flow, jnp.ones(1), [0.0, 1.0]).params.round(4))
    [0.3679]
    """
    check_objective(objective)
    method = method_of(optimizer)

    def init(params):
        params = real_parameters(params)
        return StableState(params, post_update(method, objective, params), jnp.zeros((), _dtype(params)))

    def drift(t, state):
        loss, flat, unravel = flat_loss(objective, state.params)
        nu = flat_moment(method, state.second_moment, flat)
        rate = step_rate(method, state.steps)
        falling, rising = velocity(method, loss, flat, nu)
        return StableState(unravel(falling), moment_of(method, rising / rate, unravel), 1 / rate)

    rate = method.learning_rate
    return Field(drift, init, lambda state: state.params, time_step=None if callable(rate) else rate)


def velocity(method: Method, loss: Callable, flat: jax.Array, nu: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The stable flow's dw/dt at flat parameters w, and dν/dk, with k = t/η counting steps."""
    gradient = jax.grad(loss)(flat)
    falling = -gradient / method.denominator(jnp.maximum(nu, 0.0))
    return falling, method.velocity(method.pool(gradient**2), nu)


def follow_velocity(moving: Callable, begin: PyTree, steps: jax.Array) -> PyTree:
    """Where `moving(*z)`, a velocity per step, takes z over `steps` steps, by the classical Runge–Kutta method."""
    dt = steps / PARTS

    def stage(begin, carry, share):
        slope, total = carry
        slope = moving(*add(begin, scale(share[0] * dt, slope)))
        return (slope, add(total, scale(share[1] * dt, slope))), None

    def part(_, begin):
        still = jax.tree.map(jnp.zeros_like, begin)
        shares = jnp.array([[0, 1 / 6], [1 / 2, 1 / 3], [1 / 2, 1 / 3], [1, 1 / 6]], steps.dtype)
        (_, total), _ = lax.scan(partial(stage, begin), (still, still), shares)
        return add(begin, total)

    return lax.fori_loop(0, PARTS, part, begin)


def _dtype(params: PyTree) -> Any:
    return jnp.result_type(*jax.tree.leaves(params))


def step_rate(method: Method, steps: jax.Array) -> jax.Array:
    """The learning rate of the step under way; where a schedule is at 0 it is a tiny number instead."""
    rate = value_at(method.learning_rate, jnp.floor(steps + 1e-2))
    return jnp.maximum(jnp.asarray(rate).astype(steps.dtype), LEAST)


def post_update(method: Method, objective, params: PyTree, before: PyTree = None) -> PyTree:
    """ν after one update at `params`, from `before` or the optimizer's first state."""
    loss, flat, unravel = flat_loss(objective, params)
    if before is None:
        size = flat.size if method.kind == "each" else 1
        before = jnp.full(size, method.initial, flat.dtype)
    else:
        before = flat_moment(method, before, flat)
    return moment_of(method, method.update_moment(method.pool(jax.grad(loss)(flat) ** 2), before), unravel)
