"""The records of an ensemble as samples: one row of real numbers for each member, with a name for every number."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow.comparison.checks import (
    check_numbers,
    check_structures,
    check_times,
    is_traced,
    span,
    warn_of_clocks,
)
from jaxflow.solve.ensembles import share_clock
from jaxflow.solve.trajectories.trajectory import Trajectory

PyTree = Any


class Samples(NamedTuple):
    """What one ensemble hands to a test.

    - `values`: leaves (n, T, …), or (n, …) for plain arrays.
    - `index` (K,): the indices of the times asked for; `None` for plain arrays.
    - `status` (n,): the status of each member; `None` for plain arrays.
    """

    values: PyTree
    index: np.ndarray | None
    status: jax.Array | None


def gather(a: Any, b: Any, at: Any) -> tuple[Samples, Samples, list[str]]:
    """Both ensembles as samples at the times `at`, and a suffix for the names of each of several times.

    What are not two ensembles of one thing is refused in one sentence.
    """
    kinds = [isinstance(x, Trajectory) for x in (a, b)]
    if kinds[0] != kinds[1]:
        raise TypeError(
            "a and b must both be ensemble trajectories or both be pytrees of arrays, "
            f"got {type(a).__name__} and {type(b).__name__}."
        )
    if not kinds[0]:
        if at is not None:
            raise ValueError(f"at must be None for plain arrays, which are samples at one time, got {at!r}.")
        a, b = _arrays("a", a), _arrays("b", b)
        check_structures(a, b)
        check_numbers("a", a)
        check_numbers("b", b)
        return Samples(a, None, None), Samples(b, None, None), [""]
    for name, run in (("a", a), ("b", b)):
        if np.ndim(run.status) != 1:
            raise ValueError(
                f"{name} must be an ensemble made by jf.ensemble, whose status has one axis, "
                f"got {'a single run' if not np.ndim(run.status) else f'status of shape {run.status.shape}'}."
            )
    if a.counts_steps != b.counts_steps:
        warn_of_clocks(stacklevel=4)
    a, b = (share_clock(run) if np.ndim(run.times) == 2 else run for run in (a, b))
    check_times(a.times, b.times)
    check_structures(a.values, b.values)
    check_numbers("a", a.values)
    check_numbers("b", b.values)
    index, suffixes = _indices_of_times(at, a.times)
    return Samples(a.values, index, a.status), Samples(b.values, index, b.status), suffixes


def _arrays(name: str, values: PyTree) -> PyTree:
    values = jax.tree.map(jnp.asarray, values)
    shapes = [leaf.shape for leaf in jax.tree.leaves(values)]
    if not shapes or () in shapes or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"{name} must be an ensemble trajectory or a pytree of arrays that share their leading axis n, "
            f"got leaves of shape {', '.join(map(str, shapes)) or 'none'}."
        )
    return values


def _indices_of_times(at: Any, times: jax.Array) -> tuple[np.ndarray, list[str]]:
    """The indices of the times asked for, matched up to rounding."""
    if at is None:
        return np.array([times.shape[0] - 1]), [""]
    if is_traced(times) or isinstance(at, Tracer):
        raise ValueError(
            "at must be None, the last time, where the times are traced: they cannot be matched."
        )
    wanted, recorded = np.atleast_1d(np.asarray(at, float)), np.asarray(times, float)
    if wanted.ndim != 1 or wanted.size == 0:
        raise ValueError(f"at must be a time or a sequence of times, got {at!r}.")
    index = np.abs(recorded[None] - wanted[:, None]).argmin(1)
    eps = float(jnp.finfo(times.dtype).eps)
    rounding = 4 * eps * max(np.sqrt(recorded.size), 8) * np.abs(recorded).max()
    wrong = ~(np.abs(recorded[index] - wanted) <= min(rounding, np.diff(recorded).min(initial=np.inf) / 4))
    if wrong.any():
        t, near = wanted[wrong][0], recorded[index[wrong][0]]
        raise ValueError(
            f"at must be among the {recorded.size} recorded times, {span(times)}, got {t:.9g}; "
            f"the nearest is {near:.9g}."
        )
    return index, [""] if wanted.size == 1 else [f" at t = {t:.6g}" for t in recorded[index]]


def record_shapes(samples: Samples) -> list[tuple[str, tuple[int, ...], bool]]:
    """The path, shape and whether complex of every leaf of one record."""
    axes = 1 if samples.index is None else 2
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf.shape[axes:], jnp.iscomplexobj(leaf))
        for path, leaf in jax.tree.leaves_with_path(samples.values)
    ]


def width(samples: Samples) -> int:
    """The number of real coordinates of one record."""
    return sum(math.prod(shape) * (2 if is_complex else 1) for _, shape, is_complex in record_shapes(samples))


def coordinates(samples: Samples) -> list[str]:
    """A readable name for every column of `matrix`, such as w[0] or Im z."""
    names = []
    for path, shape, is_complex in record_shapes(samples):
        own = [f"{path or 'θ'}[{','.join(map(str, i))}]" for i in np.ndindex(shape)]
        own = own if shape else [path or "the recorded number"]
        names += [part + name for part in (("Re ", "Im ") if is_complex else ("",)) for name in own]
    return names


def records_at(samples: Samples) -> PyTree:
    """The records at the times asked for, leaves (n, K, …)."""
    if samples.index is None:
        return jax.tree.map(lambda x: x[:, None], samples.values)
    return jax.tree.map(lambda x: x[:, samples.index], samples.values)


def matrix(records: PyTree) -> tuple[jax.Array, jax.Array]:
    """The coordinates (n, K, d) of records with leaves (n, K, …), and their relative rounding errors (d,)."""
    columns, rounding = [], []
    for leaf in jax.tree.leaves(records):
        x = leaf.reshape(*leaf.shape[:2], -1)
        columns += [p.astype(float) for p in ((jnp.real(x), jnp.imag(x)) if jnp.iscomplexobj(x) else (x,))]
        rounding += [jnp.full(x.shape[-1], precision(x))] * (2 if jnp.iscomplexobj(x) else 1)
    return jnp.concatenate(columns, axis=-1), jnp.concatenate(rounding)


def precision(x: jax.Array) -> float:
    """The relative rounding error of x in the default float type."""
    default = jnp.result_type(float)
    own = jnp.finfo(x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else default).eps
    return max(float(own), float(jnp.finfo(default).eps))
