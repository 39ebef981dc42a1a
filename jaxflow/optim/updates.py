"""How an optimizer is asked for its updates: it is handed everything of the loss that optax's conventions know."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxflow.objective import gradient, value_and_gradient

PyTree = Any


def advance(
    optimizer: optax.GradientTransformation,
    params: PyTree,
    state: PyTree,
    loss: Callable[[PyTree], jax.Array],
) -> tuple[PyTree, PyTree]:
    """One step of an optimizer on a loss: new parameters and new optimizer state."""
    updates, state = updates_of(optimizer, params, state, loss)
    return optax.apply_updates(params, updates), state


def updates_of(
    optimizer: optax.GradientTransformation,
    params: PyTree,
    state: PyTree,
    loss: Callable[[PyTree], jax.Array],
    noise: PyTree = None,
) -> tuple[PyTree, PyTree]:
    """The updates of one step on a loss, and the new state. `noise` is added to every gradient of it."""

    def value_fn(params, grad_fn=None):  # optax's line searches hand the other arguments of `update` on to it
        del grad_fn
        return loss(params)

    noisy = lambda slope: slope if noise is None else jax.tree.map(jax.numpy.add, slope, noise)
    value, grad = value_and_gradient(loss, params)
    grad = noisy(grad)
    grad_fn = lambda params: noisy(gradient(loss)(params))
    return optax.with_extra_args_support(optimizer).update(
        grad, state, params, value=value, grad=grad, value_fn=value_fn, grad_fn=grad_fn
    )
