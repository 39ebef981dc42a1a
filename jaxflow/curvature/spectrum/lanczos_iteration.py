"""Lanczos iteration: the only place that calls matfree for it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from matfree import decomp

from jaxflow._norms import norm


class Krylov(NamedTuple):
    """Ritz pairs of a symmetric operator in a Krylov space of dimension d.

    - `values` (d,), ascending; `rotation` (d, d): the Ritz vectors in the basis; `basis` (d, n), orthonormal rows.
    - `residuals` (d,): the norms $|Mq - \\lambda q|$ of the Ritz pairs.
    - `found` (d,): whether each is a Ritz pair. Where the Krylov space is exhausted before d, at an invariant
      subspace, the rest are not, and their values are below all others.
    """

    values: jax.Array
    rotation: jax.Array
    basis: jax.Array
    residuals: jax.Array
    found: jax.Array


def lanczos(apply: Callable[[jax.Array], jax.Array], start: jax.Array, depth: int) -> Krylov:
    """Lanczos with full reorthogonalisation from `start` (n,): `depth` ≤ n products, of unit vectors."""
    spread = jax.random.uniform(jax.random.key(0), start.shape, start.dtype, 0.5, 1.0)

    def disturbed(v):
        image = apply(v)
        size = norm(image)
        # By rounding: at the end of an exhausted space Lanczos would go on with 0/0.
        tiny = 10 * jnp.finfo(start.dtype).eps * jnp.where(size > 0, size, 1.0)
        return image + tiny * spread * v

    krylov: Any = decomp.tridiag_sym(depth, custom_vjp=False)(disturbed, start)
    matrix, small = krylov.J_small, 100 * jnp.finfo(start.dtype).eps
    # What follows a link that is rounding is not orthogonal to what was before: it is cut off.
    links = jnp.append(jnp.diagonal(matrix, 1), norm(krylov.residual))
    links = jnp.where(jnp.isnan(links), 0.0, links)  # 0/0, where no rounding came to help
    size = jnp.nanmax(jnp.abs(matrix))
    joined = jnp.cumprod((links[:-1] > small * size).astype(jnp.int32)) == 1
    whole = jnp.append(jnp.ones(1, bool), joined)
    last = jnp.sum(whole) - 1
    kept = jnp.where(whole[:, None] & whole[None], matrix, 0.0)
    values, rotation = jnp.linalg.eigh(kept - jnp.diag(jnp.where(whole, 0.0, 3 * size + 1)))
    found = jnp.sum(jnp.where(whole[:, None], rotation**2, 0.0), axis=0) > 0.5
    basis = jnp.where(whole[:, None], krylov.Q_tall, 0.0)
    return Krylov(values, rotation, basis, links[last] * jnp.abs(rotation[last]), found)


def random_start(size: int, dtype) -> jax.Array:
    """A start to which no eigenvector is orthogonal, except by chance; (n,)."""
    return jax.random.normal(jax.random.key(0), (size,), dtype)
