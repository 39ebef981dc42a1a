"""What makes two sweeps the same: hashes of the trial's program, of the arrays it uses, and of the axes."""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def hash_bytes(*parts: bytes) -> str:
    """SHA-256, each part set off by its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def hash_arrays(arrays: Any) -> str:
    """Arrays of a pytree by dtype, shape and content."""
    return hash_bytes(*(part for leaf in jax.tree.leaves(arrays) for part in _content(leaf)))


def hash_program(closed: ClosedJaxpr) -> str:
    """A program by its jaxpr; the addresses of the functions named in it are left out."""
    return hash_bytes(re.sub(r"0x[0-9a-fA-F]+", "", str(closed)).encode())


def hash_constants(closed: ClosedJaxpr) -> str:
    """The arrays that a program has closed over."""
    return hash_arrays(list(_constants(closed)))


def _constants(program: ClosedJaxpr | Jaxpr) -> Iterator[Any]:
    """Constants and literals of a program and those inside it, in the order met."""
    inner = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    if isinstance(program, ClosedJaxpr):
        yield from program.consts
    for eqn in inner.eqns:
        yield from (v.val for v in eqn.invars if isinstance(v, Literal))
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: isinstance(x, (ClosedJaxpr, Jaxpr))):
            if isinstance(value, (ClosedJaxpr, Jaxpr)):
                yield from _constants(value)
            elif isinstance(value, (jax.Array, np.ndarray)):
                yield value


def _content(leaf: Any) -> tuple[bytes, bytes]:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        kind, array = str(leaf.dtype), np.asarray(jax.random.key_data(leaf))
    else:
        array = np.asarray(leaf)
        kind = str(array.dtype)
    content = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
    return f"{kind}{array.shape}".encode(), content
