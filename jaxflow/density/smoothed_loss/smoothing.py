"""The loss that SGD descends on average: convolved with the noise of a step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._compiled import Static, combine, partition
from jaxflow.curvature.products import real_parameters
from jaxflow.density.near_minimum.symmetric_matrices import as_covariance, as_floats, root_of
from jaxflow.dynamics import batch_factor
from jaxflow.dynamics.noise import full
from jaxflow.objective import Objective, require_data

PyTree = Any
Loss = Callable[[PyTree], jax.Array]
DRAWS = 64
MOST_NODES = 10_000


def smoothed(
    objective: Loss,
    learning_rate: Any,
    batch_size: Any = None,
    *,
    covariance: Any = None,
    replacement: bool = True,
    draws: int | None = None,
    nodes: int | None = None,
) -> Objective:
    r"""The loss convolved with the noise of one step, $\tilde L(y) = E_w L(y - \eta w)$, $w \sim N(0, C)$.

    With $y_k = \theta_k - \eta \nabla L(\theta_k)$, before the noise of the step is added, SGD has
    $E[y_{k+1} | y_k] = y_k - \eta \nabla E_w L(y_k - \eta w)$: on average it descends $\tilde L$, not L. Minima
    that are narrow compared with the noise of a step are not in $\tilde L$.

    **Arguments**

    - `objective` L: an `Objective` with data; or, with `covariance`, any function `loss(params) -> scalar`.
    - `learning_rate` η: a number at least 0.
    - `batch_size` B: the number of examples per gradient. The noise is that of mini-batch gradients, as a Gaussian:
      $C(y) = s_B \Sigma(y)$ at the point y itself. The gradient does not act on the law of w, as in the formula
      above, so $\nabla\tilde L = E_w \nabla L(y - \eta w)$.
    - `covariance` C, in the place of `batch_size`: the covariance of a gradient's noise, at every y: a number, (P,)
      for independent coordinates, or a matrix (P, P), in the order of `ravel_pytree(params)`.
    - `replacement`: whether batches are independent draws, $s_B = \frac1B$, or fresh ones without replacement,
      $s_B = \frac1B\frac{N-B}{N-1}$ (static).
    - `draws`: the number of draws whose mean stands for the expectation, as in `Objective` (static). Each is a pair
      y ± ηw, so that odd terms cancel; it costs two losses and, with `batch_size`, a backward pass. Default: 64.
    - `nodes`: with `covariance`, the number of Gauss–Hermite nodes for each of the P parameters, which take the place
      of draws (static): $\tilde L$ to rounding where L is smooth, for $n^P \le$ 10,000 of them.

    **Returns** an `Objective` of one example, which is all of L, to give to `iterate`, `integrate` and curvature.
    With draws its losses draw random numbers: each step of `iterate` draws a single pair of its own from the step's
    key, and everywhere else it is the mean over the same `draws` pairs. η, B, C and the data are its leaves.

    **Raises** `TypeError` for an objective without data where `batch_size` is given; `ValueError` unless one of
    `batch_size` and `covariance` is given, and not both, for η < 0, a bad batch size, a covariance that is not
    positive semidefinite, or `draws` and `nodes` outside the ranges above.

    Source: Kleinberg, Li & Yuan 2018, 1802.06175. There w has the law of the noise itself, here the Gaussian of its
    covariance.

    >>> import jax.numpy as jnp
    >>> from jaxflow.density import smoothed
    >>> wavy = lambda x: 0.5 * x**2 + jnp.cos(6 * x)
    >>> soft = smoothed(wavy, learning_rate=0.5, covariance=1.0, nodes=40)
    >>> print(soft(0.0), 0.5 * 0.25 + jnp.exp(-36 * 0.25 / 2))
    0.136109 0.136109
    """
    _check.require_nonnegative(learning_rate=learning_rate)
    if (batch_size is None) == (covariance is None):
        raise ValueError(
            f"One of batch_size and covariance must be given, got {batch_size!r} and {covariance!r}."
        )
    if nodes is not None and (covariance is None or draws is not None):
        raise ValueError(f"nodes must be None with batch_size or draws, got {nodes!r}.")
    draws = DRAWS if draws is None else draws
    _check.require_integer("draws", draws, 1)
    if covariance is None:
        size = require_data(objective, "Mini-batches")
        noise = batch_factor(batch_size, size, replacement=replacement)
    else:
        if not callable(objective):
            raise TypeError(
                f"objective must be an Objective or a function of the parameters, got {objective!r}."
            )
        noise = _covariance(covariance)
    leaves, static = partition((objective, learning_rate, noise))
    data = [jnp.asarray(leaf)[None] for leaf in leaves]
    if nodes is not None:
        _check.require_integer("nodes", nodes, 1)
        return Objective(_AtNodes(static, int(nodes)), data)
    losses: Any = _AtDraws(static, covariance is None)
    return Objective(losses, data, draws=int(draws))


def _covariance(covariance: Any) -> jax.Array:
    found = as_floats("covariance", covariance)
    if found.ndim > 2:
        raise ValueError(f"covariance must be a number, (P,) or (P, P), got shape {found.shape}.")
    if found.ndim == 2:
        return as_covariance("covariance", found)
    _check.require_nonnegative(covariance=found)
    return found


def _open(batch: list, static: Static) -> tuple[Loss, jax.Array, jax.Array]:
    """The loss, its rate and its noise, out of a batch of one example."""
    loss, rate, noise = combine([leaf[0] for leaf in batch], static)
    return loss, jnp.asarray(rate), jnp.asarray(noise)


def _shift(params: PyTree, rate: jax.Array, w: PyTree) -> PyTree:
    """y − ηw, where the law of w does not move with y."""
    return jax.tree.map(
        lambda p, x: p - lax.stop_gradient(rate.astype(x.dtype) * x).astype(p.dtype), params, w
    )


def _widen_noise(noise: jax.Array, xi: jax.Array) -> jax.Array:
    """C^{1/2} ξ, for standard normal numbers (P,)."""
    noise = noise.astype(xi.dtype)
    if noise.ndim == 2:
        if noise.shape != (xi.size, xi.size):
            raise ValueError(
                f"covariance must have shape ({xi.size}, {xi.size}), as params hold {xi.size} numbers, got "
                f"{noise.shape}."
            )
        return root_of(noise) @ xi
    if noise.ndim == 1 and noise.shape != xi.shape:
        raise ValueError(
            f"covariance must have shape {xi.shape}, as params hold {xi.size} numbers, got {noise.shape}."
        )
    return jnp.sqrt(noise) * xi


@dataclass(frozen=True)
class _AtDraws:
    """The losses of an `Objective`: the mean over a pair of draws."""

    static: Static
    of_batches: bool

    def __repr__(self):
        return "smoothed by draws"

    def __call__(self, params: PyTree, batch: list, key: jax.Array) -> jax.Array:
        loss, rate, noise = _open(batch, self.static)
        params = real_parameters(params)
        if self.of_batches:
            assert isinstance(loss, Objective)
            sampling = full().build()
            shape = sampling.brownian(loss, params)
            xi = jax.random.normal(key[0], shape.shape, shape.dtype)
            still = lax.stop_gradient(params)
            w = jax.tree.map(lambda x: jnp.sqrt(noise).astype(x.dtype) * x, sampling.draw(loss, still, xi))
        else:
            flat, unravel = ravel_pytree(params)
            w = unravel(_widen_noise(noise, jax.random.normal(key[0], flat.shape, flat.dtype)))
        return 0.5 * (loss(_shift(params, rate, w)) + loss(_shift(params, -rate, w)))[None]


@dataclass(frozen=True)
class _AtNodes:
    """The losses of an `Objective`: the mean over the nodes of a Gauss–Hermite rule."""

    static: Static
    nodes: int

    def __repr__(self):
        return f"smoothed at {self.nodes} nodes"

    def __call__(self, params: PyTree, batch: list) -> jax.Array:
        loss, rate, noise = _open(batch, self.static)
        flat, unravel = ravel_pytree(real_parameters(params))
        places, weights = _rule(self.nodes, flat.size)
        places, weights = jnp.asarray(places, flat.dtype), jnp.asarray(weights, flat.dtype)
        at = lambda xi: loss(_shift(unravel(flat), rate, unravel(_widen_noise(noise, xi))))
        return jnp.sum(weights * jax.vmap(at)(places))[None]


def _rule(nodes: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The places (Q, P) and weights (Q,) with which a mean over standard normal numbers is a sum."""
    if nodes**size > MOST_NODES:
        raise ValueError(
            f"nodes must make at most {MOST_NODES:,} points, got {nodes} to the power of {size} parameters; "
            "draws have no such limit."
        )
    places, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.meshgrid(*[places] * size, indexing="ij")
    products = np.meshgrid(*[weights / weights.sum()] * size, indexing="ij")
    return np.stack([x.ravel() for x in grid], 1), np.prod([x.ravel() for x in products], 0)
