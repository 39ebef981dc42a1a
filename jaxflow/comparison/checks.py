"""Checks whether two trajectories can be compared: the same structure, the same clock, numbers to subtract."""

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

PyTree = Any


def warn_of_clocks(stacklevel: int) -> None:
    """Warn that two trajectories are on clocks that cannot be compared."""
    warnings.warn(
        "Only one of the trajectories is on the clock of a learning rate: none was found in the optimizer of the "
        "other, whose times count steps; give time_step= (its learning rate) where it is made.",
        stacklevel=stacklevel,
    )


def check_structures(a: PyTree, b: PyTree) -> None:
    if jax.tree.structure(a) != jax.tree.structure(b):
        raise ValueError(
            f"The recorded values differ in structure: {jax.tree.structure(a)} against {jax.tree.structure(b)}."
        )
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        if x.shape[1:] != y.shape[1:]:
            where = jax.tree_util.keystr(path) or "the values"
            raise ValueError(
                f"The recorded values differ in shape at {where}: {x.shape[1:]} against {y.shape[1:]}."
            )


def check_numbers(name: str, values: PyTree) -> None:
    """Refuse records that are empty or hold anything but numbers."""
    leaves = jax.tree.leaves_with_path(values)
    shapes = [leaf.shape for _, leaf in leaves]
    if not sum(map(math.prod, shapes)):
        raise ValueError(
            f"{name} must hold records of at least one number, got leaves of shape "
            f"{', '.join(map(str, shapes)) or 'none'}."
        )
    for path, leaf in leaves:
        if not (leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.number)):
            where = jax.tree_util.keystr(path) or "the record"
            raise TypeError(f"{name} must hold records of numbers; {where} has dtype {leaf.dtype}.")


def check_times(a: jax.Array, b: jax.Array) -> None:
    if a.shape != b.shape:
        spans = "" if is_traced(a, b) else f", spanning {span(a)} and {span(b)}"
        raise ValueError(
            f"The trajectories differ in their number of times: {a.shape[-1]} against {b.shape[-1]}{spans}."
        )
    if is_traced(a, b):
        return
    x, y = np.asarray(a, float), np.asarray(b, float)
    # k·rate, a running sum and linspace round differently, by about eps·√T of the span for T additions; but
    # times a quarter of an interval apart are different times.
    eps = max(float(jnp.finfo(a.dtype).eps), float(jnp.finfo(b.dtype).eps))
    rounding = 4 * eps * max(np.sqrt(x.size), 8) * max(np.abs(x).max(), np.abs(y).max())
    passed = np.diff(x)
    wrong = np.abs(x - y) > min(rounding, passed[passed > 0].min(initial=np.inf) / 4)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"The trajectories differ in their times, first at index {i}: {x[i]:.9g} against {y[i]:.9g}. "
            "Integrate at the iterates' own times."
        )


def is_traced(*arrays) -> bool:
    return any(isinstance(x, Tracer) for x in arrays)


def span(times) -> str:
    times = np.asarray(times)
    return f"{times.min():.6g} … {times.max():.6g}"
