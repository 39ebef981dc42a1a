"""Ordinary differential equations that optimizers follow as their step goes to 0."""

from collections.abc import Callable
from typing import Any

import jax

from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field
from jaxflow.objective import gradient


@traceable
def gradient_flow(objective: Callable[[Any], jax.Array]) -> Field:
    r"""Gradient flow $\dot\theta = -\nabla L(\theta)$, the limit η → 0 of gradient descent on the clock t = kη.

    `objective` is an `Objective` or any callable `loss(params) -> scalar`; the state is the parameters.
    The loss never rises along it. Gradient descent leaves it at first order in η, as it follows the flow of
    $L + \frac{\eta}{4}|\nabla L|^2$ to second order (Barrett & Dherin 2021, 2009.11162).

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.gradient_flow(lambda x: 0.5 * jnp.sum(x**2))
    >>> path = jf.integrate(flow, jnp.ones(1), jnp.array([0.0, 1.0, 2.0]))
    >>> bool(jnp.allclose(path.values[:, 0], jnp.exp(-path.times), atol=1e-4))
    True

    Raises `TypeError` when `objective` is not callable.
    """
    if not callable(objective):
        raise TypeError(f"objective must be an Objective or a function of the parameters, got {objective!r}.")
    slope = gradient(objective)
    return Field(drift=lambda t, params: jax.tree.map(lambda g: -g, slope(params)))
