"""Iterates and the flows that stand for them, run and measured from one point near the edge of stability.

Parameters at all times are held until their distances are computed, and then dropped.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflow.comparison.edge.measurement import measure_study
from jaxflow.comparison.edge.paths import follow_other_flows, stable_path, watch_iterates
from jaxflow.comparison.edge.results import EdgeStudy
from jaxflow.comparison.edge.stable_approach import Approach, approach
from jaxflow.comparison.edge.starting_point import first_state, iterate_state
from jaxflow.comparison.edge.study_plan import APPROACH_STEPS, Plan, plan
from jaxflow.dynamics.clock import step_times
from jaxflow.dynamics.edge.state_conversion import optimizer_state
from jaxflow.dynamics.modified_equations.step_logarithm import ModifiedState
from jaxflow.solve.discrete.optimizer_steps import begin
from jaxflow.solve.iteration import iterate
from jaxflow.solve.trajectories.pieces import Start, cut, join_pieces, run_pieces
from jaxflow.solve.trajectories.trajectory import Trajectory

PyTree = Any
PIECES, SHORTEST = 20, 10  # the pieces in which a flow is solved, and the least steps of one
STAGES = {"central": "central flow", "rods": "rod flow", "pairs": "pair flow", "stable": "stable flow"}


def edge_study(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    params: PyTree,
    *,
    steps: int,
    modes: int = 3,
    order: int = 2,
    level: float | None = 1.8,
    approach_steps: int = APPROACH_STEPS,
    window: float | None = None,
) -> EdgeStudy:
    """Run an optimizer past the edge of stability, together with the flows that stand for it there.

    1. *Approach.* The stable flow is followed from `params` until its effective sharpness rises through `level`. That
       is the largest eigenvalue of $P^{-1/2}HP^{-1/2}$, with P the optimizer's preconditioner, times 2 over its
       stability threshold, so that the edge is at 2; for gradient descent it is ηλ. The sharpness may begin above
       `level`, as that of networks does: only a rise from below counts.
    2. *Paths.* From there the optimizer takes `steps` steps on all data, with the state that it has reached, and the
       flows are followed over the time of these steps.
    3. *Measurements.* Losses, squared gradients and effective eigenvalues are measured along each path, and its
       distances from the `midpoints` of the iterates.

    | path | equation | optimizers |
    |---|---|---|
    | `stable` | `stable_flow`, or `modified` at order 1: no oscillation | all |
    | `central` | `central_flow`: averages over the oscillation | gd, scalar_rmsprop, rmsprop, adagrad |
    | `rods` | `rod_flow`: midpoint and half-difference at order 1 | all |
    | `pairs` | `pair_flow`: the same at `order` | all |

    **Arguments**

    - `optimizer`: any of `jaxflow.optim` or optax, with a number or a schedule as learning rate. A schedule begins
      again after the approach where there is a central flow, and otherwise goes on. An `optax.MultiSteps` is
      refused.
    - `objective`: an `Objective` or another loss, three times differentiable.
    - `params`: the start, a pytree of real arrays.
    - `steps`: the number of steps, at least 4; hundreds are needed for averages over the oscillation's bursts.
    - `modes`: the number of leading eigenvalues that are measured, and of eigenvectors that the central flow follows
      (static). All that come to oscillate must be among them.
    - `order`: the order of the flow of pairs, an integer from 1 to 8 (static).
    - `level`: the effective sharpness at which the study begins; `None` begins at `params` as they are, or, for an
      optimizer with a state but no central flow, 20 steps of it later.
    - `approach_steps`: the time, in steps, after which the approach is given up.
    - `window`: the standard deviation, in steps, of the Gaussian by which the iterates' oscillation is averaged.
      Default: steps/10, at least 1.

    **Returns** an `EdgeStudy`. The study is a host loop over compiled pieces, so it does not work under `jit`. It
    holds the parameters of all paths at all times for a while. Use float64 where you can afford it. Where a flow
    fails, its records are not finite.

    **Raises** `ValueError` where the level is not reached (saying what the sharpness was, and a learning rate at
    which it would be), for an optimizer whose state is random, for a level with an optimizer whose preconditioner or
    threshold is not known (a sign), and for numbers outside the ranges above; `TypeError` when `optimizer` is not an
    optimizer or `objective` is not a loss. There is a warning for an optimizer that is not smooth, such as a clip.

    Source: Cohen, Damian, Talwalkar, Kolter & Lee 2024, 2410.24206; for pairs and rods see `pair_flow`.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda p: 0.5 * p[1] * p[0] ** 2 + 0.05 * (27.2 - p[1]) ** 2
    >>> study = jf.edge_study(jf.optim.gd(0.1), loss, jnp.array([0.6, 20.0]), steps=30, modes=1, level=None)
    >>> print(study.central.eigenvalues[-1].round(3), bool(study.distance_ratio < 0.2))
    [2.] True
    >>> from matplotlib.figure import Figure
    >>> [ax.get_ylabel() for ax in jf.plot.edge(study, Figure().subplots(3))]
    ['loss', 'effective sharpness', 'distance from the iterates']
    """
    chosen = plan(
        optimizer=optimizer,
        objective=objective,
        params=params,
        steps=steps,
        modes=modes,
        order=order,
        level=level,
        approach_steps=approach_steps,
        window=window,
    )
    return run_study(chosen)


def run_study(chosen: Plan, watch: Callable[[str, float], None] = lambda stage, done: None) -> EdgeStudy:
    """The study; `watch(stage, done)` is told the share of each of its stages that is done, 0 when it begins."""
    length = max(SHORTEST, -(-chosen.steps // PIECES))
    solve_stable = stable_path(chosen)
    way = _find_start(chosen, solve_stable, length, watch)
    origin = iterate_state(chosen, way.start)
    first = int(origin.steps)

    watch("iterates", 0.0)
    run = _iterates(chosen, origin)
    watch("iterates", 1.0)

    # A piece that is shorter would be another program.
    times = np.asarray(step_times(chosen.rate, first, -(-chosen.steps // length) * length))
    parts = cut(times, length)

    def follow(name, solve, state):
        whole = _solve_in_pieces(solve, state, parts, partial(watch, STAGES[name]))
        return jax.tree.map(lambda x: x[: chosen.steps + 1], (whole.values, whole.observed))

    # The stable flow of an optimizer's whole state begins where the iterates do, with a whole count.
    calm = follow("stable", solve_stable, way.start if chosen.central else origin)
    found = {"stable": calm}
    for path in follow_other_flows(chosen, way.start, origin):
        found[path.name] = follow(path.name, path.solve, path.begin())
    watch("measures", 0.0)
    study = measure_study(chosen, way, run, found, first)
    watch("measures", 1.0)
    return study


def _iterates(chosen: Plan, origin: ModifiedState) -> Trajectory:
    """The optimizer's own steps from the origin, on a clock that begins at 0."""
    optimizer, objective = chosen.optimizer, chosen.objective
    own = optimizer_state(optimizer, objective, origin)
    state = begin(own)._replace(step=jnp.asarray(origin.steps, jnp.int32))
    return iterate(
        optimizer,
        objective,
        origin.params,
        steps=chosen.steps,
        record=watch_iterates(optimizer, objective),
        state=state,
    )


def _find_start(chosen: Plan, solve, length, watch) -> Approach:
    start = first_state(chosen)
    if chosen.level is None:
        return Approach(start, np.zeros(0), np.zeros(0))
    watch("approach", 0.0)
    return approach(
        solve,
        rate=chosen.rate,
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
