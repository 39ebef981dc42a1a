"""Langevin dynamics ends in Gibbs' law, and leaves a well in Kramers' time.

On the double well L = ¼(x² − 1)², with a barrier of ¼ between its minima ±1, dx = −L′ dt + √(2T) dW:

- its law tends to ∝ exp(−L/T). Measured by the total variation of the histogram of an ensemble that starts at −1,
  whose sampling floor is what the same number of exact draws has on average, ½ Σ_k √(2 p_k (1−p_k)/(π n)).
- the way there is the exchange between the wells: the total variation falls as ½ e^{−t/τ₀} with τ₀ the mean first
  passage time from −1 to the top of the barrier.
- the mean first passage time from −1 to +1 is (1/T) ∫_{−1}^{1} e^{L(y)/T} ∫_{−∞}^{y} e^{−L(z)/T} dz dy exactly
  (here by quadrature), and for T → 0 Kramers' 2π/√(L″(−1)|L″(0)|)·e^{ΔL/T}: log time against 1/T is a line whose
  slope is the barrier (Arrhenius).

A passage is noticed at steps of dt only, after the path has been beyond the target for a while. That is mended by
a target nearer by −ζ(½)/√(2π)·√(2T dt) = .5826 √(2T dt).

Claim: Langevin dynamics on the double well ends in exp(−L/T), and leaves a well in Kramers' time.

Figure: Left: histograms of the ensembles at the end (markers) and exp(−L/T), normalised (lines), at T = .4 (solid),
.2 (dashed) and .1 (dash-dotted). Middle: total variation between the ensemble and Gibbs' law against time, in units
of the mean first passage time τ₀ to the top of the barrier, for the same temperatures; the grey line is ½ exp(−t/τ₀),
and each horizontal line is the sampling floor of its temperature. Right: mean first passage time from −1 to +1
against 1/T: ensembles of 4,000 with two standard errors (circles), the exact mean by quadrature (solid) and Kramers'
law (dashed).

Measured: 100,000 particles from −1: total variation .0063, .0060, .0059 at T = .4, .2, .1, where the same number of
exact draws has .0060, .0056, .0051. Mean first passage from −1 to +1, 4,000 each: 451.6 at T = 1/18, 448.9 by
quadrature, 1.13 × Kramers'; eight temperatures within 2.3 standard errors. Slope of log time in 1/T .2435, by
quadrature .2437, barrier .25.

Sources: Kramers (1940); Gardiner (1985), 5.2; Broadie, Glasserman & Kou (1997), Math. Finance 7, 325 (the target).
"""

from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

WELL, BARRIER = jf.problems.double_well(), 0.25
TEMPERATURES = (0.4, 0.2, 0.1)
EDGES = np.linspace(-2.4, 2.4, 33)
LEFT = 0.5 * np.exp(-6)  # of the start, after six mean passage times
FINE = np.linspace(-3.5, 3.5, 70_001)
HEIGHT = 0.25 * (FINE**2 - 1) ** 2


def total(x):
    """The objective of a whole ensemble x (n,), one state: its gradient is every particle's own."""
    return jax.vmap(WELL.objective)(x[:, None]).sum()


def counts(x):
    """How many particles are in each bin, the first and the last one reaching to infinity."""
    return jnp.histogram(jnp.clip(x, EDGES[0], EDGES[-1]), jnp.asarray(EDGES))[0]


class Passage(NamedTuple):
    x: jax.Array
    time: jax.Array  # of the first passage; infinite before


@jf.dynamics.traceable
def watched(dynamics, target):
    """A dynamics of x (n,) with additive noise, and when each x was first seen at or beyond the target."""
    field = dynamics.build()

    def step(t, state, dt, xi):
        drift, noise = field.drift(t, state.x), jnp.sqrt(dt) * field.diffusion(t, state.x, xi)
        ahead = field.drift(t + dt, state.x + dt * drift + noise)
        x = state.x + 0.5 * dt * (drift + ahead) + noise
        return Passage(x, jnp.where((x >= target) & jnp.isinf(state.time), t + dt, state.time))

    return jf.dynamics.Field(
        drift=lambda t, state: Passage(field.drift(t, state.x), jnp.zeros_like(state.time)),
        diffusion=lambda t, state, xi: Passage(field.diffusion(t, state.x, xi), jnp.zeros_like(state.time)),
        brownian=lambda state: field.brownian(state.x),
        step=step,
    )


def law(temperature):
    """Gibbs' probability of each bin of `counts`, and its density on the fine grid."""
    density = np.exp(-HEIGHT / temperature)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(FINE))])
    inner = np.interp(EDGES[1:-1], FINE, below) / below[-1]
    return np.diff(np.concatenate([[0.0], inner, [1.0]])), density / below[-1]


def mean_passage(temperature, target):
    """The mean first passage time from −1 to `target`, by the trapezoidal rule."""
    step = FINE[1] - FINE[0]
    density = np.exp(-HEIGHT / temperature)
    inner = np.cumsum(density) - density / 2
    outer = (inner * step / density)[np.abs(FINE - (target - 1) / 2) < (target + 1 + step) / 2]
    return float((outer.sum() - outer[[0, -1]].sum() / 2) * step / temperature)


def kramers(temperature):
    """Kramers' mean time from one well to the other, for T → 0."""
    return 2 * np.pi / np.sqrt(2 * 1) * np.exp(BARRIER / temperature)  # curvatures 2 and −1


def relax(temperature, number, key):
    """Times, and the total variation from Gibbs' law, of an ensemble of `number` that starts in the left well."""
    run = jf.integrate(
        jf.dynamics.langevin(total, temperature),
        -jnp.ones(number),
        np.linspace(0.0, 6 * mean_passage(temperature, 0.0), 46),
        step_size=0.05,
        solver=diffrax.Heun(),
        key=key,
        record=counts,
    )
    shares = np.asarray(run.values) / number
    return np.asarray(run.times), shares, 0.5 * np.abs(shares - law(temperature)[0]).sum(1)


