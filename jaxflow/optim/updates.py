"""How an optimizer is asked for its updates: it is handed everything of the loss that optax's conventions know."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jaxflow._gradients import gradient, value_and_gradient
from jaxflow._traceable import Bound

PyTree = Any

HANDED = ("value", "grad", "value_fn", "grad_fn")


class Step(NamedTuple):
    """One step of an optimizer: what it was made of, and where it led.

    - `params`, `state`: the parameters after the step, and the optimizer's state.
    - `loss`, `gradient`: the loss of the step's batch and its gradient, at the parameters before the step.
    - `updates`: what the step added to the parameters; a pytree like them.
    - `last_updates`: what the step before it added.
    - `model`: what the model carries, after the step: the new `state` of an objective that has one, or `None`.
    """

    params: PyTree
    state: PyTree
    loss: jax.Array
    gradient: PyTree
    updates: PyTree
    last_updates: PyTree
    model: PyTree = None


def advance(
    optimizer: optax.GradientTransformation,
    params: PyTree,
    state: PyTree,
    loss: Callable[[PyTree], jax.Array],
) -> tuple[PyTree, PyTree]:
    """One step of an optimizer on a loss: new parameters and new optimizer state."""
    step = take_step(optimizer, params, state, loss)
    return step.params, step.state


def take_step(
    optimizer: optax.GradientTransformation,
    params: PyTree,
    state: PyTree,
    loss: Callable[[PyTree], jax.Array],
    noise: PyTree = None,
    last_updates: PyTree = None,
) -> Step:
    """One step of an optimizer on a loss. `noise` is added to every gradient of it, also to those it asks for."""
    _check_update(optimizer)  # while it is traced: a compiled run is not to wait for it
    # optax's Sophia calls the loss so; an update that names its arguments and ends there does without it.
    further = {"obj_fn": loss} if _takes(optimizer, *HANDED, "obj_fn") else {}

    # optax's line searches hand the other arguments of `update` on to it.
    def value_fn(params, grad_fn=None, obj_fn=None):
        del grad_fn, obj_fn
        return loss(params)

    noisy = lambda slope: slope if noise is None else jax.tree.map(jax.numpy.add, slope, noise)
    value, grad = value_and_gradient(loss, params)
    grad = noisy(grad)
    grad_fn = lambda params: noisy(gradient(loss)(params))
    updates, state = optax.with_extra_args_support(optimizer).update(
        grad, state, params, value=value, grad=grad, value_fn=value_fn, grad_fn=grad_fn, **further
    )
    return Step(optax.apply_updates(params, updates), state, value, grad, updates, last_updates)


def _takes(optimizer: optax.GradientTransformation, *names: str) -> bool:
    """Whether an update can be handed arguments of these names; what takes none at all is handed none."""
    if not isinstance(optimizer, optax.GradientTransformationExtraArgs):
        return True
    inner = optax.with_extra_args_support(optimizer.build()) if isinstance(optimizer, Bound) else optimizer
    try:
        inspect.signature(inner.update).bind(None, None, None, **dict.fromkeys(names))
    except TypeError:
        return False
    return True


def _check_update(optimizer) -> None:
    """Refuse an update that needs arguments of its own, other than what optax's convention hands over."""
    if not _takes(optimizer, *HANDED):
        raise TypeError(
            f"optimizer must take value=, grad=, value_fn= and grad_fn= in its update, as optax's extra arguments, "
            f"got {optimizer!r}; a method with a step of its own, such as optax.contrib.sam, needs a loop of its own."
        )
