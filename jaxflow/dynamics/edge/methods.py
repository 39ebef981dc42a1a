"""Methods that divide the gradient by a denominator made of its squares: what a central flow needs to know of each.

On the clock of steps k such a method is $w \\leftarrow w - P^{-1}\\nabla L$ with $P = D(\\nu)/\\eta$ diagonal. Its
memory ν is a flow's *post-update* one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxflow import _check, optim
from jaxflow.optim.moments import root

PyTree = Any
MOMENTUM = (
    "has momentum, for which no closed central flow is known: putting the effective learning rate in its place is "
    "2.5 % off at β = .5 and diverges at β = .9 (the rod flow of 2605.06821 is another equation)"
)


class Method(NamedTuple):
    """A preconditioned method; ν is (n,), a number for each parameter, or (1,), one for all.

    - `learning_rate` η: a number or a schedule of the step count. `initial`: ν before the first step.
    - `kind`: whether ν is one number for `each` parameter, `one` for all, or there is `none` and ν is 0.
    - `pool(squares (…, n))`: the part of squared gradients of which ν is an average or a sum.
    - `denominator(nu)`: D; `slope(nu)`: dD/dν.
    - `velocity(pooled, nu)`: dν/dk, affine in `pooled`, `inflow` times it.
    - `after(pooled, nu)`: one update of ν; `before(pooled, nu)`: what it was before that.
    """

    learning_rate: Any
    initial: Any
    kind: str
    pool: Callable[[jax.Array], jax.Array]
    denominator: Callable[[jax.Array], jax.Array]
    slope: Callable[[jax.Array], jax.Array]
    inflow: Any
    velocity: Callable[[jax.Array, jax.Array], jax.Array]
    after: Callable[[jax.Array, jax.Array], jax.Array]
    before: Callable[[jax.Array, jax.Array], jax.Array]


def _kept(squares: jax.Array) -> jax.Array:
    return squares


def _summed(squares: jax.Array) -> jax.Array:
    return squares.sum(-1, keepdims=True)


def _averaging(learning_rate, decay, eps, eps_in_sqrt, kind) -> Method:
    """RMSProp's kinds. The lag of a post-update average is β/(1−β) steps."""
    above = not _check.is_concrete(decay) or decay > 0
    _check.require("decay", decay, above, "above 0 for a flow of its average")
    inside, outside = (eps, 0.0) if eps_in_sqrt else (0.0, eps)
    inflow = (1 - decay) / decay
    return Method(
        learning_rate,
        0.0,
        kind,
        _kept if kind == "each" else _summed,
        lambda nu: root(nu + inside) + outside,
        lambda nu: 0.5 / root(nu + inside),
        inflow,
        lambda pooled, nu: inflow * (pooled - nu),
        lambda pooled, nu: decay * nu + (1 - decay) * pooled,
        lambda pooled, nu: jnp.maximum((nu - (1 - decay) * pooled) / decay, 0.0),
    )


def _gd(learning_rate) -> Method:
    still = lambda pooled, nu: jnp.zeros_like(nu)
    same = lambda pooled, nu: nu
    return Method(learning_rate, 0.0, "none", _summed, jnp.ones_like, jnp.zeros_like, 0.0, still, same, same)


def _rmsprop(learning_rate, decay, eps, eps_in_sqrt) -> Method:
    return _averaging(learning_rate, decay, eps, eps_in_sqrt, "each")


def _scalar_rmsprop(learning_rate, decay, eps) -> Method:
    return _averaging(learning_rate, decay, eps, False, "one")


def _adagrad(learning_rate, eps, initial_accumulator) -> Method:
    return Method(
        learning_rate,
        initial_accumulator,
        "each",
        _kept,
        lambda nu: root(nu) + eps,
        lambda nu: 0.5 / root(nu),
        1.0,
        lambda pooled, nu: pooled,
        lambda pooled, nu: nu + pooled,
        lambda pooled, nu: jnp.maximum(nu - pooled, 0.0),
    )


METHODS: dict[Callable[..., Any], Callable[..., Method]] = {
    optim.gd: _gd,
    optim.scalar_rmsprop: _scalar_rmsprop,
    optim.rmsprop: _rmsprop,
    optim.adagrad: _adagrad,
}


def method_of(optimizer: Any) -> Method:
    """The method that an optimizer is. Raises `ValueError`, with the reason, for any other optimizer."""
    constructor: Any = getattr(optimizer, "_static", (None,))[0]
    if constructor in METHODS:
        _check.positive(learning_rate=optim.hyperparameters(optimizer)["learning_rate"])
        return METHODS[constructor](**optim.hyperparameters(optimizer))
    known = ", ".join(maker.__name__ for maker in METHODS)
    chosen = optim.hyperparameters(optimizer)
    why = MOMENTUM if {"beta", "b1"} & set(chosen) else "is not a preconditioned gradient descent"
    raise ValueError(f"optimizer must be one of {known}, got {optimizer!r}, which {why}.")


def flat_moment(method: Method, second_moment: PyTree, flat: jax.Array) -> jax.Array:
    """ν as (n,) or (1,), of a pytree like the parameters or a number."""
    if method.kind == "each":
        return ravel_pytree(second_moment)[0].astype(flat.dtype)
    return jnp.reshape(jnp.asarray(second_moment), 1).astype(flat.dtype)


def moment_of(method: Method, nu: jax.Array, unravel: Callable[[jax.Array], PyTree]) -> PyTree:
    """The inverse of `flat_moment`."""
    return unravel(nu) if method.kind == "each" else nu[0]


def flat_loss(
    objective: Callable[[PyTree], jax.Array], params: PyTree
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array, Callable[[jax.Array], PyTree]]:
    """The loss as a function of flat parameters, the flat parameters, and the function that unflattens them."""
    flat, unravel = ravel_pytree(params)
    return lambda x: objective(unravel(x)), flat, unravel
