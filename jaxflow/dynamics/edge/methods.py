"""Methods that divide the gradient by a denominator made of its squares: what a central flow needs to know of each.

On the clock of steps k such a method is $w \\leftarrow w - P^{-1}\\nabla L$ with $P = D(\\nu)/\\eta$ diagonal. Its
memory ν is a flow's *post-update* one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxflow import _check, optim
from jaxflow.optim.multi_steps import accumulation_of
from jaxflow.optim.optax_names import as_ours
from jaxflow.optim.table import MOMENTUM, NOT_DESCENT, Without, entry_of, names_with

PyTree = Any
Chosen = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A preconditioned method; ν is (n,), a number for each parameter, or (1,), one for all.

    - `learning_rate` η: a number or a schedule of the step count.
    - `denominator(nu)`: D, the optimizer's preconditioner.
    - `kind`: whether ν is one number for `each` parameter, `one` for all, or there is `none` and ν is 0.
    - `inflow` and `outflow`: ν grows by `inflow` times the pooled squares, and shrinks by `outflow` times itself, a
      step, both measured at the ν after the step.
    - `initial`: ν before the first step.
    """

    learning_rate: Any
    denominator: Callable[[jax.Array], jax.Array]
    kind: str
    inflow: Any
    outflow: Any
    initial: Any = 0.0

    def pool(self, squares: jax.Array) -> jax.Array:
        """What of squared gradients (…, n) ν is an average or a sum of."""
        if self.kind == "none":
            return jnp.zeros_like(squares[..., :1])
        return squares if self.kind == "each" else squares.sum(-1, keepdims=True)

    def slope(self, nu: jax.Array) -> jax.Array:
        """dD/dν, coordinate by coordinate."""
        return jax.jvp(self.denominator, (nu,), (jnp.ones_like(nu),))[1]

    def velocity(self, pooled: jax.Array, nu: jax.Array) -> jax.Array:
        """dν/dk."""
        return self.inflow * pooled - self.outflow * nu

    def update_moment(self, pooled: jax.Array, nu: jax.Array) -> jax.Array:
        """ν after one update."""
        return (nu + self.inflow * pooled) / (1 + self.outflow)

    def undo_update(self, pooled: jax.Array, nu: jax.Array) -> jax.Array:
        """What ν was before its last update; at least 0."""
        return jnp.maximum((1 + self.outflow) * nu - self.inflow * pooled, 0.0)


def no_memory(chosen: Chosen) -> dict[str, Any]:
    """Gradient descent's ν, which stays 0."""
    del chosen
    return {"kind": "none", "inflow": 0.0, "outflow": 0.0}


def _average(decay: Any, kind: str) -> dict[str, Any]:
    """The lag of a post-update average is β/(1−β) steps."""
    above = not _check.is_concrete(decay) or decay > 0
    _check.require("decay", decay, above, "above 0 for a flow of its average")
    flow = (1 - decay) / decay
    return {"kind": kind, "inflow": flow, "outflow": flow}


def average_of_each(chosen: Chosen) -> dict[str, Any]:
    """RMSProp's ν."""
    return _average(chosen["decay"], "each")


def average_of_all(chosen: Chosen) -> dict[str, Any]:
    """Scalar RMSProp's ν, of the sum of all squares."""
    return _average(chosen["decay"], "one")


def sum_of_each(chosen: Chosen) -> dict[str, Any]:
    """AdaGrad's ν."""
    return {"kind": "each", "inflow": 1.0, "outflow": 0.0, "initial": chosen["initial_accumulator"]}


def method_of(optimizer: Any) -> Method:
    """The method that an optimizer is. Raises `ValueError`, with the reason, for any other optimizer."""
    inner, _ = accumulation_of(optimizer) or (optimizer, 1)
    ours = as_ours(inner)
    entry, chosen = entry_of(ours), optim.hyperparameters(ours)
    memory = None if entry is None else entry.formula("central_flow")
    if entry is None or memory is None:
        why = MOMENTUM if {"beta", "b1"} & chosen.keys() else NOT_DESCENT
        why = ours if isinstance(ours, Without) else why
        if entry is not None and isinstance(entry.central_flow, Without):
            why = entry.central_flow
        names = ", ".join(names_with("central_flow"))
        raise ValueError(f"optimizer must be one of {names}, got {optimizer!r}, which {why.why}.")
    rate, divisor = chosen["learning_rate"], entry.formula("preconditioner")
    _check.require_positive(learning_rate=rate)
    return Method(learning_rate=rate, denominator=lambda nu: divisor(chosen, nu, jnp.inf), **memory(chosen))


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
