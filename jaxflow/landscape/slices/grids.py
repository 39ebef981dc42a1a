"""Losses on a grid of coordinates: a few at a time, spread over devices, in pieces where they are watched."""

import itertools
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxflow._compiled import compiled, transfers
from jaxflow._devices.memory import device_memory
from jaxflow._devices.meshes import is_within_explicit_axes, is_within_one_device, layout_of
from jaxflow._programs.jaxprs import programs_of
from jaxflow._text.progress import Bar
from jaxflow.landscape.paths.path import dtype_of
from jaxflow.landscape.slices.affine import evaluate_along

PyTree = Any
MOST = {
    4: 32,
    8: 16,
}  # points at once, by the bytes of a number: more leave the cache of a processor, and gain nothing
ROOM = 1 / 64  # of a device's memory: for the largest array that the points at once make
PIECES = 20  # that a slice with a bar is made in


def evaluate(objective, center, vectors, coordinates, progress: bool) -> jax.Array:
    """The losses at all combinations of coordinates, in pieces where they are watched, shared out among devices."""
    at_once = _count_at_once(objective, center)
    shape = tuple(x.shape[0] for x in coordinates)
    given = (objective, center, vectors, coordinates)
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(given))
    if traced or is_within_explicit_axes() or is_within_one_device():
        grid = jnp.stack(jnp.meshgrid(*coordinates, indexing="ij"), -1).reshape(1, -1, len(shape))
        return losses_on(objective, center, vectors, grid, at_once=at_once).reshape(shape)
    with transfers():
        grid = np.stack(np.meshgrid(*map(np.asarray, coordinates), indexing="ij"), -1).reshape(-1, len(shape))
        apart = any(layout_of(leaf) is not None for leaf in jax.tree.leaves(given))
        devices = [jax.local_devices()[0]] if apart else jax.local_devices()
        pieces = min(PIECES, len(grid)) if progress else 1
        # All pieces have one size, as another would compile anew.
        each = len(devices) * -(-len(grid) // (pieces * len(devices)))
        found = np.full(len(grid), np.nan, dtype_of(center))
        with Bar("slice", len(grid), "points", shown=progress) as bar:
            for first in range(0, len(grid), each):
                index = np.arange(first, first + each) % len(grid)
                part = spread(grid[index].reshape(len(devices), -1, len(shape)), devices)
                try:
                    losses = np.asarray(losses_on(objective, center, vectors, part, at_once=at_once)).ravel()
                except KeyboardInterrupt:
                    if not (progress and first):
                        raise
                    warnings.warn(
                        f"The slice was interrupted after {first} of {len(grid)} points.", stacklevel=3
                    )
                    break
                count = min(each, len(grid) - first)
                found[first : first + count] = losses[:count]
                bar.advance(count)
        return jnp.asarray(found.reshape(shape))


def spread(grid: np.ndarray, devices: list) -> jax.Array:
    """Coordinates (devices, n, k), a part on each device."""
    if len(devices) == 1:
        return jnp.asarray(grid)
    mesh = jax.make_mesh((len(devices),), ("points",), axis_types=(AxisType.Auto,), devices=devices)
    return jax.device_put(grid, NamedSharding(mesh, PartitionSpec("points")))


def _count_at_once(objective: Any, center: PyTree) -> int:
    """How many losses fit in memory at once, by the largest array that one makes."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), center)
    closed, out = jax.make_jaxpr(lambda p: objective(p), return_shape=True)(shapes)
    leaves = jax.tree.leaves(out)
    if len(leaves) != 1 or math.prod(leaves[0].shape) != 1:
        raise ValueError(f"objective must return a scalar, got {[leaf.shape for leaf in leaves]}.")
    largest = max(_largest(closed.jaxpr), 1)
    return int(max(1, min(MOST[dtype_of(center).itemsize], ROOM * device_memory() // largest)))


def _largest(jaxpr: Any) -> int:
    """The bytes of the largest array that a program makes."""
    size = lambda aval: math.prod(aval.shape) * aval.dtype.itemsize if hasattr(aval, "dtype") else 0
    here = [size(variable.aval) for eqn in jaxpr.eqns for variable in eqn.outvars]
    inside = [_largest(program.jaxpr) for eqn in jaxpr.eqns for program in programs_of(eqn)]
    return max(itertools.chain(here, inside), default=0)


def point_at(center: PyTree, vectors: PyTree, at: jax.Array) -> PyTree:
    """The parameters at coordinates (k,)."""
    return jax.tree.map(
        lambda x, d: x + jnp.tensordot(at.astype(x.dtype), d.astype(x.dtype), 1), center, vectors
    )


@compiled(static=("at_once",))
def losses_on(objective, center, vectors, grid, at_once: int):
    loss = lambda params: jnp.asarray(objective(params)).reshape(()).astype(dtype_of(center))
    value = evaluate_along(loss, center, vectors)
    return jax.vmap(lambda some: lax.map(value, some, batch_size=at_once))(grid)
