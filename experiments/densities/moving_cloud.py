"""Runs of SGD in a double well and the density that they follow, as they move."""

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments.common import Moving
from jaxflow.plot.style import COLOURS, stroke, tidy


def moving(*, objective, dynamics, grid, start, rate, members, until, frames=81) -> Moving:
    """An ensemble of SGD as bars, its density by the equation, and the loss beneath."""
    steps = round(until / rate)
    every = max(1, steps // (frames - 1))
    mean, deviation = start

    def one(keys):
        begin = mean + deviation * jax.random.normal(keys[0])
        return jf.iterate(
            jf.optim.gd(rate), objective, begin, steps=steps, batch_size=1, key=keys[1], every=every
        )

    runs = jf.ensemble(one, jax.random.split(jax.random.key(7), (members, 2)))
    times = np.asarray(runs.times)[..., : steps // every + 1].reshape(-1, steps // every + 1)[0]
    equation = jf.density.fokker_planck(dynamics, grid)
    law = jf.integrate(equation, jf.density.gaussian(grid, mean, deviation**2), times)
    points = np.asarray(runs.values).reshape(members, -1)
    densities, x = np.asarray(law.values), np.asarray(grid.centers(0))
    edges = np.linspace(-1.8, 1.8, 61)

    figure = Figure(figsize=(6.4, 4.2), dpi=80, layout="constrained")
    ax = figure.add_subplot()
    bars = ax.stairs(
        np.zeros(60), edges, fill=True, color="0.8", label=f"{members} runs of SGD, η = {rate:g}"
    )
    (line,) = ax.plot([], [], label="density", **stroke(1))
    well = 0.25 * (x**2 - 1) ** 2
    ax.plot(x, well, color=COLOURS[5], linestyle=":", linewidth=1.4, label="loss")
    ax.set(xlabel="x", ylabel="density p(x)", xlim=(-1.8, 1.8), ylim=(0, 1.3 * np.median(densities.max(1))))
    tidy(ax, legend=False)
    ax.legend(frameon=False, fontsize="small", loc="upper left")

    def show(k: int) -> None:
        counts = np.histogram(points[:, k], edges)[0]
        bars.set_data(counts / (members * (edges[1] - edges[0])))
        line.set_data(x, densities[k])
        ax.set_title(f"t = {times[k]:.2f} (steps × learning rate)", fontsize="medium")

    return Moving(figure, show, range(len(times)))
