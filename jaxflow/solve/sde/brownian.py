"""Brownian increments, drawn one page at a time.

Random numbers are most of the cost of a cheap SDE, and they are cheap only in bulk. A page holds about 100,000 of
them and has a key of its own. The page of an increment depends only on the number of increments between two saved
times. So a path is the same on any number of devices, a longer run begins with the path of the shorter one, and sums
of increments are the same path with a coarser step.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any

NUMBERS = 100_000  # on a page: enough to occupy the cores, little enough for the cache
MOST = 64  # increments on a page, as under `vmap` every lane holds a page


class Pages(NamedTuple):
    """Where the increments are: several saved intervals are on one page, or one interval is on several pages.

    - `intervals`: the number of whole intervals on a page; 0 where an interval takes several pages.
    - `whole`, `length`, `rest`: such an interval has `whole` pages of `length` increments, and a last page with the
      `rest` unless that is 0.
    """

    intervals: int
    whole: int
    length: int
    rest: int

    @property
    def pages_of_interval(self) -> int:
        """The number of pages that an interval takes, where it takes several."""
        return self.whole + (self.rest > 0)


def pages(fine: int, numbers: int) -> Pages:
    """The layout for `fine` increments of `numbers` random numbers each between two saved times."""
    most = min(max(NUMBERS // max(numbers, 1), 1), MOST)
    if fine <= most:
        return Pages(most // fine, 0, 0, 0)
    # A divisor leaves no rest, which would be compiled on its own.
    length = next((n for n in range(most, most // 2, -1) if fine % n == 0), most)
    return Pages(0, fine // length, length, fine % length)


class Increments(NamedTuple):
    """What drives the steps of a path.

    - `numbers`: random numbers in one increment.
    - `draw(page, count)`: the first `count` (static) increments of a page, a pytree with that leading axis.
    - `unravel(increment)`: the `xi` a dynamics asks for, from one of them.
    """

    numbers: int
    draw: Callable[[jax.Array, int], PyTree]
    unravel: Callable[[PyTree], PyTree]


def is_bits(leaf: Any) -> bool:
    """Whether a leaf of a Brownian shape asks for random bits instead of normal numbers."""
    return jnp.issubdtype(leaf.dtype, jnp.unsignedinteger)


def increments(shape: PyTree, key: jax.Array | None) -> Increments:
    """Standard normal increments (and random bits) of the given shape."""
    leaves, treedef = jax.tree.flatten(shape)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    words = sum(size for leaf, size in zip(leaves, sizes, strict=True) if is_bits(leaf))
    normal = sum(sizes) - words
    # One vector for all leaves, as leaf by leaf takes several times as long to compile; no half precision in it.
    doubles = any(jnp.finfo(leaf.dtype).bits == 64 for leaf in leaves if not is_bits(leaf))
    dtype = jnp.float64 if doubles else jnp.float32

    def draw(page, count):
        if key is None:
            return None, None
        page_key = jax.random.fold_in(key, page)
        bits_key = jax.random.fold_in(page_key, 0)
        return (
            jax.random.normal(page_key, (count, normal), dtype) if normal else None,
            jax.random.bits(bits_key, (count, words), jnp.uint32) if words else None,
        )

    def unravel(increment):
        xi, bits = increment
        parts, first = [], {True: 0, False: 0}
        for leaf, size in zip(leaves, sizes, strict=True):
            begin, which = first[is_bits(leaf)], bits if is_bits(leaf) else xi
            first[is_bits(leaf)] += size
            parts.append(which[begin : begin + size].reshape(leaf.shape).astype(leaf.dtype))
        return jax.tree.unflatten(treedef, parts)

    return Increments(normal + words, draw, unravel)


def coarsen(increment: PyTree, refinement: int) -> PyTree:
    r"""Sums of `refinement` increments over $\sqrt{\text{refinement}}$: standard normal for the coarser step."""
    if refinement == 1:
        return increment
    total = lambda x: x.reshape(-1, refinement, *x.shape[1:]).sum(1)
    return jax.tree.map(lambda x: total(x) * jnp.asarray(refinement**-0.5, x.dtype), increment)
