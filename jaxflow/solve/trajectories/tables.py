"""A trajectory as labelled arrays and as a table."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    import pandas
    import xarray

PyTree = Any


def dataset_of(run: Any) -> "xarray.Dataset":
    """The records of a run, and how it ended, with named axes."""
    import xarray

    members = np.ndim(run.status)
    lanes = ["member"] if members == 1 else [f"member_{i}" for i in range(members)]
    times = np.asarray(run.times)
    own_clocks = times.ndim > 1  # lanes of a vmap; an ensemble keeps one clock
    axis = "record" if own_clocks else "time"
    variables = {}
    for name, leaf in _name_records(run.values, run.observed).items():
        trailing = [f"{name}_{i}" for i in range(leaf.ndim - members - 1)]
        variables[name] = ([*lanes, axis, *trailing], leaf)
    for name in ("status", "stopped", "steps"):
        variables[name] = (lanes, np.asarray(getattr(run, name)))
    clock = ([*lanes, axis], times) if own_clocks else (axis, times)
    unit = "steps" if run.counts_steps else "learning rate × steps"
    table = xarray.Dataset(variables, {"time": clock}, {"message": run.message})
    table["time"].attrs["units"] = unit
    return table


def frame_of(run: Any) -> "pandas.DataFrame":
    """The records of a run as columns, one for each number, and a row for each time (of each member)."""
    import pandas

    table = dataset_of(run)
    lanes = [dim for dim in table.dims if str(dim).startswith("member")]
    rows = tuple(table.sizes[dim] for dim in (*lanes, "record" if "record" in table.dims else "time"))
    index = [np.arange(size) for size in rows[:-1]]
    grid = np.meshgrid(*index, np.arange(rows[-1]), indexing="ij")
    times = np.broadcast_to(table["time"].values, rows)
    columns = {}
    for name, variable in table.data_vars.items():
        if variable.ndim <= len(lanes):
            continue
        flat = variable.values.reshape(np.prod(rows), -1)
        shape = variable.shape[len(rows) :]
        for place, column in zip(np.ndindex(shape), flat.T, strict=True):
            where = f"[{', '.join(map(str, place))}]" if place else ""
            columns[f"{name}{where}"] = column
    arrays = [*(part.ravel() for part in grid[:-1]), times.ravel()]
    names = [*map(str, lanes), "time"]
    labels = (
        pandas.MultiIndex.from_arrays(arrays, names=names) if lanes else pandas.Index(arrays[0], name="time")
    )
    return pandas.DataFrame(columns, labels)


def _name_records(values: PyTree, observed: PyTree) -> dict[str, np.ndarray]:
    """What is kept of a run, by the path of each leaf; that of metrics is in front where two are the same."""
    named: dict[str, np.ndarray] = {}
    for part, alone in ((values, "value"), (observed, "observed")):
        for path, leaf in jax.tree_util.tree_leaves_with_path(part):
            name = jax.tree_util.keystr(path, simple=True, separator="/") or alone
            name = f"observed/{name}" if name in named else name
            named[name] = _to_plain_dtype(leaf)
    return named


def _to_plain_dtype(leaf: jax.Array) -> np.ndarray:
    """An array of a dtype that files and tables know."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    half = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4
    return np.asarray(leaf, np.float32) if half else np.asarray(leaf)
