"""Wasserstein distances: of samples, on a line in closed form, and of Gaussians in any dimension."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._norms import root
from jaxflow.density.near_minimum.symmetric_matrices import as_covariance, as_floats, root_of
from jaxflow.density.transport.in_more_dimensions import (
    as_sample,
    as_weights,
    check_power,
    exact_distance,
    require_one_dimension,
)

SLIVER = 8  # rounding errors: levels that are closer than this are one


def wasserstein(x: Any, y: Any, *, p: float = 2, x_weights: Any = None, y_weights: Any = None) -> jax.Array:
    r"""The p-Wasserstein distance of two samples, the least cost of carrying one to the other.

    It is $\min_P \big(\sum_{ij} P_{ij} |x_i - y_j|^p\big)^{1/p}$ over couplings P of the two. On a line that is
    $\big(\int_0^1 |F^{-1}(u) - G^{-1}(u)|^p\,du\big)^{1/p}$ with the quantile functions, as the sorted coupling is
    the best one. In more dimensions it is solved by the network simplex method of the optional package POT, in about
    n³ operations. Both are exact for the samples, whatever their sizes and weights are. Two samples of one law are a
    positive distance apart.

    **Arguments**

    - `x` (n,), `y` (m,): real samples on a line. Many pairs go through `jax.vmap`. Or (n, d), (m, d): samples in d
      dimensions, concrete.
    - `p`: a finite number at least 1 (static).
    - `x_weights` (n,), `y_weights` (m,): masses at least 0, not all 0, which are divided by their sum. Default: equal
      masses.

    **Returns** the distance, a scalar in the units of the samples. On a line it is compiled when called plainly,
    works under `jit` and `vmap`, and has derivatives in samples and weights. Its derivative is 0 where it is 0.

    **Raises** `ValueError` for empty samples or samples of different dimensions, weights of another shape, negative
    weights or weights that are all 0, or p < 1; `TypeError` for numbers that are not real; in more dimensions
    `ValueError` for traced samples and `ImportError` without POT (`pip install 'jaxflow[transport]'`).

    Source: Villani, Topics in Optimal Transportation (2003), theorem 2.18; Bonneel et al. 2011 (network simplex).

    >>> import jax.numpy as jnp
    >>> from jaxflow.density import wasserstein
    >>> print(wasserstein(jnp.array([0.0, 1.0]), jnp.array([3.0]), p=1, x_weights=jnp.array([3.0, 1.0])))
    2.75
    """
    check_power(p)
    x, y = as_sample("x", x), as_sample("y", y)
    require_one_dimension(x, y)
    x_weights, y_weights = as_weights("x_weights", x_weights, x), as_weights("y_weights", y_weights, y)
    if x.ndim == 2 and x.shape[1] > 1:
        return exact_distance(x, y, x_weights, y_weights, float(p))
    x, y = x.reshape(-1), y.reshape(-1)
    return _wasserstein(x, y, x_weights, y_weights, p=float(p))


@compiled(static=("p",))
def _wasserstein(x, y, x_weights, y_weights, p: float):
    x, levels_x = _steps(x, x_weights)
    y, levels_y = _steps(y, y_weights)
    dtype = jnp.promote_types(x.dtype, y.dtype)
    x, y, levels_x, levels_y = (array.astype(dtype) for array in (x, y, levels_x, levels_y))
    levels = jnp.sort(jnp.concatenate([levels_x, levels_y]))
    widths = jnp.diff(levels, prepend=jnp.zeros(1, dtype))
    # Equal levels that are summed in another order differ by rounding; p-th roots would make much of it.
    widths = jnp.where(widths > SLIVER * jnp.finfo(dtype).eps, widths, 0)
    # Both quantile functions are constant between two levels; the middle decides which step that is.
    middles = lax.stop_gradient(levels - widths / 2)
    at = lambda values, ends: values[jnp.minimum(jnp.searchsorted(ends, middles), values.size - 1)]
    gaps = jnp.where(widths > 0, jnp.abs(at(x, levels_x) - at(y, levels_y)), 0)
    # In units of the largest gap no power overflows, and where there is none the root has the derivative 0.
    largest = lax.stop_gradient(gaps.max())
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    total = jnp.sum(widths * (gaps / unit) ** p)
    return jnp.where(total == 0, 0, unit * jnp.where(total == 0, 1, total) ** (1 / p))


def _steps(x: jax.Array, weights: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The sorted sample, and the levels at which each step of its quantile function ends; the last of them is 1."""
    if weights is None:
        return jnp.sort(x), jnp.arange(1, x.size + 1, dtype=x.dtype) / x.size
    order = jnp.argsort(x)
    sums = jnp.cumsum(weights[order])
    return x[order], sums / sums[-1]


