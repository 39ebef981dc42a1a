"""Mini-batch noise: gradient-shaped random vectors with the covariance of mini-batch gradients, Σ never formed.

Every draw is a gradient of a randomly weighted sum of the per-example losses. The randomness `xi` is handed in
(the integrator draws it), so that a path is reproducible whatever draws it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._gradients import gradient
from jaxflow._norms import root
from jaxflow._programs.half import widen
from jaxflow._traceable import Bound, kind, traceable
from jaxflow.dynamics.base import add, scale
from jaxflow.dynamics.noise.batch_temperature import batch_factor, check_batch
from jaxflow.objective import Objective, require_data

PyTree = Any
BITS = jax.ShapeDtypeStruct((2,), jnp.uint32)  # random bits: the data of a key of its own


class Sampling(NamedTuple):
    """What the body of a noise constructor returns.

    - `brownian(objective, params)`: the shape of `xi`; float leaves are standard normal, `BITS` are random bits.
    - `draw(objective, params, xi)`: a pytree like `params`, with mean 0 and covariance Σ(params).
    - `weights(xi) -> (N,)`: where the draw is the gradient of Σᵢ wᵢ ℓᵢ over all data, its weights, so that a drift
      can be computed in the same pass.
    """

    brownian: Callable[[Objective, PyTree], PyTree]
    draw: Callable[[Objective, PyTree, PyTree], PyTree]
    weights: Callable[[PyTree], jax.Array] | None = None


@kind(lambda result: isinstance(result, Sampling))
class Noise(Bound):
    """A way to draw mini-batch noise: `full`, `subset` or `two_batches`."""


def _normal_shape(params: PyTree, *shape: int) -> jax.ShapeDtypeStruct:
    """The shape of normal weights of examples, which are of order 1/√N; in float32 at least."""
    dtype = jnp.result_type(*(widen(leaf).real.dtype for leaf in jax.tree.leaves(params)))
    return jax.ShapeDtypeStruct(shape, dtype)


def _key(bits: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(bits, impl="threefry2x32")


def weighted_gradient(objective: Objective, params: PyTree, weights: jax.Array) -> PyTree:
    r"""$\sum_i w_i \nabla\ell_i(\theta)$ in one backward pass, for weights (N,)."""
    return gradient(lambda p: objective.weighted(p, weights))(params)


def gradient_and_noise(
    objective: Objective, sampling: Sampling, params: PyTree, xi: PyTree, pull: Any, push: Any
) -> PyTree:
    """`pull` ∇L + `push` times a draw: one backward pass where the noise is weights on all data."""
    if sampling.weights is None:
        draw = sampling.draw(objective, params, xi)
        return add(scale(pull, gradient(objective)(params)), scale(push, draw))
    cast = lambda x: jnp.asarray(x).astype(widen(xi).dtype)
    weights = cast(pull) / objective.size + cast(push) * sampling.weights(xi)
    return weighted_gradient(objective, params, weights)


@traceable
def full() -> Sampling:
    r"""The exact Gaussian noise: $\frac{1}{\sqrt N} \sum_i (\xi_i - \bar\xi) \nabla\ell_i$, $\xi \sim N(0, I_N)$.

    It keeps the covariance Σ exactly, for every θ, and is Gaussian: the noise of the SDE. It costs one backward
    pass over all data, which carries the drift too. The centring of ξ matters: without it the covariance is $\Sigma
    + \bar g \bar g^\top$.

    **Returns** a `Noise`.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> print(full().build().draw(objective, jnp.array(0.0), jnp.array([1.0, 0.0])).round(4))
    0.7071
    """

    def weights(xi):
        xi = widen(xi)
        return (xi - xi.mean()) / math.sqrt(xi.size)

    return Sampling(
        brownian=lambda objective, params: _normal_shape(params, objective.size),
        draw=lambda objective, params, xi: weighted_gradient(objective, params, weights(xi)),
        weights=weights,
    )


@traceable
def subset(examples: int) -> Sampling:
    r"""Gaussian weights on M random examples S, centred within them.

    $\sqrt{\frac{N-1}{N(M-1)}} \sum_{i \in S} (\xi_i - \bar\xi_S) \nabla\ell_i$. It keeps the mean 0 and, on average
    over subsets, the covariance Σ. Given its subset a draw lies in M − 1 directions, so it is not Gaussian: its
    tails are heavier. It costs a backward pass over M examples.

    **Arguments**

    - `examples` M: the number of examples, an integer at least 2 (static).

    **Returns** a `Noise`.

    **Raises** `ValueError` or `TypeError` unless M is an integer at least 2; that M ≤ N is checked where it is used.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> sde = jf.dynamics.sgd(objective, 0.1, 1, noise=jf.dynamics.noise.subset(2))
    >>> jf.integrate(sde, 0.0, [0.0, 1.0], key=jax.random.key(0)).values.shape
    (2,)
    """
    _check.require_integer("examples", examples, 2)

    def brownian(objective, params):
        if examples > objective.size:
            raise ValueError(
                f"examples must be at most the number of examples, {objective.size}, got {examples}."
            )
        return {"normal": _normal_shape(params, examples), "bits": BITS}

    def draw(objective, params, xi):
        n, normal = objective.size, widen(xi["normal"])
        chosen = jax.random.choice(_key(xi["bits"]), n, (examples,), replace=False)
        weights = math.sqrt((n - 1) / (n * (examples - 1))) * (normal - normal.mean())
        return gradient(lambda p: objective.minibatch(p, chosen, weights))(params)

    return Sampling(brownian, draw)


@traceable
def two_batches(batch_size: int) -> Sampling:
    r"""The difference of two real mini-batches: $\sqrt{b/2}\,(g_{B_1} - g_{B_2})$, each of b independent draws.

    It keeps the mean 0, the covariance Σ on average over batches, and the tails of mini-batches; odd moments
    cancel. No Gaussian number is drawn. It costs a backward pass over 2b examples.

    **Arguments**

    - `batch_size` b: the number of examples in each batch, an integer at least 1 (static).

    **Returns** a `Noise`.

    **Raises** `ValueError` or `TypeError` unless b is an integer at least 1.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> sde = jf.dynamics.sgd(objective, 0.1, 1, noise=jf.dynamics.noise.two_batches(2))
    >>> jf.integrate(sde, 0.0, [0.0, 1.0], key=jax.random.key(0)).values.shape
    (2,)
    """
    _check.require_integer("batch_size", batch_size, 1)

    def draw(objective, params, xi):
        chosen = jax.random.randint(_key(xi), (2 * batch_size,), 0, objective.size)
        signs = jnp.repeat(jnp.array([1.0, -1.0]), batch_size) / math.sqrt(2 * batch_size)
        return gradient(lambda p: objective.minibatch(p, chosen, signs))(params)

    return Sampling(lambda objective, params: BITS, draw)


def minibatch_noise(
    objective: Objective,
    params: PyTree,
    xi: PyTree,
    *,
    batch_size: Any,
    replacement: bool = True,
    noise: Noise | None = None,
) -> PyTree:
    r"""A draw with the covariance $s_B \Sigma(\theta)$ of a mini-batch gradient, without forming Σ.

    **Arguments**

    - `objective`: an `Objective` with data.
    - `params` θ: a pytree of float arrays.
    - `xi`: standard normal numbers (N,) for the default noise; otherwise of the shape that `brownian` of the noise
      returns. The draw is linear in normal numbers.
    - `batch_size` B: the number of examples per gradient, a number above 0.
    - `replacement`: whether the batches are independent draws, $s_B = \frac1B$, or fresh ones without replacement,
      $s_B = \frac1B\frac{N-B}{N-1}$ (static).
    - `noise`: how the noise is drawn: `noise.full()` (the default, exact covariance), `noise.subset(M)` or
      `noise.two_batches(b)`.

    **Returns** a pytree like `params`, of mean 0. It costs one weighted vector-Jacobian product through the
    per-example losses, in chunks if the objective has them.

    **Raises** `TypeError` for an objective without data; `ValueError` for `batch_size` ≤ 0, or > N without
    replacement.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> xi = jnp.array([1.0, 0.0])
    >>> print(jf.dynamics.minibatch_noise(objective, jnp.array(0.0), xi, batch_size=2))
    0.5
    """
    size = require_data(objective, "Mini-batches")
    check_batch(batch_size, size, replacement)
    sampling = (FULL if noise is None else noise).build()
    factor = batch_factor(batch_size, size, replacement=replacement)
    return scale(root(jnp.asarray(factor)), sampling.draw(objective, params, xi))


FULL = full()