def escape(temperature, number, key, dt=0.05, steps=1000):
    """The first passage times (number,) from −1 to +1."""
    target = 1 - 0.5826 * np.sqrt(2 * temperature * dt)
    dynamics = watched(jf.dynamics.langevin(total, temperature), target)
    state, t = Passage(-jnp.ones(number), jnp.full(number, jnp.inf)), 0
    while np.isinf(state.time).any():
        clock = dt * steps * np.array([t, t + 1])
        run = jf.integrate(dynamics, state, clock, substeps=steps, key=jax.random.fold_in(key, t))
        state, t = run.params, t + 1
    return np.asarray(state.time)


def settle(axes, number, key):
    """The densities that three ensembles end in, and their distance from Gibbs' law on the way."""
    headlines, data = {}, {}
    centres, width = (EDGES[1:] + EDGES[:-1]) / 2, EDGES[1] - EDGES[0]
    for i, temperature in enumerate(TEMPERATURES):
        name = f"T = {temperature:g}"
        times, shares, variation = relax(temperature, number, jax.random.fold_in(key, i))
        p, density = law(temperature)
        floor = 0.5 * np.sqrt(2 * p * (1 - p) / (np.pi * number)).sum()
        spread = 0.5 * np.sqrt((1 - 2 / np.pi) * (p * (1 - p)).sum() / number)
        headlines[f"{name}: total variation from exp(−L/T), against the sampling floor"] = common.within(
            variation[-1], high=floor + 4 * spread + LEFT, expected=floor
        )
        data[name] = {"times": times, "variation": variation, "counts": shares[-1] * number}
        markers = {"marker": "osD"[i], "linestyle": "", "color": COLOURS[i], "markersize": 4, "label": name}
        axes[0].plot(FINE, density, **stroke(i))
        axes[0].plot(centres, shares[-1] / width, **markers)
        axes[1].semilogy(times / mean_passage(temperature, 0.0), variation, **markers)
        axes[1].axhline(floor, **stroke(i) | {"linewidth": 0.9})
    decay = np.linspace(0, 4.5, 50)
    axes[1].plot(decay, 0.5 * np.exp(-decay), color="0.5", linewidth=1.2, label="½ exp(−t/τ₀)")
    axes[0].set(
        title="ensembles (markers), exp(−L/T) (lines)", xlabel="x", ylabel="density", xlim=(-2.4, 2.4)
    )
    axes[1].set(
        title=f"{number:,} particles from −1",
        xlabel="time t / mean first passage time τ₀ to the top",
        ylabel="total variation (level: sampling floor)",
    )
    return headlines, data


def arrhenius(ax, inverse, number, key):
    """Mean first passage times against inverse temperature, and their slope."""
    keys = jax.random.split(key, len(inverse))
    passages = [
        escape(1 / b, number, k) for b, k in common.progress(zip(inverse, keys, strict=True), "escapes")
    ]
    mean, error = np.mean(passages, 1), np.std(passages, 1) / np.sqrt(number)
    exact = np.array([mean_passage(1 / beta, 1.0) for beta in inverse])
    ax.semilogy(inverse, exact, label="exact mean", **stroke(0))
    ax.semilogy(inverse, kramers(1 / inverse), label="Kramers' law", **stroke(1))
    style = {"marker": "o", "linestyle": "", "color": COLOURS[5], "markersize": 6, "markerfacecolor": "none"}
    ax.errorbar(inverse, mean, 2 * error, capsize=3, label=f"mean of {number:,} ± 2 SE", **style)
    ax.set(title="from −1 to +1", xlabel="1 / temperature", ylabel="mean first passage time t")
    ax.set_yticks([10, 30, 100, 300], ["10", "30", "100", "300"])
    ax.set_yticks([], minor=True)
    slope = lambda times: np.polyfit(inverse, np.log(times), 1)[0]
    headlines = {
        f"1/T = {beta:g}: mean time from −1 to +1, against quadrature": (mean[i], exact[i])
        for i, beta in enumerate(inverse)
    }
    coldest = kramers(1 / inverse[-1])
    headlines |= {
        "all temperatures: largest deviation in standard errors": common.within(
            np.abs((mean - exact) / error).max(), high=4
        ),
        "slope of log time in 1/T, against quadrature": common.near(
            slope(mean), slope(exact), by=4 / np.sqrt(number * np.sum((inverse - inverse.mean()) ** 2))
        ),
        "slope of log time in 1/T, against the barrier": common.near(slope(mean), BARRIER, relative=0.1),
        "coldest: mean time over Kramers', against quadrature": common.near(
            mean[-1] / coldest, exact[-1] / coldest, relative=4 / np.sqrt(number)
        ),
    }
    return headlines, {"inverse": inverse, "mean": mean, "error": error, "exact": exact}


def main(arguments=None):
    run = common.start("gibbs", __doc__, arguments)
    keys = jax.random.split(jax.random.key(0))
    figure = Figure(figsize=(13.5, 4.4), layout="constrained")
    axes = figure.subplots(1, 3)
    headlines, densities = settle(axes, 6_000 if run.quick else 100_000, keys[0])
    inverse = np.array([4.0, 8.0, 12.0]) if run.quick else np.arange(4.0, 20.0, 2.0)
    more, passages = arrhenius(axes[2], inverse, 500 if run.quick else 4000, keys[1])
    for ax in axes:
        tidy(ax)
    return run.save(figure, headlines | more, densities=densities, passages=passages)
