"""Iterates, central flow and stable flow, run and measured from one point near the edge of stability.

Parameters at all times are held until their distances are computed, and then dropped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._norms import difference, norm
from jaxflow._traceable import traceable
from jaxflow.comparison.edge.period_two import midpoints
from jaxflow.comparison.edge.results import EdgePath, EdgeStudy
from jaxflow.comparison.edge.stable_approach import Approach, approach
from jaxflow.curvature.products import check_objective, real_parameters
from jaxflow.curvature.stability.sharpness_record import record_sharpness, sharpness_along
from jaxflow.dynamics.clock import step_times
from jaxflow.dynamics.edge.central import central_flow
from jaxflow.dynamics.edge.methods import flat_moment, method_of, moment_of
from jaxflow.dynamics.edge.stable import StableState, post_update, stable_flow, step_rate
from jaxflow.dynamics.edge.state_conversion import flow_state, optimizer_state
from jaxflow.recording import Recorder
from jaxflow.solve.integration import integrate
from jaxflow.solve.iteration import iterate
from jaxflow.solve.optimizer_steps import begin
from jaxflow.solve.pieces import Start, cut, join_pieces, run_pieces
from jaxflow.solve.trajectory import Trajectory

PyTree = Any
PIECES, SHORTEST = 20, 10  # the pieces in which a flow is solved, and the least steps of one
RTOL = 1e-6  # of the stable flow; the oscillation it is compared with is far larger
MOST = 20_000  # steps of the solver in a piece


class Plan(NamedTuple):
    """What a study will do, checked."""

    optimizer: optax.GradientTransformation
    objective: Callable[[PyTree], jax.Array]
    params: PyTree
    steps: int
    modes: int
    level: float | None
    approach_steps: int
    window: float


def edge_study(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    params: PyTree,
    *,
    steps: int,
    modes: int = 3,
    level: float | None = 1.8,
    approach_steps: int = 5_000,
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
    return run_study(plan(optimizer, objective, params, steps, modes, level, approach_steps, window))


def plan(optimizer, objective, params, steps, modes, level, approach_steps=5_000, window=None) -> Plan:
    """What a study will do, or an error whose sentence says which argument is wrong."""
    check_objective(objective)
    method_of(optimizer)
    params = real_parameters(params)
    _check.require_integer("steps", steps, 4)
    _check.require_integer("modes", modes, 1)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    _check.require("modes", modes, modes <= size, f"at most {size}, the number of parameters")
    if level is not None:
        _check.require_positive(level=level)
    _check.require_integer("approach_steps", approach_steps, 1)
    window = max(steps / 10, 1.0) if window is None else window
    _check.require_positive(window=window)
    return Plan(optimizer, objective, params, steps, modes, level, approach_steps, float(window))


def run_study(chosen: Plan, watch: Callable[[str, float], None] = lambda stage, done: None) -> EdgeStudy:
    """The study; `watch(stage, done)` is told the share of each of its stages that is done, 0 when it begins."""
    optimizer, objective, _, steps, modes, _, _, _ = chosen
    rate = method_of(optimizer).learning_rate
    length = max(SHORTEST, -(-steps // PIECES))
    stable, central = stable_flow(optimizer, objective), central_flow(optimizer, objective, modes=modes)
    record = record_sharpness(
        objective,
        modes,
        preconditioner=jax.tree_util.Partial(_preconditioner, optimizer),
        record=jax.tree_util.Partial(_observe, objective),
    )
    single = jnp.result_type(*jax.tree.leaves(chosen.params)) != jnp.float64
    rtol = None if single else RTOL

    def solve(state, times):
        return integrate(stable, state.params, times, state=state, record=record, rtol=rtol, max_steps=MOST)

    way = _find_start(chosen, stable, solve, length, watch)
    watch("iterates", 0.0)
    state = begin(optimizer_state(optimizer, objective, way.start))
    watcher = _recorder(optimizer, objective)
    run = iterate(optimizer, objective, way.start.params, steps=steps, record=watcher, state=state)
    watch("iterates", 1.0)
    times = np.asarray(step_times(rate, 0, -(-steps // length) * length))
    follow = lambda state, times: integrate(central, state.params, times, state=state)
    start = Start(way.start.params, way.start)
    centre = _solve_in_pieces(follow, flow_state(central, start), times, length, steps, "central flow", watch)
    calm, _ = _solve_in_pieces(solve, flow_state(stable, start), times, length, steps, "stable flow", watch)
    watch("measures", 0.0)
    study = _study(chosen, way, run, centre, calm)
    watch("measures", 1.0)
    return study


def _find_start(chosen: Plan, stable, solve, length, watch) -> Approach:
    start = jax.jit(lambda flow, params: flow.init(params))(stable, chosen.params)
    if chosen.level is None:
        return Approach(start, np.zeros(0), np.zeros(0))
    watch("approach", 0.0)
    rate = method_of(chosen.optimizer).learning_rate
    return approach(solve, rate, start, float(chosen.level), chosen.approach_steps, length, watch)


def _solve_in_pieces(follow, state, times, length, steps, stage, watch) -> tuple[PyTree, PyTree]:
    """A flow's values and what it tells of itself at the first `steps` + 1 of the times, in pieces of one program."""
    watch(stage, 0.0)
    parts = []
    for path in run_pieces(
        lambda last, some: follow(last.state, some), Start(None, state), cut(times, length)
    ):
        parts.append(path)
        watch(stage, min(len(parts) * length / steps, 1.0))
    whole = join_pieces(parts)
    return jax.tree.map(lambda x: x[: steps + 1], (whole.values, whole.observed))


