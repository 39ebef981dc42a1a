"""A density that moves: a picture for each time, written as an animation."""

from typing import Any

import numpy as np

from jaxflow import _check
from jaxflow.density import Grid
from jaxflow.plot.animation import animate
from jaxflow.plot.densities.still_densities import FILL, frames_of
from jaxflow.plot.style import COLOURS, axes, drawable_values, stroke, tidy
from jaxflow.solve import Trajectory


def animate_density(
    densities: Trajectory,
    grid: Grid,
    path: Any,
    ax: Any = None,
    *,
    points: Any = None,
    frames: int = 60,
    seconds: float = 6.0,
) -> Any:
    """Write an animation of a density as it moves, with the members of an ensemble on top.

    **Arguments**

    - `densities`: what `integrate` returned for `fokker_planck(dynamics, grid)`.
    - `grid`: its `Grid`.
    - `path`: the file, whose name ends in .webp, .gif or .png, as in `animate`.
    - `ax`: the Axes to draw on; default the current ones. The picture is of their whole figure.
    - `points`: the members at the times of the densities, such as the values of an ensemble: an array (n, T) or
      (n, T, 1) in one coordinate, where they are bars; (n, T, 2) in two.
    - `frames`: the largest number of pictures, spread evenly over the records; an integer at least 2.
    - `seconds`: how long the animation takes, a number above 0, in seconds of real time.

    **Returns** the Axes, with the last picture on them.

    **Raises** `TypeError` when `densities` is not a run or `grid` not a grid; `ValueError` for densities or points
    of another shape, a single time, another ending of the name, or numbers that are out of range.

    >>> import pathlib, tempfile, jaxflow as jf
    >>> from matplotlib.figure import Figure
    >>> grid = jf.density.Grid(-4.0, 4.0, 80)
    >>> equation = jf.density.fokker_planck(jf.dynamics.langevin(lambda x: 0.5 * x**2, 0.3), grid)
    >>> run = jf.integrate(equation, jf.density.gaussian(grid, -1.0, 0.05), [0.0, 0.5, 1.0])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "density.gif"
    >>> jf.plot.animate_density(run, grid, path, Figure(figsize=(3, 2)).add_subplot()).get_title()
    't = 1.00 (steps × learning rate)'
    >>> path.stat().st_size > 0
    True
    """
    if not isinstance(densities, Trajectory):
        raise TypeError(f"densities must be a run that integrate returned, got {type(densities).__name__}.")
    if not isinstance(grid, Grid):
        raise TypeError(f"grid must be a jaxflow.density.Grid, got {type(grid).__name__}.")
    _check.require_integer("frames", frames, 2)
    _check.require_positive(seconds=seconds)
    values, times = frames_of(densities, grid)
    if times is None or len(values) < 2:
        raise ValueError(f"densities must have at least 2 times to be animated, got {len(values)}.")
    members = None if points is None else _members(points, len(values), grid.dimensions)
    chosen = np.unique(np.linspace(0, len(values) - 1, min(frames, len(values))).round().astype(int))
    ax = axes(ax)
    draw = (_draw_line if grid.dimensions == 1 else _draw_plane)(
        ax, values[chosen], grid, members is not None
    )

    def show(i: int) -> None:
        draw(values[i], None if members is None else members[:, i])
        ax.set_title(f"t = {times[i]:.2f} (steps × learning rate)", fontsize="medium")

    animate(ax.figure, show, chosen, path, seconds=seconds)
    return ax


def _members(points: Any, count: int, dimensions: int) -> np.ndarray:
    found = drawable_values(points)
    found = found[..., None] if found.ndim == 2 else found
    if found.ndim != 3 or found.shape[1:] != (count, dimensions):
        raise ValueError(
            f"points must have shape (n, {count}, {dimensions}), those of members at the densities' times, got "
            f"{np.shape(points)}."
        )
    return found


def _draw_line(ax: Any, values: np.ndarray, grid: Grid, bars: bool) -> Any:
    """A curve and bars, and what moves them."""
    x, (low,), (high,) = (np.asarray(a) for a in (grid.centers(0), grid.low, grid.high))
    edges = np.linspace(low, high, min(grid.shape[0], 60) + 1)
    if bars:
        steps = ax.stairs(np.zeros(edges.size - 1), edges, fill=True, color="0.82", label="members")
    (line,) = ax.plot(x, values[0], label="density", **stroke(0))
    # A narrow start may be cut off, so that what comes of it is seen.
    top = 1.15 * min(values.max(), 3 * np.median(values.max(1)))
    ax.set(xlabel="x", ylabel="density p(x)", xlim=(low, high), ylim=(0, top))
    tidy(ax)

    def draw(p: np.ndarray, members: np.ndarray | None) -> None:
        line.set_ydata(p)
        if members is not None:
            counts = np.histogram(members[np.isfinite(members)], edges)[0]
            steps.set_data(counts / (len(members) * (edges[1] - edges[0])))

    return draw


def _draw_plane(ax: Any, values: np.ndarray, grid: Grid, dots: bool) -> Any:
    """Colours and points, and what moves them."""
    (left, bottom), (right, top) = np.asarray(grid.low), np.asarray(grid.high)
    across, up = grid.shape
    edges = np.linspace(left, right, across + 1), np.linspace(bottom, top, up + 1)
    colours = ax.pcolormesh(*edges, values[0].T, cmap=FILL, vmin=0, vmax=1)
    ax.figure.colorbar(colours, ax=ax, label="density, as a share of its highest value")
    if dots:
        drawn = ax.scatter([], [], s=5, color=COLOURS[1], linewidths=0, alpha=0.6, label="members")
        ax.legend(fontsize="small", loc="upper right", framealpha=0.85, edgecolor="none")
    ax.set(xlabel="$x_1$", ylabel="$x_2$", xlim=(left, right), ylim=(bottom, top))

    def draw(p: np.ndarray, members: np.ndarray | None) -> None:
        colours.set_array(p.T / p.max())
        if members is not None:
            drawn.set_offsets(members[np.isfinite(members).all(1)])

    return draw
