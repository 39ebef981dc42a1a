"""Mini-batch noise for methods that act coordinate by coordinate: its variances, and pairs of gradients.

The variances are exact, from every per-example gradient, and define the equations. A pair of mini-batch
gradients costs a third of that or less and has the same moments, which is all a step needs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow._gradients import gradient
from jaxflow._programs.half import widen
from jaxflow.dynamics.noise.minibatch import Sampling, gradient_and_noise
from jaxflow.objective import Objective
from jaxflow.optim.methods.moments import TINY, square

PyTree = Any
BLOCK = 128  # examples at a time: their gradients stay in the cache, 2.5 times faster than all at once
NUMBERS = 2**23  # of per-example gradients held at a time: 64 MiB in float64


def gradient_variance(objective: Objective, params: PyTree, mean: PyTree) -> PyTree:
    r"""$\mathrm{diag}\,\Sigma = \frac1N \sum_i (g_i - \bar g)^2$, like the parameters; `mean` is $\bar g$.

    In half precision the result is float32. It costs a backward pass for each example: 4 to 5 gradients of the mean
    loss for a small network.
    """
    size, numbers = objective.size, sum(leaf.size for leaf in jax.tree.leaves(params))
    block = min(size, objective.chunk or BLOCK, max(NUMBERS // max(numbers, 1), 1))

    def square_deviation(example):
        alone = jax.tree.map(lambda x: x[None], example)
        g = gradient(lambda p: objective.over(p, alone))(params)
        return jax.tree.map(lambda g, m: square(widen(g) - widen(m)), g, mean)

    def body(total, start):
        examples = start + jnp.arange(block)
        rows = jax.vmap(square_deviation)(objective.take(jnp.minimum(examples, size - 1)))
        within = lambda x: jnp.where((examples < size).reshape(block, *[1] * (x.ndim - 1)), x, 0)
        return jax.tree.map(lambda s, x: s + within(x).sum(0), total, rows), None

    zeros = jax.tree.map(lambda p: jnp.zeros_like(widen(p)), params)
    total = lax.scan(body, zeros, jnp.arange(0, size, block))[0]
    return jax.tree.map(lambda x: x / size, total)


def pair_of_gradients(
    objective: Objective, sampling: Sampling, params: PyTree, spread: Any, xi: tuple[PyTree, PyTree]
) -> tuple[PyTree, PyTree]:
    r"""Two independent mini-batch gradients, each $\nabla L$ + `spread` times a draw of the noise."""
    one = lambda x: gradient_and_noise(objective, sampling, params, x, 1.0, spread)
    return one(xi[0]), one(xi[1])


def mixing(time_step: Any, dt: Any) -> jax.Array:
    r"""$r = \sqrt{2\tau/dt - 1}$, for `mix`."""
    return jnp.sqrt(jnp.maximum(2 * time_step / dt - 1, TINY))


def mix(function: Callable[[jax.Array], jax.Array], a: jax.Array, b: jax.Array, r: Any) -> jax.Array:
    r"""$\frac{1+r}2 f(a) + \frac{1-r}2 f(b)$: what a discrete step of length τ sees, for a step of length dt.

    With $r = \sqrt{2\tau/dt - 1}$ its mean is that of f(a) and its covariance is τ/dt times that of f(a). So dt times
    the mixture is an increment of $dz = E f\,dt + \sqrt{\tau\,\mathrm{Cov} f}\,dW$. This is SVAG (Li, Malladi & Arora
    2021, 2102.12470) for any function of the gradient. At dt = τ it is f(a).
    """
    x, y = function(a), function(b)
    return 0.5 * (x + y) + (0.5 * jnp.asarray(r)).astype(x.dtype) * (x - y)
