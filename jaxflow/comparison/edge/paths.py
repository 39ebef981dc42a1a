"""The paths of an edge study: which equation each solves, from which state, and what is seen of it."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxflow._compiled import compiled
from jaxflow._traceable import traceable
from jaxflow.comparison.edge.effective_sharpness import as_flow_state, moved_state, preconditioner_at, unit
from jaxflow.comparison.edge.study_plan import Plan
from jaxflow.curvature.stability.sharpness_record import SharpnessRecord, record_sharpness
from jaxflow.dynamics.base import Dynamics, add
from jaxflow.dynamics.edge.central import central_flow
from jaxflow.dynamics.edge.methods import flat_moment, method_of, moment_of
from jaxflow.dynamics.edge.pairs import LEAST, PairState, pair_flow, pair_state, rod_flow
from jaxflow.dynamics.edge.stable import StableState, stable_flow, step_rate
from jaxflow.dynamics.edge.state_conversion import flow_state
from jaxflow.dynamics.modified_equations.equation import modified
from jaxflow.dynamics.modified_equations.step_logarithm import ModifiedState
from jaxflow.recording import Recorder
from jaxflow.solve.integration import integrate
from jaxflow.solve.trajectories.pieces import Start
from jaxflow.solve.trajectories.trajectory import Trajectory

PyTree = Any
RTOL, RTOL_OF_PAIRS = 1e-6, 1e-4  # the oscillation that the stable flow is compared with is far larger
ATOL = 1e-13  # far below second moments
MOST = 20_000  # steps of the solver in a piece


class Path(NamedTuple):
    """One of the paths: its name in an `EdgeStudy`, and how it is solved from a state over some times."""

    name: str
    begin: Callable[[], PyTree]
    solve: Callable[[PyTree, np.ndarray], Trajectory]


def stable_path(chosen: Plan) -> Callable[[PyTree, np.ndarray], Trajectory]:
    """The stable flow from a state over some times; its `values` are a `SharpnessRecord`, in units of the edge."""
    optimizer, objective = chosen.optimizer, chosen.objective
    if not chosen.central:
        flow: Any = modified(optimizer, objective, order=1, warmup=0)
        record = watch_sharpness(optimizer, objective, chosen.modes, chosen.sharpness)
        return lambda state, times: _rescale_eigenvalues(
            chosen, _solve(chosen, flow, record, RTOL, state, times)
        )
    record = record_sharpness(
        objective,
        chosen.modes,
        preconditioner=jax.tree_util.Partial(preconditioner_over_rate, optimizer),
        record=jax.tree_util.Partial(observe, objective),
    )
    return partial(_solve, chosen, stable_flow(optimizer, objective), record, RTOL)


def follow_other_flows(chosen: Plan, begin: PyTree, origin: ModifiedState) -> list[Path]:
    """The central flow where there is one, rods and pairs, from where the stable flow is at `begin`."""
    optimizer, objective, order = chosen.optimizer, chosen.objective, chosen.order
    split: Any = partial(_split, optimizer=optimizer, objective=objective, state=origin)
    flows = {
        "rods": rod_flow(optimizer, objective, warmup=0),
        "pairs": pair_flow(optimizer, objective, order=order, warmup=0),
    }
    record = watch_ends(optimizer, objective)
    found = [
        Path(
            name,
            partial(split, order=max(order, LEAST)),
            partial(_solve, chosen, flow, record, RTOL_OF_PAIRS),
        )
        for name, flow in flows.items()
    ]
    if not chosen.central:
        return found
    central = central_flow(optimizer, objective, modes=chosen.modes)
    start = Start(begin.params, begin)
    follow = lambda state, times: integrate(central, state.params, times, state=state)
    return [Path("central", lambda: flow_state(central, start), follow), *found]


@compiled(static=("order",))
def _split(*, order, optimizer, objective, state) -> PairState:
    return pair_state(optimizer, objective, state, order=order)


def _solve(chosen, flow: Dynamics, record, rtol: float, state: PyTree, times: np.ndarray) -> Trajectory:
    double = jnp.result_type(*jax.tree.leaves(chosen.params)) == jnp.float64
    tolerance: Any = {"rtol": rtol, "atol": ATOL} if double else {}
    return integrate(flow, flow.params(state), times, state=state, record=record, max_steps=MOST, **tolerance)


def _rescale_eigenvalues(chosen: Plan, path: Trajectory) -> Trajectory:
    """A recorded path whose eigenvalues are in units of the edge."""
    if not chosen.sharpness:
        return path
    seen: Any = path.values
    scale = unit(chosen.optimizer, np.asarray(seen.recorded["steps"]))[:, None]
    eigenvalues = seen.eigenvalues * jnp.asarray(scale, seen.eigenvalues.dtype)
    return dataclasses.replace(path, values=seen._replace(eigenvalues=eigenvalues))


@traceable(structural=("modes", "sharpness"))
def watch_sharpness(optimizer, objective, modes: int, sharpness: bool) -> Recorder:
    """A recorder of a modified flow: eigenvalues over the preconditioner, NaN if not `sharpness`, and the rest."""
    ends = watch_ends(optimizer, objective).build()
    watch: Any = record_sharpness(
        objective, modes, preconditioner=jax.tree_util.Partial(preconditioner_at, optimizer, objective)
    ).build()

    def look(memory, params, state):
        seen, _ = ends.look((), params, state)
        if sharpness:
            found, memory = watch.look(memory, params, state)
            return found._replace(recorded=seen), memory
        unknown = jnp.full(modes, jnp.nan, seen["loss"].dtype)
        return SharpnessRecord(unknown, unknown, seen), memory

    return Recorder(watch.begin if sharpness else ends.begin, look)


@traceable
def watch_ends(optimizer, objective) -> Recorder:
    """A recorder of a flow of the optimizer's whole state, or of pairs of it.

    It keeps what is measured, at both ends of a pair its mean, the parameters, here at the midpoint, the optimizer's
    state after the update at them, and the step count.
    """

    def look(memory, params, state):
        centre = state.midpoint if isinstance(state, PairState) else state
        ends = [measure(objective, end.params) for end in _ends(state)]
        mean = jax.tree.map(lambda *values: sum(values) / len(values), *ends)
        after = moved_state(optimizer, objective, centre)
        return mean | {"params": params, "after": after, "steps": centre.steps}, memory

    return Recorder(lambda params, state: (), look)


def _ends(state: PyTree) -> list[ModifiedState]:
    """The iterates that a state stands for: one, or the two of a pair."""
    if not isinstance(state, PairState):
        return [state]
    other = jax.tree.map(jnp.subtract, *state)
    return [add(*state), other]


@traceable
def watch_iterates(optimizer, objective) -> Recorder:
    """A recorder of what `observe` sees of the iterates, and of the optimizer's state after the update at them."""

    def look(memory, params, state):
        after = moved_state(optimizer, objective, as_flow_state(params, state))
        return observe(objective, params) | {"after": after}, memory

    return Recorder(lambda params, state: (), look)


def measure(objective, params: PyTree) -> dict[str, jax.Array]:
    """The loss and the squared norm of its gradient."""
    value, slope = jax.value_and_grad(objective)(params)
    return {"loss": value, "squared_gradient": optax.tree.norm(slope, squared=True)}


def observe(objective, params: PyTree) -> dict[str, PyTree]:
    """What is measured, and the parameters."""
    return measure(objective, params) | {"params": params}


def preconditioner_over_rate(optimizer, state: StableState) -> PyTree:
    """The preconditioner over the learning rate, at a stable flow's state."""
    method = method_of(optimizer)
    flat, unravel = ravel_pytree(state.params)
    nu = jnp.maximum(flat_moment(method, state.second_moment, flat), 0.0)
    return moment_of(method, method.denominator(nu) / step_rate(method, state.steps), unravel)
