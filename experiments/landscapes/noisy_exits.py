"""How long SGD stays near a saddle, measured, and the mean time at which its equation has left: part of `saddles`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

RADIUS = 0.1  # over √|λ|: where a run has left the saddle
OFFSET = 0.5 * (0.5772156649 + np.log(2))


def saddle_with_noise(params, batch):
    """A saddle in x of curvature −λ between two minima at ±√λ, the gradient of x noisy; y is stable."""
    x, y = params
    slope, noise = batch["slope"], batch["noise"]
    return 0.25 * (x**2 - slope) ** 2 + 0.5 * y**2 + noise * x


def longest_run(slope, rate, least):
    """Steps of a run that goes on for 12/|λ| longer than most, at the least noise: one of 10⁵ is longer."""
    return int((np.log(RADIUS * slope**0.5 / np.sqrt(rate * least**2 / 2 / slope)) + 12) / slope / rate)


@partial(jax.jit, static_argnames="steps")
def exit_times(slope, rate, noises, keys, steps):
    """The times at which runs of SGD leave the saddle, (noises, members) as the keys; NaN for those that do not."""
    radius, start = RADIUS * slope**0.5, (jnp.zeros([]), jnp.zeros([]))

    def one(noise, key):
        data = {"slope": jnp.full(2, slope), "noise": noise * jnp.array([-1.0, 1.0])}
        run = jf.iterate(
            jf.optim.gd(rate),
            jf.Objective(saddle_with_noise, data),
            start,
            steps=steps,
            batch_size=1,
            key=key,
            record=lambda params: jnp.abs(params[0]) > radius,
        )
        return jnp.where(run.values.any(), rate * jnp.argmax(run.values), jnp.nan)

    return jax.vmap(jax.vmap(one, (None, 0)))(noises, keys)


def leave(settings, noises, members):
    """For each setting and noise: λ, η, s, ln(r/√q), γ × the mean exit time, its standard error.

    q is T/|λ| and γ is |λ|, both of SGD at a finite rate. A run is seen out at the end of a step, half of one late.
    """
    rows = []
    keys = jax.random.split(jax.random.key(3), len(settings))
    for (slope, rate), key in zip(common.progress(settings, "exits"), keys, strict=True):
        growth = np.log1p(rate * slope) / rate
        # As many steps at all slopes, of which the smallest takes the most: a program for each rate.
        steps = longest_run(min(slope for slope, _ in settings), rate, noises.min())
        split = jax.random.split(key, (len(noises), members))
        found = np.asarray(exit_times(slope, rate, jnp.asarray(noises), split, steps))
        found = growth * (found - rate / 2)
        spread = rate * noises**2 / 2 / (slope * (1 + rate * slope / 2))
        sizes = np.log(RADIUS * slope**0.5 / np.sqrt(spread))
        for noise, size, times in zip(noises, sizes, found, strict=True):
            rows.append((slope, rate, noise, size, times.mean(), times.std() / members**0.5))
    return np.array(rows)


def draw_exits(ax, rows):
    """Mean exit time times curvature against the logarithm of the noise."""
    line = np.linspace(0, rows[:, 3].max() + 0.5, 100)
    at = jf.landscape.mean_exit_time(-1.0, np.exp(line), temperature=1.0)
    ax.plot(line, at, label="exact mean, SDE", **stroke(0))
    for i, (slope, rate) in enumerate(dict.fromkeys((row[0], row[1]) for row in rows)):
        mine = rows[(rows[:, 0] == slope) & (rows[:, 1] == rate)]
        dots = {"marker": "os^Dvp"[i % 6], "linestyle": "", "color": COLOURS[1 + i % 6], "markersize": 5}
        ax.errorbar(
            mine[:, 3],
            mine[:, 4],
            2 * mine[:, 5],
            label=f"|λ| = {slope:g}, η = {rate:g}",
            **dots,
        )
    ax.set(
        title="SGD leaves a saddle, ± 2 SE",
        xlabel="ln(r/√q), noise q = T/(|λ| (1 + η|λ|/2))",
        ylabel="mean exit time t × ln(1 + η|λ|)/η",
    )
    tidy(ax)


def tell_exits(exits):
    """The headline numbers of SGD at the saddle."""
    size, mean, error = exits.T[3:]
    small = size > 3
    line, cover = np.polyfit(size[small], mean[small], 1, w=1 / error[small], cov="unscaled")
    weight = 1 / error[small] ** 2
    offset = np.sum(weight * (mean - size)[small]) / weight.sum(), weight.sum() ** -0.5
    law = np.asarray(jf.landscape.mean_exit_time(-1.0, np.exp(size), temperature=1.0))
    return {
        "SGD: slope of exit time × growth rate in ln(r/√q), standard error": (
            [line[0], cover[0, 0] ** 0.5],
            [1, 0],
        ),
        "SGD: what is left at slope 1, standard error": (offset, [OFFSET, 0]),
        "SGD: slope less 1, what is left less (C + ln 2)/2, in standard errors": common.within(
            [(line[0] - 1) / cover[0, 0] ** 0.5, (offset[0] - OFFSET) / offset[1]], -4, 4
        ),
        "SGD: largest |z| from the exact mean of the SDE": common.within(
            np.max(np.abs(mean - law) / error), high=4
        ),
    }
