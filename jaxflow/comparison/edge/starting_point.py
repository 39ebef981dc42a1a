"""Where a study begins: the first state of its stable flow, and the iterates' state where that flow has come to."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxflow._compiled import compiled
from jaxflow.comparison.edge.study_plan import Plan
from jaxflow.dynamics.edge.stable import StableState, stable_flow
from jaxflow.dynamics.edge.state_conversion import optimizer_state
from jaxflow.dynamics.modified_equations.equation import warm_steps
from jaxflow.dynamics.modified_equations.step_logarithm import (
    ModifiedState,
    cold_state,
    lift,
    modified_state,
)
from jaxflow.solve.iteration import iterate

PyTree = Any


def first_state(chosen: Plan) -> StableState | ModifiedState:
    """The first state of the stable flow, after the steps in which averages that began at nothing settle."""
    optimizer, params = chosen.optimizer, chosen.params
    if chosen.central:
        return _first_of_flow(stable_flow(optimizer, chosen.objective), params)
    warm = warm_steps(optimizer, params, None)
    if not warm:
        return cold_state(optimizer, params)
    return modified_state(iterate(optimizer, chosen.objective, params, steps=warm, every=None))


@compiled
def _first_of_flow(flow, params):
    return flow.init(params)


def iterate_state(chosen: Plan, state: StableState | ModifiedState) -> ModifiedState:
    """The state from which iterates start where the stable flow is, with whole counts, as floats that can flow.

    A central flow counts steps, and with them a schedule, from 0 again; other flows go on counting.
    """
    own = optimizer_state(chosen.optimizer, chosen.objective, state)
    steps = 0.0 if isinstance(state, StableState) else np.round(np.asarray(state.steps))
    return ModifiedState(state.params, lift(own), jnp.asarray(steps, float))
