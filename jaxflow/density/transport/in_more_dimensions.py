"""Optimal transport between samples in more than one dimension, by the optional package POT."""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import _check
from jaxflow.density.near_minimum.symmetric_matrices import as_floats

MOST = 100_000  # iterations of Sinkhorn's method
TOLERANCE = 1e-9  # of the masses that its plan moves


def exact_distance(x: jax.Array, y: jax.Array, x_weights: Any, y_weights: Any, p: float) -> jax.Array:
    """The p-Wasserstein distance of samples (n, d) and (m, d), by the network simplex method."""
    ot, (points, a), (others, b) = (
        _pot(),
        _require_concrete("x", x, x_weights),
        _require_concrete("y", y, y_weights),
    )
    found = ot.emd2(a, b, _costs(ot, points, others, p), numItermax=10_000_000)
    return jnp.asarray(max(float(found), 0.0) ** (1 / p))


def sinkhorn(
    x: Any, y: Any, regularization: float, *, p: float = 2, x_weights: Any = None, y_weights: Any = None
) -> jax.Array:
    r"""The cost of transport between two samples by Sinkhorn's plan, as a distance, by the optional package POT.

    The plan P minimises $\sum_{ij} P_{ij} |x_i - y_j|^p + \varepsilon \sum_{ij} P_{ij} \log P_{ij}$ over couplings of
    the two samples. What is returned is $\big(\sum_{ij} P_{ij} |x_i - y_j|^p\big)^{1/p}$. It is above the Wasserstein
    distance, which it tends to as ε → 0, and is not 0 for a sample and itself.

    **Arguments**

    - `x` (n, d), `y` (m, d): real samples, concrete; (n,) and (m,) are on a line.
    - `regularization` ε: a number above 0, in units of the p-th power of the samples'. The number of iterations grows
      as 1/ε, each of nm operations.
    - `p`: a finite number at least 1.
    - `x_weights` (n,), `y_weights` (m,): masses at least 0, not all 0, which are divided by their sum. Default: equal
      masses.

    **Returns** the distance, a scalar in the units of the samples. POT warns where its iterations did not converge.

    **Raises** `ImportError` without POT (`pip install 'jaxflow[transport]'`); `ValueError` for samples of different
    dimensions or traced ones, ε ≤ 0, p < 1, and for weights as `wasserstein`.

    Source: Cuturi 2013, 1306.0895; POT: Flamary et al. 2021.

    >>> import jax.numpy as jnp
    >>> from jaxflow.density import sinkhorn, wasserstein
    >>> x, y = jnp.array([[0.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 1.0], [1.0, 1.0]])
    >>> print(wasserstein(x, y), sinkhorn(x, y, 1.0).round(3))
    1.0 1.127
    """
    check_power(p)
    _check.require_positive(regularization=regularization)
    x, y = as_sample("x", x), as_sample("y", y)
    require_one_dimension(x, y)
    x_weights, y_weights = as_weights("x_weights", x_weights, x), as_weights("y_weights", y_weights, y)
    ot, (points, a), (others, b) = (
        _pot(),
        _require_concrete("x", x, x_weights),
        _require_concrete("y", y, y_weights),
    )
    costs = _costs(ot, points, others, p)
    limits: Any = {"numItermax": MOST, "stopThr": TOLERANCE}
    plan = ot.sinkhorn(a, b, costs, float(regularization), method="sinkhorn_log", **limits)
    return jnp.asarray(float(np.sum(plan * costs)) ** (1 / p))


def check_power(p: Any) -> None:
    """Refuse a power that is no number at least 1."""
    if isinstance(p, bool) or not isinstance(p, numbers.Real) or not (math.isfinite(p) and float(p) >= 1):
        raise ValueError(f"p must be a finite number at least 1, got {p!r}.")


def as_sample(name: str, x: Any) -> jax.Array:
    """A sample of points on a line or in more dimensions."""
    x = as_floats(name, x)
    if x.ndim not in (1, 2) or x.size == 0:
        raise ValueError(f"{name} must be a sample of shape (n,) or (n, d) with n at least 1, got {x.shape}.")
    return x


def require_one_dimension(x: jax.Array, y: jax.Array) -> None:
    """Refuse two samples of points of different dimensions."""
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"x and y must be points of one dimension, got samples of {x.shape} and {y.shape}.")


def as_weights(name: str, weights: Any, x: jax.Array) -> jax.Array | None:
    """Masses of the points of a sample, where they have some of their own."""
    if weights is None:
        return None
    weights = as_floats(name, weights)
    if weights.shape != x.shape[:1]:
        raise ValueError(f"{name} must have the shape of its sample, {x.shape[:1]}, got {weights.shape}.")
    _check.require_nonnegative(**{name: weights})
    found = _check.values(weights)
    if found is not None and not found.any():
        raise ValueError(f"{name} must not all be 0, got {found.size} zeros.")
    return weights


def _pot() -> Any:
    try:
        import ot
    except ImportError as error:
        raise ImportError(
            "Transport in more than one dimension needs the package POT: pip install 'jaxflow[transport]'."
        ) from error
    return ot


def _require_concrete(name: str, x: jax.Array, weights: jax.Array | None) -> tuple[np.ndarray, np.ndarray]:
    """A sample (n, d) and its masses, of sum 1, as numbers."""
    points = _check.values(x)
    masses = np.ones(len(x)) if weights is None else _check.values(weights)
    if points is None or masses is None:
        raise ValueError(
            f"{name} and its weights must be concrete here, got traced ones: call this outside of jit."
        )
    _check.require_each(name, points, np.isfinite(points), "finite")
    return points.reshape(len(points), -1), masses / masses.sum()


def _costs(ot: Any, x: np.ndarray, y: np.ndarray, p: float) -> np.ndarray:
    squares = ot.dist(x, y, metric="sqeuclidean")
    return squares if p == 2 else np.maximum(squares, 0) ** (p / 2)
