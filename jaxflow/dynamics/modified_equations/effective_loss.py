"""The effective learning rate of an optimizer with memory, and the loss that it descends."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._completion import open_model
from jaxflow._gradients import gradient
from jaxflow._norms import norm, norms
from jaxflow.dynamics.base import add, scale
from jaxflow.dynamics.modified_equations.equation import check_arguments
from jaxflow.dynamics.modified_equations.expansion import fit, rate, reach
from jaxflow.dynamics.modified_equations.slow_flow import fixed_clock, settle_memory, slow_manifold
from jaxflow.dynamics.modified_equations.step_logarithm import increment
from jaxflow.games import VectorField
from jaxflow.optim import hyperparameters
from jaxflow.optim.multi_steps import optimizer_of_updates

PyTree = Any
ORDER = 2
# A coordinate in which the gradient is about to vanish bounds the step of a method that divides by it, but hardly
# tells in the rate at which the field changes.
LADDER = 30.0 ** -np.arange(4)


class Effective(NamedTuple):
    r"""Descent of $L + \kappa|\nabla L|^2$, to which an optimizer is equivalent at one place, to second order.

    - `learning_rate`: that of plain descent with the same velocity, step for step: η/(1 − β) for the heavy ball.
    - `penalty` κ: η/4 for gradient descent, $\frac{\eta(1+\beta)}{4(1-\beta)^2}$ for the heavy ball.
    - `misalignment`: the part of the velocity that is not along the gradient, relative.
    - `residual`: the part of the second-order velocity that is not along Hg, relative.

    Where `misalignment` and `residual` are not small compared with 1, no such loss exists. This is so for Adam, whose
    velocity is not linear in the gradient.
    """

    learning_rate: jax.Array
    penalty: jax.Array
    misalignment: jax.Array
    residual: jax.Array

    def modified_loss(self, objective: Callable[[PyTree], jax.Array], params: PyTree) -> jax.Array:
        r"""$L(\theta) + \kappa|\nabla L(\theta)|^2$ at `params`; a scalar. `TypeError` for a `VectorField`."""
        if isinstance(objective, VectorField):
            raise TypeError("objective must be a loss, got a VectorField, which is the gradient of no loss.")
        slope = gradient(objective)(params)
        return objective(params) + self.penalty * optax.tree.norm(slope, squared=True)


def effective(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    params: PyTree,
    *,
    step_size: Any = None,
) -> Effective:
    r"""The learning rate and the loss to which an optimizer with memory is equivalent, once its memory has settled.

    On its slow manifold $\dot\theta = f_1 + \eta f_2 + \dots$ on the clock t = kη. Projected, $c = -\frac{\langle
    f_1, g\rangle}{|g|^2}$ and $2\kappa c = -\eta\frac{\langle f_2, Hg\rangle}{|Hg|^2}$; the learning rate is cη,
    the modified loss $L + \kappa|\nabla L|^2$. The fields are the coefficients (`coefficients`) of `slow_manifold`
    in the learning rate, with all other hyperparameters fixed, so they hold for small η. `convergence` tells where
    η itself is small enough for them.

    **Arguments**

    - `optimizer`: one with a `learning_rate` among its own arguments: of `jaxflow.optim`, or of optax through
      `jaxflow.optim.traceable`. For an `optax.MultiSteps`, the optimizer inside is taken.
    - `objective`: an `Objective` or any function `loss(params) -> scalar`.
    - `params`: the place, a pytree of float arrays.
    - `step_size`: the largest learning rate with which the coefficients are found. By default it is the step that
      `coefficients` chooses, times the share of the slowest memory that is forgotten in a step, or down to 1/27000 of
      that, whichever fits best.

    **Returns** an `Effective`. It costs some 600 gradients, compiles once for all hyperparameters, and works under
    `jit` and `vmap`. $f_1$ and $f_2$ are right to 1e-10 in float64, to 2e-6 with a memory as long as β = .999, and
    to 1e-4 in float32.

    **Raises** `ValueError` for an optimizer without a learning rate of its own, with a schedule for it, with random
    state, or for a step size ≤ 0; `TypeError` when `optimizer` or `objective` is of another kind, or for a state
    that is not made of arrays.

    Source: Barrett & Dherin (2021), 2009.11162; for momentum: Kovachki & Stuart (2021), 1906.04285, and Ghosh et
    al. (2023), 2302.00849.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> found = jf.dynamics.effective(jf.optim.momentum(0.01, 0.9), lambda x: jnp.sum(x**2), jnp.ones(2))
    >>> print(found.learning_rate.round(6), found.penalty.round(6))  # η/(1 − β), η(1 + β)/(4(1 − β)²)
    0.1 0.475
    """
    optimizer = optimizer_of_updates(optimizer)
    check_arguments(optimizer, objective, ORDER, 1, None)
    if "learning_rate" not in hyperparameters(optimizer):
        raise ValueError(f"optimizer must have a learning_rate among its arguments, got {optimizer!r}.")
    fixed_clock(optimizer, None)
    if step_size is not None:
        _check.require_positive(step_size=step_size)
    objective, params = open_model(objective, params)
    return _effective_loss(
        optimizer=optimizer,
        objective=objective,
        params=jax.tree.map(jnp.asarray, params),
        step_size=step_size,
    )


def slow_coefficients(optimizer, objective, params: PyTree, step_size: Any = None) -> tuple[PyTree, ...]:
    """The coefficients of the slow flow in powers of the learning rate, with everything else fixed."""
    at = lambda h: optimizer.replace(learning_rate=h)
    field = lambda h: slow_manifold(at(h), objective, order=ORDER).drift(0.0, params)

    def step(h):
        return lambda params: (
            increment(at(h), objective, settle_memory(at(h), objective, params, 1)[0]).params
        )

    if step_size is None:
        _, forgets = settle_memory(at(jnp.zeros([])), objective, params, 1)
        share = jnp.min(jnp.stack([jnp.ones([]), *map(jnp.min, forgets)]))
        # How fast the velocity changes, which a method that divides by the gradient hides, or the gradient does.
        changes = rate(step, params, jax.tree.map(lambda _: True, params))
        velocity = slow_manifold(at(jnp.ones([])), objective, order=1).drift(0.0, params)
        slope, bent = jax.jvp(gradient(objective), (params,), (velocity,))
        whole, bend = norm(slope), norm(bent)
        changes = jnp.maximum(changes, bend / jnp.where(whole == 0, 1.0, whole))
        largest = share * reach(params, ORDER) / changes
        sizes = largest * LADDER
    else:
        sizes = jnp.asarray(step_size, float)[None]
    found = lax.map(lambda size: fit(field, size, ORDER), sizes)
    # Truncation falls and rounding grows along the ladder: the best rung is the one nearest to the next.
    gaps = norms(jax.tree.map(lambda f: f[:-1] - f[1:], found[-1]))
    best = jnp.argmin(jnp.where(jnp.isfinite(gaps), gaps, jnp.inf)) if step_size is None else 0
    return jax.tree.map(lambda f: f[best], found)


def _share_along(field: PyTree, axis: PyTree) -> tuple[jax.Array, jax.Array]:
    """The multiple of `axis` nearest to a field, and the rest of the field, relative; 0 where there is nothing."""
    squared = optax.tree.norm(axis, squared=True)
    share = jnp.real(optax.tree.vdot(axis, field)) / jnp.where(squared == 0, 1.0, squared)
    whole = norm(field)
    return share, norm(add(field, scale(-share, axis))) / jnp.where(whole == 0, 1.0, whole)


@compiled
def _effective_loss(*, optimizer, objective, params, step_size) -> Effective:
    first, second = slow_coefficients(optimizer, objective, params, step_size)
    slope, bent = jax.jvp(gradient(objective), (params,), (gradient(objective)(params),))
    speed, misalignment = _share_along(first, slope)
    bend, residual = _share_along(second, bent)
    eta = hyperparameters(optimizer)["learning_rate"]
    return Effective(-eta * speed, eta * bend / jnp.where(speed == 0, 1.0, 2 * speed), misalignment, residual)
