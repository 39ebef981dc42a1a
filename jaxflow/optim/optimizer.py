"""The optimizer type: an optax transformation that is also a pytree of its hyperparameters."""

from collections.abc import Iterable, Mapping
from functools import partial
from types import MethodType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflow._compiled import is_numeric
from jaxflow._traceable import Bound, kind, traceable
from jaxflow.optim.multi_steps import as_transformation

PyTree = Any


@kind(lambda result: isinstance(result, optax.GradientTransformation))
class Optimizer(Bound, optax.GradientTransformationExtraArgs):
    r"""A pure `(init, update)` pair that passes through `jit`, `vmap` and `grad` as an argument.

    It is an `optax.GradientTransformationExtraArgs`: `init(params) -> state`,
    `update(gradient, state, params, **extra) -> (updates, state)`, with $\theta \leftarrow \theta +$ `updates`.
    Updates come back in the gradient's dtype and the state in the dtype it came in, whatever the dtype of the
    hyperparameters, so that bfloat16 parameters survive a sweep over float32 learning rates. Averages over steps
    (velocities, second moments, slow weights) are kept in float32 at least. From abstract parameters
    (`jax.ShapeDtypeStruct`) `init` makes an abstract state.

    The constructors of `jaxflow.optim` make optimizers, and so does any constructor under `traceable`.

    >>> import jax, jaxflow as jf
    >>> optimizer = jf.optim.momentum(0.1, 0.9)
    >>> optimizer, jax.tree.leaves(optimizer)
    (momentum(learning_rate=0.1, beta=0.9, ema=False, debias=False), [0.9, 0.1])
    >>> optimizer.replace(beta=0.5).hyperparameters["beta"]
    0.5
    """

    @classmethod
    def make_blank(cls, static: tuple, dynamic: tuple):
        return tuple.__new__(cls, (partial(_init, static, dynamic), partial(_update, static, dynamic)))


def _inner_transformation(static: tuple, dynamic: tuple) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(Optimizer.bind(static, dynamic).build())


def _init(static: tuple, dynamic: tuple, params: PyTree) -> PyTree:
    init = _inner_transformation(static, dynamic).init
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        return jax.eval_shape(init, params)
    return init(params)


def _update(static, dynamic, updates: PyTree, state: PyTree, params: PyTree = None, **extra):
    new_updates, new_state = _inner_transformation(static, dynamic).update(updates, state, params, **extra)
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
    """The hyperparameters of an optimizer by name.

    **Arguments**

    - `optimizer`: any optax transformation.

    **Returns** a dict; it is empty for a plain optax optimizer, which hides its hyperparameters.

    >>> import jaxflow as jf
    >>> jf.optim.hyperparameters(jf.optim.gd(0.1))
    {'learning_rate': 0.1}
    """
    return optimizer.hyperparameters if isinstance(optimizer, Optimizer) else {}


# What constructors call their rate, ours and others'; of those of one constructor the first counts.
RATES = ("learning_rate", "lr", "step_size", "stepsize", "rate")


def learning_rate_of(optimizer: optax.GradientTransformation) -> Any:
    """The learning rate with which an optimizer was made.

    It is the argument `learning_rate` (else `lr`, `step_size`, `stepsize` or `rate`) of the optimizer, or of
    the optimizers it was made from. Those that a plain optax wrapper holds, such as `optax.chain`,
    `optax.multi_transform` or `optax.masked`, are found in what its `update` closes over.

    **Arguments**

    - `optimizer`: any optax transformation.

    **Returns** a number, an array or a schedule; `None` where no learning rate is found.

    **Raises** `ValueError` when several parts have different rates, as no single clock is then implied.

    >>> import optax, jaxflow as jf
    >>> jf.optim.learning_rate_of(optax.chain(optax.clip(1.0), jf.optim.adam(1e-3)))
    0.001
    """
    found: list[Any] = []
    for rate in _rates(optimizer, {}):
        if not any(_is_same(rate, other) for other in found):
            found.append(rate)
    if len(found) > 1:
        raise ValueError(
            f"{optimizer!r} has {len(found)} learning rates; say which one is the clock by time_step=."
        )
    return found[0] if found else None


def _rates(part: Any, met: dict[int, Any]) -> list[Any]:
    """The rates of all optimizers in something: one, a pytree of them, or a function that closes over them."""
    if id(part) in met or isinstance(part, (jax.Array, np.ndarray)):
        return []
    met[id(part)] = part  # kept, as the number of a thing that is gone may be given to another
    if isinstance(part, Optimizer):
        return _rates_of_arguments({} if part.constructor.body is optax.scale else part.hyperparameters, met)
    if isinstance(part, Mapping):
        return _rates_of_arguments(part, met)
    if isinstance(part, (tuple, list)):  # a plain transformation is a pair of functions
        return _all_rates(part, met)
    if isinstance(part, partial):
        if part.func in (_init, _update):  # all that `optax.chain` keeps of one of ours
            return _rates(Optimizer.bind(*part.args), met)
        return _all_rates((part.func, part.args, part.keywords), met)
    if isinstance(part, MethodType):
        return _all_rates((part.__self__, part.__func__), met)
    cells = getattr(part, "__closure__", None) or ()
    return _all_rates([cell.cell_contents for cell in cells if _is_filled(cell)], met)


def _rates_of_arguments(arguments: Mapping[Any, Any], met: dict[int, Any]) -> list[Any]:
    """The rate among arguments by name; otherwise those of the optimizers among them."""
    rates = (arguments[name] for name in RATES if _is_rate(arguments.get(name)))
    rate = next(rates, None)
    return _all_rates(arguments.values(), met) if rate is None else [rate]


def _all_rates(parts: Iterable[Any], met: dict[int, Any]) -> list[Any]:
    return [rate for part in parts for rate in _rates(part, met)]


def _is_rate(value: Any) -> bool:
    return is_numeric(value) or callable(value)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # a name that is bound later
        return False
    return True


def _is_same(a: Any, b: Any) -> bool:
    """Whether two rates are the same: made of the same objects, or of equal numbers that are known."""
    leaves, others = jax.tree.leaves(a), jax.tree.leaves(b)
    plain = lambda x, y: isinstance(x, (int, float)) and isinstance(y, (int, float)) and x == y
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x is y or plain(x, y) for x, y in zip(leaves, others, strict=True)
    )


@traceable
def chain(*transforms: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Apply transformations one after another, as `optax.chain` does, and stay a pytree.

    **Arguments**

    - `transforms`: optimizers and other transformations, in order. Plain optax transformations and an
      `optax.MultiSteps` may be among them; they are static.

    **Returns** an `Optimizer`.

    **Raises** `TypeError` when an argument is not a transformation.

    >>> import jax, optax, jaxflow as jf
    >>> clipped = jf.optim.chain(optax.clip_by_global_norm(1.0), jf.optim.gd(0.1))
    >>> jax.tree.leaves(clipped)
    [0.1]
    """
    members = [as_transformation(transform, "each of transforms") for transform in transforms]
    return optax.with_extra_args_support(optax.chain(*members))
