"""Batches of data that lie on several devices: every device computes its share of each batch.

The examples of a batch are anywhere among the devices. Each device puts those that it holds into their places and
zeros into all others. The sum over the devices is the batch, of which every device keeps its share. All arrays of the
data travel as one array of unsigned words, so that they are one message and keep every bit.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxflow._devices.meshes import automatic, is_within_explicit_axes, layout_of

PyTree = Any
WORDS = {8: jnp.uint64, 4: jnp.uint32}  # by their bytes; others travel as bytes, as few devices add 16 bits


class Shares(NamedTuple):
    """How examples are shared out among devices: evenly, over these axes of a mesh."""

    mesh: Any
    axes: tuple[str, ...]

    @property
    def number(self) -> int:
        """The number of shares."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes)

    def divide(self, data: PyTree) -> bool:
        """Whether every leaf has a first axis that can be shared out evenly."""
        shapes = map(np.shape, jax.tree.leaves(data))
        return all(shape and shape[0] % self.number == 0 for shape in shapes)

    def whole(self, x: jax.Array) -> jax.Array:
        """The array, all of it on every device."""
        return lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec()))

    def lay(self, x: jax.Array) -> jax.Array:
        """The array with its first axis shared out."""
        rest = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
        return lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(self.axes, *rest)))

    def rows(self, x: jax.Array, start: jax.Array | int, count: int) -> jax.Array:
        """`count` rows of each share, from its row `start` on; they stay where they are."""
        parts = self.lay(x.reshape(self.number, -1, *x.shape[1:]))
        chosen = lax.dynamic_slice_in_dim(parts, start, count, 1)
        return self.lay(chosen.reshape(-1, *x.shape[1:]))


def shares_of(data: PyTree) -> Shares | None:
    """How the examples of the data are shared out, as far as the arrays tell; `None` where they are not."""
    for leaf in jax.tree.leaves(data):
        layout = layout_of(leaf)
        if layout is not None and layout.spec and layout.spec[0] not in (None, PartitionSpec.UNCONSTRAINED):
            axes = layout.spec[0] if isinstance(layout.spec[0], tuple) else (layout.spec[0],)
            shares = Shares(automatic(layout.mesh), axes)
            if shares.number > 1:
                return shares
    return None


def fill_up(
    indices: jax.Array, weights: jax.Array | None, shares: Shares
) -> tuple[jax.Array, jax.Array | None]:
    """The indices (B,) and weights of a batch, filled up by its first example to a multiple of the shares.

    What is filled in has the weight 0. A batch of fewer examples than shares is left alone.
    """
    size = indices.shape[0]
    missing = -size % shares.number
    if size < shares.number or not missing:
        return indices, weights
    weights = jnp.full(size, 1 / size) if weights is None else weights
    filled = jnp.concatenate([indices, jnp.broadcast_to(indices[:1], (missing,))])
    return filled, jnp.concatenate([weights, jnp.zeros(missing, weights.dtype)])


def take(data: PyTree, indices: jax.Array, shares: Shares) -> PyTree:
    """The examples `indices` (B,), shared out as the data are, or whole everywhere if the shares do not divide B."""
    leaves, treedef = jax.tree.flatten(data)
    split = indices.shape[0] % shares.number == 0
    run: Any = lambda leaves, indices: _program(shares, split, leaves, indices)
    if is_within_explicit_axes():
        run = jax.sharding.auto_axes(run, out_sharding=PartitionSpec(shares.axes if split else None))
    return jax.tree.unflatten(treedef, run(leaves, indices))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _take(shares: Shares, split: bool, leaves: list, indices: jax.Array) -> list:
    """Rows of arrays that have as many rows; all that are numbers in one message."""
    indices = shares.whole(indices)  # every device draws all: to draw a share each would cost a message
    numbers = [leaf for leaf in leaves if _has_bits(leaf)]
    found = iter(_take_bits(shares, split, numbers, indices) if numbers else [])
    rows = [next(found) if _has_bits(leaf) else leaf[indices] for leaf in leaves]
    return [shares.lay(x) if split else x for x in rows]


@_take.defjvp
def _take_tangents(shares, split, primals, tangents):
    """Bits have no derivative, rows have: those of the tangents."""
    leaves, indices = primals
    along = [
        np.zeros((indices.shape[0], *t.shape[1:]), t.dtype) if t.dtype == jax.dtypes.float0 else t[indices]
        for t in tangents[0]
    ]
    return _take(shares, split, leaves, indices), along


# Of traced arrays that lie on devices, only a program knows which.
_program = jax.jit(_take, static_argnames=("shares", "split"))


def _has_bits(leaf: Any) -> bool:
    return (
        leaf.dtype == bool
        or jnp.issubdtype(leaf.dtype, jnp.integer)
        or jnp.issubdtype(leaf.dtype, jnp.floating)
    )


def _take_bits(shares: Shares, split: bool, leaves: list, indices: jax.Array) -> list:
    size, each = leaves[0].shape[0], leaves[0].shape[0] // shares.number
    word = WORDS.get(min(leaf.dtype.itemsize for leaf in leaves), jnp.uint8)
    indices = jnp.clip(jnp.where(indices < 0, indices + size, indices), 0, size - 1)
    places = shares.lay(indices[None] - each * jnp.arange(shares.number, dtype=indices.dtype)[:, None])
    mine = (places >= 0) & (places < each)

    def words(leaf):
        own = shares.lay(leaf.reshape(shares.number, each, -1))
        rows = jax.vmap(lambda own, places: own[jnp.clip(places, 0, each - 1)])(own, places)
        return jnp.where(mine[..., None], rows.view(word), 0)

    packed = jnp.concatenate([words(leaf) for leaf in leaves], axis=-1)
    packed = lax.reduce(packed, np.zeros((), word), lax.add, (0,))
    if split:
        packed = shares.lay(packed)
    ends = np.cumsum([math.prod(x.shape[1:]) * x.dtype.itemsize // np.dtype(word).itemsize for x in leaves])
    parts = jnp.split(packed, ends[:-1], axis=-1)
    return [
        part.view(leaf.dtype).reshape(-1, *leaf.shape[1:]) for part, leaf in zip(parts, leaves, strict=True)
    ]
