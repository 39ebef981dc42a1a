"""Lines against time: losses of several runs, and their distances from one of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxflow.comparison import Comparison
from jaxflow.comparison.entries import entry_names, find_entry
from jaxflow.plot.runs.endings import mark_ending, name_ending
from jaxflow.plot.style import (
    CLOCK,
    STEPS,
    axes,
    drawable_values,
    legend_above,
    lone_marker,
    set_logarithmic,
    several_axes,
    stroke,
    tidy,
)
from jaxflow.solve import Trajectory
from jaxflow.solve.trajectories.trajectory import FINISHED


def trajectories(
    runs: Mapping[str, Trajectory],
    ax: Any = None,
    *,
    log: bool = True,
    label: str | None = None,
    entry: str | None = None,
) -> Any:
    """Recorded numbers, such as the loss, against time for several runs; each number has a panel of its own.

    A run that ended before its last time has a mark there, and the legend says how it ended: a cross where it
    diverged, a square where its event stopped it, a diamond otherwise. The marks of an ensemble's members are along
    the top edge.

    **Arguments**

    - `runs`: trajectories by the name to show, recorded with one number at each time (`record=objective`), or each
      with a dict, or another pytree, of the same such numbers. Those with a leading axis (an ensemble) are drawn as
      the median and the band of the middle 80 %.
    - `ax`: the Axes to draw on; default the current ones. For several panels as many Axes, by default new ones, one
      below another, on a new figure.
    - `log`: whether the vertical axis is logarithmic, if any number is positive.
    - `label`: the name of the number, on the vertical axis. Default: its name in the record, or "loss" where it has
      none. Several panels have their own names.
    - `entry`: the only entry of the records to draw, by its name, such as `"loss"`. Default: all.

    **Returns** the Axes; for several panels the list of them, in the order of the records' leaves.

    **Raises** `ValueError` when a run did not record one number at each time, when runs recorded different entries,
    for an `entry` that is not there, a `label` for several panels, or another number of Axes; `TypeError` where
    `runs` is not a dict of trajectories.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(x**2)
    >>> run = jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(1), steps=10, record=lambda x: {"loss": loss(x), "x": x[0]})
    >>> from matplotlib.figure import Figure
    >>> panels = jf.plot.trajectories({"gradient descent": run}, Figure().subplots(2))
    >>> [ax.get_ylabel() for ax in panels], panels[1].get_xlabel()
    (['loss', 'x'], 'time t (steps × learning rate)')
    """
    if not isinstance(runs, Mapping):
        raise TypeError(f"runs must be trajectories by name, {{name: run}}, got {type(runs).__name__}.")
    lines = {name: _numbers(name, run, entry) for name, run in runs.items()}
    panels = _require_same_entries(lines)
    if len(panels) == 1:
        panel = panels[0]
        ax, shown = axes(ax), label or (entry or panel).replace("_", " ") or "loss"
        _panel(ax, runs, {name: found[panel] for name, found in lines.items()}, shown, log)
        return _name_runs(ax, runs, above=False)
    if label is not None:
        raise ValueError(
            f"label must be left out for several panels, {', '.join(panels)}, unless entry= names one of them, got "
            f"{label!r}."
        )
    every = several_axes(ax, len(panels), ", ".join(panels))
    for panel, place in zip(panels, every, strict=True):
        of_panel = {name: found[panel] for name, found in lines.items()}
        tidy(_panel(place, runs, of_panel, panel.replace("_", " "), log), legend=False)
    if ax is None:
        for place in every:
            place.label_outer()
    _name_runs(every[0], runs, above=True)
    return every


def _panel(
    ax: Any, runs: Mapping[str, Trajectory], lines: dict[str, np.ndarray], label: str, log: bool
) -> Any:
    """One number of all runs."""
    for i, (name, values) in enumerate(lines.items()):
        run = runs[name]
        times = drawable_values(run.times)
        line = _band(ax, times if times.ndim == 1 else times[0], values, i, name_ending(name, run))
        mark_ending(ax, run, line)
    steps = bool(runs) and all(run.counts_steps for run in runs.values())
    ax.set(xlabel=STEPS if steps else CLOCK, ylabel=label)
    if log:
        set_logarithmic(ax, *lines.values())
    return ax


def _name_runs(ax: Any, runs: Mapping[str, Trajectory], above: bool) -> Any:
    """The legend, above the axes for several panels, or where the ends of an ensemble's members are marked there."""
    ended = any(np.ndim(run.status) and np.any(run.status != FINISHED) for run in runs.values())
    tidy(ax, legend=not (above or ended))
    if above or ended:
        legend_above(ax, room=0.8 if ended else 0.1, columns=1)
    return ax


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


def _numbers(name: str, run: Trajectory, entry: str | None) -> dict[str, np.ndarray]:
    """Recorded scalars by the name of their entry, shape (T,) or (members, T)."""
    if not isinstance(run, Trajectory):
        raise TypeError(f"runs must be trajectories, but {name!r} is of type {type(run).__name__}.")
    values = run.values if entry is None else find_entry(repr(name), run.values, entry)
    found = {key: np.asarray(leaf) for key, leaf in entry_names(values).items()}
    length = np.shape(run.times)[-1]
    fits = lambda shape: len(shape) in (1, 2) and shape[-1] == length
    wrong = {key: leaf.shape for key, leaf in found.items() if not fits(leaf.shape)}
    if wrong or not found:
        shapes = ", ".join(f"{key} {shape}".strip() for key, shape in wrong.items())
        few = " or choose one by entry=" if len(found) > len(wrong) else ""
        raise ValueError(
            f"trajectories draws one number at each time, but {name!r} has {shapes or 'none'}; run it with "
            f"record=objective{few}."
        )
    return found


def _require_same_entries(lines: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """The names of the panels, which all runs have."""
    first, *others = [*lines.items()] or [("", {"": np.zeros(0)})]
    for name, found in others:
        if found.keys() != first[1].keys():
            said = [", ".join(run) or "one unnamed number" for run in (first[1], found)]
            raise ValueError(
                f"runs must have recorded the same entries, but {first[0]!r} has {said[0]}, and {name!r} has "
                f"{said[1]}; choose one by entry=."
            )
    return [*first[1]]


def _band(ax: Any, times: np.ndarray, values: np.ndarray, i: int, name: str) -> Any:
    """A line, which is returned, or for an ensemble its median and the band of its middle 80 %."""
    style, times, values = stroke(i), drawable_values(times), drawable_values(values)
    if values.ndim == 2:
        # A member that has diverged leaves the band; where all have, the line ends.
        kept = np.isfinite(values).any(0)
        low, middle, high = np.full((3, values.shape[1]), np.nan)
        if kept.any():
            low[kept], middle[kept], high[kept] = np.nanquantile(values[:, kept], (0.1, 0.5, 0.9), axis=0)
        ax.fill_between(times, low, high, color=style["color"], alpha=0.2, linewidth=0)
        values = middle
    (drawn,) = ax.plot(times, values, label=name, **style, **lone_marker(values))
    return drawn
