"""The parameters that a run, a path or a stack holds, as rows of numbers."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow.curvature.products import real_parameters
from jaxflow.landscape.paths.path import Path
from jaxflow.solve import Trajectory

PyTree = Any


def records_of(trajectory: Any, like: PyTree = None) -> PyTree:
    """The parameters (n, …) that are recorded, of all members one after another; without what is not trained.

    `like` are parameters that they must resemble.
    """
    members = 0
    if isinstance(trajectory, Trajectory):
        values, members = trajectory.values, jnp.ndim(trajectory.status)
    elif isinstance(trajectory, Path):
        values, members = trajectory.params, jnp.ndim(trajectory.status)
    else:
        values = trajectory
    values = real_parameters(values, "trajectory")
    shapes = _check.leaf_shapes(values)
    if any(len(shape) <= members for shape in shapes) or len({shape[: members + 1] for shape in shapes}) > 1:
        raise ValueError(
            "trajectory must hold records of parameters, leaves (T, …) of one length T, got leaves of shapes "
            f"{shapes}."
        )
    values = jax.tree.map(lambda x: x.reshape(-1, *x.shape[members + 1 :]), values)
    if like is not None:
        first = jax.tree.map(lambda x: x[0], values)
        _check.require_like(
            "trajectory",
            first,
            like,
            "record parameters like those of the slice",
            "record parameters of the shapes of the slice's",
            structures=TypeError,
        )
        values = jax.tree.map(lambda x, p: x.astype(p.dtype), values, like)
    return values


def rows(values: PyTree) -> jax.Array:
    """Stacked parameters as one matrix (n, P)."""
    leaves = jax.tree.leaves(values)
    dtype = jnp.result_type(*leaves)
    return jnp.concatenate([leaf.astype(dtype).reshape(leaf.shape[0], -1) for leaf in leaves], 1)


def from_rows(matrix: jax.Array, like: PyTree) -> PyTree:
    """Rows (k, P) as stacked parameters again, in the shapes of `like` (n, …)."""
    leaves, structure = jax.tree.flatten(like)
    found, start = [], 0
    for leaf in leaves:
        size = leaf.size // max(leaf.shape[0], 1)
        part = matrix[:, start : start + size].reshape(-1, *leaf.shape[1:])
        found.append(part.astype(leaf.dtype))
        start += size
    return jax.tree.unflatten(structure, found)
