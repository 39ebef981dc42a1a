"""Ordinary differential equations in the parameters alone that optimizers follow: as the step goes to 0, and near it.

Those with a velocity are in `damped_oscillators`, those that form the Hessian in `hessian_flows`, those with a
second moment in `averaged_squares` and `summed_squares`. `modified` finds such equations by itself; these have a
known closed form.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._gradients import gradient
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, add, scale
from jaxflow.optim.schedules import check_rate, value_at

PyTree = Any
Loss = Callable[[PyTree], jax.Array]


def slope_of(objective: Loss) -> Callable[[PyTree], PyTree]:
    """The gradient of a loss; anything that is not a loss is refused."""
    if not callable(objective):
        raise TypeError(f"objective must be an Objective or a function of the parameters, got {objective!r}.")
    return gradient(objective)


def _settled_velocity(slope: Callable[[PyTree], PyTree], params: PyTree, friction: Any, mass: Any) -> PyTree:
    r"""$-\frac1f g - \frac{m}{f^3} Hg$, to which $m\ddot\theta + f\dot\theta + g = 0$ settles, up to O(m²)."""
    g = slope(params)
    curved = jax.jvp(slope, (params,), (g,))[1]
    return add(scale(-1 / friction, g), scale(-mass / friction**3, curved))


@traceable
def gradient_flow(objective: Loss) -> Field:
    r"""Gradient flow $\dot\theta = -\nabla L(\theta)$, the limit η → 0 of gradient descent on the clock t = kη.

    The loss never rises along it. Gradient descent leaves it at first order in η, because it follows the flow of
    $L + \frac{\eta}{4}|\nabla L|^2$ to second order (Barrett & Dherin 2021, 2009.11162).

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`.

    **Returns** a `Dynamics`, whose state is the parameters. A drift costs one gradient.

    **Raises** `TypeError` when `objective` is not callable.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.gradient_flow(lambda x: 0.5 * jnp.sum(x**2))
    >>> path = jf.integrate(flow, jnp.ones(1), jnp.array([0.0, 1.0, 2.0]))
    >>> bool(jnp.allclose(path.values[:, 0], jnp.exp(-path.times), atol=1e-4))
    True
    """
    slope = slope_of(objective)
    return Field(drift=lambda t, params: jax.tree.map(lambda g: -g, slope(params)))


@traceable
def implicit_gradient_regularization(objective: Loss, learning_rate: Any) -> Field:
    r"""The flow that gradient descent follows to second order: $\dot\theta = -\nabla L - \frac\eta2 H\nabla L$.

    It is the gradient flow of $L + \frac\eta4|\nabla L|^2$, since $\nabla|\nabla L|^2 = 2H\nabla L$, on the clock
    t = kη (Barrett & Dherin 2021, 2009.11162).

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`. For a `VectorField` v the flow is
      $-v - \frac\eta2 v'v$, in general no gradient.
    - `learning_rate` η: a number at least 0, or a function of the time t, which takes the place of the constant η.

    **Returns** a `Dynamics`, whose state is the parameters. A drift costs a gradient and a Hessian product.

    **Raises** `TypeError` when `objective` is not callable or a hyperparameter is not a number; `ValueError` for a
    negative rate.

    **Derivation.** Let $\dot\theta = F = -g + \eta f_2$. Over one step $\theta(\eta) = \theta + \eta F +
    \frac{\eta^2}2 F'F + O(\eta^3) = \theta - \eta g + \eta^2 (f_2 + \frac12 Hg) + O(\eta^3)$, which is
    $\theta - \eta g$ for $f_2 = -\frac12 Hg$. The iterates stay within O(η²) of it, and within O(η) of gradient flow.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.implicit_gradient_regularization(lambda x: 0.5 * jnp.sum(x**2), 0.2)
    >>> print(flow.drift(0.0, jnp.array([1.0])))
    [-1.1]
    """
    check_rate(learning_rate)
    slope = slope_of(objective)
    drift = lambda t, params: _settled_velocity(slope, params, 1.0, value_at(learning_rate, t) / 2)
    return Field(drift=drift, time_step=learning_rate)


def effective_mass(learning_rate: Any, beta: Any, nesterov: bool) -> Any:
    """The mass with which a heavy ball of friction 1 − β settles to the same path as momentum's iterates."""
    return learning_rate * (1 - beta + 2 * beta**2 if nesterov else 1 + beta) / 2


