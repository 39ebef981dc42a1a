"""Slices of a landscape as contours or as a lit surface, with the paths that were projected on them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxflow import _check
from jaxflow.landscape import Projection, Slice, project
from jaxflow.plot.style import COLOURS, axes, drawable_values, stroke, tidy

PALETTE = "viridis_r"  # low is light, so that dark lines are seen in the valleys
WIDE = 10  # a ratio of the largest to the least loss from which heights are logarithmic
LIGHT = {"azdeg": 315, "altdeg": 50}
DARKEST = 0.6  # of the height: by so much the palette goes on beyond a surface
RAISED = 0.01  # of the height: how far a path lies above its surface


class _Colours(NamedTuple):
    """The lowest and the highest colour, and about how many there are."""

    low: float
    high: float
    levels: int


def landscape(
    slice: Slice,
    paths: Mapping[str, Any] | None = None,
    ax: Any = None,
    *,
    kind: str = "contours",
    levels: int = 16,
    limits: tuple[float, float] | None = None,
    label: str = "loss",
) -> Any:
    """A slice: in one direction a line, in two filled contours or a lit surface, with paths on it.

    Where the largest loss is more than ten times the least, and all are positive, heights are logarithmic.

    **Arguments**

    - `slice`: what `jaxflow.landscape.slice` returned.
    - `paths`: by the name to show, what `jaxflow.landscape.project` takes or returned: trajectories of parameters,
      paths between minima, projections. An open circle is the start, a filled one the end. The legend says what share
      of the motion the plane holds. They need two directions.
    - `ax`: the Axes to draw on; default the current ones. A surface needs three-dimensional ones, such as
      `figure.add_subplot(projection="3d")`.
    - `kind`: "contours" or "surface"; a slice of one direction is always a line.
    - `levels`: about how many contours there are, an integer at least 2.
    - `limits`: the lowest and the highest colour, so that several slices can be compared; default the least and the
      largest loss of this one.
    - `label`: what the slice shows, such as "test loss".

    **Returns** the Axes.

    **Raises** `TypeError` when `slice` is not a slice; `ValueError` for another kind, paths on a line or not like
    the parameters of the slice, a slice without a finite loss, limits that are not two numbers in order, or a
    surface on flat Axes.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> from matplotlib.figure import Figure
    >>> loss = lambda x: x[0] ** 2 + 10 * x[1] ** 2
    >>> run = jf.iterate(jf.optim.gd(0.05), loss, jnp.ones(2), steps=20)
    >>> plane = jf.landscape.slice(loss, run.params, jf.landscape.principal_directions(run))
    >>> ax = jf.plot.landscape(plane, {"gradient descent": run}, Figure().add_subplot())
    >>> ax.get_xlabel(), ax.get_legend_handles_labels()[1]
    ('principal direction 1 (76 %)', ['gradient descent (plane holds 100 %)'])
    """
    if not isinstance(slice, Slice):
        raise TypeError(f"slice must be what jaxflow.landscape.slice returns, got {type(slice).__name__}.")
    _check.require_choice("kind", kind, ("contours", "surface"))
    _check.require_integer("levels", levels, 2)
    losses = drawable_values(slice.losses)
    if losses.ndim != len(slice.coordinates) or not np.isfinite(losses).any():
        raise ValueError("slice must be one slice with a finite loss, not a stack of them or a lost one.")
    low, high = _limits(limits, losses)
    given = {name: _project_path(path, slice) for name, path in (paths or {}).items()}
    if len(slice.coordinates) == 1:
        if given:
            raise ValueError(f"paths must be left out on a line, got {', '.join(given)}.")
        return _line(axes(ax), slice, losses, label)
    ax = axes(ax)
    if kind == "surface" and not hasattr(ax, "plot_surface"):
        raise ValueError('ax must be three-dimensional for a surface: figure.add_subplot(projection="3d").')
    if kind == "surface":
        _surface(ax, slice, np.clip(losses, low, high), given, label)
    else:
        _contours(ax, slice, losses, given, _Colours(low, high, levels), label)
    ax.set(**dict(zip(("xlabel", "ylabel"), slice.directions.labels, strict=True)))
    return ax


def _project_path(path: Any, slice: Slice) -> Projection:
    return path if isinstance(path, Projection) else project(path, slice)


def _line(ax: Any, slice: Slice, losses: np.ndarray, label: str) -> Any:
    lines = len(ax.get_lines())
    ax.plot(np.asarray(slice.coordinates[0]), losses, label=label, **stroke(lines))
    if _is_wide(losses):
        ax.set_yscale("log")
    ax.set(xlabel=slice.directions.labels[0], ylabel=label)
    return tidy(ax, legend=False)


def _is_wide(losses: np.ndarray) -> bool:
    """Whether heights are better seen as logarithms."""
    finite = losses[np.isfinite(losses)]
    return bool(finite.min() > 0 and finite.max() > WIDE * finite.min())


def _contours(
    ax: Any, slice: Slice, losses: np.ndarray, paths: dict[str, Projection], colours, label
) -> None:
    from matplotlib.colors import LogNorm

    x, y = map(np.asarray, slice.coordinates)
    low, high, levels = colours
    if _is_wide(np.array([low, high])):
        at, scale = np.geomspace(low, high, levels + 1), {"norm": LogNorm(low, high)}
    else:
        at, scale = np.linspace(low, high if high > low else low + 1, levels + 1), {}
    filled = ax.contourf(x, y, losses.T, levels=at, cmap=PALETTE, extend=_extend(losses, at), **scale)
    ax.contour(x, y, losses.T, levels=at, colors="0.25", linewidths=0.3)
    ax.figure.colorbar(filled, ax=ax, label=label, format="%.3g")
    for i, (name, path) in enumerate(paths.items()):
        line = drawable_values(path.coordinates)
        colour = _colour(i)
        # A pale edge, so that every colour is seen on dark and on light.
        ax.plot(line[:, 0], line[:, 1], color="white", linewidth=3.2, zorder=2)
        dash = stroke(i)["linestyle"]
        named = _legend_entry(name, path)
        ax.plot(line[:, 0], line[:, 1], label=named, color=colour, linewidth=1.8, linestyle=dash, zorder=3)
        ends = {"color": colour, "markersize": 7, "zorder": 4, "linestyle": ""}
        finite = line[np.isfinite(line).all(1)]
        ax.plot(*finite[:1].T, marker="o", markerfacecolor="white", **ends)
        ax.plot(*finite[-1:].T, marker="o", markeredgecolor="white", **ends)
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    if paths:
        ax.legend(fontsize="small", framealpha=0.85, edgecolor="none", loc="best")


def _legend_entry(name: str, path: Projection) -> str:
    percent = 100 * float(path.share)
    return f"{name} (plane holds {percent:.{0 if percent >= 10 else 2}{'f' if percent >= 10 else 'g'}} %)"


def _limits(limits: Any, losses: np.ndarray) -> tuple[float, float]:
    """The ends of the colours."""
    if limits is None:
        return float(np.nanmin(losses)), float(np.nanmax(losses))
    ends = drawable_values(limits)
    if ends.shape != (2,) or not ends[0] < ends[1]:
        raise ValueError(f"limits must be two finite numbers, the lower first, got {limits!r}.")
    return float(ends[0]), float(ends[1])


def _extend(losses: np.ndarray, at: np.ndarray) -> Any:
    """Where there are losses beyond the ends of the colours."""
    room = 1e-9 * np.ptp(at)
    below, above = np.nanmin(losses) < at[0] - room, np.nanmax(losses) > at[-1] + room
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[
        bool(below), bool(above)
    ]


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _surface(ax: Any, slice: Slice, losses: np.ndarray, paths: dict[str, Projection], label) -> None:
    import matplotlib
    from matplotlib.colors import LightSource
    from matplotlib.ticker import MaxNLocator

    x, y = map(np.asarray, slice.coordinates)
    wide = _is_wide(losses)
    height = np.log10(losses) if wide else losses
    shown = np.where(np.isfinite(height), height, np.nanmax(height))
    # Slopes as they look in the box that the axes draw, whatever the units.
    size = max(np.ptp(shown), np.finfo(float).tiny)
    steps = {"dx": 1 / (len(x) - 1), "dy": 1 / (len(y) - 1), "vert_exag": 1 / size}
    colours = LightSource(**LIGHT).shade(
        shown.T,
        matplotlib.colormaps[PALETTE],
        blend_mode="soft",
        vmax=shown.max() + DARKEST * size,  # dark lines are seen on the heights too
        **steps,
    )
    ax.computed_zorder = False  # a path is seen through the hill before it
    ax.plot_surface(
        *np.meshgrid(x, y),
        shown.T,
        facecolors=colours,
        rcount=len(y),
        ccount=len(x),
        linewidth=0,
        antialiased=False,
        zorder=1,
    )
    from scipy.interpolate import RegularGridInterpolator  # here, as it is slow to import

    on = RegularGridInterpolator((x, y), shown, bounds_error=False, fill_value=np.nan)
    for i, (name, path) in enumerate(paths.items()):
        line = drawable_values(path.coordinates)
        line = line[np.isfinite(line).all(1)]
        up = on(line) + RAISED * size
        ends = {"color": _colour(i), "markersize": 6, "zorder": 4, "linestyle": "", "marker": "o"}
        named = _legend_entry(name, path)
        ax.plot(line[:, 0], line[:, 1], up, label=named, zorder=3, **{**stroke(i), "color": _colour(i)})
        ax.plot(*line[:1].T, up[:1], markerfacecolor="white", **ends)
        ax.plot(*line[-1:].T, up[-1:], **ends)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_major_locator(MaxNLocator(5))
    ax.set_zlabel(f"log₁₀ {label}" if wide else label)
    if paths:
        ax.legend(fontsize="small", frameon=False, loc="upper right")
