"""Paths in the plane over the contours of a two-dimensional objective."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.plot.style import COLOURS, axes, drawable_values, tidy
from jaxflow.solve import Trajectory

GRID = 201
FARTHEST = 1e30  # a point of a run on its way to infinity
MARKERS = "osD^vP*"


def plane(
    objective: Callable[[jax.Array], jax.Array],
    paths: Mapping[str, Trajectory] | None = None,
    ax: Any = None,
    *,
    extent: tuple[float, float, float, float] | None = None,
    levels: int = 18,
) -> Any:
    """Paths of several runs over the contours of a function of two parameters.

    **Arguments**

    - `objective`: a function `loss(x)` for x of shape (2,). Contours are spaced evenly in log(loss − least + 1).
    - `paths`: trajectories of parameters, values (T, 2), by the name to show. Runs that record every step
      (iterates) show each record by a marker, others are smooth lines; a filled dot is the start.
    - `ax`: the Axes to draw on; default the current ones.
    - `extent`: (left, right, bottom, top); by default what the paths span, with a margin.
    - `levels`: the number of contour levels.

    **Returns** the Axes.

    **Raises** `ValueError` for paths that are not (T, 2), an extent that is not four such numbers, or neither a
    finite point nor an extent.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> problem = jf.problems.ravine()
    >>> run = jf.iterate(jf.optim.gd(0.05), problem.objective, problem.params, steps=10)
    >>> from matplotlib.figure import Figure
    >>> ax = jf.plot.plane(problem.objective, {"gradient descent": run}, Figure().add_subplot())
    >>> ax.get_xlabel(), ax.get_legend_handles_labels()[1]
    ('$x_1$', ['gradient descent'])
    """
    points = {name: _points(name, run) for name, run in (paths or {}).items()}
    left, right, bottom, top = _extent(points) if extent is None else _check_extent(extent)
    ax = axes(ax)
    x, y = np.linspace(left, right, GRID), np.linspace(bottom, top, GRID)
    grid = jnp.stack(jnp.meshgrid(jnp.asarray(x), jnp.asarray(y)), -1).reshape(-1, 2)
    z = drawable_values(jax.jit(jax.vmap(objective))(grid)).reshape(GRID, GRID)
    if np.isfinite(z).any():
        height = np.log1p(z - np.nanmin(z))
        ax.contourf(x, y, height, levels=levels, cmap="Greys", alpha=0.35)
        ax.contour(x, y, height, levels=levels, colors="0.6", linewidths=0.4)
    for i, (name, path) in enumerate(points.items()):
        discrete = int(np.max((paths or {})[name].evaluations)) == len(path) - 1
        marker = {"marker": MARKERS[i % len(MARKERS)], "markersize": 3.5} if discrete else {}
        line = {"linewidth": 0.8 if discrete else 1.8, "color": COLOURS[i % len(COLOURS)]}
        ax.plot(path[:, 0], path[:, 1], label=name, **line, **marker)
        ax.plot(path[0, 0], path[0, 1], "o", color="black", markersize=6)
    ax.set(xlim=(left, right), ylim=(bottom, top), xlabel="$x_1$", ylabel="$x_2$")
    tidy(ax, legend=bool(points))
    ax.grid(False)
    return ax


def _points(name: str, run: Trajectory) -> np.ndarray:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(run.values)]
    if len(leaves) != 1 or leaves[0].ndim != 2 or leaves[0].shape[1] != 2:
        raise ValueError(
            f"plane draws values of shape (T, 2); {name!r} recorded {[leaf.shape for leaf in leaves]}."
        )
    return np.where(np.abs(leaves[0]) < FARTHEST, leaves[0], np.nan)


def _extent(points: dict[str, np.ndarray]) -> tuple[float, float, float, float]:
    if not points:
        raise ValueError("plane needs paths, or an extent (left, right, bottom, top).")
    everything = np.concatenate(list(points.values()))
    everything = everything[np.isfinite(everything).all(1)]
    if not everything.size:
        raise ValueError("plane needs a finite point in its paths, or an extent (left, right, bottom, top).")
    low, high = everything.min(0), everything.max(0)
    margin = 0.15 * np.maximum(high - low, 1e-3 + 0.1 * np.abs(high))
    (left, bottom), (right, top) = low - margin, high + margin
    return float(left), float(right), float(bottom), float(top)


def _check_extent(extent: Any) -> tuple[float, float, float, float]:
    ends = drawable_values(extent)
    if ends.shape != (4,) or not (np.abs(ends) < FARTHEST).all() or ends[0] == ends[1] or ends[2] == ends[3]:
        raise ValueError(
            f"extent must be four finite numbers, left and right, bottom and top apart, got {extent!r}."
        )
    return tuple(map(float, ends))  # type: ignore[return-value]
