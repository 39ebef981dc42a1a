"""A model as people have it: the part that is trained, and the rest of it, which is carried along.

The trained part is the model with `None` in the place of everything else, which pytree functions pass over. What
takes a whole model, such as a loss, is completed with the rest, and then takes the trained part.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._compiled import Static, combine, partition

PyTree = Any
Trainable = Any  # None, a pytree of flags that is a prefix of the parameters, or a function of path and leaf

_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


class Carried(dict):
    """A dict of arrays that are not parameters, such as running averages: carried along, and never trained."""


jax.tree_util.register_pytree_with_keys(
    Carried,
    lambda part: ([(jax.tree_util.DictKey(name), part[name]) for name in sorted(part)], tuple(sorted(part))),
    lambda names, values: Carried(zip(names, values, strict=True)),
)


def _is_carried(node: Any) -> bool:
    """Whether all of a node is carried along, whatever its leaves: it says itself that it holds no parameters."""
    nnx: Any = sys.modules.get("flax.nnx")  # without which there are none of its variables
    return isinstance(node, Carried) or (
        nnx is not None and isinstance(node, nnx.Variable) and not isinstance(node, nnx.Param)
    )


def _is_inexact(leaf: Any) -> bool:
    return isinstance(leaf, _ARRAYS) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _is_trained(path: tuple, leaf: Any, numbers: bool) -> bool:
    """Whether a leaf is trained where nothing else is asked for: every real or complex array, and plain numbers.

    A plain number that is an attribute of a module is one of its settings, such as a rate of dropout. Plain integers
    are meant as real where all leaves are plain `numbers`.
    """
    if numbers or _is_inexact(leaf):
        return True
    return type(leaf) in (float, complex) and not isinstance(path[-1], jax.tree_util.GetAttrKey)


def _trained_flags(params: PyTree) -> PyTree:
    numbers = all(type(leaf) in (int, float, complex) for leaf in jax.tree.leaves(params))
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _is_trained(path, leaf, numbers), params)


def has_static(params: PyTree) -> bool:
    """Whether a pytree holds anything but numbers and arrays."""
    return not all(isinstance(leaf, (*_ARRAYS, int, float, complex)) for leaf in jax.tree.leaves(params))


class Rest:
    """What of a model is not trained, with `None` in the place of what is; a pytree whose leaves are its arrays."""

    __slots__ = ("arrays", "static")

    def __init__(self, arrays: list, static: Static):
        self.arrays, self.static = arrays, static

    @property
    def tree(self) -> PyTree:
        return combine(self.arrays, self.static)

    def join(self, trained: PyTree) -> PyTree:
        """The whole model."""
        fill = lambda leaf, other: other if leaf is None else leaf
        return jax.tree.map(fill, trained, self.tree, is_leaf=lambda leaf: leaf is None)


jax.tree_util.register_pytree_node(
    Rest, lambda rest: (tuple(rest.arrays), rest.static), lambda static, arrays: Rest(list(arrays), static)
)


def split_model(params: PyTree, trainable: Trainable = None) -> tuple[PyTree, Rest | None]:
    """The part that is trained, and the rest; the latter is `None` where all is trained."""
    leaves = jax.tree.leaves(params, is_leaf=_is_carried)
    if trainable is None and leaves and all(map(_is_inexact, leaves)):
        return params, None
    flags = _trained_flags(params) if trainable is None else _flags(params, trainable)
    unless_carried = lambda node, flag: jax.tree.map(lambda _: False, node) if _is_carried(node) else flag
    flags = jax.tree.map(unless_carried, params, flags, is_leaf=_is_carried)
    if not any(jax.tree.leaves(flags)):
        if trainable is None and leaves:
            raise TypeError(
                f"params must be a pytree with a real or complex array to train, got {describe(params)}."
            )
        where = "" if trainable is None else " to train, one of which trainable must leave"
        raise ValueError(f"params must be a pytree with at least one array{where}, got {describe(params)}.")
    if all(jax.tree.leaves(flags)):
        return params, None
    trained = jax.tree.map(lambda leaf, flag: leaf if flag else None, params, flags)
    rest = jax.tree.map(lambda leaf, flag: None if flag else leaf, params, flags)
    return trained, Rest(*partition(rest, lambda leaf: isinstance(leaf, _ARRAYS)))


def rest_of(model: PyTree, trained: PyTree) -> Rest:
    """What a model holds besides its trained part, which has `None` in the place of it."""
    absent = lambda leaf: leaf is None
    try:
        rest = jax.tree.map(lambda part, leaf: leaf if part is None else None, trained, model, is_leaf=absent)
    except ValueError as error:
        reason = str(error).splitlines()[0].rstrip(".:")
        raise ValueError(
            f"model must be the whole model of which the path is the trained part: {reason}."
        ) from None
    return Rest(*partition(rest, lambda leaf: isinstance(leaf, _ARRAYS)))


def join_model(trained: PyTree, rest: Rest | None) -> PyTree:
    """The whole model again: `split_model` undone."""
    return trained if rest is None else rest.join(trained)


def _flags(params: PyTree, trainable: Trainable) -> PyTree:
    """Whether each leaf is trained."""
    # A module of flags may be callable too.
    if callable(trainable) and not all(isinstance(x, (bool, np.bool_)) for x in jax.tree.leaves(trainable)):
        chosen = jax.tree_util.tree_map_with_path(lambda path, leaf: trainable(_name(path), leaf), params)
    else:
        try:
            chosen = jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), trainable, params)
        except ValueError:
            raise ValueError(
                "trainable must be a function of path and leaf, or flags in a structure that begins that of params, "
                f"got one that {_misfit(trainable, params)}."
            ) from None
    for flag in jax.tree.leaves(chosen):
        if not isinstance(flag, (bool, np.bool_)):
            raise TypeError(f"trainable must hold, or return, True or False for every leaf, got {flag!r}.")
    able = lambda leaf: _is_inexact(leaf) or type(leaf) in (float, complex)
    return jax.tree.map(lambda flag, leaf: bool(flag) and able(leaf), chosen, params)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _misfit(flags: PyTree, params: PyTree) -> str:
    """Where a structure of flags does not begin that of the parameters."""
    given, wanted = ([path for path, _ in jax.tree.leaves_with_path(tree)] for tree in (flags, params))
    begins = lambda start, path: path[: len(start)] == start
    for path in wanted:
        if not any(begins(start, path) for start in given):
            return f"has no flag for {_name(path)!r}"
    for start in given:
        if not any(begins(start, path) for path in wanted):
            return f"has a flag for {_name(start)!r}, which params do not have"
    return "is made of other containers"


def describe(params: PyTree) -> str:
    """A pytree's leaves by their places, kinds and shapes, at most three of them."""
    if not jax.tree.leaves(params):
        return repr(params)
    kinds = [
        f"{jax.tree_util.keystr(path)}{' has ' if path else ''}"
        + (f"dtype {leaf.dtype}" if isinstance(leaf, _ARRAYS) else type(leaf).__name__)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]
    return "; ".join(kinds[:3]) + (", …" if len(kinds) > 3 else "")


class Completed:
    """A function of a whole model as a function of its trained part. Its other attributes are the function's.

    It is a pytree whose leaves are the arrays that are carried along, and the function's own. The rest may be
    anything that can `join` the trained part to what the function takes.
    """

    def __init__(self, function: Callable, rest: Any):
        self.function, self.rest = function, rest

    def __call__(self, trained: PyTree, *others: Any, **named: Any) -> Any:
        return self.function(join_model(trained, self.rest), *others, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("function", "rest"):  # not yet set, while it is copied
            raise AttributeError(name)
        value = getattr(self.function, name)
        return Completed(value, self.rest) if name == "predict" else value

    def __repr__(self):
        return repr(self.function)


jax.tree_util.register_pytree_node(
    Completed, lambda whole: ((whole.function, whole.rest), None), lambda _, parts: Completed(*parts)
)
