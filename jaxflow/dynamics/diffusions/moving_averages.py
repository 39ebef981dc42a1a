"""What adaptive methods average, the gradient and its square, in continuous time, with noise or without."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow.dynamics.base import scale, wide
from jaxflow.dynamics.diffusions.first_order import noise_amplitude
from jaxflow.dynamics.flows.first_order import Loss, slope_of
from jaxflow.dynamics.noise.coordinatewise import gradient_variance, mix, mixing, pair_of_gradients
from jaxflow.dynamics.noise.minibatch import Noise
from jaxflow.objective import gradient
from jaxflow.optim.moments import root
from jaxflow.optim.schedules import value_at

PyTree = Any


class Moments(NamedTuple):
    """The moments of a mini-batch gradient g, coordinate by coordinate, like the parameters.

    - `mean`: E g. `variance`: C. `square`: $E g^2$.
    - `target`: the value to which v relaxes: `square` or, in Malladi's limit, the variance alone.
    """

    mean: PyTree
    variance: PyTree
    square: PyTree
    target: PyTree


class Gradients(NamedTuple):
    """What adaptive methods are made of, as functions of the time and the parameters.

    - `rate(t)`: η. `time_step(t)`: τ. `moments(t, params)`: the moments of a gradient.
    - `draw(t, params, xi)`: a draw of the noise n.
    - `seen(t, params, dt, xi)`: what a step of length dt sees of g, what of v's target, and the mean of g².
    - `brownian(params)`: the shape of `xi`.

    The last three belong to mini-batches and are `None` without them.
    """

    rate: Callable[[Any], Any]
    time_step: Callable[[Any], Any]
    moments: Callable[[Any, PyTree], Moments]
    draw: Any = None
    seen: Any = None
    brownian: Any = None


def _without_noise(objective: Loss, learning_rate: Any, malladi: bool) -> Gradients:
    if malladi:
        raise ValueError("batch_size must be given for malladi=True, the limit of large noise, got None.")
    slope = slope_of(objective)
    rate = lambda t: value_at(learning_rate, t)

    def moments(t, params):
        mean = wide(slope(params))
        square = jax.tree.map(jnp.square, mean)
        return Moments(mean, jax.tree.map(jnp.zeros_like, mean), square, square)

    return Gradients(rate, rate, moments)


def gradients_of(
    objective: Any, learning_rate: Any, batch_size: Any, malladi: bool, replacement: bool, noise: Noise
) -> Gradients:
    """The gradients of an objective's mini-batches, in float32 at least; `malladi` chooses limit and clock."""
    if batch_size is None:
        return _without_noise(objective, learning_rate, malladi)
    amplitude = noise_amplitude(objective, batch_size, replacement)
    spread = lambda t: amplitude(1.0, t)
    rate = lambda t: value_at(learning_rate, t)
    time_step = lambda t: rate(t) ** 2 if malladi else rate(t)
    sampling = noise.build()

    def moments(t, params):
        mean = wide(gradient(objective)(params))
        variance = scale(spread(t) ** 2, gradient_variance(objective, params, mean))
        square = jax.tree.map(lambda g, c: g * g + c, mean, variance)
        return Moments(mean, variance, square, variance if malladi else square)

    def seen(t, params, dt, xi):
        first, second = wide(pair_of_gradients(objective, sampling, params, spread(t), xi))
        r = mixing(time_step(t), dt)
        squares = lambda a, b: 0.5 * (a * a + b * b)
        target = (lambda a, b: 0.5 * (a - b) ** 2) if malladi else (lambda a, b: mix(jnp.square, a, b, r))
        each = lambda function: jax.tree.map(function, first, second)
        return each(lambda a, b: mix(lambda g: g, a, b, r)), each(target), each(squares)

    return Gradients(
        rate,
        time_step,
        moments,
        lambda t, params, xi: scale(spread(t), wide(sampling.draw(objective, params, xi))),
        seen,
        lambda params: (sampling.brownian(objective, params),) * 2,
    )


def check_adaptive(learning_rate: Any, eps: Any) -> None:
    if not callable(learning_rate):
        _check.positive(learning_rate=learning_rate)
    _check.nonnegative(eps=eps)


def real(params: PyTree) -> PyTree:
    for leaf in jax.tree.leaves(params):
        if jnp.iscomplexobj(leaf):
            raise TypeError(f"params must be real for an adaptive method's equation, got dtype {leaf.dtype}.")
    return params


def cast(value: Any, like: jax.Array) -> jax.Array:
    return jnp.asarray(value).astype(like.dtype)


def relaxation(decay: Any, malladi: bool) -> Any:
    r"""λτ, the share of itself that an average forgets in the time of one step.

    Malladi's is 1 − β. $2(1-\beta)/(1+\beta)$ is the same to leading order. It gives the average the variance that it
    has in discrete time, and equals −ln β up to third order.
    """
    return 1 - decay if malladi else 2 * (1 - decay) / (1 + decay)


def divided(x: PyTree, v: PyTree, square: PyTree, weight: Any, eps: Any) -> PyTree:
    r"""$x / (\sqrt{v} + \epsilon)$, with v no less than the share of a single step's gradient in it.

    No v of the discrete method is smaller, because its squares are positive; the noise of this v is Gaussian.
    """

    def divide(x, v, s):
        return x / (root(jnp.maximum(v, cast(weight, s) * s)) + cast(eps, v))

    return jax.tree.map(divide, x, v, square)


def towards(x: PyTree, y: PyTree, part: Any) -> PyTree:
    return jax.tree.map(lambda x, y: x + cast(part, x) * (y - x), x, y)


def noise_of_square(draws: tuple[PyTree, PyTree], moments: Moments) -> PyTree:
    """A draw with the covariance of g², and g²'s covariance with g: 2∇L n₁ + √2 C n₂/√C, that is √(2C) n₂."""

    def one(first, second, mean, variance):
        return 2 * mean * first + root(2 * variance) * second

    return jax.tree.map(one, *draws, moments.mean, moments.variance)
