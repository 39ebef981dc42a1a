"""The verb `sweep`: every trial of a design, in one compiled program, kept as it goes, returned as one dataset."""

import functools
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxflow import _check
from jaxflow._disk import fingerprint, results
from jaxflow.problems.problem import as_key
from jaxflow.sweeps.design.axes import Axis, Design, design
from jaxflow.sweeps.execution import batch_loop
from jaxflow.sweeps.execution.compiled_batch import Program, Trial, local_mesh
from jaxflow.sweeps.execution.interruption import explain_interrupt
from jaxflow.sweeps.outputs.dataset import attributes, dataset
from jaxflow.sweeps.outputs.trial_result import Layout, difference
from jaxflow.sweeps.reading import describe
from jaxflow.sweeps.storage.disk import check_directory
from jaxflow.sweeps.storage.store import Store

if TYPE_CHECKING:
    import xarray


def sweep(
    trial: Trial,
    axes: Any,
    *,
    seeds: int = 1,
    key: jax.Array | None = None,
    directory: str | os.PathLike | None = None,
    batch: int | None = None,
    mesh: Mesh | None = None,
    static: Iterable[str] | None = None,
    progress: bool = True,
) -> "xarray.Dataset":
    """Run `trial(hyperparameters, key)` for every combination of hyperparameters and every seed.

    **Arguments**

    - `trial`: any pure function of a dict of numbers and a key that returns a pytree of arrays: an `iterate`, an
      `integrate`, a `compare`, your own loop. What it reads from outside is read when it is traced, as by `jax.jit`
      (with a directory at every call), and JAX keeps that. So hand it its data as an argument:
      `jax.tree_util.Partial(f, data)`.
    - `axes`: a dict from names to values, of which all combinations are run; or samples, a list of dicts or a NumPy
      array with named fields, such as `jf.sweeps.sample` draws or `DataFrame.to_records(index=False)` returns.
    - `seeds`: the number of runs of each combination. Seed s has the key `fold_in(key, s)` everywhere, so
      combinations share their randomness, and what a trial draws from its key alone is drawn once for all.
    - `key`: the random key from which the seeds are made; default `jax.random.key(0)`.
    - `directory`: a folder in which every finished batch is kept. The same call goes on from what it holds: after
      an exception, a kill or a full disk, at most the batch in flight is lost. Processes that sweep in one
      directory at the same time share the work. `jf.sweeps.read` reads a finished one in less time, as the same
      call traces the trial to check that it is the same. Results too large for memory need a directory.
    - `batch`: roughly the number of trials run at once. Default: a sixteenth of them, from 64 to 4,096, or fewer
      where the compiled program would take more than half of a device's memory.
    - `mesh`: the devices over which a batch is spread; all local ones by default. Each runs trials of its own, so
      data that lie on several devices are copied whole to each.
    - `static`: names of axes that change the program (a width, an optimizer, a number of steps). The trial gets
      their values as they are, and is compiled once for each combination of them. All other axes hold numbers,
      which are traced: one compilation. A batch size can be either: traced, by `jf.solve.masked_draws`, it costs the
      largest for all, which is cheaper while runs take less time than compiling.
    - `progress`: whether to show a bar with trials per second and the number diverged, if the error output is a
      terminal.

    **Returns** an `xarray.Dataset`. Its dimensions are the axes (`trial` for samples), `seed`, and `time` for
    arrays returned along with `times` (a `Trajectory`, a `Comparison`, a dict that has them). Its variables are
    named by their path in what the trial returns, `value` for a single array. Times that all trials share are the
    coordinate `time`; otherwise there is a coordinate `times`. Of a `Trajectory` its record, its metrics by their
    names, `status` and `stopped` are kept. A trial has `diverged` if a trajectory says so or another number is not
    finite, or if it returns a flag of that name. Its floats are then NaN, except for those that are finite at
    earlier times. Its attributes hold versions, device, time and git state. `to_netcdf` works on it, with SciPy
    unless numbers are unsigned or complex or arrays empty, which need h5netcdf.

    Each cell is what `trial` alone gives on its hyperparameters and `fold_in(key, seed)`, up to rounding. Under
    `jax.distributed` call it in every process: each runs its share, and all return the whole.

    **Raises** `ValueError` for empty axes, values given twice, names that collide, trials that return different
    things, a directory of another sweep (saying in what it differs), data on devices of other processes, or results
    larger than memory; `TypeError` for a trial that needs the concrete value of an axis (saying which); `OSError`
    where the directory cannot be written. A damaged file in it is named in a warning and its trials are run again.
    Ctrl-C raises `KeyboardInterrupt` with two lines that say what is kept and how to go on; where nothing catches it,
    these are all that is printed.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> def trial(hyperparameters, key):
    ...     start = jax.random.normal(key, (2,))
    ...     gd = jf.optim.gd(hyperparameters["learning_rate"])
    ...     loss = lambda x: 0.5 * jnp.sum(x**2)
    ...     return jf.iterate(gd, loss, start, steps=2000, record=loss, every=None)
    >>> table = jf.sweep(trial, {"learning_rate": [0.1, 0.5, 2.5]}, seeds=4)
    >>> dict(table.sizes), table["diverged"].sum("seed").values.tolist()
    ({'learning_rate': 3, 'seed': 4, 'time': 2}, [0, 0, 4])
    """
    if not callable(trial):
        raise TypeError(f"trial must be a function of (hyperparameters, key), got {trial!r}.")
    if directory is not None and not isinstance(directory, (str, os.PathLike)):
        raise TypeError(f"directory must be a path, got {directory!r}.")
    if directory is not None:
        check_directory(directory)
    made = design(axes, static)
    _check.require_integer("seeds", seeds, 1)
    if batch is not None:
        _check.require_integer("batch", batch, 1)
    with explain_interrupt(directory):
        key, mesh = _key(key), local_mesh(mesh)
        programs = [Program(trial, made, group, seeds, key, mesh) for group in made.groups()]
        versions = [] if directory is None else [program.pin() for program in programs]
        layout, store = _layout(programs), None
        if directory is not None:
            store = Store(directory, _identity(made, programs, versions, layout), results.versions())
        found = batch_loop.Results(layout, made.size * seeds, store)
        with batch_loop.progress(found.diverged.size, progress) as bar:
            sizes = batch_loop.run(programs, store, batch, found, bar)
        batch_loop.gather_processes(programs, sizes, store, found)
        table = dataset(made, layout, found.arrays, found.diverged, seeds)
        table.attrs = attributes(trial, _settings(made, seeds, key), found.seconds, found.diverged.size)
        if store is not None:
            describe(store, made, layout, seeds, table.attrs)
        return table


