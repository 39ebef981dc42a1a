"""The effective sharpness of any optimizer: its edge of stability is at 2.

It is the largest eigenvalue of $P^{-1/2}HP^{-1/2}$, with P the optimizer's preconditioner after its update at these
parameters, times 2 over the optimizer's stability threshold. For gradient descent that is ηλ.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflow._compiled import compiled
from jaxflow.curvature.stability.preconditioners import preconditioner_of
from jaxflow.curvature.stability.thresholds import stability_threshold
from jaxflow.dynamics.base import add
from jaxflow.dynamics.edge.state_conversion import restore_counts
from jaxflow.dynamics.modified_equations.step_logarithm import ModifiedState, increment, lift
from jaxflow.optim import learning_rate_of

PyTree = Any


def explain_unknown(optimizer: optax.GradientTransformation, params: PyTree) -> str:
    """Why an optimizer's effective sharpness cannot be measured, in a sentence; nothing where it can."""
    try:
        jax.eval_shape(lambda p: preconditioner_of(optimizer, optimizer.init(p)), params)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            threshold = stability_threshold(optimizer, count=1 if _has_schedule(optimizer) else None)
    except ValueError as error:
        return str(error)
    if np.isnan(threshold):
        return str(said[-1].message) if said else f"{optimizer!r} has no stability threshold."
    return ""


def moved_state(optimizer, objective, state: ModifiedState) -> PyTree:
    """The optimizer's state after its update at this state's parameters, with counts as floats."""
    return add(state.optimizer, increment(optimizer, objective, state).optimizer)


def preconditioner_at(optimizer, objective, state: ModifiedState) -> PyTree:
    """The preconditioner after the update at this state's parameters."""
    after = moved_state(optimizer, objective, state)
    return preconditioner_of(optimizer, restore_counts(optimizer, state.params, after))


def unit(optimizer: optax.GradientTransformation, steps: np.ndarray) -> np.ndarray:
    """2 over the stability threshold at these step counts, which eigenvalues are multiplied by."""
    if not _has_schedule(optimizer):
        return np.full(np.shape(steps), 2 / float(stability_threshold(optimizer)))
    counts = np.floor(np.asarray(steps) + 1e-2).astype(np.int32) + 1
    return 2 / np.asarray(_thresholds(optimizer=optimizer, counts=counts), float)


@compiled
def _thresholds(*, optimizer, counts):
    return jax.vmap(lambda count: stability_threshold(optimizer, count=count))(counts)


def _has_schedule(optimizer) -> bool:
    return callable(learning_rate_of(optimizer))


def as_flow_state(params: PyTree, state: PyTree) -> ModifiedState:
    """Parameters and an optimizer's own state, as a state that can flow."""
    return ModifiedState(params, lift(state), jnp.zeros([]))
