"""The result of a sweep: a line over one hyperparameter, a map over two, or the samples themselves."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow import _check
from jaxflow.plot.style import axes, drawable_values, legend_above
from jaxflow.plot.sweeps import facets
from jaxflow.plot.sweeps.cells import Cells, colour_bar, line, map_, points
from jaxflow.plot.sweeps.scales import Scale, colours, is_numeric, label_of

if TYPE_CHECKING:
    import xarray

MOST = 4  # hyperparameters in one picture


def sweep(
    dataset: "xarray.Dataset", metric: str, ax: Any = None, *, x: str | None = None, y: str | None = None
) -> Any:
    """One number per trial against the hyperparameters swept: a line over one of them, heat maps over two to four.

    **Arguments**

    - `dataset`: what a sweep returns. The axes drawn are those with more than one value left, one to four;
      of five, fix one first: `dataset.sel(batch_size=32)`. A third axis makes a map for each of its values, side by
      side, and a fourth makes rows of them. The samples of a random sweep are drawn as points.
    - `metric`: a variable of the dataset, at its last time if it has times. Numbers are drawn as their median over
      seeds, a line with the band of the middle 80 %. For a true/false variable, such as `diverged`, the share of
      all seeds where it is true is drawn.
    - `ax`: the Axes to draw on, default the current ones; a map takes some of their room for its colour bar. For
      several maps as many Axes, (rows, columns), by default those of a new figure.
    - `x`, `y`: the axes that run across and up, by default in the dataset's order, in which the third and the fourth
      follow. For samples with more than two hyperparameters, those to draw; with `x` alone the metric itself runs up.

    **Returns** the Axes; for several maps an array of them, (rows, columns).

    **Raises** `ValueError` for an unknown name, no axis or more than four, a metric that is not one number per trial,
    or another number of Axes than there are maps; `TypeError` for anything but a Dataset.

    Positive values evenly spaced in their logarithm over a factor of ten or more get a logarithmic axis, and a
    metric over a factor of 30 a logarithmic scale. With 0 or negative values among them, the axis is linear up to
    the smallest magnitude and logarithmic beyond. Cells of a map end half-way between values, so a curve drawn
    over it runs where it should. Several maps share one scale of colours. Names are evenly spaced, and so are
    values one of which is NaN, infinite or there twice; samples with such a value are left out.

    Seeds that diverged, or whose number is NaN or infinite, enter no median and no band. Where all diverged,
    a cell is hatched in grey, a sample is a grey cross, and a line stops, with a filled cross at the top edge.
    Where some did, the others' value is shown with a white cross on it, or for a line a hollow one at the top edge.
    A cell without a number that did not diverge is white. The legend above the axes says which is which.

    >>> import numpy as np, xarray, jaxflow as jf
    >>> rates, seeds = np.geomspace(0.01, 1.0, 5), np.arange(3)
    >>> loss = np.abs(np.log(rates))[:, None] + 0.1 * seeds
    >>> diverged = np.broadcast_to(rates[:, None] > 0.5, loss.shape)
    >>> dims = ("learning_rate", "seed")
    >>> result = xarray.Dataset(
    ...     {"final_loss": (dims, np.where(diverged, np.nan, loss)), "diverged": (dims, diverged)},
    ...     {"learning_rate": rates, "seed": seeds},
    ... )
    >>> from matplotlib.figure import Figure
    >>> ax = jf.plot.sweep(result, "final_loss", Figure().add_subplot())
    >>> ax.get_xlabel(), ax.get_xscale(), ax.get_legend_handles_labels()[1][-1]
    ('learning rate', 'log', 'diverged (all seeds)')
    """
    _check_dataset(dataset, metric)
    sampled = "trial" in dataset["diverged"].dims
    x, y, *others = (_coordinates if sampled else _axes)(dataset, x, y)
    dims = ("trial",) if sampled else tuple(name for name in (*others[::-1], y, x) if name is not None)
    if "seed" not in dataset.dims:  # one was selected
        dataset = dataset.drop_vars("seed", errors="ignore").expand_dims("seed")
    if not sampled:
        dataset = dataset.isel({name: 0 for name in dataset["diverged"].dims if name not in (*dims, "seed")})
        dataset = dataset.sortby([name for name in dims if is_numeric(dataset[name])])
    cells = _cells(dataset, metric, dims)
    scales = {w: Scale.of(dataset[name], sampled) for w, name in (("x", x), ("y", y)) if name is not None}
    if others:
        columns, rows = dataset[others[0]], dataset[others[1]] if others[1:] else None
        every = facets.panels(ax, columns, rows)
        facets.maps(every, cells, (scales["x"], scales["y"]), columns, rows)
        if ax is None:
            for one in every.flat:
                one.label_outer()
        return every
    ax = axes(ax)
    for which, scale in scales.items():
        scale.put(ax, which)
    if y is None:
        line(ax, cells, scales["x"])
    else:
        draw, norm = points if sampled else map_, colours(cells.middle, cells.shares)
        colour_bar(ax, draw(ax, cells, scales["x"], scales["y"], norm), cells)
        legend_above(ax, room=0.1)
    for which, scale in scales.items():
        scale.tick(ax, which)
    return ax


def _check_dataset(dataset: Any, metric: Any) -> None:
    import xarray

    if not isinstance(dataset, xarray.Dataset):
        raise TypeError(
            f"dataset must be an xarray.Dataset, as a sweep returns, got {type(dataset).__name__}."
        )
    if "diverged" not in dataset.data_vars:
        raise ValueError("dataset must have the variable 'diverged', as a sweep's result has.")
    if dataset["diverged"].size == 0:
        raise ValueError(f"dataset must hold a trial, got none: its sizes are {dict(dataset.sizes)}.")
    _check.require_choice("metric", metric, map(str, dataset.data_vars))
    if dataset[metric].dtype.kind not in "biuf":
        raise ValueError(f"metric must be a variable of numbers, got {metric!r} of {dataset[metric].dtype}.")


def _axes(dataset: Any, x: str | None, y: str | None) -> tuple[str | None, ...]:
    """Which axes of a grid run across and up, and over the columns and the rows of panels."""
    sizes = {str(name): dataset.sizes[name] for name in dataset["diverged"].dims if name != "seed"}
    wide = [name for name, size in sizes.items() if size > 1]
    if not wide:
        raise ValueError(f"sweep needs an axis of more than one value, got {sizes or 'no axes'}.")
    if len(wide) > MOST:
        fix = [name for name in wide if name not in (x, y)][-1]
        raise ValueError(
            f"sweep draws one to {MOST} axes and the dataset has {len(wide)}, {', '.join(wide)}: select a value"
            f" of the others first, as in dataset.sel({fix}={dataset[fix][0].item()!r})."
        )
    _check_names(wide, x, y)
    if len(wide) == 1:
        if y is not None:
            raise ValueError(f"y must be left out for a line over the only axis, got {y!r}.")
        return wide[0], None
    across = x or next(name for name in wide if name != y)
    up = y or next(name for name in wide if name != across)
    return across, up, *[name for name in wide if name not in (across, up)]


def _coordinates(dataset: Any, x: str | None, y: str | None) -> tuple[str | None, ...]:
    """Which hyperparameters of a sampled sweep run across and up."""
    names = [str(name) for name, c in dataset.coords.items() if c.dims == ("trial",) and name != "trial"]
    _check_names(names, x, y)
    if x is None and len(names) == 2:
        x = next(name for name in names if name != y)
        y = next(name for name in names if name != x)
    elif x is None and len(names) == 1 and y is None:
        x = names[0]
    if x is None:
        raise ValueError(f"x must name the sampled coordinate to draw, one of {', '.join(names)}; got None.")
    for which, name in (("x", x), ("y", y)):
        if name is not None:
            _check.require(which, name, is_numeric(dataset[name]), "a coordinate of numbers")
    return x, y


def _check_names(allowed: list[str], x: str | None, y: str | None) -> None:
    for which, name in (("x", x), ("y", y)):
        if name is not None:
            _check.require_choice(which, name, allowed)
    if x is not None and x == y:
        raise ValueError(f"x and y must differ, got {x!r} for both.")


def _cells(dataset: Any, metric: str, dims: tuple[str, ...]) -> Cells:
    """The metric's statistics over seeds, in the order of `dims`."""
    variable = dataset[metric]
    # Several clocks are named by what they time: `sgd.time`.
    variable = variable.isel({name: -1 for name in variable.dims if f".{name}".endswith(".time")})
    extra = [str(name) for name in variable.dims if name not in (*dims, "seed")]
    if extra:
        raise ValueError(
            f"metric must be one number for each trial, got {metric!r} over {', '.join(extra)} too:"
            f" select one first, as in dataset.isel({{{extra[0]!r}: 0}})."
        )
    full = {name: dataset.sizes[name] for name in (*dims, "seed")}
    values, outcome = (v.variable.set_dims(full).values for v in (variable, dataset["diverged"]))
    label, shape = label_of(variable), tuple(full.values())
    low, middle, high = np.full((3, *shape[:-1]), np.nan)
    if values.dtype == bool:
        share = values.mean(-1)
        label, none = f"share of seeds {label}", np.zeros(shape[:-1])
        return Cells(label, low, share, high, diverged=none, seeds=shape[-1], shares=True)
    values = np.where(~outcome.astype(bool), drawable_values(values), np.nan)
    kept = np.isfinite(values).any(-1)
    if kept.any():
        low[kept], middle[kept], high[kept] = np.nanquantile(values[kept], (0.1, 0.5, 0.9), axis=-1)
    return Cells(label, low, middle, high, diverged=outcome.mean(-1), seeds=shape[-1], shares=False)
