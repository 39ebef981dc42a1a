"""The coordinates of a slice, from its span and the number of its points."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow import _check
from jaxflow.landscape.slices.directions import Directions


def counts_of(points: Any, k: int) -> tuple[int, ...]:
    counts = tuple(points) if isinstance(points, (tuple, list)) else (points,) * k
    if len(counts) != k:
        raise ValueError(f"points must be an integer, or one for each of {k} directions, got {points!r}.")
    for count in counts:
        _check.require_integer("points", count, 2)
    return tuple(map(int, counts))


def coordinates_of(
    span: Any, directions: Directions, counts: tuple[int, ...], dtype
) -> tuple[jax.Array, ...]:
    """The coordinates along each direction."""
    if span is None:
        if directions.span is None:
            raise ValueError("span must be given for directions that suggest none, such as 1.0, got None.")
        spans = [(pair[0], pair[1]) for pair in directions.span]
    else:
        spans = [*span] if isinstance(span, list) else [span] * len(counts)
        if len(spans) != len(counts):
            raise ValueError(f"span must have one entry for each of {len(counts)} directions, got {span!r}.")
        spans = [_ends(one) for one in spans]
    return tuple(
        jnp.linspace(jnp.asarray(low, dtype), jnp.asarray(high, dtype), n)
        for (low, high), n in zip(spans, counts, strict=True)
    )


def _ends(span: Any) -> tuple[Any, Any]:
    if isinstance(span, tuple) or np.ndim(span) == 1:
        if len(span) != 2:
            raise ValueError(f"span must be a number or a pair (low, high), got {span!r}.")
        low, high = span
    else:
        _check.require_positive(span=span)
        low, high = -span, span
    found = [_check.values(end) for end in (low, high)]
    for end, value in zip((low, high), found, strict=True):
        if value is None and not isinstance(end, Tracer):
            raise TypeError(f"span must be a number or a pair (low, high), got {span!r}.")
    known = [float(end) for end in found if end is not None]
    if not all(map(math.isfinite, known)) or (len(known) == 2 and not known[0] < known[1]):
        raise ValueError(f"span must be finite, with low below high, got {span!r}.")
    return low, high
