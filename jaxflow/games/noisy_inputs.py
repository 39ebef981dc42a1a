"""Instance noise: a game averaged over a random shift of the discriminator's inputs."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import _check
from jaxflow.games.vector_field import VectorField, require_field


@dataclass(frozen=True)
class _DrawnAnew:
    """As many draws of the noise at every step, by another key than that of the game's own draws."""

    number: int

    def __call__(self, params, game, sigma, *, key):
        key = jax.random.fold_in(key, 2**31 - 2)
        dtype = jnp.result_type(game.data[0])
        draws = jax.random.normal(key, (self.number, *jnp.shape(game.data[0])), dtype)
        return _averaged(params, game, sigma, draws, jnp.full(self.number, 1 / self.number, dtype))


def instance_noise(game: VectorField, sigma: Any, draws: Any, *, weights: Any = None) -> VectorField:
    r"""A game averaged over the noise that is the first of its data, $\sum_k w_k V(\theta; \sigma\xi_k)$.

    The losses add that noise to the samples that the discriminator sees, real and generated ones, so that
    the two overlap. The game itself, with zeros there, is the one without noise.

    **Arguments**

    - `game`: a `VectorField` whose `data[0]` is an array, the noise.
    - `sigma` σ: the standard deviation, a number at least 0; a leaf of the result.
    - `draws` ξ: an array (K, *shape of the noise), a leaf of the result: standard normal numbers, as of
      `jax.random.normal`, or the points of `gauss_hermite`, for noise that is one number. Or the number K itself, an
      integer (static): then each step of `iterate` draws K anew, and a flow has the same K throughout.
    - `weights` w: an array (K,) that adds up to 1; by default 1/K each. They must be left out for a number K.

    **Returns** a `VectorField`. An evaluation is K evaluations of the game at once.

    **Raises** `TypeError` for a game that is not a `VectorField`; `ValueError` for σ < 0, a game without data, K <
    1, or draws or weights of another shape.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> square = jf.game(lambda p, noise: (jnp.cos(p[0] + noise),), (jnp.array(0.0),))
    >>> draws, weights = jf.games.gauss_hermite(12)
    >>> noisy = jf.games.instance_noise(square, 1.0, draws, weights=weights)
    >>> print(noisy((jnp.array(1.0),))[0].round(6), (-jnp.sin(1.0) * jnp.exp(-0.5)).round(6))
    -0.510378 -0.510378

    Source: Sønderby et al. (2017, 1610.04490); Arjovsky & Bottou (2017, 1701.04862).
    """
    require_field(game)
    _check.require_nonnegative(sigma=sigma)
    if not game.data:
        raise ValueError("game must have the noise as the first of its data, got a game without data.")
    if not np.ndim(draws):
        _check.require_integer("draws", draws, 1)
        if weights is not None:
            raise ValueError("weights must be left out where draws is a number.")
        return VectorField(_DrawnAnew(draws), (game, sigma), game.draws or 1)
    draws, shape = jnp.asarray(draws), jnp.shape(game.data[0])
    if draws.shape[1:] != shape or not draws.size:
        raise ValueError(f"draws must have the shape (K, *{shape}), K ≥ 1, got {draws.shape}.")
    count = draws.shape[0]
    weights = jnp.full(count, 1 / count, draws.dtype) if weights is None else jnp.asarray(weights)
    if weights.shape != (count,):
        raise ValueError(f"weights must have the shape ({count},), got {weights.shape}.")
    return VectorField(_averaged, (game, sigma, draws, weights))


def _averaged(params, game, sigma, draws, weights):
    noise = jnp.asarray(sigma).astype(draws.dtype) * draws
    fields = jax.vmap(lambda shift: replace(game, data=(shift, *game.data[1:]))(params))(noise)
    return jax.tree.map(lambda v: jnp.tensordot(weights.astype(v.dtype), v, 1), fields)


def gauss_hermite(points: int) -> tuple[jax.Array, jax.Array]:
    r"""Gauss–Hermite quadrature: $\sum_k w_k f(\xi_k) = E f(\xi)$ for ξ standard normal, f up to degree 2·points − 1.

    **Arguments**

    - `points`: the number of points, an integer at least 1.

    **Returns** the points and the weights, two arrays (points,); the weights add up to 1.

    **Raises** `ValueError` or `TypeError` when `points` is not an integer at least 1.

    >>> import jaxflow as jf
    >>> points, weights = jf.games.gauss_hermite(3)
    >>> print(points.round(4), weights.round(4))
    [-1.7321 0. 1.7321] [0.1667 0.6667 0.1667]
    """
    _check.require_integer("points", points, 1)
    found, weights = np.polynomial.hermite_e.hermegauss(points)
    return jnp.asarray(found, float), jnp.asarray(weights / weights.sum(), float)
