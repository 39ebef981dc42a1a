"""Iterates, central flow and stable flow, run and measured from one point near the edge of stability.

Parameters at all times are held until their distances are computed, and then dropped.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflow.comparison.edge.measurement import (
    measure_study,
    observe,
    preconditioner_over_rate,
    watch_iterates,
)
from jaxflow.comparison.edge.results import EdgeStudy
from jaxflow.comparison.edge.stable_approach import Approach, approach
from jaxflow.comparison.edge.study_plan import APPROACH_STEPS, Plan, plan
from jaxflow.curvature.stability.sharpness_record import record_sharpness
from jaxflow.dynamics.clock import step_times
from jaxflow.dynamics.edge.central import central_flow
from jaxflow.dynamics.edge.methods import method_of
from jaxflow.dynamics.edge.stable import stable_flow
from jaxflow.dynamics.edge.state_conversion import flow_state, optimizer_state
from jaxflow.solve.discrete.optimizer_steps import begin
from jaxflow.solve.integration import integrate
from jaxflow.solve.iteration import iterate
from jaxflow.solve.trajectories.pieces import Start, cut, join_pieces, run_pieces
from jaxflow.solve.trajectories.trajectory import Trajectory

PyTree = Any
PIECES, SHORTEST = 20, 10  # the pieces in which a flow is solved, and the least steps of one
RTOL = 1e-6  # of the stable flow; the oscillation it is compared with is far larger
MOST = 20_000  # steps of the solver in a piece


def edge_study(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    params: PyTree,
    *,
    steps: int,
    modes: int = 3,
    level: float | None = 1.8,
    approach_steps: int = APPROACH_STEPS,
    window: float | None = None,
) -> EdgeStudy:
    """Run an optimizer past the edge of stability, together with its `central_flow` and its `stable_flow`.

    1. *Approach.* The stable flow is followed from `params` until its effective sharpness, the largest eigenvalue
    of $P^{-1/2}HP^{-1/2}$ with P the preconditioner over the learning rate, rises through `level`; the edge is at
    2. It may begin above, as networks do: only a rise from below counts. 2. From there, with the second moments
    reached, `steps` steps of the optimizer on all data are taken, and both flows are followed over their time. 3.
    Losses, squared gradients and effective eigenvalues are measured along each, and distances from the `midpoints`
    of the iterates.

    **Arguments**

    - `optimizer`: `gd`, `scalar_rmsprop`, `rmsprop` or `adagrad`, with a number or a schedule as learning rate. A
      schedule begins again after the approach.
    - `objective`: an `Objective` or another loss, three times differentiable.
    - `params`: the start, a pytree of real arrays.
    - `steps`: the number of steps, at least 4; hundreds are needed for averages over the oscillation's bursts.
    - `modes`: the number of leading eigenvectors that the central flow follows (static). All that come to oscillate
      must be among them.
    - `level`: the effective sharpness at which the study begins; `None` begins at `params` as they are.
    - `approach_steps`: the time, in steps, after which the approach is given up.
    - `window`: the standard deviation, in steps, of the Gaussian by which the iterates' oscillation is averaged.
      Default: steps/10, at least 1.

    **Returns** an `EdgeStudy`. The study is a host loop over compiled pieces, so it does not work under `jit`. It
    holds the parameters of the three paths at all times for a while. Use float64 where you can afford it.

    **Raises** `ValueError` where the level is not reached (saying what the sharpness was, and a learning rate at
    which it would be), for an optimizer with momentum or another one without a central flow, and for numbers that
    are not as above; `TypeError` for an objective that is no loss.

    Source: Cohen, Damian, Talwalkar, Kolter & Lee 2024, 2410.24206.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda p: 0.5 * p[1] * p[0] ** 2 + 0.05 * (27.2 - p[1]) ** 2
    >>> study = jf.edge_study(jf.optim.gd(0.1), loss, jnp.array([0.6, 20.0]), steps=30, modes=1, level=None)
    >>> print(study.central.eigenvalues[-1].round(3), bool(study.distance_ratio < 0.2))
    [2.] True
    >>> from matplotlib.figure import Figure
    >>> [ax.get_ylabel() for ax in jf.plot.edge(study, Figure().subplots(3))]
    ['loss', 'effective sharpness × η', 'distance from the iterates']
    """
    chosen = plan(
        optimizer=optimizer,
        objective=objective,
        params=params,
        steps=steps,
        modes=modes,
        level=level,
        approach_steps=approach_steps,
        window=window,
    )
    return run_study(chosen)


def run_study(chosen: Plan, watch: Callable[[str, float], None] = lambda stage, done: None) -> EdgeStudy:
    """The study; `watch(stage, done)` is told the share of each of its stages that is done, 0 when it begins."""
    optimizer, objective, steps, modes = chosen.optimizer, chosen.objective, chosen.steps, chosen.modes
    rate = method_of(optimizer).learning_rate
    length = max(SHORTEST, -(-steps // PIECES))
    stable, central = stable_flow(optimizer, objective), central_flow(optimizer, objective, modes=modes)
    record = record_sharpness(
        objective,
        modes,
        preconditioner=jax.tree_util.Partial(preconditioner_over_rate, optimizer),
        record=jax.tree_util.Partial(observe, objective),
    )
    single = jnp.result_type(*jax.tree.leaves(chosen.params)) != jnp.float64
    rtol = None if single else RTOL

    def solve(state, times):
        return integrate(stable, state.params, times, state=state, record=record, rtol=rtol, max_steps=MOST)

    way = _find_start(chosen, stable, solve, length, watch)
    watch("iterates", 0.0)
    state = begin(optimizer_state(optimizer, objective, way.start))
    watcher = watch_iterates(optimizer, objective)
    run = iterate(optimizer, objective, way.start.params, steps=steps, record=watcher, state=state)
    watch("iterates", 1.0)
    times = np.asarray(step_times(rate, 0, -(-steps // length) * length))
    follow = lambda state, times: integrate(central, state.params, times, state=state)
    start = Start(way.start.params, way.start)

    def path(stage, solve, flow):
        whole = _solve_in_pieces(solve, flow_state(flow, start), cut(times, length), partial(watch, stage))
        return jax.tree.map(lambda x: x[: steps + 1], (whole.values, whole.observed))

    centre = path("central flow", follow, central)
    calm, _ = path("stable flow", solve, stable)
    watch("measures", 0.0)
    study = measure_study(chosen, way, run, centre, calm)
    watch("measures", 1.0)
    return study


def _find_start(chosen: Plan, stable, solve, length, watch) -> Approach:
    start = jax.jit(lambda flow, params: flow.init(params))(stable, chosen.params)
    if chosen.level is None:
        return Approach(start, np.zeros(0), np.zeros(0))
    watch("approach", 0.0)
    rate = method_of(chosen.optimizer).learning_rate
    return approach(
        solve,
        rate=rate,
        start=start,
        level=float(chosen.level),
        most=chosen.approach_steps,
        length=length,
        watch=watch,
    )


def _solve_in_pieces(solve, state, parts: list[np.ndarray], watch: Callable[[float], None]) -> Trajectory:
    """A flow over the times of all parts, in pieces of one program."""
    watch(0.0)
    found = []
    for piece in run_pieces(lambda last, times: solve(last.state, times), Start(None, state), parts):
        found.append(piece)
        watch(len(found) / len(parts))
    return join_pieces(found)
