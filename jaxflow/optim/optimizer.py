"""The optimizer type: an optax transformation that is also a pytree of its hyperparameters."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxflow._traceable import Bound, kind, traceable

PyTree = Any


@kind(lambda result: isinstance(result, optax.GradientTransformation))
class Optimizer(Bound, optax.GradientTransformationExtraArgs):
    r"""A pure `(init, update)` pair that passes through `jit`, `vmap` and `grad` as an argument.

    It is an `optax.GradientTransformationExtraArgs`: `init(params) -> state`,
    `update(gradient, state, params, **extra) -> (updates, state)`, with $\theta \leftarrow \theta +$ `updates`.
    Updates come back in the gradient's dtype and the state in the dtype it came in, whatever the dtype of the
    hyperparameters, so that bfloat16 parameters survive a sweep over float32 learning rates. Averages over steps
    (velocities, second moments, slow weights) are kept in float32 at least. Of abstract parameters
    (`jax.ShapeDtypeStruct`) `init` makes an abstract state.

    Made by the constructors of `jaxflow.optim`, or by any constructor under `traceable`.

    >>> import jax, jaxflow as jf
    >>> optimizer = jf.optim.momentum(0.1, 0.9)
    >>> optimizer, jax.tree.leaves(optimizer)
    (momentum(learning_rate=0.1, beta=0.9, ema=False, debias=False), [0.9, 0.1])
    >>> optimizer.replace(beta=0.5).hyperparameters["beta"]
    0.5
    """

    @classmethod
    def bind(cls, static: tuple, dynamic: tuple):
        self = tuple.__new__(cls, (partial(_init, static, dynamic), partial(_update, static, dynamic)))
        self._static, self._dynamic = static, dynamic
        return self


def _inner(static: tuple, dynamic: tuple) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(Optimizer.bind(static, dynamic).build())


def _init(static: tuple, dynamic: tuple, params: PyTree) -> PyTree:
    init = _inner(static, dynamic).init
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        return jax.eval_shape(init, params)
    return init(params)


def _update(static, dynamic, updates: PyTree, state: PyTree, params: PyTree = None, **extra):
    new_updates, new_state = _inner(static, dynamic).update(updates, state, params, **extra)
    return _cast_like(new_updates, updates), _cast_like(new_state, state)


def _cast_like(tree: PyTree, reference: PyTree) -> PyTree:
    if jax.tree.structure(tree) != jax.tree.structure(reference):
        return tree

    def cast(leaf, like):
        if not (hasattr(leaf, "dtype") and hasattr(like, "dtype")) or leaf.dtype == like.dtype:
            return leaf
        castable = jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.issubdtype(like.dtype, jnp.inexact)
        castable |= jnp.iscomplexobj(leaf) and jnp.iscomplexobj(like)
        return leaf.astype(like.dtype) if castable else leaf

    return jax.tree.map(cast, tree, reference)


def hyperparameters(optimizer: optax.GradientTransformation) -> dict[str, Any]:
    """The hyperparameters of an optimizer by name; empty for a plain optax optimizer, which hides them.

    >>> import jaxflow as jf
    >>> jf.optim.hyperparameters(jf.optim.gd(0.1))
    {'learning_rate': 0.1}
    """
    return optimizer.hyperparameters if isinstance(optimizer, Optimizer) else {}


def learning_rate_of(optimizer: optax.GradientTransformation) -> Any:
    """The learning rate an optimizer was made with (a number, an array or a schedule), `None` if it has none.

    It is looked for in the optimizer and in the optimizers it was made from.

    Raises `ValueError` when several parts have one, as then no single clock is implied.
    """
    arguments = hyperparameters(optimizer)
    if "learning_rate" in arguments:
        return arguments["learning_rate"]
    parts = jax.tree.leaves(arguments, is_leaf=lambda part: isinstance(part, Optimizer))
    found = [rate for rate in map(learning_rate_of, parts) if rate is not None]
    if len(found) > 1:
        raise ValueError(
            f"{optimizer!r} has {len(found)} learning rates; say which one is the clock by time_step=."
        )
    return found[0] if found else None


@traceable
def chain(*transforms: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Apply transformations one after another, as `optax.chain`, and stay a pytree.

    Plain optax transformations may be among them; they are static.

    >>> import jax, optax, jaxflow as jf
    >>> clipped = jf.optim.chain(optax.clip_by_global_norm(1.0), jf.optim.gd(0.1))
    >>> jax.tree.leaves(clipped)
    [0.1]

    Raises `TypeError` when an argument is not a transformation.
    """
    for transform in transforms:
        if not isinstance(transform, optax.GradientTransformation):
            raise TypeError(f"chain takes optax transformations, got {transform!r}.")
    return optax.with_extra_args_support(optax.chain(*transforms))
