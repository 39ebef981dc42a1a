"""The result of a sweep as an `xarray.Dataset`: named dimensions, coordinates, units, where it came from."""

import functools
import inspect
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxflow._disk import results
from jaxflow.sweeps.design.axes import SEED, TRIAL, Design
from jaxflow.sweeps.outputs.trial_result import Layout

PATIENCE = 5.0  # seconds
CLOCK = "steps × learning rate"
UNITS = {"batch_size": "examples", "stopped": CLOCK}  # what a learning rate is depends on the trial


def dataset(
    design: Design, layout: Layout, arrays: dict[str, np.ndarray], diverged: np.ndarray, seeds: int
) -> Any:
    """Arrays (trials, …) by name as variables over the axes, the seed and their own dimensions."""
    import xarray

    shape, dims = (*design.dims.values(), seeds), (*design.dims, SEED)
    variables, clocks = {}, {}
    for name, variable in layout.variables.items():
        array = arrays[name].reshape(*shape, *variable.shape)
        whole = xarray.Variable((*dims, *variable.dims), array, _units(name))
        if variable.clock:
            clocks[name] = _reduce(whole, dims)
        else:
            variables[name] = whole
    flags = {"long_name": "whether the trial diverged"}
    variables["diverged"] = xarray.Variable(dims, diverged.reshape(shape), flags)
    return xarray.Dataset(variables, _coordinates(design, seeds) | _times(clocks))


def _coordinates(design: Design, seeds: int) -> dict[str, Any]:
    import xarray

    along = {name: name if design.is_grid else TRIAL for name in design.axes}
    coordinates: dict[str, Any] = {
        name: xarray.Variable((along[name],), axis.labels, _units(name)) for name, axis in design.axes.items()
    }
    if not design.is_grid:
        coordinates[TRIAL] = np.arange(design.size)
    return coordinates | {SEED: np.arange(seeds)}


def _reduce(variable: Any, dims: tuple[str, ...]) -> Any:
    """A variable without the dimensions along which it does not vary."""
    for dim in dims:
        first = variable.isel({dim: slice(0, 1)})
        if (variable.values == first.values).all():
            variable = first.isel({dim: 0})
    return variable


def _times(clocks: dict[str, Any]) -> dict[str, Any]:
    """Times as the coordinate of their dimension where all trials share them, otherwise as a coordinate `times`."""
    coordinates = {}
    for name, clock in clocks.items():
        dim = clock.dims[-1]
        peers = [other for other in clocks.values() if other.dims[-1] == dim]
        shared = all(other.dims == (dim,) and np.array_equal(other.values, clock.values) for other in peers)
        parts = name.split(".")[:-1]
        clock.attrs["units"] = CLOCK
        coordinates[dim if shared else ".".join((*parts, "times"))] = clock
    return coordinates


def _units(name: str) -> dict[str, str]:
    unit = UNITS.get(name.split(".")[-1])
    return {"units": unit} if unit else {}


def attributes(trial: Callable, settings: dict[str, Any], seconds: float, trials: int) -> dict[str, Any]:
    """What made the dataset, as attributes that every file format holds: text and numbers."""
    made = results.provenance()
    function = _function_of(trial)
    named = function if hasattr(function, "__qualname__") else type(function)
    described = {"git_describe": git_describe(_folder_of(function))}
    return {
        "trial": f"{named.__module__}.{named.__qualname__}",
        "settings": json.dumps(settings),
        "device": made["device"],
        "float64": int(made["x64"]),
        "wall_time": seconds,
        "wall_time_per_trial": seconds / trials,
        **{f"version_{name}": version for name, version in made["versions"].items()},
        **{name: value for name, value in described.items() if value},
    }


def _function_of(trial: Any) -> Any:
    while isinstance(trial, functools.partial):  # `jax.tree_util.Partial` too
        trial = trial.func
    return inspect.unwrap(trial)


def _folder_of(function: Any) -> str:
    """The folder of a function's source, or the present one."""
    try:
        file = Path(inspect.getfile(function))
    except (TypeError, OSError):
        file = Path()
    return str(file.parent.absolute() if file.is_file() else Path.cwd())


def git_describe(folder: str) -> str | None:
    """What `git describe` calls the state of a folder's repository; `None` where there is none.

    Asked again after some seconds: the state may change in a long session.
    """
    return _git_describe(folder, int(time.monotonic() / PATIENCE))


@functools.lru_cache(maxsize=8)
def _git_describe(folder: str, when: int) -> str | None:
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--tags"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
