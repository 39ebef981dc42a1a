"""Arrays that lie on several devices, made fit for a program of ours.

JAX has two ways to tell how an array is laid over a mesh. With explicit axes the layout is a part of the array's
type, and a program must say the layout of every product and every gather. With automatic axes the compiler chooses.
Our programs leave the choice to the compiler. So they take an array with explicit axes as the same array with
automatic ones, which moves nothing.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

PyTree = Any


def layout_of(x: Any) -> NamedSharding | None:
    """How an array is laid over a mesh; `None` where it is not, or where a tracer does not tell."""
    found = getattr(jax.typeof(x) if isinstance(x, Tracer) else x, "sharding", None)
    return found if isinstance(found, NamedSharding) and not found.mesh.empty else None


def automatic(mesh: Mesh | AbstractMesh) -> Any:
    """The same mesh with automatic axes in the place of explicit ones."""
    kinds = tuple(AxisType.Auto if kind is AxisType.Explicit else kind for kind in mesh.axis_types)
    if isinstance(mesh, AbstractMesh):
        return AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=kinds)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=kinds)


def is_within_one_device() -> bool:
    """Whether the code around is the program of one device among several, the body of a `jax.shard_map`."""
    return AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types


def is_within_explicit_axes() -> bool:
    """Whether `jax.set_mesh` of a mesh with explicit axes is around, so that every array has a layout in its type."""
    return AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types


def let_compiler_choose(function: Callable) -> Callable:
    """The function with automatic axes inside, for calls within explicit ones; its results are whole everywhere."""
    return jax.sharding.auto_axes(function, out_sharding=PartitionSpec())


def bring_home(tree: PyTree) -> PyTree:
    """A pytree whose arrays may enter a program of ours: with automatic axes, or whole within one device."""
    if is_within_explicit_axes():
        return tree
    alone = is_within_one_device()
    is_foreign = _lies_apart if alone else _is_explicit
    if not any(map(is_foreign, jax.tree.leaves(tree))):
        return tree
    make = _embed if alone else _automate
    return jax.tree.map(lambda x: make(x) if is_foreign(x) else x, tree)


def _is_explicit(x: Any) -> bool:
    layout = layout_of(x)
    return layout is not None and AxisType.Explicit in layout.mesh.axis_types


def _lies_apart(x: Any) -> bool:
    return not isinstance(x, Tracer) and layout_of(x) is not None


def _automate(x: Any) -> jax.Array:
    layout = layout_of(x)
    assert layout is not None
    # A tracer tells no devices, so that only a program can lay it.
    lay = _lay if isinstance(x, Tracer) else jax.device_put
    return lay(x, NamedSharding(automatic(layout.mesh), layout.spec))


@functools.partial(jax.jit, static_argnames="layout")
def _lay(x: jax.Array, layout: NamedSharding) -> jax.Array:
    return jax.device_put(x, layout)


def _embed(x: Any) -> jax.Array:
    """What is closed over, as a constant of the program: JAX would keep the mesh that it comes from."""
    check_reachable(x)
    return jnp.asarray(np.asarray(x))


def check_reachable(x: jax.Array) -> None:
    """Refuse an array of which a part is on devices of other processes, where all of it is needed here."""
    if not (x.is_fully_addressable or x.is_fully_replicated):
        raise ValueError(
            "data of a sweep must be on devices of this process, as each device runs trials of its own; got an "
            f"array of shape {x.shape} of which a part is on other processes."
        )
