"""Momentum without noise as a damped oscillator: with constant friction, and with Nesterov's, which fades with time.

Both are equations of second order in time, solved for a position and a velocity.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, add, scale
from jaxflow.dynamics.flows.first_order import Loss, slope_of
from jaxflow.optim.schedules import check_rate, value_at

PyTree = Any


class InertialState(NamedTuple):
    """The state of a dynamics with inertia: two pytrees of one structure.

    - `params`: the parameters θ.
    - `velocity`: their velocity u = dθ/dt, which is −v for the velocity v of the discrete method.
    """

    params: PyTree
    velocity: PyTree


def rest_state(params: PyTree) -> InertialState:
    """The state of velocity 0, with which optimizers start."""
    return InertialState(params, jax.tree.map(jnp.zeros_like, params))


@traceable
def heavy_ball(objective: Loss, friction: Any, mass: Any) -> Field:
    r"""The heavy ball with friction: $m\ddot\theta + f\dot\theta + \nabla L(\theta) = 0$.

    It is Polyak's (1964) picture of momentum: a body of mass m in the landscape L. Its energy
    $L + \frac m2|\dot\theta|^2$ falls at the rate $f|\dot\theta|^2$.

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`.
    - `friction` f: a number at least 0, or a function of the time t; force per velocity.
    - `mass` m: a number above 0, or a function of the time t; in units of time × friction.

    **Returns** a `Dynamics`. Its state is `InertialState(params, velocity)`, at rest at first. A drift costs one
    gradient.

    **Raises** `TypeError` when `objective` is not callable or a hyperparameter is not a number; `ValueError` for a
    negative friction or a mass that is not positive.

    **From the optimizer.** $v \leftarrow \beta v + g,\ \theta \leftarrow \theta - \eta v$ on the clock t = kη, with
    $\dot\theta = u = -v$, reads $u_{k+1} - u_k = -(1-\beta)u_k - g$ for each step of length η. So
    $\eta\dot u = -(1-\beta)u - g$: the friction is 1 − β and, to leading order, the mass is η, as textbooks have it.
    The mass

    $m = \frac\eta2(1+\beta)$

    makes the equation second-order where it settles (Kovachki & Stuart 2021, 1906.04285). After a time of $\frac
    mf$ the velocity is a function of θ: with $u = -\frac gf + u_1$, $m\dot u = -\frac mf H u = \frac{m}{f^2}Hg +
    O(m^2)$ must be $-f u_1$, hence $\dot\theta = -\frac gf - \frac{m}{f^3}Hg$, which is the modified equation of
    momentum, $-\frac{g}{1-\beta} - \frac{\eta(1+\beta)}{2(1-\beta)^3}Hg$ (`momentum_loss_flow`), for this mass
    only. The start still shifts the path by O(η), because the velocity is that of half a step before. A run that
    begins at t = −η/2 is of second order from the beginning. `limit_of(jaxflow.optim.momentum(η, β), objective)`
    makes this choice; with `ema=True` the friction is 1 and the mass $\frac{\eta(1+\beta)}{2(1-\beta)}$. The
    equation on mini-batches is `momentum_sgd`.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> ball = jf.dynamics.heavy_ball(lambda x: 0.5 * jnp.sum(x**2), friction=0.0, mass=1.0)
    >>> print(jf.integrate(ball, jnp.ones(1), [0.0, jnp.pi]).params.round(3))  # a pendulum: cos t
    [-1.]
    """
    check_rate(friction, "friction")
    if not callable(mass):
        _check.require_positive(mass=mass)
    slope = slope_of(objective)

    def drift(t, state):
        force = add(slope(state.params), scale(value_at(friction, t), state.velocity))
        return InertialState(state.velocity, scale(-1 / value_at(mass, t), force))

    return Field(drift=drift, init=rest_state, params=lambda state: state.params)


@traceable
def nesterov(objective: Loss, damping: Any = 3.0) -> Field:
    r"""Nesterov's accelerated gradient in continuous time: $\ddot\theta + \frac rt\dot\theta + \nabla L(\theta) = 0$.

    It is the limit η → 0 of the method with $\beta_k = 1 - \frac{r}{k + r}$, on the clock **t = k√η** (Su, Boyd &
    Candès 2016, 1503.01243). For convex L and r ≥ 3, $L(\theta) - L^* \le
    \frac{(r-1)^2}{2t^2}|\theta_0 - \theta^*|^2$.

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`.
    - `damping` r: a number at least 0; 3 is Nesterov's.

    **Returns** a `Dynamics`. Its state is `InertialState(params, velocity)`. A drift costs one gradient. Runs must
    start at time 0.

    **Raises** `TypeError` when `objective` is not callable or a hyperparameter is not a number; `ValueError` for a
    negative damping.

    **Derivation.** With $x_{k+1} = y_k - \eta g(y_k)$, $y_k = x_k + \beta_k(x_k - x_{k-1})$ and s = √η,
    $\frac{x_{k+1} - x_k}{s} = \beta_k\frac{x_k - x_{k-1}}{s} - s\,g(y_k)$. For $x_k = \theta(ks)$ the two quotients
    are $\dot\theta \pm \frac s2\ddot\theta$, and $\beta_k = 1 - \frac{r s}{t}$ to leading order. The terms of order
    s are $\ddot\theta = -\frac rt\dot\theta - g$. The equation is first-order in √η. For a constant β the limit is
    another one, `heavy_ball`.

    It is regular at t = 0 only from rest: there $\dot\theta = t\ddot\theta(0)$, so that
    $\ddot\theta(0) = -\frac{g}{1 + r}$. This is what `drift` gives at t = 0, whatever the velocity is. On
    $\frac\lambda2 x^2$ with r = 3 the solution is $x = 2x_0\frac{J_1(t\sqrt\lambda)}{t\sqrt\lambda}$.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.nesterov(lambda x: 0.5 * jnp.sum(x**2))
    >>> print(flow.drift(0.0, flow.init(jnp.ones(1))).velocity)
    [-0.25]
    """
    _check.require_nonnegative(damping=damping)
    slope = slope_of(objective)

    def drift(t, state):
        g, begun = slope(state.params), jnp.asarray(t) > 0
        # Both branches are finite, as a derivative is taken through either.
        friction = jnp.where(begun, damping / jnp.where(begun, t, 1.0), 0.0)
        inertia = jnp.where(begun, 1.0, 1.0 + damping)
        force = add(g, scale(friction, state.velocity))
        return InertialState(state.velocity, scale(-1 / inertia, force))

    return Field(drift=drift, init=rest_state, params=lambda state: state.params)
