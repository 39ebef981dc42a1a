"""The shares of examples in the gradient of a step, and what they do to predictions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow.objective import Objective

PyTree = Any

PAGE = 64  # examples whose shares are pushed to the predictions at a time


class Drawn(NamedTuple):
    """The examples of a step, of which one may be there twice, and their weights in its loss.

    - `indices` (B,); `None` for all examples in their order.
    - `weights` (B,), of which the sum over examples is 1 for a mean.
    """

    indices: jax.Array | None
    weights: jax.Array

    def add(self, whole: PyTree, parts: PyTree) -> PyTree:
        """Arrays of all examples, leaves (N, …), with what the drawn ones add to them, leaves (B, …)."""
        if self.indices is None:
            return jax.tree.map(jnp.add, whole, parts)
        return jax.tree.map(lambda x, y: x.at[self.indices].add(y), whole, parts)


class DrawnExamples:
    """An objective as an estimator is handed it, of whose loss it is asked which examples that is the mean of."""

    def __init__(self, objective: Objective):
        self.data, self.size = objective.data, objective.size

    def __call__(self, params: PyTree) -> Drawn:
        return self.weighted(params, jnp.full(self.size, 1 / self.size))

    def weighted(self, params: PyTree, weights: jax.Array) -> Drawn:
        del params
        return Drawn(None, weights)

    def minibatch(self, params: PyTree, indices: jax.Array, weights: jax.Array | None = None) -> Drawn:
        del params
        count = jnp.shape(indices)[0]
        return Drawn(indices, jnp.full(count, 1 / count) if weights is None else weights)


def examples_drawn(draw: Any, objective: Objective, state: PyTree, step: Any, key: Any) -> Drawn:
    """The examples that an estimator draws for a step."""
    needed = "estimator must take the loss of a step from objective, its minibatch or its weighted, as it is"
    try:
        drawn = draw(DrawnExamples(objective), state, step, key)[0](None)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{needed}, for shares of the examples; {error}.") from error
    if not isinstance(drawn, Drawn):
        raise ValueError(f"{needed}, for shares of the examples; got {drawn!r}.")
    return drawn


def shares_of_gradient(objective: Objective, params: PyTree, drawn: Drawn | None = None) -> PyTree:
    """What each drawn example adds to the gradient of a step's loss, leaves (B, …); by default all N are drawn."""
    drawn = DrawnExamples(objective)(params) if drawn is None else drawn
    batch = objective.data if drawn.indices is None else objective.take(drawn.indices)

    def share(params, one, weight):
        gradient = jax.grad(
            lambda p: objective.per_example(p, jax.tree.map(lambda part: part[None], one))[0]
        )(params)
        return jax.tree.map(lambda g: g * weight.astype(g.dtype), gradient)

    return jax.vmap(share, (None, 0, 0))(params, batch, drawn.weights)


def push_forward(predict: Any, params: PyTree, x: PyTree, directions: PyTree) -> jax.Array:
    """The derivatives of predictions along N directions, leaves (N, …); shape (N, M) or (N, M, C)."""
    push = jax.linearize(lambda p: predict(p, x), params)[1]
    return lax.map(push, directions, batch_size=PAGE)
