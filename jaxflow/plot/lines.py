"""Lines against time: losses of several runs, and their distances from one of them."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxflow.comparison import Comparison
from jaxflow.plot.style import CLOCK, axes, drawable_values, lone_marker, set_logarithmic, stroke, tidy
from jaxflow.solve import Trajectory


def trajectories(
    runs: Mapping[str, Trajectory], ax: Any = None, *, log: bool = True, label: str = "loss"
) -> Any:
    """A recorded number, such as the loss, against time for several runs.

    **Arguments**

    - `runs`: trajectories by the name to show, each recorded with one number at each time (`record=objective`).
      Those with a leading axis (an ensemble) are drawn as the median and the band of the middle 80 %.
    - `ax`: the Axes to draw on; default the current ones.
    - `log`: whether the vertical axis is logarithmic, if any number is positive.
    - `label`: the name of the number, on the vertical axis.

    **Returns** the Axes.

    **Raises** `ValueError` when a run did not record one number at each time; `TypeError` where `runs` is no dict.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(x**2)
    >>> run = jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(1), steps=10, record=loss)
    >>> from matplotlib.figure import Figure
    >>> jf.plot.trajectories({"gradient descent": run}, Figure().add_subplot()).get_xlabel()
    'time t (steps × learning rate)'
    """
    if not isinstance(runs, Mapping):
        raise TypeError(f"runs must be trajectories by name, {{name: run}}, got {type(runs).__name__}.")
    lines = {name: _scalars(name, run) for name, run in runs.items()}
    ax = axes(ax)
    for i, (name, values) in enumerate(lines.items()):
        _band(ax, np.asarray(runs[name].times), values, i, name)
    ax.set(xlabel=CLOCK, ylabel=label)
    if log:
        set_logarithmic(ax, *lines.values())
    return tidy(ax)


def comparison(
    distances: Mapping[str, Comparison] | Comparison, ax: Any = None, *, relative: bool = False
) -> Any:
    """Distances from one trajectory against time, on a logarithmic axis.

    The distance at the start, 0, is left out. Where all are 0, the axis is linear and shows that.

    **Arguments**

    - `distances`: `Comparison`s by the name to show, or a single one. Those with a leading axis (an ensemble) are
      drawn as the median and the band of the middle 80 %.
    - `ax`: the Axes to draw on; default the current ones.
    - `relative`: whether to show the distance as a fraction of the path travelled.

    **Returns** the Axes.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(x**2)
    >>> run = jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(1), steps=10)
    >>> flow = jf.integrate(jf.dynamics.gradient_flow(loss), jnp.ones(1), run.times)
    >>> from matplotlib.figure import Figure
    >>> jf.plot.comparison(jf.compare(run, flow), Figure().add_subplot()).get_yscale()
    'log'
    """
    ax = axes(ax)
    if isinstance(distances, Comparison):
        distances = {"": distances}
    lines = [drawable_values(gap.relative if relative else gap.distance) for gap in distances.values()]
    some = any(np.any(values > 0) for values in lines)
    for i, ((name, gap), values) in enumerate(zip(distances.items(), lines, strict=True), 1):
        times = np.asarray(gap.times)
        values = np.where(some & (values == 0), np.nan, values)
        _band(ax, times if times.ndim == 1 else times[0], values, i, name)
    ax.set(xlabel=CLOCK, ylabel="distance / path travelled" if relative else "distance from the iterates")
    set_logarithmic(ax, *lines)
    return tidy(ax)


def _scalars(name: str, run: Trajectory) -> np.ndarray:
    """Recorded scalars, shape (T,) or (members, T)."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(run.values)]
    if len(leaves) != 1 or leaves[0].ndim not in (1, 2) or leaves[0].shape[-1] != np.shape(run.times)[-1]:
        shapes = ", ".join(str(leaf.shape) for leaf in leaves)
        raise ValueError(
            f"trajectories draws one number at each time, but {name!r} has {shapes}; run it with record=objective."
        )
    return leaves[0]


def _band(ax: Any, times: np.ndarray, values: np.ndarray, i: int, name: str) -> None:
    """A line, or for an ensemble its median and the band of its middle 80 %."""
    style, times, values = stroke(i), drawable_values(times), drawable_values(values)
    if values.ndim == 2:
        # A member that has diverged leaves the band; where all have, the line ends.
        kept = np.isfinite(values).any(0)
        low, middle, high = np.full((3, values.shape[1]), np.nan)
        if kept.any():
            low[kept], middle[kept], high[kept] = np.nanquantile(values[:, kept], (0.1, 0.5, 0.9), axis=0)
        ax.fill_between(times, low, high, color=style["color"], alpha=0.2, linewidth=0)
        values = middle
    ax.plot(times, values, label=name, **style, **lone_marker(values))
