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
    spread = 0.75 + 0.5 * scatter_rows(range(1, 2), start.size, start.dtype)[0]

    def disturb(v):
        image = apply(v)
        size = norm(image)
        # By rounding: at the end of an exhausted space Lanczos would go on with 0/0.
        tiny = 10 * jnp.finfo(start.dtype).eps * jnp.where(size > 0, size, 1.0)
        return image + tiny * spread * v

    krylov: Any = decomp.tridiag_sym(depth, custom_vjp=False, materialize=False)(disturb, start)
    (diagonal, links), small = krylov.J_small, 100 * jnp.finfo(start.dtype).eps
    # What follows a link that is rounding is not orthogonal to what was before: it is cut off.
    links = jnp.append(links, norm(krylov.residual))
    links = jnp.where(jnp.isnan(links), 0.0, links)  # 0/0, where no rounding came to help
    numbers = jnp.concatenate([diagonal, links[:-1]])
    size = jnp.max(jnp.abs(numbers), where=~jnp.isnan(numbers), initial=0.0)
    joined = jnp.cumprod((links[:-1] > small * size).astype(jnp.int32)) == 1
    whole = jnp.append(jnp.ones(1, bool), joined)
    matrix = jnp.diag(diagonal) + jnp.diag(links[:-1], 1) + jnp.diag(links[:-1], -1)
    last = jnp.sum(whole) - 1
    kept = jnp.where(whole[:, None] & whole[None], matrix, 0.0)
    values, rotation = jnp.linalg.eigh(kept - jnp.diag(jnp.where(whole, 0.0, 3 * size + 1)))
    found = jnp.sum(jnp.where(whole[:, None], rotation**2, 0.0), axis=0) > 0.5
    basis = jnp.where(whole[:, None], krylov.Q_tall, 0.0)
    return Krylov(values, rotation, basis, links[last] * jnp.abs(rotation[last]), found)


def random_start(size: int, dtype) -> jax.Array:
    """A start to which no eigenvector is orthogonal, except by chance; (n,)."""
    return scatter_rows(range(1), size, dtype)[0]


def scatter_rows(rows: range, size: int, dtype) -> jax.Array:
    """Rows (k, n) that lie in no particular direction: numbers from −1/2 to 1/2, which cost less than random ones."""
    i, j = jnp.arange(size, dtype=jnp.uint32)[None], jnp.asarray(rows, jnp.uint32)[:, None]
    bits = i * jnp.uint32(2654435761) + j * jnp.uint32(2246822519)
    bits = (bits ^ (bits >> 16)) * jnp.uint32(2146121005)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(2221713035)
    return (bits >> 8).astype(dtype) / 2**24 - 0.5
