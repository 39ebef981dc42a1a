"""Sums of losses over examples: in float32 where they are of half precision, and some examples at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow._devices.meshes import bring_home, is_within_explicit_axes
from jaxflow._devices.shares import Shares
from jaxflow._programs import half
from jaxflow._programs.checkpoint import checkpoint

PyTree = Any
Losses = Callable[[PyTree, PyTree], jax.Array]


def sum_of_half(
    losses_of: Losses,
    params: PyTree,
    batch: PyTree,
    weights: jax.Array | None,
    divisor: int,
    chunk: int | None,
    dtype: Any,
) -> jax.Array:
    """The (weighted) sum of losses over `divisor`, in `dtype`, summed in float32."""
    if weights is None:
        weights = jnp.ones(np.shape(jax.tree.leaves(batch)[0])[0], jnp.float32)
    total = half.total(losses_of, params, batch, half.widen(weights), chunk)
    return (total / divisor).astype(dtype)


def sum_in_chunks(
    losses_of: Losses,
    params: PyTree,
    data: PyTree,
    weights: jax.Array | None,
    divisor: int,
    chunk: int,
    shares: Shares | None,
) -> jax.Array:
    """The (weighted) sum of all losses over `divisor`, one chunk at a time."""
    n = jax.tree.leaves(data)[0].shape[0]
    examples = data, weights = bring_home((data, weights))
    few = lambda params, data: losses_of(params, jax.tree.map(lambda x: x[:chunk], data))
    losses = jax.eval_shape(few, params, data)
    if half.is_half(losses) or half.has_half(params):
        return sum_of_half(losses_of, params, data, weights, divisor, chunk, losses.dtype)
    rows = lax.dynamic_slice_in_dim
    if shares is not None and not is_within_explicit_axes():  # some of each device's
        n, chunk, rows = n // shares.number, max(chunk // shares.number, 1), shares.rows

    def total(params, examples):
        batch, weights = examples
        losses = losses_of(params, batch)
        return losses.sum() if weights is None else jnp.sum(weights.astype(losses.dtype) * losses)

    @checkpoint
    def chunk_sum(params, start):
        return total(params, jax.tree.map(lambda x: rows(x, start, chunk), examples))

    last = lambda x: rows(x, n - n % chunk, n % chunk)
    rest = total(params, jax.tree.map(last, examples)) if n % chunk else 0.0
    starts = jnp.arange(n // chunk) * chunk
    body = lambda partial, start: (partial + chunk_sum(params, start), None)
    return lax.scan(body, jnp.asarray(rest, losses.dtype), starts)[0] / divisor
