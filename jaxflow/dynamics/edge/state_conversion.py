"""Going over at the edge of stability: from a discrete run or a flow to the flows, and back to the optimizer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow.curvature.differentiability import warn_unless_twice_differentiable
from jaxflow.curvature.products import real_parameters
from jaxflow.dynamics.base import Dynamics, add
from jaxflow.dynamics.edge.central import central_flow
from jaxflow.dynamics.edge.central_state import CentralState, central_state
from jaxflow.dynamics.edge.methods import flat_loss, flat_moment, method_of, moment_of
from jaxflow.dynamics.edge.pairs import PairState
from jaxflow.dynamics.edge.stable import StableState, post_update, stable_flow
from jaxflow.dynamics.modified_equations.step_logarithm import ModifiedState, state_shapes
from jaxflow.optim.multi_steps import refuse_accumulation

PyTree = Any


def flow_state(dynamics: Dynamics, start: Any) -> CentralState | StableState:
    """The state with which a `central_flow` or `stable_flow` goes on from where another run ended.

    **Arguments**

    - `dynamics`: the flow, a `central_flow` or a `stable_flow`.
    - `start`: a `Trajectory` of `iterate` with the same optimizer, or of `integrate` with either flow; its end
      counts.

    **Returns** a `CentralState` or a `StableState`, for `integrate(…, state=…)`. Second moments are carried over. A
    discrete run's ν has not seen the gradient at its last parameters and a flow's ν has, so one update is made. Step
    counts begin at 0 again, and so do schedules.

    **Raises** `TypeError` for another dynamics or a trajectory of neither kind; `ValueError` for a run of another
    optimizer.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(x**2)
    >>> optimizer = jf.optim.scalar_rmsprop(0.1)
    >>> run = jf.iterate(optimizer, loss, jnp.ones(2), steps=3)
    >>> flow = jf.dynamics.stable_flow(optimizer, loss)
    >>> path = jf.integrate(flow, run.params, [0.0, 1.0], state=jf.dynamics.flow_state(flow, run))
    >>> print(path.values[0] == run.params)
    [ True  True]
    """
    constructor = getattr(dynamics, "constructor", None)
    if constructor not in (central_flow, stable_flow):
        raise TypeError(f"dynamics must be a central_flow or a stable_flow, got {dynamics!r}.")
    state = getattr(start, "state", None)
    if not (isinstance(state, (CentralState, StableState)) or hasattr(state, "optimizer")):
        raise TypeError(f"start must be a Trajectory of iterate or of one of these flows, got {start!r}.")
    before = not isinstance(state, (CentralState, StableState))
    moment = _second_moment(getattr(state, "optimizer", None)) if before else state.second_moment
    chosen = dynamics.hyperparameters
    if before:
        optimizer = chosen["optimizer"]
        fresh = jax.eval_shape(optimizer.init, start.params)
        _check.require_like(
            "start", start.state.optimizer, fresh, f"be a run of {optimizer!r}, whose state is"
        )
    warn_unless_twice_differentiable(chosen["objective"], start.params)
    return _flow_state(
        modes=chosen.get("modes"),
        before=before,
        optimizer=chosen["optimizer"],
        objective=chosen["objective"],
        params=real_parameters(start.params),
        moment=moment,
    )


def _second_moment(state: PyTree) -> PyTree:
    """The average or sum of squares in the state of an optimizer, ours or optax's AdaGrad."""
    total = optax.tree.get(state, "sum_of_squares")
    return optax.tree.get(state, "nu") if total is None else total


@compiled(static=("modes", "before"))
def _flow_state(*, modes, before, optimizer, objective, params, moment):
    method = method_of(optimizer)
    if method.kind == "none":
        moment = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
    moment = post_update(method, objective, params, moment) if before else moment
    if modes is None:
        return StableState(params, moment, jnp.zeros((), jnp.result_type(*jax.tree.leaves(params))))
    return central_state(objective, params, moment, modes)


def optimizer_state(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    state: CentralState | StableState | ModifiedState | PairState,
) -> PyTree:
    """The optimizer's own state from which its iterates start where a flow is.

    The ν of a central or stable flow has seen the gradient at its parameters, and the optimizer's is about to see it.
    The result holds the ν that the next update turns into the flow's, or 0 where there is no such ν. The state of a
    modified equation is the optimizer's, with counts that are rounded; that of a flow of pairs is split, and the
    result is that of the iterate at midpoint plus half-difference.

    **Arguments**

    - `optimizer`: the optimizer of the flow; of an `optax.MultiSteps` the one inside.
    - `objective`: the objective of the flow.
    - `state`: a `CentralState`, `StableState`, `ModifiedState` or `PairState`.

    **Returns** a state like that of `optimizer.init`; `jaxflow.solve.begin` makes of it a state for `iterate`.

    **Raises** `TypeError` where `state` is of another kind, or for an `optax.MultiSteps`; `ValueError` for an
    optimizer without a central flow and the state of one.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(x**2)
    >>> optimizer = jf.optim.rmsprop(0.1, decay=0.5)
    >>> state = jf.dynamics.StableState(jnp.array([1.0]), jnp.array([0.75]), 0.0)
    >>> print(jf.dynamics.optimizer_state(optimizer, loss, state)[0].nu)
    [0.5]
    """
    refuse_accumulation(optimizer, "whose state a flow has")
    if isinstance(state, PairState):
        state = add(state.midpoint, state.half_difference)
    if isinstance(state, ModifiedState):
        return restore_counts(optimizer, state.params, state.optimizer)
    if not isinstance(state, (CentralState, StableState)):
        raise TypeError(
            f"state must be that of a central, stable or modified flow or of pairs, got {type(state).__name__}."
        )
    return _optimizer_state(
        optimizer=optimizer, objective=objective, params=state.params, moment=state.second_moment
    )


def restore_counts(optimizer: optax.GradientTransformation, params: PyTree, state: PyTree) -> PyTree:
    """An optimizer's state whose counts and flags flowed as floats, with the dtypes of its own."""

    def restore(leaf, like):
        if like.dtype == bool:
            return leaf > 0.5
        whole = not jnp.issubdtype(like.dtype, jnp.inexact)
        return (jnp.round(leaf) if whole else leaf).astype(like.dtype)

    return jax.tree.map(restore, state, state_shapes(optimizer, params))


@compiled
def _optimizer_state(*, optimizer, objective, params, moment):
    method = method_of(optimizer)
    fresh = optimizer.init(params)
    if method.kind == "none":
        return fresh
    loss, flat, unravel = flat_loss(objective, params)
    nu = method.undo_update(method.pool(jax.grad(loss)(flat) ** 2), flat_moment(method, moment, flat))
    name = "nu" if optax.tree.get(fresh, "sum_of_squares") is None else "sum_of_squares"
    return optax.tree.set(fresh, **{name: moment_of(method, nu, unravel)})
