"""Whether the loss of an example depends on the others in its batch, as with batch normalisation."""

import warnings
import weakref
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxflow import _check
from jaxflow._compiled import compiled

PyTree = Any
BATCH = 8
DIFFERENT = 1e-2  # relatively; no precision is that low
_LOOKED_AT: weakref.WeakSet = weakref.WeakSet()


def warn_of_chunks(objective: Any, params: PyTree) -> None:
    """Warn, as `warn_of_companions` does, of an objective whose examples are summed in chunks."""
    chunk = getattr(objective, "chunk", None)
    if chunk is None or not hasattr(objective, "per_example") or not jax.tree.leaves(objective.data):
        return
    if chunk < objective.size:
        warn_of_companions(objective, params)


def warn_of_companions(objective: Any, params: PyTree) -> None:
    """Warn, once for each function, where the loss of an example changes with its companions.

    The noise of mini-batches is that of a mean of losses of single examples, and so is a mean taken in chunks. It is
    tried with numbers, one example alone and among others, and not at all where those numbers are traced.
    """
    if not hasattr(objective, "per_example") or objective.size < 2:
        return
    losses = objective.function_given
    leaves = jax.tree.leaves((objective, params))
    try:
        if losses in _LOOKED_AT or any(isinstance(leaf, Tracer) for leaf in leaves):
            return
        _LOOKED_AT.add(losses)
    except TypeError:  # of a kind that cannot be remembered
        return
    found = _check.found_now(lambda: _losses_alone_and_among(_draw_once(objective), params))
    if found is None:
        _LOOKED_AT.discard(losses)
        return
    among, alone = map(float, jax.device_get(found))
    if not abs(among - alone) <= DIFFERENT * (abs(among) + abs(alone)):
        warnings.warn(
            "The loss of an example depends on the others in its batch, as with batch normalisation: here it is "
            f"{alone:.4g} alone and {among:.4g} among {BATCH}. The mini-batch noise of this objective, and its "
            "mean in chunks, are then not those of training. Make one example of each ghost batch, or freeze the "
            "statistics (state=).",
            stacklevel=5,
        )


def _draw_once(objective: Any) -> Any:
    """The objective, with one draw of random losses whose expectation no number of draws stands for."""
    needs_key = objective.is_random and objective.draws is None
    return objective.with_key(jax.random.key(0)) if needs_key else objective


@compiled
def _losses_alone_and_among(objective: Any, params: PyTree) -> tuple[jax.Array, jax.Array]:
    first = lambda count: objective.per_example(params, objective.take(jnp.arange(count)))[0]
    return first(min(BATCH, objective.size)), first(1)
