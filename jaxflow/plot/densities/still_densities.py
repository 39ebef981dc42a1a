"""Pictures of densities: curves or a map over time in one coordinate, contours and currents in two; free energies."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxflow import _check
from jaxflow.density import Grid
from jaxflow.plot.style import CLOCK, COLOURS, axes, drawable_values, lone_marker, stroke, tidy
from jaxflow.solve import Trajectory

PALETTE = "viridis"
FILL = "Blues"  # pale where there is little, so that arrows and points are seen on it
SHOWN = 5  # curves of a run, by default
ARROWS = 18  # along the longer side
FAINT = 0.05  # of the largest current: arrows below are left out


class Frames(NamedTuple):
    """Densities (K, *shape), and their times where they have some."""

    values: np.ndarray
    times: np.ndarray | None


def density(
    densities: Any,
    grid: Grid,
    ax: Any = None,
    *,
    kind: str = "lines",
    at: Any = None,
    currents: Any = None,
    points: Any = None,
    levels: int = 12,
) -> Any:
    """A density: in one coordinate as curves or as a map over time, in two as filled contours.

    **Arguments**

    - `densities`: what `integrate` returned for `fokker_planck(dynamics, grid)`, or one density, an array of the
      shape of the grid.
    - `grid`: its `Grid`.
    - `ax`: the Axes to draw on; default the current ones.
    - `kind`: in one coordinate "lines", a curve for each time; or "map", with time to the right, the coordinate
      upwards and the density as a colour.
    - `at`: the times to draw, a number or several, of which the nearest recorded ones are taken. Default: five spread
      evenly over the records, for curves; all for a map; the last in two coordinates, where only one can be drawn.
    - `currents`: in two coordinates, an array (*shape, 2) such as `jaxflow.density.current` returns, drawn as arrows.
      Their length is in proportion to the current.
    - `points`: iterates or members on top. In two coordinates an array (n, 2). In one coordinate an array (n,), shown
      as a histogram under the curves. What is not finite is left out.
    - `levels`: about how many contours there are in two coordinates, an integer at least 2.

    **Returns** the Axes.

    **Raises** `TypeError` when `grid` is not a grid; `ValueError` for densities, currents or points of another
    shape, densities that are all 0 or not finite, another kind, a map of one density, or several times in two
    coordinates.

    >>> import jaxflow as jf
    >>> from matplotlib.figure import Figure
    >>> grid = jf.density.Grid(-3.0, 3.0, 120)
    >>> equation = jf.density.fokker_planck(jf.dynamics.langevin(lambda x: (x**2 - 1) ** 2, 0.3), grid)
    >>> run = jf.integrate(equation, jf.density.gaussian(grid, -1.0, 0.05), [0.0, 0.5, 4.0])
    >>> jf.plot.density(run, grid, Figure().add_subplot()).get_legend_handles_labels()[1]
    ['t = 0', 't = 0.5', 't = 4']
    """
    if not isinstance(grid, Grid):
        raise TypeError(f"grid must be a jaxflow.density.Grid, got {type(grid).__name__}.")
    _check.require_choice("kind", kind, ("lines", "map"))
    _check.require_integer("levels", levels, 2)
    frames = frames_of(densities, grid)
    if points is not None:
        points = _points(points, grid.dimensions)
    if grid.dimensions == 1:
        if currents is not None:
            raise ValueError("currents must be left out in one coordinate, where arrows have no room.")
        if kind == "lines":
            return _lines(axes(ax), _choose(frames, at, SHOWN), grid, points)
        if points is not None:
            raise ValueError("points must be left out of a map over time, as they belong to one time.")
        return _map(axes(ax), _choose(frames, at, None), grid)
    if kind != "lines":
        raise ValueError(
            f"kind must be left out in two coordinates, which are drawn as contours, got {kind!r}."
        )
    if currents is not None:
        currents = np.asarray(currents, float)
        if currents.shape != (*grid.shape, 2):
            raise ValueError(f"currents must have shape {(*grid.shape, 2)}, got {currents.shape}.")
    frame = _choose(frames, at, 1)
    if len(frame.values) != 1:
        raise ValueError(f"at must be one time in two coordinates, got {len(frame.values)}.")
    return _contours(axes(ax), frame, grid, currents, points, levels)


def frames_of(densities: Any, grid: Grid) -> Frames:
    if isinstance(densities, Trajectory):
        values, times = densities.values, np.asarray(densities.times, float)
        found = np.asarray(values, float) if not isinstance(values, (dict, tuple, list)) else np.zeros(0)
        rule = f"recorded densities of shape (T, {', '.join(map(str, grid.shape))})"
        right = found.shape == (times.size, *grid.shape)
    else:
        found, times = np.asarray(densities, float), None
        rule, right = f"a run or an array of shape {grid.shape}", found.shape == grid.shape
        found = found[None]
    if not right:
        got = found.shape if times is not None else found.shape[1:]
        raise ValueError(f"densities must be {rule}, as the grid has, got shape {got}.")
    if not np.isfinite(found).all() or not (found.reshape(len(found), -1).max(1) > 0).all():
        raise ValueError(
            "densities must be finite and above 0 somewhere at every time, got some that are not."
        )
    return Frames(found, times)


def _points(points: Any, dimensions: int) -> np.ndarray:
    found = drawable_values(points)
    if dimensions == 1 and found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != dimensions or (dimensions == 2 and found.shape[1] != 2):
        raise ValueError(
            f"points must have shape {'(n,)' if dimensions == 1 else '(n, 2)'}, got {found.shape}."
        )
    return found[np.isfinite(found.reshape(len(found), -1)).all(1)]


def _choose(frames: Frames, at: Any, most: int | None) -> Frames:
    """The frames nearest to the times asked for, or `most` of them, of which the last is one."""
    if frames.times is None:
        if at is not None:
            raise ValueError(f"at must be left out for one density, which has no time, got {at!r}.")
        return frames
    count = len(frames.times)
    if at is None:
        index = np.arange(count) if most is None else np.linspace(0, count - 1, min(most, count)).round()
        index = index.astype(int) if most != 1 else np.array([count - 1])
    else:
        wanted = drawable_values(np.atleast_1d(at))
        low, high = frames.times[0], frames.times[-1]
        if wanted.ndim != 1 or not ((wanted >= low - 1e-9) & (wanted <= high * (1 + 1e-6) + 1e-9)).all():
            raise ValueError(
                f"at must be times between {low:.6g} and {high:.6g}, those of the run, got {at!r}."
            )
        index = np.abs(frames.times[None] - wanted[:, None]).argmin(1)
    return Frames(frames.values[index], frames.times[index])


def _lines(ax: Any, frames: Frames, grid: Grid, points: np.ndarray | None) -> Any:
    x = np.asarray(grid.centers(0))
    if points is not None and points.size:
        low, high = float(grid.low[0]), float(grid.high[0])
        bins = np.linspace(low, high, min(grid.shape[0], 60) + 1)
        # Those outside count too, so that the bars are shares of all.
        weights = np.full(points.size, 1 / (points.size * (bins[1] - bins[0])))
        ax.hist(points, bins, weights=weights, color="0.82", label=f"{points.size} points")
    for i, p in enumerate(frames.values):
        label = None if frames.times is None else f"t = {frames.times[i]:.3g}"
        ax.plot(x, p, label=label, **stroke(i))
    ax.set(xlabel="x", ylabel="density p(x)", xlim=(float(grid.low[0]), float(grid.high[0])))
    ax.set_ylim(bottom=0)
    return tidy(ax)


def _map(ax: Any, frames: Frames, grid: Grid) -> Any:
    if frames.times is None or len(frames.times) < 2:
        raise ValueError('kind must be "lines" for a density at one time, got "map".')
    edges = np.linspace(float(grid.low[0]), float(grid.high[0]), grid.shape[0] + 1)
    middles = (frames.times[1:] + frames.times[:-1]) / 2
    times = np.array([frames.times[0], *middles, frames.times[-1]])
    # A narrow start would leave all else dark: the colours end at what one value in fifty exceeds.
    top = float(np.quantile(frames.values[frames.values > 0.01 * frames.values.max()], 0.98))
    over = "max" if frames.values.max() > top else "neither"
    drawn = ax.pcolormesh(times, edges, frames.values.T, cmap=PALETTE, vmin=0, vmax=top, rasterized=True)
    ax.figure.colorbar(drawn, ax=ax, label="density p(x, t)", extend=over)
    ax.set(xlabel=CLOCK, ylabel="x")
    return ax


def _contours(ax: Any, frame: Frames, grid: Grid, currents: Any, points: Any, levels: int) -> Any:
    x, y = (np.asarray(grid.centers(axis)) for axis in (0, 1))
    p = frame.values[0].T
    filled = ax.contourf(x, y, p, levels=levels, cmap=FILL)
    ax.contour(x, y, p, levels=filled.levels[1:], colors="0.55", linewidths=0.4)
    ax.figure.colorbar(filled, ax=ax, label="density p(x)", format="%.2g")
    if points is not None:
        few = {"s": 9, "alpha": 0.8} if len(points) < 300 else {"s": 3, "alpha": 0.4}
        ax.scatter(*points.T, color=COLOURS[1], linewidths=0, zorder=3, label=f"{len(points)} points", **few)
    if currents is not None:
        draw_currents(ax, x, y, currents)
    (left, bottom), (right, top) = np.asarray(grid.low), np.asarray(grid.high)
    title = "" if frame.times is None else f"t = {frame.times[0]:.3g} (steps × learning rate)"
    ax.set(xlabel="$x_1$", ylabel="$x_2$", xlim=(left, right), ylim=(bottom, top), title=title)
    tidy(ax, legend=False)
    ax.grid(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small", loc="upper right", framealpha=0.85, edgecolor="none")
    return ax


def draw_currents(
    ax: Any, x: np.ndarray, y: np.ndarray, currents: np.ndarray, key: Any = (0.08, 1.03)
) -> None:
    """The mean current of each block of cells, where it is not faint; a block is as large as an arrow needs.

    An arrow along the axis in which most cells are crossed is drawn at `key`, in shares of the axes, with its size.
    """
    shape = currents.shape[:2]
    block = max(1, -(-max(shape) // ARROWS))
    some = [(n // block) * block for n in shape]
    mean = lambda z: (
        z[: some[0], : some[1]].reshape(some[0] // block, block, some[1] // block, block, -1).mean((1, 3))
    )
    flow = mean(currents)
    places = mean(np.stack(np.meshgrid(x, y, indexing="ij"), -1))
    size = np.hypot(flow[..., 0], flow[..., 1])
    largest = float(size.max(initial=0.0))
    if not largest > 0:
        return
    seen = size > FAINT * largest
    cells = np.abs(flow[seen]) / (block * np.array([x[1] - x[0], y[1] - y[0]]))
    axis = int(cells.max(0).argmax())
    style: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": cells.max() / 1.4}
    drawn = ax.quiver(*places[seen].T, *flow[seen].T, color=COLOURS[0], width=0.0035, zorder=4, **style)
    shown = float(np.abs(flow[seen][:, axis]).max())
    label: dict[str, Any] = {"labelpos": "E", "angle": 90 * axis, "fontproperties": {"size": 8}}
    ax.quiverkey(drawn, *key, shown, f"current {shown:.2g}", **label)


def free_energy(times: Any, values: Any, ax: Any = None, *, rest: float | None = None) -> Any:
    """Free energies, or other functionals of a density, over time, with a mark at every time at which one rises.

    The free energy with the potential of the law at rest never rises along a Fokker–Planck equation. The loss less
    temperature times entropy may, where the noise is anisotropic.

    **Arguments**

    - `times` (T,): the times, on the clock of steps times the learning rate; or a run, whose times are taken.
    - `values`: an array (T,), or several of them by the name to show, in units of the loss.
    - `ax`: the Axes to draw on; default the current ones.
    - `rest`: the value of the law at rest, a number, drawn as a level line.

    **Returns** the Axes. A triangle is at the end of every interval in which a curve rises by more than 1e-9 of its
    range; the legend counts them.

    **Raises** `ValueError` for values of another shape than the times', or where there are none.

    >>> import jaxflow as jf
    >>> from matplotlib.figure import Figure
    >>> values = {"F": [1.0, 0.5, 0.4], "S": [0.1, 0.2, 0.2]}
    >>> ax = jf.plot.free_energy([0.0, 1.0, 2.0], values, Figure().add_subplot())
    >>> ax.get_legend_handles_labels()[1]
    ['F', 'S: rises in 1 of 2 intervals']
    """
    times = drawable_values(times.times if isinstance(times, Trajectory) else times)
    named = values if isinstance(values, Mapping) else {"free energy": values}
    curves = {name: drawable_values(value) for name, value in named.items()}
    if not curves:
        raise ValueError("values must hold at least one array of the length of times, got none.")
    for name, value in curves.items():
        if times.ndim != 1 or value.shape != times.shape:
            raise ValueError(
                f"values must have the shape of times, {times.shape}, with one axis, got {value.shape} for {name!r}."
            )
    ax = axes(ax)
    for i, (name, value) in enumerate(curves.items()):
        finite = value[np.isfinite(value)]
        rises = np.diff(value) > 1e-9 * np.ptp(finite) if finite.size else np.zeros(0, bool)
        count = int(np.count_nonzero(rises))
        said = f"{name}: rises in {count} of {len(value) - 1} intervals" if count else name
        ax.plot(times, value, label=said, **stroke(i), **lone_marker(value))
        up = np.flatnonzero(rises) + 1
        ax.plot(times[up], value[up], "^", color=COLOURS[i % len(COLOURS)], markersize=5)
    if rest is not None:
        ax.axhline(float(rest), color="0.5", linewidth=1, linestyle=":", label="at rest", zorder=0)
    ax.set(xlabel=CLOCK, ylabel="free energy" if len(curves) == 1 else "units of the loss")
    return tidy(ax)
