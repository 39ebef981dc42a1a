"""What a trial returns, by name: arrays, which of them run along time, and whether the trial diverged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._compiled import is_numeric
from jaxflow.solve.trajectories.trajectory import Trajectory
from jaxflow.sweeps.design.axes import SEED, TIME, TRIAL

PyTree = Any
CLOCKS = ("time", "times")
KEPT = (*CLOCKS, "stopped")  # times are known of a diverged trial too


class Variable(NamedTuple):
    """One array of a trial: its dimensions by name and length; whether it is their clock, or NaN on divergence."""

    dims: dict[str, int]
    dtype: np.dtype
    clock: bool
    masked: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the dimensions."""
        return tuple(self.dims.values())


@dataclass(frozen=True)
class Layout:
    """The arrays of a trial by name."""

    variables: dict[str, Variable]

    @property
    def nbytes(self) -> int:
        """The bytes of one trial."""
        sizes = (int(np.prod(v.shape, dtype=np.int64)) * v.dtype.itemsize for v in self.variables.values())
        return 1 + sum(sizes)

    def mask(self, arrays: dict[str, np.ndarray], diverged: np.ndarray) -> dict[str, np.ndarray]:
        """NaN in place of what a diverged trial returned, except for the finite values at its earlier times."""
        if not diverged.any():
            return arrays
        return {
            name: np.where(self._lost_mask(name, array, diverged), np.asarray(np.nan, array.dtype), array)
            if self.variables[name].masked
            else array
            for name, array in arrays.items()
        }

    def _lost_mask(self, name: str, array: np.ndarray, diverged: np.ndarray) -> np.ndarray:
        lost = diverged.reshape(-1, *[1] * (array.ndim - 1))
        along_time = any(dim == TIME or dim.endswith(f".{TIME}") for dim in self.variables[name].dims)
        return lost & ~np.isfinite(array) if along_time else lost


def name_arrays(result: PyTree) -> tuple[dict[str, jax.Array], jax.Array]:
    """The arrays of what a trial returned, by name, and whether it diverged.

    A `Trajectory` keeps its times, what it recorded, its metrics, its status and where it stopped; it says itself
    whether it diverged. Elsewhere that is a number that is not finite, unless the trial returns a flag named
    `diverged`.
    """
    is_trajectory = lambda part: isinstance(part, Trajectory)
    parts = jax.tree.leaves(result, is_leaf=is_trajectory)
    flags = [jnp.any(part.diverged) for part in parts if is_trajectory(part)]
    flags += [~jnp.isfinite(part).all() for part in parts if _is_inexact(part)]
    expanded = jax.tree.map(lambda p: _parts(p) if is_trajectory(p) else p, result, is_leaf=is_trajectory)
    arrays: dict[str, jax.Array] = {}
    for path, leaf in jax.tree.leaves_with_path(expanded):
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "value"
        name = f"value.{name}" if name[0].isdigit() else name
        if name in arrays:
            raise ValueError(f"trial must return every array under a name of its own, got {name!r} again.")
        arrays[name] = _array(name, leaf)
    own = arrays.pop("diverged", None)
    if own is not None and (own.ndim or own.dtype != bool):
        raise TypeError(f"trial must return one flag as 'diverged', got {own.dtype} of shape {own.shape}.")
    if not arrays:
        raise TypeError("trial must return at least one array, got none.")
    none = jnp.zeros((), bool)
    return arrays, own if own is not None else jnp.stack([none, *flags]).any()


def _parts(run: Trajectory) -> dict[str, Any]:
    record = dict(run.values) if isinstance(run.values, Mapping) else {"values": run.values}
    own = {"times": run.times, "status": run.status, "stopped": run.stopped}
    told = run.metrics if isinstance(run.metrics, dict) else {}
    reserved = {*own, "diverged"}
    for what, names, taken in (("record", record, reserved), ("metrics", told, reserved | {*record})):
        for name in taken & {*names}:
            raise ValueError(
                f"{what} must not use the name {name!r}, which a trajectory in a sweep has itself."
            )
    return record | told | own


def _is_inexact(leaf: Any) -> bool:
    return is_numeric(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _array(name: str, leaf: Any) -> jax.Array:
    """A leaf as an array that a file can hold."""
    if not is_numeric(leaf) and not isinstance(leaf, (bool, np.bool_)):
        raise TypeError(f"trial must return arrays, but {name!r} is {leaf!r}.")
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        raise TypeError(
            f"trial must return plain arrays, but {name!r} holds keys; return jax.random.key_data of them."
        )
    array = jnp.asarray(leaf)
    # Files know none of the short floats and integers.
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4:
        return array.astype(jnp.float32)
    if jnp.issubdtype(array.dtype, jnp.integer) and array.dtype.kind not in "iu":
        return array.astype(jnp.int8 if jnp.issubdtype(array.dtype, jnp.signedinteger) else jnp.uint8)
    return array


def layout(arrays: Mapping[str, jax.ShapeDtypeStruct], axes: Mapping[str, Any]) -> Layout:
    """Dimensions for the arrays of one trial: time where they share a leading axis with times, otherwise numbered."""
    clocks = {n: a.shape[0] for n, a in arrays.items() if n.split(".")[-1] in CLOCKS and len(a.shape) == 1}
    several = len(set(clocks.values())) > 1
    dims = {n: ".".join((*n.split(".")[:-1], TIME)) if several else TIME for n in clocks}
    # Where times go that trials do not share.
    unshared = {".".join((*n.split(".")[:-1], "times")) for n in clocks}
    if len(unshared) < len(clocks):
        raise ValueError(f"trial must return either time or times, got {', '.join(clocks)}.")
    taken = {SEED, TRIAL, *axes, *({*dims.values(), *unshared} - {*clocks})}
    variables = {}
    for name, array in arrays.items():
        if name in taken:
            raise ValueError(
                f"trial must not return {name!r}, the name of an axis or a coordinate; return it by another."
            )
        clock = _clock_of(name, array.shape, clocks)
        own = {f"{name}_{i}": n for i, n in enumerate(array.shape)}
        if clock is not None:
            own = {dims[clock]: array.shape[0]} | dict(list(own.items())[1:])
        dtype = np.dtype(array.dtype)
        masked = dtype.kind in "fc" and name.split(".")[-1] not in KEPT
        variables[name] = Variable(own, dtype, name in clocks, masked)
    for dim in {dim for variable in variables.values() for dim in variable.dims} & {SEED, TRIAL, *axes}:
        raise ValueError(f"axes must not be named {dim!r}, as a dimension of the results has that name.")
    return Layout(variables)


def _clock_of(name: str, shape: tuple[int, ...], clocks: dict[str, int]) -> str | None:
    """The nearest times, in the same part of the result or around it, as long as the array's leading axis."""
    if not shape:
        return None
    parts = name.split(".")[:-1]
    for depth in range(len(parts), -1, -1):
        for last in CLOCKS:
            clock = ".".join((*parts[:depth], last))
            if clocks.get(clock) == shape[0]:
                return clock
    return None


def difference(a: Layout, b: Layout) -> str | None:
    """How the arrays of two trials differ, in words; `None` where they agree."""
    for name in [*a.variables, *b.variables]:
        one, other = a.variables.get(name), b.variables.get(name)
        if one is None or other is None:
            return f"only one of them returns {name!r}"
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"{name!r} is {one.dtype}{list(one.shape)} and {other.dtype}{list(other.shape)}"
    return None