def bures(mean_x: Any, covariance_x: Any, mean_y: Any, covariance_y: Any) -> jax.Array:
    r"""The 2-Wasserstein distance of two Gaussians, $N(m, A)$ and $N(n, B)$, in any dimension.

    $W_2^2 = |m - n|^2 + \mathrm{tr}\big(A + B - 2 (A^{1/2} B A^{1/2})^{1/2}\big)
    = |m - n|^2 + \min_U |A^{1/2} - B^{1/2} U|_F^2$ over rotations U. The second form is the one computed: it does
    not cancel, so that laws that are close have their distance to the last digits, and singular covariances are
    allowed.

    **Arguments**

    - `mean_x`, `mean_y` (d,): the means m and n.
    - `covariance_x`, `covariance_y` (d, d): the covariances A and B, symmetric and positive semidefinite.

    **Returns** the distance $W_2$, a scalar in the units of the means. It is compiled when called plainly, and works
    under `jit` and `vmap`. Its derivatives, of every order, are right where both covariances are regular and the
    distance is not 0, also where eigenvalues repeat. In directions without variance, where $W_2$ has an infinite
    slope, and where $W_2 = 0$, the derivative is 0.

    **Raises** `ValueError` for shapes that do not fit or a covariance that is not symmetric and positive
    semidefinite; `TypeError` for numbers that are not real.

    Source: Dowson & Landau 1982; Gelbrich 1990; as a Procrustes distance: Bhatia, Jain & Lim 2019, 1712.01504.

    >>> import jax.numpy as jnp
    >>> from jaxflow.density import bures
    >>> print(bures(jnp.zeros(2), jnp.eye(2), jnp.array([3.0, 0.0]), jnp.diag(jnp.array([25.0, 1.0]))))
    5.0
    """
    mean_x, mean_y = as_floats("mean_x", mean_x), as_floats("mean_y", mean_y)
    if mean_x.ndim != 1 or mean_x.size == 0 or mean_x.shape != mean_y.shape:
        raise ValueError(
            f"mean_x and mean_y must share one shape (d,), got {mean_x.shape} against {mean_y.shape}."
        )
    for name, mean in (("mean_x", mean_x), ("mean_y", mean_y)):
        if (found := _check.values(mean)) is not None:
            _check.require_each(name, found, np.isfinite(found), "finite")
    covariance_x = as_covariance("covariance_x", covariance_x, mean_x.size)
    covariance_y = as_covariance("covariance_y", covariance_y, mean_x.size)
    return _bures(mean_x, covariance_x, mean_y, covariance_y)


@compiled
def _bures(mean_x, covariance_x, mean_y, covariance_y):
    dtype = jnp.result_type(mean_x, covariance_x, mean_y, covariance_y)
    parts = (array.astype(dtype) for array in (mean_x, covariance_x, mean_y, covariance_y))
    mean_x, covariance_x, mean_y, covariance_y = parts
    root_x = root_of(covariance_x)
    # The trace has the right derivatives, of all orders, and no digits where the laws are close; the best rotation
    # has the digits, and in its singular vectors derivatives that fail where singular values repeat.
    cross = root_of(root_x @ covariance_y @ root_x)
    slopes = jnp.trace(covariance_x) + jnp.trace(covariance_y) - 2 * jnp.trace(cross)
    digits = _procrustes(*lax.stop_gradient((root_x, root_of(covariance_y))))
    return root(jnp.sum((mean_x - mean_y) ** 2) + digits + (slopes - lax.stop_gradient(slopes)))


def _procrustes(a: jax.Array, b: jax.Array) -> jax.Array:
    """The smallest squared distance of a and b U over rotations U."""
    left, _, right = jnp.linalg.svd(b.T @ a)
    return jnp.sum((a - b @ left @ right) ** 2)
