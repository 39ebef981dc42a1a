"""The Wasserstein distance between samples of one number: an effect size in the units of that number."""

import math
import numbers

import jax
import jax.numpy as jnp

from jaxflow._compiled import compiled
from jaxflow._norms import difference
from jaxflow.comparison.laws.standardised import row_mask


def wasserstein(a, b, order: float = 2.0) -> jax.Array:
    r"""The Wasserstein distance $\big(\int_0^1 |F_a^{-1}(u) - F_b^{-1}(u)|^p\,du\big)^{1/p}$ of two samples.

    In one dimension the best coupling is the sorted one, so this is exact for the samples, whatever n and m are. Two
    samples of one law are a positive distance apart, about 1/√n: the distance measures an effect, and tests nothing.

    **Arguments**

    - `a` (n, …), `b` (m, …): real samples along the leading axis, of one trailing shape. Every trailing entry is one
      marginal.
    - `order` p: a number at least 1 (static).

    **Returns** the distance of every marginal, shape (…), in the units of the samples. It works under `jit` and
    `vmap`.

    **Raises** `ValueError` for empty samples, samples whose trailing shapes differ, or an order below 1;
    `TypeError` for complex samples.

    Source: Villani, Topics in Optimal Transportation (2003), theorem 2.18.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> print(jf.comparison.wasserstein(jnp.array([0.0, 1.0]), jnp.array([3.0, 2.0])))
    2.0
    """
    a, b = two_samples(a, b)
    if not (isinstance(order, numbers.Real) and math.isfinite(order) and order >= 1):
        raise ValueError(f"order must be a finite number at least 1, got {order!r}.")
    return _wasserstein(a, b, order=float(order))


def two_samples(a, b) -> tuple[jax.Array, jax.Array]:
    """Both as float arrays. Anything but two samples of one shape is refused in one sentence."""
    for name, x in (("a", a), ("b", b)):
        if jnp.iscomplexobj(x):
            raise TypeError(f"{name} must be real, got dtype {jnp.result_type(x)}.")
    if all(isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.integer) and x.size for x in (a, b)):
        a, b = _subtract_first(a, b)
    a, b = jnp.asarray(a, float), jnp.asarray(b, float)
    for name, x in (("a", a), ("b", b)):
        if x.ndim == 0 or x.shape[0] == 0:
            raise ValueError(f"{name} must hold samples along a leading axis, got shape {x.shape}.")
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"a and b must share their trailing shape, got {a.shape[1:]} against {b.shape[1:]}.")
    return a, b


def _subtract_first(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Integers minus the first of them, which changes no distance and keeps what single precision would round off."""
    origin = a.reshape(-1)[0]
    shifted = lambda x: difference(x, origin.astype(x.dtype))
    return (shifted(a), shifted(b)) if a.dtype == b.dtype else (a, b)


@compiled(static=("order",))
def _wasserstein(a, b, order: float):
    flat = lambda x: x.reshape(x.shape[0], -1)
    return distances_of_columns(flat(a), flat(b), float(len(a)), float(len(b)), order).reshape(a.shape[1:])


def distances_of_columns(a: jax.Array, b: jax.Array, used_a, used_b, order: float) -> jax.Array:
    """The distances of the columns of `a` (n, k) and `b` (m, k), of which only the first `used` rows count."""
    ends = jnp.concatenate([_ends(a.shape[0], used_a), _ends(b.shape[0], used_b)])
    ends = jnp.sort(ends)
    widths = jnp.diff(ends, prepend=0.0)
    # Both quantile functions are constant between two ends; the middle decides which step that is.
    middles = ends - widths / 2
    gaps = jnp.abs(_quantiles(a, used_a, middles) - _quantiles(b, used_b, middles))
    # In units of the largest gap no power overflows, and where there is none the root has the derivative 0.
    gaps = jnp.where(widths[:, None] > 0, gaps, 0.0)
    largest = jax.lax.stop_gradient(gaps.max(0))
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    powers = widths @ (gaps / unit[None]) ** order
    return jnp.where(powers == 0, 0.0, unit * jnp.where(powers == 0, 1.0, powers) ** (1 / order))


def _ends(n: int, used) -> jax.Array:
    """The ends of the steps of the quantile function of `used` of n samples."""
    return jnp.minimum(jnp.arange(1.0, n + 1.0) / jnp.maximum(used, 1), 1.0)


def _quantiles(x: jax.Array, used, u: jax.Array) -> jax.Array:
    """The quantiles at u (U,) of each column's first `used` rows; shape (U, k)."""
    x = jnp.sort(jnp.where(row_mask(len(x), used) > 0, x, jnp.inf), axis=0)
    return x[jnp.clip(jnp.floor(u * used), 0, jnp.maximum(used, 1) - 1).astype(int)]
