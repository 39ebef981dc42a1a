"""The command's figure: the three levels side by side at five times, and what is read off them over time."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from jaxflow.commands.density.levels import Levels, Measures
from jaxflow.commands.density.noisy_problem import NoisyProblem
from jaxflow.plot.densities.still_densities import draw_currents
from jaxflow.plot.style import CLOCK, COLOURS, drawable_values, set_logarithmic, stroke, tidy

MOST_POINTS = 1000
BINS = 40


def figure(problem: NoisyProblem, levels: Levels, measures: Measures) -> Figure:
    """The whole figure."""
    flat = problem.grid.dimensions == 1
    made = Figure(figsize=(16, 7.2 if flat else 12.4), layout="constrained")
    rows = 2 if flat else 4
    parts: Any = made.subfigures(2, 1, height_ratios=(1, 1) if flat else (3, 1.15))
    upper, lower = parts
    count = len(levels.shown)
    panels = np.atleast_2d(upper.subplots(rows - 1, count, sharex=True, sharey=True))
    (_curves if flat else _maps)(panels, problem, levels, measures)
    _draw_over_time(lower.subplots(1, 4), problem, levels, measures)
    setting = f"gd({problem.learning_rate:g}), batch {problem.batch_size}, T = {problem.temperature:.3g}"
    made.suptitle(f"{problem.described}; {setting}", fontsize=11)
    return made


def _title(levels: Levels, k: int) -> str:
    return f"t = {float(levels.density.times[levels.shown[k]]):.3g}"


def _curves(panels: Any, problem: NoisyProblem, levels: Levels, measures: Measures) -> None:
    """Bars of the runs, steps of the paths and the curve of the density, one panel a time."""
    grid, seen = problem.grid, _window(0, problem, levels, measures)
    edges = np.linspace(*seen, BINS + 1)
    x = np.asarray(grid.centers(0))
    for k, ax in enumerate(panels[0]):
        i = levels.shown[k]
        for name, style in (("sgd", {"fill": True, "color": "0.82"}), ("sde", {"color": COLOURS[1]})):
            values = np.asarray(getattr(levels, name).values)[:, i].ravel()
            counts = np.histogram(values[np.isfinite(values)], edges)[0]
            label = {"sgd": f"SGD, {len(values)} runs", "sde": f"SDE, {len(values)} paths"}[name]
            ax.stairs(counts / (len(values) * (edges[1] - edges[0])), edges, label=label, **style)
        ax.plot(x, np.asarray(levels.density.values)[i], label="density", **stroke(0))
        ax.plot(x, measures.rest, label="at rest", **stroke(3))
        ax.set(title=_title(levels, k), xlabel="x", xlim=seen)
        tidy(ax, legend=False)
    panels[0, 0].set(ylabel="density p(x)", ylim=(0, None))
    panels[0, -1].legend(frameon=False, fontsize="small")


def _maps(panels: Any, problem: NoisyProblem, levels: Levels, measures: Measures) -> None:
    """Runs, paths, and the density with its currents, over contours of the loss: a row each, a column a time."""
    grid = problem.grid
    x, y = (np.asarray(grid.centers(axis)) for axis in (0, 1))
    # Levels that are dense where the law is.
    heights = measures.loss.min() + problem.temperature * np.array([0.5, 1, 2, 4, 8, 16, 32, 64])
    reach = [_window(axis, problem, levels, measures) for axis in (0, 1)]
    seen = [np.flatnonzero((c >= low) & (c <= high)) for c, (low, high) in zip((x, y), reach, strict=True)]
    names = {"sgd": "SGD, runs", "sde": "SDE, paths", "density": "density and current"}
    for row, name in enumerate(names):
        for k, ax in enumerate(panels[row]):
            i = levels.shown[k]
            if name == "density":
                p = np.asarray(levels.density.values)[i]
                ax.pcolormesh(x, y, p.T / p.max(), cmap="Blues", vmin=0, vmax=1, rasterized=True)
                draw_currents(ax, x[seen[0]], y[seen[1]], measures.currents[k][np.ix_(*seen)], (0.1, 0.06))
            else:
                points = np.asarray(getattr(levels, name).values)[:MOST_POINTS, i]
                ax.scatter(*points.T, s=2, color=COLOURS[5 if name == "sgd" else 1], linewidths=0)
            ax.contour(x, y, measures.loss.T, levels=heights, colors="0.6", linewidths=0.5, linestyles="-")
            ax.set(xlim=reach[0], ylim=reach[1])
            if row == 0:
                ax.set_title(_title(levels, k))
        panels[row, 0].set_ylabel(f"{names[name]}\n$x_2$")
    for ax in panels[-1]:
        ax.set_xlabel("$x_1$")


def _window(axis: int, problem: NoisyProblem, levels: Levels, measures: Measures) -> tuple[float, float]:
    """The part of an axis of the grid that holds the densities shown and the law at rest, except for 1e-4 of them."""
    mean = np.asarray(levels.density.values)[levels.shown].mean(0) + measures.rest
    share = mean.sum(tuple(i for i in range(mean.ndim) if i != axis)) / mean.sum()
    x = np.asarray(problem.grid.centers(axis))
    inside = x[(share.cumsum() > 1e-4) & (share[::-1].cumsum()[::-1] > 1e-4)]
    room = 0.05 * (inside[-1] - inside[0])
    return float(inside[0] - room), float(inside[-1] + room)


def _draw_over_time(panels: Any, problem: NoisyProblem, levels: Levels, measures: Measures) -> None:
    """Mean losses, entropy, free energy and what is produced, against time."""
    times, over = np.asarray(levels.density.times), measures.over_time
    losses, entropy, free, produced = panels
    for name, label, colour, line in (
        ("sgd", "SGD ± 2 standard errors", COLOURS[5], "--"),
        ("sde", "SDE", COLOURS[1], "-."),
    ):
        mean, error = measures.losses[name]
        losses.fill_between(times, mean - 2 * error, mean + 2 * error, alpha=0.25, color=colour, linewidth=0)
        losses.plot(times, mean, label=label, color=colour, linestyle=line)
    losses.plot(times, over.loss, label="density", **stroke(0))
    losses.axhline(float(measures.at_rest.loss), color="0.5", linestyle=":", linewidth=1, label="at rest")
    losses.set(xlabel=CLOCK, ylabel="mean loss")
    entropy.plot(times, over.entropy, label="density", **stroke(0))
    entropy.axhline(float(measures.at_rest.entropy), color="0.5", linestyle=":", linewidth=1, label="at rest")
    entropy.set(xlabel=CLOCK, ylabel="entropy (nats)")
    naive = np.asarray(over.naive) - float(measures.at_rest.naive)
    curves = {"T·KL, by the potential at rest": over.free_energy, "mean loss − T·entropy": naive}
    jf.plot.free_energy(times, curves, free, rest=0.0)
    free.set_ylabel("free energy above that at rest")
    production = drawable_values(over.production)
    produced.plot(times, production, label="density", **stroke(0))
    set_logarithmic(produced, production)
    produced.set(xlabel=CLOCK, ylabel="entropy production (nats / time)")
    if not problem.isotropic:
        produced.axhline(
            float(measures.at_rest.production), color="0.5", linestyle=":", linewidth=1, label="at rest"
        )
    for ax in (losses, entropy, produced):
        tidy(ax)
