r"""An objective with the penalty $\frac\lambda2|\theta|^2$: weight decay that is a part of the gradient."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow._programs.half import widen
from jaxflow._text.shapes import show
from jaxflow.games import VectorField
from jaxflow.objective import Objective

PyTree = Any


def _is_number(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def half_square(params: PyTree) -> jax.Array:
    r"""$\frac12|\theta|^2$ over the real and complex arrays of a model, in float32 at least."""
    leaves = [widen(jnp.asarray(leaf)) for leaf in jax.tree.leaves(params) if _is_number(leaf)]
    return 0.5 * jnp.asarray(sum(jnp.sum(jnp.real(leaf * jnp.conj(leaf))) for leaf in leaves))


@dataclass(frozen=True)
class _PenalizedLosses:
    """Losses of the examples, each with the penalty; an example's strength is a part of its data."""

    losses: Callable[[PyTree, PyTree], jax.Array]

    def __repr__(self):
        return f"penalized({show(self.losses)})"

    def __call__(self, params: PyTree, batch: PyTree, **state: PyTree) -> Any:
        examples, strength = batch
        found = self.losses(params, examples, **state)
        losses = jnp.asarray(found[0] if state else found)
        losses = losses + strength.astype(losses.dtype) * half_square(params).astype(losses.dtype)
        return (losses, found[1]) if state else losses


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _PenalizedLoss:
    loss: Any
    strength: Any

    def __repr__(self):
        return f"penalized({show(self.loss)}, {show(self.strength)})"

    def __call__(self, params: PyTree) -> jax.Array:
        value = self.loss(params)
        return value + jnp.asarray(self.strength * half_square(params)).astype(value.dtype)


def _penalized_field(params, field, strength):
    pull = lambda v, p: v + jnp.asarray(strength).astype(v.real.dtype) * p
    return jax.tree.map(pull, field(params), params)


def penalized(objective: Any, strength: Any) -> Any:
    r"""The objective $L + \frac\lambda2|\theta|^2$, whose gradient is $g + \lambda\theta$, of the kind that is given.

    Each example has the whole penalty, so that the covariance of the examples' gradients is as before. `strength` λ
    is a leaf of the result. A vector field V becomes $V + \lambda\theta$.

    >>> import jax, jax.numpy as jnp
    >>> print(jax.grad(penalized(lambda x: 3.0 * x, 0.5))(2.0))
    4.0
    """
    if isinstance(objective, VectorField):
        return VectorField(_penalized_field, (objective, strength))
    if isinstance(objective, Objective):
        strengths = jnp.full(objective.size, strength)
        return replace(objective, losses=_PenalizedLosses(objective.losses), data=(objective.data, strengths))
    return _PenalizedLoss(objective, strength)
