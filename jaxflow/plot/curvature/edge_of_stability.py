"""Past the edge of stability: loss, effective sharpness and distances of the iterates and of the flows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxflow.comparison import EdgeStudy
from jaxflow.comparison.edge.results import is_below_edge
from jaxflow.plot.style import CLOCK, COLOURS, drawable_values, set_logarithmic, tidy

THRESHOLD = 2.0  # of the effective sharpness, whose unit is 1 / learning rate
RAW = {"color": "0.55", "linewidth": 0.8, "zorder": 1}
ITERATES = {"color": COLOURS[0], "linewidth": 3.2, "alpha": 0.45, "zorder": 2, "solid_capstyle": "butt"}
# Of each flow: its name, its line, and what its loss is.
FLOWS = {
    "stable": ("stable flow", {"color": COLOURS[5], "linewidth": 1.7, "linestyle": "--", "zorder": 3}, ""),
    "central": ("central flow", {"color": COLOURS[1], "linewidth": 1.7, "zorder": 4}, ": predicted average"),
    "rods": (
        "rod flow",
        {"color": COLOURS[2], "linewidth": 1.2, "linestyle": ":", "zorder": 5},
        ": mean of both ends",
    ),
    "pairs": (
        "flow of pairs",
        {"color": COLOURS[3], "linewidth": 1.4, "linestyle": (0, (6, 1.5, 1.5, 1.5)), "zorder": 6},
        ": mean of both ends",
    ),
}
LEFT = {"color": "0.35", "linestyle": ":", "linewidth": 1.0, "zorder": 0}
LEVEL = {"color": "0.35", "linestyle": (0, (2, 2)), "linewidth": 1.2, "zorder": 5}


def edge(study: EdgeStudy, axes: Sequence[Any] | None = None) -> Sequence[Any]:
    """Three panels over the time t: the loss, the effective sharpness, and the distance from the iterates.

    - Loss: that of the iterates, thin and averaged over time; that of the stable flow; what the central flow predicts
      of the average, where there is one; the mean of both ends of rods and pairs.
    - Effective sharpness, with the edge of stability at 2: that of the iterates at their midpoints and of the flows.
      The smaller eigenvalues are thinner. For an optimizer whose threshold is not known there are no curves.
    - Distance of the flows from the midpoints of the iterates, and the size of the iterates' oscillation.

    A dotted line through all three is at `EdgeStudy.left`, where the iterates have left the stable flow. A study that
    did not reach the edge says so in its legend.

    **Arguments**

    - `study`: what `jaxflow.edge_study` returned.
    - `axes`: three Axes; by default new ones, one below another, on a new figure.

    **Returns** the three Axes.

    **Raises** `ValueError` for another number of Axes.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> from matplotlib.figure import Figure
    >>> loss = lambda p: 0.5 * p[1] * p[0] ** 2 + 0.05 * (27.2 - p[1]) ** 2
    >>> study = jf.edge_study(jf.optim.gd(0.1), loss, jnp.array([0.6, 20.0]), steps=30, modes=1, level=None)
    >>> [ax.get_ylabel() for ax in jf.plot.edge(study, Figure().subplots(3))]
    ['loss', 'effective sharpness', 'distance from the iterates']
    """
    if axes is None:
        import matplotlib.pyplot as plt

        axes = list(plt.subplots(3, 1, figsize=(8, 10), sharex=True, layout="constrained")[1])
    if len(axes) != 3:
        raise ValueError(f"axes must be three Axes, got {len(axes)}.")
    times = np.asarray(study.times)
    _losses(axes[0], study, times)
    _sharpness(axes[1], study, times)
    _distances(axes[2], study, times)
    left = float(study.left)
    if is_below_edge(study):
        axes[1].plot([], [], " ", label="the edge was not reached")
    for ax in axes:
        ax.set(xlabel=CLOCK, xlim=(0, times[-1]))
        if np.isfinite(left):
            named = "" if ax is axes[2] else "_"  # one legend tells it
            ax.axvline(left, label=f"{named}iterates have left the stable flow", **LEFT)
        tidy(ax)
    return axes


def _losses(ax: Any, study: EdgeStudy, times: np.ndarray) -> None:
    ax.plot(times, drawable_values(study.iterates.loss), label="iterates", **RAW)
    ax.plot(times, drawable_values(study.averaged_loss), label="iterates, averaged over time", **ITERATES)
    for name, path in study.flows.items():
        called, style, what = FLOWS[name]
        ax.plot(times, drawable_values(path.loss), label=called + what, **style)
    ax.set(ylabel="loss")
    set_logarithmic(
        ax, study.iterates.loss, study.averaged_loss, *(path.loss for path in study.flows.values())
    )


def _sharpness(ax: Any, study: EdgeStudy, times: np.ndarray) -> None:
    ax.axhline(THRESHOLD, label="edge of stability", **LEVEL)
    iterates = ITERATES | {"linewidth": 1.0, "alpha": 0.6}
    named = [("iterates, at their midpoints", study.iterates, iterates)]
    named += [(FLOWS[name][0], path, FLOWS[name][1]) for name, path in study.flows.items()]
    for name, path, style in named:
        leading, *others = np.asarray(path.eigenvalues).T
        ax.plot(times, leading, label=name, **style)
        for line in others:
            ax.plot(times, line, **style | {"linewidth": 0.55 * style["linewidth"]})
    ax.set(ylabel="effective sharpness")


def _distances(ax: Any, study: EdgeStudy, times: np.ndarray) -> None:
    ax.plot(times, drawable_values(study.iterates.distance), label="iterates, their oscillation", **RAW)
    for name, path in study.flows.items():
        called, style, _ = FLOWS[name]
        ax.plot(times, drawable_values(path.distance), label=called, **style)
    ax.set(ylabel="distance from the iterates", yscale="log")
