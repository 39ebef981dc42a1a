"""Differences and norms of arrays of any kind of numbers: in at least single precision, free of overflow, and with
the derivative 0 where a norm is 0.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any


def norm_dtype(*arrays: jax.Array) -> Any:
    """The real type for numbers of these arrays: double for wide ones where it is enabled, otherwise single."""
    wide = [x.dtype for x in arrays if x.dtype.itemsize > (8 if jnp.iscomplexobj(x) else 4)]
    wide += [x.dtype for x in arrays if x.dtype.itemsize == 4 and jnp.issubdtype(x.dtype, jnp.integer)]
    return jnp.result_type(float) if wide else jnp.dtype(jnp.float32)


def parts(x: jax.Array) -> Iterable[jax.Array]:
    """The real numbers in an array: itself, or its real and imaginary part."""
    return (jnp.real(x), jnp.imag(x)) if jnp.iscomplexobj(x) else (x,)


def difference(a: jax.Array, b: jax.Array) -> jax.Array:
    """a − b, floating. Of integers of one type it is exact before it is rounded, however large they are."""
    dtype = norm_dtype(a, b)
    if a.dtype == b.dtype and jnp.issubdtype(a.dtype, jnp.integer):
        a, b = jnp.broadcast_arrays(a, b)
        # The difference of the larger and the smaller is right modulo 2ⁿ, and fits into as many bits without a sign.
        unsigned = jnp.dtype(f"uint{max(8, 8 * a.dtype.itemsize)}")
        size = jnp.maximum(a, b).astype(unsigned) - jnp.minimum(a, b).astype(unsigned)
        return jnp.where(a < b, -1, 1).astype(dtype) * size.astype(dtype)
    if jnp.iscomplexobj(a) or jnp.iscomplexobj(b):
        dtype = (
            jnp.zeros((), dtype).astype(complex).dtype if dtype == jnp.float64 else jnp.dtype(jnp.complex64)
        )
    return a.astype(dtype) - b.astype(dtype)


def norms(tree: PyTree) -> jax.Array:
    """The 2-norms over all but the leading axis (T,) that all leaves share; (T,), real.

    Numbers are scaled by the largest of them before they are squared. A norm is infinite where a number is
    infinite, and NaN where one is NaN.
    """
    leaves = jax.tree.leaves(tree)
    dtype = norm_dtype(*leaves)
    rows = [part.astype(dtype).reshape(part.shape[0], -1) for leaf in leaves for part in parts(leaf)]
    largest = jnp.stack([jnp.max(jnp.abs(row), axis=1, initial=0) for row in rows]).max(0)
    unit = jnp.where((largest >= jnp.finfo(dtype).tiny) & jnp.isfinite(largest), largest, 1)
    unit = lax.stop_gradient(unit)
    total = jnp.stack([jnp.sum((row / unit[:, None]) ** 2, axis=1) for row in rows]).sum(0)
    return unit * root(total)


def norm(tree: PyTree) -> jax.Array:
    """The 2-norm of all numbers of a pytree; see `norms`."""
    # Twice: XLA makes one program of two sums, and several of one.
    return norms(jax.tree.map(lambda x: jnp.stack([x, x]), tree))[0]


def root(x: jax.Array) -> jax.Array:
    """√x, with the derivative 0 where x is 0."""
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))
