"""Whether the loss of an example depends on the others in its batch, as with batch normalisation."""

import warnings
import weakref
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxflow._compiled import compiled
from jaxflow.objective import Objective

PyTree = Any
BATCH = 8
DIFFERENT = 1e-2  # relatively; no precision is that low
_LOOKED_AT: weakref.WeakSet = weakref.WeakSet()


def warn_of_companions(objective: Any, params: PyTree) -> None:
    """Warn, once for each function, where the loss of an example changes with its companions.

    The noise of mini-batches is that of a mean of losses of single examples. It is tried with numbers, one example
    alone and among others, and not at all where numbers are traced.
    """
    if not isinstance(objective, Objective) or objective.size < 2:
        return
    losses = objective.function_given
    leaves = jax.tree.leaves((objective, params))
    try:
        if losses in _LOOKED_AT or any(isinstance(leaf, Tracer) for leaf in leaves):
            return
        _LOOKED_AT.add(losses)
    except TypeError:  # of a kind that cannot be remembered
        return
    among, alone = map(float, jax.device_get(_two_ways(objective, params)))
    if not abs(among - alone) <= DIFFERENT * (abs(among) + abs(alone)):
        warnings.warn(
            "The loss of an example depends on the others in its batch, as with batch normalisation: here it is "
            f"{alone:.4g} alone and {among:.4g} among {BATCH}. The mini-batch noise of this objective "
            "is then not that of training. Make one example of each ghost batch, or freeze the statistics (state=).",
            stacklevel=5,
        )


@compiled
def _two_ways(objective: Objective, params: PyTree) -> tuple[jax.Array, jax.Array]:
    first = lambda count: objective.per_example(params, objective.take(jnp.arange(count)))[0]
    return first(min(BATCH, objective.size)), first(1)
