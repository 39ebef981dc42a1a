"""Gradient descent past the edge of stability in a valley of two coordinates, as it moves."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments.common import Moving
from jaxflow.plot.style import COLOURS, tidy

RATE, FAR, TILT, STEPS = 0.1, 24.0, 0.5, 240
START = (0.3, 17.0)
LOW, HIGH = (-1.2, 16.0), (1.2, 24.0)


def valley(p):
    """Minimal in x near 0, and the sharper there the farther up; its edge is at y = 2/RATE = 20."""
    return 0.5 * p[1] * p[0] ** 2 + 0.05 * (FAR - p[1]) ** 2 + TILT * (1 - p[0])


def moving() -> Moving:
    """Iterates, their pairs and both flows, step by step."""
    descent, start = jf.optim.gd(RATE), jnp.asarray(START)
    run = jf.iterate(descent, valley, start, steps=STEPS)
    points = np.asarray(run.values)
    solve = lambda flow: np.asarray(jf.integrate(flow, start, run.times).values)
    lines = {
        "gradient flow": solve(jf.dynamics.gradient_flow(valley)),
        "flow of pairs: midpoint": solve(jf.dynamics.pair_flow(descent, valley, order=4)),
    }
    figure = Figure(figsize=(9, 4.2), dpi=80, layout="constrained")
    plane, losses = figure.subplots(1, 2)
    x, y = (np.linspace(low, high, 121) for low, high in zip(LOW, HIGH, strict=True))
    grid = jnp.stack(jnp.meshgrid(jnp.asarray(x), jnp.asarray(y), indexing="ij"), -1)
    heights = np.asarray(jax.vmap(jax.vmap(valley))(grid)).T
    plane.contour(x, y, heights, levels=np.geomspace(0.5, 60, 14), colors="0.8", linewidths=0.7)
    plane.axhline(2 / RATE, color="0.35", linestyle=":", linewidth=1, label="edge of stability")
    (trail,) = plane.plot(
        [], [], "o-", color=COLOURS[0], markersize=2.5, linewidth=0.5, label="gradient descent"
    )
    (now,) = plane.plot([], [], "o", color=COLOURS[0], markersize=7)
    styles = ((COLOURS[1], "--"), (COLOURS[3], "-"))
    drawn = {}
    for (name, _), (colour, dash) in zip(lines.items(), styles, strict=True):
        drawn[name] = plane.plot([], [], color=colour, linestyle=dash, linewidth=2, label=name)[0]
    plane.set(xlabel="x", ylabel="y, the curvature across", xlim=(LOW[0], HIGH[0]), ylim=(LOW[1], HIGH[1]))
    tidy(plane, legend=False)
    plane.legend(loc="lower center", fontsize="small", framealpha=0.9, ncols=2, edgecolor="none")
    value = lambda path: np.asarray(jax.vmap(valley)(jnp.asarray(path)))
    (loss,) = losses.plot([], [], color=COLOURS[0], linewidth=1)
    (slow,) = losses.plot([], [], color=COLOURS[1], linestyle="--", linewidth=2)
    of_run, of_flow = value(points), value(lines["gradient flow"])
    losses.set(
        xlabel="steps",
        ylabel="loss",
        xlim=(0, STEPS),
        yscale="log",
        ylim=(0.8 * of_flow.min(), 1.2 * of_run.max()),
    )
    tidy(losses, legend=False)

    def show(k: int) -> None:
        recent = points[max(0, k - 12) : k + 1]
        trail.set_data(*recent.T)
        now.set_data(*points[k : k + 1].T)
        for name, path in lines.items():
            drawn[name].set_data(*path[: k + 1].T)
        loss.set_data(range(k + 1), of_run[: k + 1])
        slow.set_data(range(k + 1), of_flow[: k + 1])
        figure.suptitle(f"step {k}", fontsize="medium")

    return Moving(figure, show, range(0, STEPS + 1, 3))
