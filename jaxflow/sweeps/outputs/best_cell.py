"""The best cell of a sweep."""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxflow import _check
from jaxflow.sweeps.design.axes import SEED, TIME

if TYPE_CHECKING:
    import xarray


def best(dataset: "xarray.Dataset", metric: str, *, largest: bool = False) -> "xarray.Dataset":
    r"""The hyperparameters of a sweep with the least $\frac1S \sum_s$ `metric`, over its S seeds.

    **Arguments**

    - `dataset`: what `jf.sweep` returned, over a grid or over samples.
    - `metric`: the name of a variable with one number for each trial, or one for each of its times, of which
      the last counts.
    - `largest`: whether the largest mean wins instead, of an accuracy say.

    **Returns** the dataset at that cell: its hyperparameters are scalar coordinates, and the variables keep their
    seeds and times.

    **Raises** `ValueError` for an unknown metric or one with other dimensions, a dataset that is not a sweep's,
    and where no cell competes; `TypeError` for a metric that is not of real numbers.

    A cell of hyperparameters competes if none of its seeds diverged and its metric is finite. Of equal cells
    the first is the best. The mean of few seeds, chosen because it is small, is too small on average: run the
    best cell again with other seeds before you report its metric.

    >>> import numpy as np, xarray, jaxflow as jf
    >>> dims = ("learning_rate", "seed")
    >>> table = xarray.Dataset(
    ...     {"loss": (dims, [[3.0, 3.2], [1.0, 1.2], [0.1, np.nan]]),
    ...      "diverged": (dims, [[False, False], [False, False], [False, True]])},
    ...     {"learning_rate": [0.01, 0.1, 1.0]},
    ... )
    >>> cell = jf.sweeps.best(table, "loss")
    >>> cell["learning_rate"].item(), cell["loss"].values
    (0.1, array([1. , 1.2]))
    """
    variables = getattr(dataset, "data_vars", None)
    if variables is not None and SEED not in dataset.dims and SEED in dataset.coords:  # one was selected
        dataset = dataset.expand_dims(SEED, axis=-1)
    if variables is None or "diverged" not in variables or SEED not in dataset["diverged"].dims:
        raise ValueError(
            "dataset must be what a sweep returned, with a variable 'diverged' over its axes and 'seed', "
            f"got {_short_name(dataset)}."
        )
    _check.require_choice("metric", metric, map(str, variables))
    values = dataset[metric]
    if not any(jnp.issubdtype(values.dtype, kind) for kind in (np.integer, np.floating)):
        raise TypeError(f"metric must be of real numbers, but {metric!r} is of dtype {values.dtype}.")
    runs = dataset["diverged"].dims
    axes = [dim for dim in runs if dim != SEED]
    times = [dim for dim in values.dims if dim not in runs and f".{dim}".endswith(f".{TIME}")]
    if set(values.dims) != {*runs, *times} or len(times) > 1:
        raise ValueError(
            f"metric must have one number for each trial, over {', '.join(map(str, runs))} and perhaps {TIME}, but "
            f"{metric!r} is over {', '.join(map(str, values.dims)) or 'nothing'}."
        )
    last = values.isel(dict.fromkeys(times, -1)).transpose(*axes, SEED)
    diverged = dataset["diverged"].transpose(*axes, SEED).values.astype(bool)
    with np.errstate(all="ignore"):
        means = last.values.astype(float).mean(axis=-1)
    competes = np.isfinite(means) & ~diverged.any(axis=-1)
    if not competes.any():
        raise ValueError(
            f"dataset must have a cell where all seeds finished with a finite {metric!r}, but of its "
            f"{diverged.size} trials in {competes.size} cells {diverged.sum()} diverged."
        )
    scores = np.where(competes, -means if largest else means, np.inf)
    place = np.unravel_index(np.argmin(scores), scores.shape)
    return dataset.isel(dict(zip(axes, map(int, place), strict=True)))


def _short_name(dataset: Any) -> str:
    names = getattr(dataset, "data_vars", None)
    return type(dataset).__name__ if names is None else f"one with {', '.join(map(str, names)) or 'none'}"
