"""What an edge study measures along its iterates and flows, put together as an `EdgeStudy`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._compiled import compiled
from jaxflow._norms import difference, norm
from jaxflow.comparison.edge.effective_sharpness import unit
from jaxflow.comparison.edge.paths import measure
from jaxflow.comparison.edge.period_two import midpoints
from jaxflow.comparison.edge.results import OF_CENTRAL, EdgePath, EdgeStudy
from jaxflow.comparison.edge.stable_approach import Approach
from jaxflow.comparison.edge.study_plan import Plan
from jaxflow.curvature.stability.preconditioners import preconditioner_of
from jaxflow.curvature.stability.sharpness_record import sharpness_along
from jaxflow.dynamics.edge.state_conversion import restore_counts
from jaxflow.solve.trajectories.trajectory import Trajectory

PyTree = Any
PAIRED = ("rods", "pairs")


@compiled(static=("modes", "sharpness"))
def _measures(*, modes, sharpness, optimizer, objective, middle: dict, pairs: dict, paths: dict[str, PyTree]):
    """What is seen at the midpoints of the iterates, distances of all paths from them, and eigenvalues.

    Eigenvalues are those of the midpoints and of `pairs`, which have leading axes (T,).
    """
    seen = jax.lax.map(lambda params: measure(objective, params), middle["params"])
    gap = jax.vmap(lambda a, b: norm(jax.tree.map(difference, a, b)))
    distances = {name: gap(path, middle["params"]) for name, path in paths.items()}
    ends = {"iterates": middle} | pairs
    if not sharpness:
        unknown = jnp.full((seen["loss"].size, modes), jnp.nan, seen["loss"].dtype)
        return seen, distances, dict.fromkeys(ends, unknown)

    def eigenvalues(at):
        own = lambda at: restore_counts(optimizer, at["params"], at["after"])
        scales = jax.vmap(lambda at: preconditioner_of(optimizer, own(at)))(at)
        return sharpness_along(objective, at["params"], modes, preconditioners=scales).eigenvalues

    # One program for all of them: the search for eigenvectors is the largest part of it.
    needed = [{name: end[name] for name in ("params", "after")} for end in ends.values()]
    found = jax.lax.map(eigenvalues, jax.tree.map(lambda *x: jnp.stack(x), *needed))
    return seen, distances, dict(zip(ends, found, strict=True))


@compiled
def _drop_ends(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[1:-1], tree)


def measure_study(
    chosen: Plan, way: Approach, run: Trajectory, found: dict[str, Any], first: int
) -> EdgeStudy:
    """Everything at the inner times; `found` holds what was recorded and observed of each flow, from step `first`."""
    optimizer, inner = chosen.optimizer, midpoints(run)
    values = {name: _drop_ends(seen) for name, (seen, _) in found.items()}
    params = {
        "iterates": _drop_ends(run.values["params"]),
        "stable": values["stable"].recorded["params"],
        **{name: values[name]["params"] for name in PAIRED},
    }
    if "central" in found:
        params["central"] = values["central"]
    measured = _measures(
        modes=chosen.modes,
        sharpness=chosen.sharpness,
        optimizer=optimizer,
        objective=chosen.objective,
        middle=inner.values,
        pairs={name: values[name] for name in PAIRED},
        paths=params,
    )
    times, iterates, (middle, distances, eigenvalues) = jax.device_get(
        (inner.times, _drop_ends(run.values), measured)
    )
    if chosen.sharpness:
        units = unit(optimizer, first + np.arange(1, times.size + 1))[:, None]
        eigenvalues = {name: value * units.astype(value.dtype) for name, value in eigenvalues.items()}

    def line(name, seen, eigenvalues):
        last = jax.tree.map(lambda x: x[-1], params[name])
        return EdgePath(seen["loss"], seen["squared_gradient"], eigenvalues, distances[name], last)

    central = {}
    if "central" in found:
        told = _drop_ends(found["central"][1])
        central = {name: getattr(told, name)[-1] for name in OF_CENTRAL}
        central["covariance"] = told.covariance
        central["central"] = line("central", told._asdict(), told.eigenvalues)
    above = lambda name: iterates[name] - middle[name]
    average = lambda name: (
        middle[name] + gaussian_average(above(name), chosen.window).astype(middle[name].dtype)
    )
    study = EdgeStudy(
        times=times,
        iterates=line("iterates", iterates, eigenvalues["iterates"]),
        stable=line("stable", values["stable"].recorded, values["stable"].eigenvalues),
        **{name: line(name, values[name], eigenvalues[name]) for name in PAIRED},
        averaged_loss=average("loss"),
        averaged_squared_gradient=average("squared_gradient"),
        window=jnp.asarray(chosen.window),
        start=way.start.params,
        approach_times=jnp.asarray(way.times),
        approach_sharpness=jnp.asarray(way.sharpness),
        **central,
    )
    return jax.tree.map(jnp.asarray, study)


def gaussian_average(values: np.ndarray, width: float) -> np.ndarray:
    """Means of (T,) under a Gaussian of standard deviation `width`, cut off at four of them and at the ends."""
    reach = min(int(4 * width) + 1, values.size - 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    smooth = lambda x: np.convolve(x, weights)[reach : reach + values.size]
    return smooth(values) / smooth(np.ones(values.size))