@traceable
def momentum_loss_flow(objective: Loss, learning_rate: Any, beta: Any = 0.9, nesterov: bool = False) -> Field:
    r"""The gradient flow of the loss that momentum descends, to second order, on the clock t = kη.

    $\dot\theta = -\frac1{1-\beta}\nabla\big[L + \frac{\eta c}{4(1-\beta)^2}|\nabla L|^2\big]
    = -\frac{g}{1-\beta} - \frac{\eta c}{2(1-\beta)^3} Hg$, with c = 1 + β for the heavy ball,
    `jaxflow.optim.momentum`, and $c = 1 - \beta + 2\beta^2$ for `jaxflow.optim.nesterov`, in either of its forms.
    At β = 0 both are `implicit_gradient_regularization`. Momentum of the same effective rate η/(1 − β) makes that
    regularization $\frac{c}{1-\beta}$ times stronger.

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`.
    - `learning_rate` η: a number at least 0, or a function of the time t.
    - `beta` β: the momentum, a number in [0, 1).
    - `nesterov`: whether the method is `jaxflow.optim.nesterov` (static).

    **Returns** a `Dynamics`, whose state is the parameters. A drift costs a gradient and a Hessian product.

    **Raises** `TypeError` when `objective` is not callable or a hyperparameter is not a number; `ValueError` for a
    negative rate or `beta` outside [0, 1).

    **Derivation.** At fixed β the velocity forgets its past in $\frac1{1-\beta}$ steps. After that it is a function
    of θ: $v_{k+1} = \sum_j \beta^j g(\theta_{k-j})$. On $\dot\theta = F$ the past is
    $g(\theta_{k-j}) = g - j\eta HF + O(\eta^2)$ with $F = -\frac{g}{1-\beta}$ to leading order, and
    $\sum_j j\beta^j = \frac{\beta}{(1-\beta)^2}$, so a step is
    $-\eta v_{k+1} = -\eta\big(\frac{g}{1-\beta} + \frac{\eta\beta}{(1-\beta)^3} Hg\big)$. The field with such steps
    has $-\frac\eta2 F'F = -\frac{\eta}{2(1-\beta)^2} Hg$ in addition, as without momentum:
    $-\eta\frac{2\beta + 1 - \beta}{2(1-\beta)^3} Hg$. Nesterov's step is $-\eta(g + \beta v_{k+1})$, which gives
    $2\beta^2 + 1 - \beta$. Source: Kovachki & Stuart 2021, 1906.04285; as a modified loss: Ghosh, Lyu, Zhang & Wang
    2023, 2302.00849.

    It is **valid** after the start, about $\frac{1}{1-\beta}$ steps, which shifts the path by O(η) (`heavy_ball`
    has a start), and while η|H| is small compared with (1 − β)².

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.momentum_loss_flow(lambda x: 0.5 * jnp.sum(x**2), 0.1, 0.5)
    >>> print(flow.drift(0.0, jnp.array([1.0])))
    [-2.6]
    """
    check_rate(learning_rate)
    _check.require_fraction(beta=beta)
    slope = slope_of(objective)
    mass = lambda t: effective_mass(value_at(learning_rate, t), beta, nesterov)
    return Field(
        drift=lambda t, params: _settled_velocity(slope, params, 1 - beta, mass(t)), time_step=learning_rate
    )


@traceable
def sign_descent(objective: Loss) -> Field:
    r"""Sign descent in continuous time, $\dot\theta = -\mathrm{sign}(\nabla L)$, on the clock t = kη.

    It is the limit η → 0 of $\theta \leftarrow \theta - \eta\,\mathrm{sign}(g)$ (Bernstein et al. 2018,
    1802.04434). On that clock every coordinate moves at unit speed. On a separable loss, coordinate i reaches its
    minimum at $t =
    |\theta_i - \theta_i^*|$, in finite time.

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`.

    **Returns** a `Dynamics`, whose state is the parameters. A drift costs one gradient.

    **Raises** `TypeError` when `objective` is not callable.

    At the minimum of a coordinate the field jumps. The path goes on as a solution in the sense of Filippov (1988):
    the coordinate stays at $g_i = 0$ while the others move, at the average of the two signs that keeps it there. A
    solver with adaptive steps does not know that: it chatters across the jump, within its tolerance, and spends its
    steps. End the run before the jump, or use fixed steps (`step_size=`), which chatter by one step, as the
    optimizer does by η. With mini-batches there is no jump: `sign_sgd`.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.sign_descent(lambda x: jnp.sum(x**4))
    >>> print(jf.integrate(flow, jnp.array([1.0, -2.0]), [0.0, 0.75]).params)
    [ 0.25 -1.25]
    """
    slope = slope_of(objective)
    return Field(drift=lambda t, params: jax.tree.map(lambda g: -jnp.sign(g), slope(params)))