def _layout(programs: list[Program]) -> Layout:
    """What every trial returns; trials that return different things are refused before any is run."""
    first, *others = layouts = [program.layout() for program in programs]
    for program, other in zip(programs[1:], others, strict=True):
        gap = difference(first, other)
        if gap is not None:
            a, b = (dict(p.group.fixed) for p in (programs[0], program))
            raise ValueError(
                f"trial must return the same arrays for all values of the static axes, but for {a} and {b} {gap}."
            )
    return layouts[0]


@functools.cache
def _default_key() -> jax.Array:
    """The default key, made once, as making it takes a tenth of a small sweep."""
    with jax.ensure_compile_time_eval():
        return jax.random.key(0, impl="threefry2x32")


def _key(key: jax.Array | None) -> jax.Array:
    """One key, whose draws in a trial do not depend on what else is run with it."""
    if key is None:
        return _default_key()
    key = as_key(key)
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    if "rbg" in str(jax.random.key_impl(key)):
        raise ValueError(
            "key must be of an implementation whose draws vmap leaves alone, such as "
            f"jax.random.key(0, impl='threefry2x32'), got {jax.random.key_impl(key)}."
        )
    return key


def _identity(made: Design, programs: list[Program], versions: list[str], layout: Layout) -> dict[str, Any]:
    """What tells this sweep from another, readable, by entry."""
    functions, constants = zip(*(version.split() for version in versions), strict=True)
    return {
        "axes": {name: _summary(axis) for name, axis in made.axes.items()},
        "axes.order": ", ".join(made.axes),
        "kind": "grid" if made.is_grid else "samples",
        "static": [name for name, axis in made.axes.items() if axis.static],
        "seeds": programs[0].seeds,
        # With what is drawn from it, which JAX's settings change as well.
        "key": fingerprint.hash_arrays((programs[0].key, jax.random.bits(programs[0].key, (3,), "uint32"))),
        "float64": bool(jax.config.read("jax_enable_x64")),
        "trial": {
            "returns": {name: f"{v.dtype}{list(v.shape)}" for name, v in layout.variables.items()},
            "program (jaxpr)": fingerprint.hash_arrays([np.array(functions)]),
            "arrays it uses": fingerprint.hash_arrays((programs[0].dynamic, [np.array(constants)])),
        },
    }


def _summary(axis: Axis) -> str:
    """An axis in a line: how many values, its ends, a hash of all."""
    shown = [f"{x:g}" if isinstance(x, float) else f"{x}" for x in (axis.labels[0], axis.labels[-1])]
    ends = " … ".join(shown[: axis.labels.size])
    return f"{axis.labels.size} × ({ends}), {fingerprint.hash_arrays([np.asarray(axis.labels)])}"


def _settings(made: Design, seeds: int, key: jax.Array) -> dict[str, Any]:
    """What was asked for, for the dataset's attributes."""
    return {
        "axes": {name: int(axis.labels.size) for name, axis in made.axes.items()},
        "static": [name for name, axis in made.axes.items() if axis.static],
        "seeds": seeds,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
    }
