"""Power iteration, for linear maps that need not be symmetric: growth, and whether the leading direction turns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxflow._norms import norm

PyTree = Any


class Powers(NamedTuple):
    """What `iterations` products saw, each (iterations,): the growth |Mv| of the unit vector v, and $v^T M v$."""

    growth: jax.Array
    rayleigh: jax.Array


def power_iteration(apply: Callable[[PyTree], PyTree], start: PyTree, iterations: int) -> Powers:
    """Apply a linear map again and again to its own normalised result, from `start`, a pytree that is not 0.

    The growth tends to the spectral radius. Where the leading eigenvalues are a pair that rotates it has no limit,
    but its mean logarithm has. The Rayleigh quotient tends to the leading eigenvalue, where that is real.
    """

    def iterate(v, _):
        size = norm(v)
        v = jax.tree.map(lambda x: x / jnp.where(size == 0, 1, size).astype(x.real.dtype), v)
        w = apply(v)
        return w, Powers(norm(w), jnp.real(jnp.asarray(optax.tree.vdot(v, w))))

    return lax.scan(iterate, start, None, length=iterations)[1]
