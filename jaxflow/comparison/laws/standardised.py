"""Numbers of two ensembles in units of their pooled spread, where rounding is told from spread."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._norms import root

# A spread of fewer rounding errors is not told from them, and a gap of fewer between constants counts as 0.
RESOLVED, ROUNDING = 4, 64


class Columns(NamedTuple):
    """k numbers of the members of both ensembles, in units of their pooled SD. Rows that do not count are zero.

    `a` (n, k) and `b` (m, k) are about the middle between the two means, `own_a` and `own_b` about each mean. A
    column without spread has `varies` False, 0 in `own_a` and `own_b`, and its size as its unit. `rounding` is the
    part of a gap that may be rounding error. `unresolved`: the members differ, but by too few rounding errors to
    tell.
    """

    a: jax.Array
    b: jax.Array
    own_a: jax.Array
    own_b: jax.Array
    varies: jax.Array
    unit: jax.Array
    rounding: jax.Array
    unresolved: jax.Array

    @property
    def scale(self) -> jax.Array:
        """The pooled SD, 0 where there is no spread; shape (k,)."""
        return jnp.where(self.varies, self.unit, 0.0)


def standardise(a: jax.Array, b: jax.Array, used_a, used_b, precision: jax.Array) -> Columns:
    """The columns of `a` (n, k) and `b` (m, k), of which the first `used` rows (a float) count, the others are zero.

    `precision` (k,): the relative rounding error of each.
    """
    live_a, live_b = row_mask(len(a), used_a), row_mask(len(b), used_b)
    size = jnp.maximum(jnp.abs(a).max(0), jnp.abs(b).max(0))
    size = jnp.where(size > 0, size, 1.0)
    # Seen from the first member, a column that is constant in both is exactly 0, and one that varies has its digits.
    origin = a[:1]
    a, b = live_a * ((a - origin) / size[None]), live_b * ((b - origin) / size[None])
    constant = (a == 0).all(0) & ((b == b[:1]) | (live_b == 0)).all(0)
    mean_a, mean_b = mean(a, used_a)[None], mean(b, used_b)[None]
    own_a, own_b = live_a * (a - mean_a), live_b * (b - mean_b)
    # Each ensemble counts as it has members: the noisier variance of the smaller one would bias ratios to it.
    squares = (own_a**2).sum(0) + (own_b**2).sum(0)
    spread = root(squares / jnp.maximum(used_a + used_b - 2, 1))
    varies = spread > RESOLVED * precision
    spread = jnp.where(varies, spread, 1.0)
    # Constants of half precision are told apart as those of single precision.
    nothing = ROUNDING * jnp.minimum(precision, float(jnp.finfo(jnp.float32).eps))
    nothing = jnp.where(constant, nothing, jnp.maximum(nothing, 2 * RESOLVED * precision))
    gap = jnp.abs(mean_a - mean_b)[0]
    unresolved = ~varies & ~(constant & ((gap == 0) | (gap > nothing)))
    middle, inside = (mean_a + mean_b) / 2, jnp.where(varies, 1 / spread, 0.0)[None]
    return Columns(
        a=live_a * (a - middle) / spread[None],
        b=live_b * (b - middle) / spread[None],
        own_a=own_a * inside,
        own_b=own_b * inside,
        varies=varies,
        unit=size * spread,
        rounding=jnp.where(varies, precision / spread, nothing),
        unresolved=unresolved,
    )


def project(columns: Columns, used_a, used_b, key: jax.Array, count: int) -> Columns:
    """`count` random projections of the columns that vary, each on a direction of about unit length."""
    d = columns.varies.size
    directions = jax.random.normal(key, (d, count), columns.a.dtype) / np.sqrt(d)
    directions = jnp.where(columns.varies[:, None], directions, 0.0)
    # A projection is of size 1, as the columns are.
    precision = jnp.where(columns.varies, columns.rounding, 0.0).max()
    precision = jnp.full(count, precision)
    return standardise(columns.a @ directions, columns.b @ directions, used_a, used_b, precision)


def row_mask(n: int, used) -> jax.Array:
    """1 in the first `used` of n rows, 0 in the others; shape (n, 1)."""
    return (jnp.arange(n, dtype=float) < used)[:, None].astype(float)


def mean(x: jax.Array, used) -> jax.Array:
    """The mean over `used` rows, the others being zero."""
    return x.sum(0) / jnp.maximum(used, 1)


def variance(centred: jax.Array, used) -> jax.Array:
    """The unbiased variance of centred columns."""
    return (centred**2).sum(0) / jnp.maximum(used - 1, 1)
