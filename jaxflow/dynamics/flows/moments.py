"""What adaptive methods are made of, the gradient and its square, and the arithmetic of dividing by its root."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow.dynamics.base import widen_tree
from jaxflow.dynamics.flows.first_order import Loss, slope_of
from jaxflow.optim.methods.moments import divisor
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


def gradients_of_loss(objective: Loss, learning_rate: Any) -> Gradients:
    """The gradients of all examples at once, which have no variance, in float32 at least."""
    slope = slope_of(objective)
    rate = lambda t: value_at(learning_rate, t)

    def moments(t, params):
        mean = widen_tree(slope(params))
        square = jax.tree.map(jnp.square, mean)
        return Moments(mean, jax.tree.map(jnp.zeros_like, mean), square, square)

    return Gradients(rate, rate, moments)


def check_adaptive(learning_rate: Any, eps: Any) -> None:
    if not callable(learning_rate):
        _check.require_positive(learning_rate=learning_rate)
    _check.require_nonnegative(eps=eps)


def require_real(params: PyTree) -> PyTree:
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


def divide(x: PyTree, v: PyTree, square: PyTree, weight: Any, eps: Any, eps_in_sqrt: bool = False) -> PyTree:
    r"""$x / (\sqrt{v} + \epsilon)$, or $x / \sqrt{v + \epsilon}$ with `eps_in_sqrt`.

    v counts as no less than the share of a single step's gradient in it.

    No v of the discrete method is smaller, because its squares are positive; the noise of this v is Gaussian.
    """

    def divide_leaf(x, v, s):
        return x / divisor(jnp.maximum(v, cast(weight, s) * s), cast(eps, v), eps_in_sqrt)

    return jax.tree.map(divide_leaf, x, v, square)
