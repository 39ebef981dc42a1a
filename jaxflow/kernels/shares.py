"""The shares of examples in a gradient, and what they do to predictions."""

from typing import Any

import jax
from jax import lax

from jaxflow.objective import Objective

PyTree = Any

PAGE = 64  # examples whose shares are pushed to the predictions at a time


def shares_of_gradient(objective: Objective, params: PyTree) -> PyTree:
    """What each example adds to the gradient of the mean loss; leaves (N, …)."""
    loss = lambda params, one: objective.per_example(params, jax.tree.map(lambda part: part[None], one))[0]
    gradients = jax.vmap(jax.grad(loss), (None, 0))(params, objective.data)
    return jax.tree.map(lambda g: g / objective.size, gradients)


def pushed(predict: Any, params: PyTree, x: PyTree, directions: PyTree) -> jax.Array:
    """The derivatives of predictions along N directions, leaves (N, …); shape (N, M) or (N, M, C)."""
    push = jax.linearize(lambda p: predict(p, x), params)[1]
    return lax.map(push, directions, batch_size=PAGE)
