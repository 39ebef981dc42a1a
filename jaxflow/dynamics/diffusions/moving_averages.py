"""What adaptive methods average on mini-batches, the gradient and its square, in continuous time with its noise."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow._gradients import gradient
from jaxflow.dynamics.base import scale, widen_tree
from jaxflow.dynamics.diffusions.first_order import noise_amplitude
from jaxflow.dynamics.flows.moments import Gradients, Moments, cast
from jaxflow.dynamics.noise.coordinatewise import gradient_variance, mix, mixing, pair_of_gradients
from jaxflow.dynamics.noise.minibatch import Noise
from jaxflow.optim.methods.moments import root
from jaxflow.optim.schedules import value_at

PyTree = Any


def gradients_of(
    objective: Any, learning_rate: Any, batch_size: Any, malladi: bool, replacement: bool, noise: Noise
) -> Gradients:
    """The gradients of an objective's mini-batches, in float32 at least; `malladi` tells whose limit and clock."""
    amplitude = noise_amplitude(objective, batch_size, replacement)
    spread = lambda t: amplitude(1.0, t)
    rate = lambda t: value_at(learning_rate, t)
    time_step = lambda t: rate(t) ** 2 if malladi else rate(t)
    sampling = noise.build()

    def moments(t, params):
        mean = widen_tree(gradient(objective)(params))
        variance = scale(spread(t) ** 2, gradient_variance(objective, params, mean))
        square = jax.tree.map(lambda g, c: g * g + c, mean, variance)
        return Moments(mean, variance, square, variance if malladi else square)

    def observe(t, params, dt, xi):
        first, second = widen_tree(pair_of_gradients(objective, sampling, params, spread(t), xi))
        r = mixing(time_step(t), dt)
        squares = lambda a, b: 0.5 * (a * a + b * b)
        target = (lambda a, b: 0.5 * (a - b) ** 2) if malladi else (lambda a, b: mix(jnp.square, a, b, r))
        each = lambda function: jax.tree.map(function, first, second)
        return each(lambda a, b: mix(lambda g: g, a, b, r)), each(target), each(squares)

    return Gradients(
        rate,
        time_step,
        moments,
        lambda t, params, xi: scale(spread(t), widen_tree(sampling.draw(objective, params, xi))),
        observe,
        lambda params: (sampling.brownian(objective, params),) * 2,
    )


def move_towards(x: PyTree, y: PyTree, part: Any) -> PyTree:
    return jax.tree.map(lambda x, y: x + cast(part, x) * (y - x), x, y)


def noise_of_square(draws: tuple[PyTree, PyTree], moments: Moments) -> PyTree:
    """A draw with the covariance of g², and g²'s covariance with g: 2∇L n₁ + √2 C n₂/√C, that is √(2C) n₂."""

    def draw_leaf(first, second, mean, variance):
        return 2 * mean * first + root(2 * variance) * second

    return jax.tree.map(draw_leaf, *draws, moments.mean, moments.variance)
