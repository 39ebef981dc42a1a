"""Networks on digits at one training loss, and how flat the loss is about them."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxflow as jf

NEAR = 0.02  # how near to the level a training loss is, relative
RECORDS = 600  # of a run, at least
RISE = 0.1  # of the loss, at the width
DIRECTIONS, REACH, POINTS = 8, 1.5, 61  # of the slices that widths are read off


class Networks(NamedTuple):
    """What is measured of networks, arrays of one shape."""

    train_loss: Any
    sharpness: Any
    trace: Any
    width: Any
    test_loss: Any
    test_error: Any


def digits(hidden, activation="tanh", key=None):
    """A network on 40 % of the digits, with pixels in one unit."""
    data = jf.problems.load("digits")
    x = (data.x - data.x.mean()) / data.x.std()
    options = {"key": key, "test_fraction": 0.6, "standardize": False}
    return jf.problems.mlp((x, data.y), hidden, activation, **options)


def train(problem, rate, batch_size, keys, settings):
    """Parameters of all runs where the loss first is near to the level; and whether it ever is."""
    every = max(1, round(settings.time / (rate * RECORDS)))
    steps = every * -(-round(settings.time / rate) // every)
    objective = problem.objective
    # An example in each column: the same numbers, faster under vmap.
    columns = jf.problems.models.networks.compute_by_columns(objective)
    record = lambda params: (params, objective(params))

    def run(key):
        begin, go = jax.random.split(key)
        params = digits((32,), key=begin).params
        options = {"steps": steps, "batch_size": batch_size, "every": every, "record": record}
        path, losses = jf.iterate(jf.optim.gd(rate), columns, params, key=go, **options).values
        near = abs(losses / settings.level - 1) < NEAR
        return jax.tree.map(lambda x: x[near.argmax()], path), near.any()

    return jax.jit(jax.vmap(run))(keys)


def width(objective, params, key):
    """The mean distance along filter-normalised directions, both ways, at which the loss has risen by RISE."""
    drawn = jf.landscape.random_directions(params, key, count=DIRECTIONS)

    def both_ways(vector):
        direction = jax.tree.map(lambda x: x[None], vector)
        line = jf.landscape.slice(objective, params, direction, REACH, POINTS)
        middle, x = POINTS // 2, line.coordinates[0]
        risen = line.losses - line.losses[middle] - RISE
        return jnp.stack([first_zero(x[middle:], risen[middle:]), first_zero(x[middle:], risen[middle::-1])])

    return jax.vmap(both_ways)(drawn.vectors).mean()


def first_zero(x, values):
    """Where values first pass 0 from below, on straight lines between points; NaN where they do not."""
    after = jnp.maximum((values > 0).argmax(), 1)
    low, high = values[after - 1], values[after]
    zero = x[after] - (x[after] - x[after - 1]) * high / (high - low)
    return jnp.where((values > 0).any(), zero, jnp.nan)


@partial(jax.jit, static_argnames="predict")
@partial(jax.vmap, in_axes=(None, 0, None, None))
def measure(objective, params, test, predict):
    """All measures of networks whose parameters are stacked. Probes and directions are the same for all."""
    held_out = jf.Objective(objective.losses, test)
    wrong = predict(params, test["x"]).argmax(1) != test["y"]
    return Networks(
        objective(params),
        jf.curvature.sharpness(objective, params).value,
        jf.curvature.trace(objective, params, jax.random.key(0), probes=64).value,
        width(objective, params, jax.random.key(1)),
        held_out(params),
        wrong.mean(),
    )