def _preconditioner(optimizer, state: StableState) -> PyTree:
    """The preconditioner over the learning rate, at a stable flow's state."""
    method = method_of(optimizer)
    flat, unravel = ravel_pytree(state.params)
    nu = jnp.maximum(flat_moment(method, state.second_moment, flat), 0.0)
    return moment_of(method, method.denominator(nu) / step_rate(method, state.steps), unravel)


def _measure(objective, params: PyTree) -> dict[str, jax.Array]:
    value, slope = jax.value_and_grad(objective)(params)
    return {"loss": value, "squared_gradient": optax.tree.norm(slope, squared=True)}


def _observe(objective, params: PyTree) -> dict[str, PyTree]:
    return _measure(objective, params) | {"params": params}


@traceable
def _recorder(optimizer, objective) -> Recorder:
    """A recorder of what `_observe` sees of the iterates, and of the second moment after the update at them."""
    method = method_of(optimizer)

    def look(memory, params, state):
        before = 0.0 if method.kind == "none" else optax.tree.get(state, "nu")
        return _observe(objective, params) | {
            "moment": post_update(method, objective, params, before)
        }, memory

    return Recorder(lambda params, state: (), look)


@compiled(static=("modes",))
def _measures(*, modes, optimizer, objective, run: Trajectory, central: PyTree, stable: PyTree):
    """Effective eigenvalues at the midpoints, what is seen there, and distances of the three paths from them."""
    middle = midpoints(run).values
    steps = jnp.arange(1, run.times.size - 1).astype(jnp.result_type(*jax.tree.leaves(middle["params"])))
    states = StableState(middle["params"], middle["moment"], steps)
    scales = jax.vmap(lambda state: _preconditioner(optimizer, state))(states)
    found = sharpness_along(objective, middle["params"], modes, preconditioners=scales)
    seen = jax.lax.map(lambda params: _measure(objective, params), middle["params"])
    gap = jax.vmap(lambda a, b: norm(jax.tree.map(difference, a, b)))
    paths = (run.values["params"], central, stable)
    return found.eigenvalues, seen, [gap(_drop_ends(path), middle["params"]) for path in paths]


def _drop_ends(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[1:-1], tree)


def _study(chosen: Plan, way: Approach, run: Trajectory, centre: PyTree, calm: Any) -> EdgeStudy:
    """Everything that was found, at the inner times."""
    path, told = centre
    seen = calm.recorded
    eigenvalues, middle, distances = _measures(
        modes=chosen.modes,
        optimizer=chosen.optimizer,
        objective=chosen.objective,
        run=run,
        central=path,
        stable=seen["params"],
    )
    found = run.times, run.values, eigenvalues, middle, distances
    times, values, eigenvalues, middle, distances = jax.device_get(found)
    last = lambda tree: jax.tree.map(lambda x: x[-2], tree)

    def line(of, eigenvalues, distance, params):
        loss, squared = _drop_ends((of["loss"], of["squared_gradient"]))
        return EdgePath(loss, squared, eigenvalues, distance, last(params))

    above = lambda name: _drop_ends(values[name]) - middle[name]
    average = lambda name: (
        middle[name] + gaussian_average(above(name), chosen.window).astype(middle[name].dtype)
    )
    study = EdgeStudy(
        times=times[1:-1],
        iterates=line(values, eigenvalues, distances[0], values["params"]),
        central=line(told._asdict(), _drop_ends(told.eigenvalues), distances[1], path),
        stable=line(seen, _drop_ends(calm.eigenvalues), distances[2], seen["params"]),
        averaged_loss=average("loss"),
        averaged_squared_gradient=average("squared_gradient"),
        window=jnp.asarray(chosen.window),
        covariance=_drop_ends(told.covariance),
        eigenvector_residual=last(told.eigenvector_residual),
        complementarity_residual=last(told.complementarity_residual),
        substeps=last(told.substeps),
        products=last(told.products),
        third_derivatives=last(told.third_derivatives),
        start=way.start.params,
        approach_times=jnp.asarray(way.times),
        approach_sharpness=jnp.asarray(way.sharpness),
    )
    return jax.tree.map(jnp.asarray, study)


def gaussian_average(values: np.ndarray, width: float) -> np.ndarray:
    """Means of (T,) under a Gaussian of standard deviation `width`, cut off at four of them and at the ends."""
    reach = min(int(4 * width) + 1, values.size - 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    smooth = lambda x: np.convolve(x, weights)[reach : reach + values.size]
    return smooth(values) / smooth(np.ones(values.size))
