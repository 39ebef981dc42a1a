"""What an edge study measures along its iterates and flows, put together as an `EdgeStudy`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxflow._compiled import compiled
from jaxflow._norms import difference, norm
from jaxflow._traceable import traceable
from jaxflow.comparison.edge.period_two import midpoints
from jaxflow.comparison.edge.results import EdgePath, EdgeStudy
from jaxflow.comparison.edge.stable_approach import Approach
from jaxflow.comparison.edge.study_plan import Plan
from jaxflow.curvature.stability.sharpness_record import sharpness_along
from jaxflow.dynamics.edge.methods import flat_moment, method_of, moment_of
from jaxflow.dynamics.edge.stable import StableState, post_update, step_rate
from jaxflow.recording import Recorder
from jaxflow.solve.trajectories.trajectory import Trajectory

PyTree = Any


def preconditioner_over_rate(optimizer, state: StableState) -> PyTree:
    """The preconditioner over the learning rate, at a stable flow's state."""
    method = method_of(optimizer)
    flat, unravel = ravel_pytree(state.params)
    nu = jnp.maximum(flat_moment(method, state.second_moment, flat), 0.0)
    return moment_of(method, method.denominator(nu) / step_rate(method, state.steps), unravel)


def _measure(objective, params: PyTree) -> dict[str, jax.Array]:
    value, slope = jax.value_and_grad(objective)(params)
    return {"loss": value, "squared_gradient": optax.tree.norm(slope, squared=True)}


def observe(objective, params: PyTree) -> dict[str, PyTree]:
    return _measure(objective, params) | {"params": params}


@traceable
def watch_iterates(optimizer, objective) -> Recorder:
    """A recorder of what `observe` sees of the iterates, and of the second moment after the update at them."""
    method = method_of(optimizer)

    def look(memory, params, state):
        before = 0.0 if method.kind == "none" else optax.tree.get(state, "nu")
        return observe(objective, params) | {"moment": post_update(method, objective, params, before)}, memory

    return Recorder(lambda params, state: (), look)


@compiled(static=("modes",))
def _measures(*, modes, optimizer, objective, run: Trajectory, central: PyTree, stable: PyTree):
    """Effective eigenvalues at the midpoints, what is seen there, and distances of the three paths from them."""
    middle = midpoints(run).values
    steps = jnp.arange(1, run.times.size - 1).astype(jnp.result_type(*jax.tree.leaves(middle["params"])))
    states = StableState(middle["params"], middle["moment"], steps)
    scales = jax.vmap(lambda state: preconditioner_over_rate(optimizer, state))(states)
    found = sharpness_along(objective, middle["params"], modes, preconditioners=scales)
    seen = jax.lax.map(lambda params: _measure(objective, params), middle["params"])
    gap = jax.vmap(lambda a, b: norm(jax.tree.map(difference, a, b)))
    paths = (run.values["params"], central, stable)
    return found.eigenvalues, seen, [gap(_drop_ends(path), middle["params"]) for path in paths]


def _drop_ends(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[1:-1], tree)


def measure_study(chosen: Plan, way: Approach, run: Trajectory, centre: PyTree, calm: Any) -> EdgeStudy:
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
