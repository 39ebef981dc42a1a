r"""The logarithm of a step: the field on whose flow an optimizer's iterates lie, made of its own updates.

With Φ the map of one step of the whole state (parameters and optimizer state), the field F whose flow over the time
τ of a step is Φ has $\tau F = \log\Phi = \sum_k \frac{(-1)^{k-1}}{k} \Delta^k$, Δ = Φ − 1. Cut after p terms and
written in the increments of p successive steps, it costs p gradients and no derivative of Φ.
"""

from collections.abc import Callable
from functools import lru_cache
from math import comb
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxflow.dynamics.base import add, cast_like, scale, widen_tree
from jaxflow.dynamics.modified_equations.smoothness import refuse_randomness
from jaxflow.objective import Objective
from jaxflow.optim.updates import take_step

PyTree = Any


@lru_cache
def weights(order: int, stride: int = 1) -> np.ndarray:
    r"""The share of each step's increment in the field, shape (order · stride,).

    $b_j = \sum_{k=j}^{p-1} \frac{(-1)^j}{k+1}\binom kj$; with a stride m, of log(Φᵐ)/m, one share for m steps.

    >>> print(weights(3))
    [ 1.8333 -1.1667  0.3333]
    """
    b = [sum((-1) ** j * comb(k, j) / (k + 1) for k in range(j, order)) for j in range(order)]
    return np.repeat(b, stride) / stride


class ModifiedState(NamedTuple):
    """The state of `modified`.

    - `params`: the parameters θ.
    - `optimizer`: the optimizer's state, with its integers as floats.
    - `steps`: the number of steps taken, a float scalar.
    """

    params: PyTree
    optimizer: PyTree
    steps: jax.Array


def _lift_leaf(leaf: Any) -> jax.Array:
    leaf = jnp.asarray(leaf)
    return leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf.astype(float)


def lift(tree: PyTree) -> PyTree:
    """Counters and flags as floats, so that they can flow."""
    return jax.tree.map(_lift_leaf, tree)


def modified_state(run: Any) -> ModifiedState:
    """The end of a run of `iterate`, as the state from which a modified equation goes on.

    **Arguments**

    - `run`: a `Trajectory` of `iterate`.

    **Returns** a `ModifiedState`, for `integrate(…, state=…)`.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> run = jf.iterate(jf.optim.adam(0.1), jnp.sum, jnp.ones(2), steps=7)
    >>> print(modified_state(run).steps)
    7.0
    """
    return ModifiedState(run.params, lift(run.state.optimizer), _lift_leaf(run.state.step))


def state_shapes(optimizer: optax.GradientTransformation, params: PyTree) -> PyTree:
    """The shapes and dtypes of an optimizer's own state; one that is random or not made of arrays is refused."""
    try:
        shapes = jax.eval_shape(optimizer.init, params)
    except TypeError:  # a leaf that is no array, perhaps: then in a sentence
        refuse_randomness(optimizer, optimizer.init(params))
        raise
    refuse_randomness(optimizer, shapes)
    return shapes


def cold_state(optimizer: optax.GradientTransformation, params: PyTree) -> ModifiedState:
    """The state before the first step."""
    state_shapes(optimizer, params)
    return ModifiedState(params, lift(optimizer.init(params)), jnp.zeros([], float))


def increment(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array] | Objective,
    state: ModifiedState,
    noise: PyTree = None,
) -> ModifiedState:
    """What one step of the optimizer adds to the state.

    For the parameters it is the optimizer's own update. Iterates are not subtracted, because in single precision that
    would lose the digits that the series needs. `noise` is added to the gradient.
    """
    template = state_shapes(optimizer, state.params)
    flags = lambda leaf, like: leaf > 0.5 if like.dtype == bool else leaf
    before = jax.tree.map(flags, state.optimizer, template)
    step = take_step(optimizer, state.params, before, objective, noise)
    cast = lambda new, old: new.astype(old.dtype)
    change = jax.tree.map(lambda new, old: cast(new, old) - old, lift(step.state), state.optimizer)
    return ModifiedState(jax.tree.map(cast, step.updates, state.params), change, jnp.ones_like(state.steps))


def logarithm(step: Callable[[PyTree], PyTree], state: PyTree, shares: np.ndarray) -> PyTree:
    """The increments of successive steps from `state`, summed with weights `shares`; `step(state)` is one."""

    def advance(carry, share):
        now, total = carry
        change = widen_tree(step(cast_like(now, state)))
        return (add(now, change), add(total, scale(share, change))), None

    # In the precision that is on: what a scan of NumPy's float64 was traced to in the other one would be used again.
    shares_now = jnp.asarray(shares, float)
    begin = widen_tree(state)
    (_, total), _ = lax.scan(advance, (begin, jax.tree.map(jnp.zeros_like, begin)), shares_now)
    return cast_like(total, state)
