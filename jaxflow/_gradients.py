"""The gradient of a loss, or of what stands for one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.games import VectorField

PyTree = Any


def gradient(loss: Callable[[PyTree], jax.Array]) -> Callable[[PyTree], PyTree]:
    """The gradient of a real `loss`, conjugated where parameters are complex; a `VectorField` is its own.

    `jax.grad` returns the conjugate of the direction of steepest ascent there, so that subtracting it would
    not descend.

    >>> import jax.numpy as jnp
    >>> print(gradient(lambda z: jnp.abs(z - (1 + 2j)) ** 2)(jnp.asarray(0j)))
    (-2-4j)
    """
    if isinstance(loss, VectorField):
        return loss
    return lambda params: jax.tree.map(jnp.conj, jax.grad(loss)(params))


def value_and_gradient(loss: Callable[[PyTree], jax.Array], params: PyTree) -> tuple[jax.Array, PyTree]:
    """A loss and its gradient at `params`; a vector field stands for a gradient and has no value, so that is NaN."""
    if isinstance(loss, VectorField):
        return jnp.asarray(jnp.nan, jnp.result_type(*jax.tree.leaves(params))), loss(params)
    value, slope = jax.value_and_grad(loss)(params)
    return value, jax.tree.map(jnp.conj, slope)
