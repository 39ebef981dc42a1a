"""How values look in messages: by their shapes, never by their data."""

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

_LONGEST = 200  # characters of a pytree


class _Text(str):
    """A leaf's description, which looks in a container as it is."""

    __slots__ = ()
    __repr__ = str.__str__


def show(value: Any) -> str:
    """A value in a few words: numbers as they are, arrays and pytrees of them by dtype and shape."""
    if jax.tree_util.all_leaves([value]):
        return _show_leaf(value)
    text = repr(jax.tree.map(lambda leaf: _Text(_show_leaf(leaf)), value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _show_leaf(leaf: Any) -> str:
    if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
        if leaf.shape or isinstance(leaf, (Tracer, jax.ShapeDtypeStruct)):
            return f"{leaf.dtype.name if isinstance(leaf.dtype, np.dtype) else leaf.dtype}{list(leaf.shape)}"
        return str(leaf)
    return getattr(leaf, "__name__", None) or repr(leaf)
