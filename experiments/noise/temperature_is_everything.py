"""SGD's density depends on learning_rate / batch_size alone; the hotter, the wider, and the more a flat minimum wins.

Where all examples' gradients have the covariance 1 everywhere, SGD has the law of dx = −L′ dt + √(2T) dW with the
temperature T = η/(2B) on the clock t = kη, and at rest ∝ exp(−L/T). Here L has two minima, joined smoothly: one at
−10 that is lower and narrow, of curvature 1/25, and one at 6 that is higher by Δ = .15 and 16 times as flat.

- At one η/B, ensembles of SGD that start in the narrow well have one density at all times, that of the Fokker–Planck
  equation, which depends on η and B only through T; verdicts are by `compare_density`, over six times. That ends
  where η is no longer small against 1/curvature = 25: in a well of curvature h SGD's variance is larger by 1/(1 −
  ηh/2).
- In the wide well there is the probability p with p/(1 − p) = exp(−ΔF/T), by the free energies F = −T log ∫exp(−L/T)
  of the two wells, E[L] less T times the entropy of the law in each. For small T ΔF = Δ − ½T log 16: below
  T = 2Δ/log 16 = .108 the lower minimum has the larger part, above it the flatter one.
- The entropy grows with T, as dS/dlog T = Var(L)/T², which is ½ in a single quadratic well.

In the quick version there are 400 members, fewer rates, and less time.

Claim: SGD's density depends on learning_rate / batch_size alone; the hotter, the wider, and the more a flat minimum
wins over a lower one.

Figure: Top left: the density of the Fokker–Planck equation at the last time (line) and histograms of SGD at one η/B
and six batch sizes (markers), with the p-values of their comparison. Top right: at one η a density (line) and a
histogram of SGD (markers) for each of four batch sizes, and so temperatures: solid for 1/16, dashed for 1/8,
dash-dotted for ¼, dotted for ½. Bottom left: probability of the wide well against temperature, of SGD with two
standard errors (circles), by free energies on a grid (solid) and by curvatures alone (dashed); the grey line is ½.
Bottom right: entropy of SGD's law with two standard errors (circles) and of the law at rest (line).

Measured: A narrow well of curvature 1/25 and one higher by .15 and 16 times as flat, 2,000 members out of the former.
η/B = ¼: the density of the Fokker–Planck equation at six times (p = .76, 1, 1) at η = .25, .5, 1; at η = 2 p = .017,
at η = 4 = .16/curvature 2e-6, at η = 16 1e-42. η = 1 at B = 8, 4, 2, 1, T = 1/16 … 1/2: each has its own density
(smallest p of all six .025, adjusted .15) and not that of T = 1/8 (p < 1e-300). Wide well: probability .269, .538,
.666, .677 ± .010, at rest .264, .533, .659, .694; entropy 2.61, 3.33, 3.73, 4.06 ± .03 … .015, at rest 2.58, 3.34,
3.71, 4.05. exp(−ΔF/T) to 1e-12; half at T = .1118, by curvatures alone .1082.

Sources: Jastrzębski et al. (2017, 1711.04623); Smith & Le (2017, 1710.06451); Chaudhari & Soatto (2018, 1710.11029).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.stats
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

NARROW, RIDGE, WIDE, HIGHER = -10.0, -5.5, 6.0, 0.15  # RIDGE ends a cell, and is .03 from the top
CURVATURES = (1 / 25, 1 / 400)
SHARPNESS = 30.0  # of the ridge between the two parabolas
GRID = (-60.0, 110.0, 680)
RATE, RATIO = 1.0, 0.25  # η where that is constant; η/B where that is
TIME, RECORDS = 7200.0, 5  # five relaxation times at that ratio; records of a run after its start
TEMPERATURES = np.geomspace(1 / 32, 1 / 2, 41)


class Settings(NamedTuple):
    members: int
    sizes: tuple[int, ...]  # batch sizes at η = RATIO · B, the last of which has too large a rate
    others: dict[int, float]  # batch sizes at η = RATE, and the time that these run for


FULL = Settings(2000, (1, 2, 4, 8, 16, 64), {1: 2500.0, 2: 3200.0, 8: 35_000.0})
QUICK = Settings(400, (4, 64), {2: 3200.0})


def height(x):
    """The loss L: the lower of two parabolas, rounded where they meet."""
    narrow, wide = (0.5 * h * (x - at) ** 2 for h, at in zip(CURVATURES, (NARROW, WIDE), strict=True))
    return -jnp.logaddexp(-SHARPNESS * narrow, -SHARPNESS * (wide + HIGHER)) / SHARPNESS


def tilted(x, slope):
    """The loss of one example: its gradient is L′ plus a number of mean 0 and variance 1."""
    return height(x) + slope * x


def noisy_wells():
    quantiles = scipy.stats.norm.ppf((np.arange(64) + 0.5) / 64)
    return jf.Objective(tilted, jnp.asarray(quantiles / quantiles.std()))


def train(objective, rate, batch_size, time, members, key):
    """An ensemble of SGD out of the narrow well, at RECORDS times."""
    steps = RECORDS * round(time / rate / RECORDS)

    def member(key):
        begin, go = jax.random.split(key)
        start = NARROW + jax.random.normal(begin)
        options = {"steps": steps, "batch_size": batch_size, "every": steps // RECORDS}
        return jf.iterate(jf.optim.gd(rate), objective, start, key=go, **options)

    return jf.ensemble(member, jax.random.split(key, members))


def predict(objective, rate, batch_size, times, grid):
    """The density of SGD's SDE out of the narrow well."""
    equation = jf.density.fokker_planck(jf.dynamics.sgd(objective, rate, batch_size), grid)
    return jf.integrate(equation, jf.density.gaussian(grid, NARROW, 1.0), times)


def agreement(ensemble, densities, grid):
    """The p-value of one density at all times after the start, where both have it."""
    return float(jf.density.compare_density(ensemble, densities, grid).adjusted.min())


class Rest(NamedTuple):
    """What is read off the laws at rest, for each temperature."""

    wide: Any  # the probability of the wide well
    by_free_energy: Any  # the same by the free energies of the wells
    by_curvature: Any  # and by those of two parabolas
    entropy: Any
    slope: Any  # Var(L)/T²


@jax.jit
@partial(jax.vmap, in_axes=(0, None))
def at_rest(temperature, grid):
    """What the law at rest of one temperature has."""
    x = grid.centers(0)
    law = jf.density.stationary(jf.density.fokker_planck(jf.dynamics.langevin(height, temperature), grid))
    loss, right = height(x), x > RIDGE
    wide = grid.mean(law, right)
    wells = [jnp.where(side, law, 0) / share for side, share in ((right, wide), (~right, 1 - wide))]
    gap = jnp.subtract(*(jf.density.free_energy(well, loss, temperature, grid) for well in wells))
    parabolas = HIGHER - 0.5 * temperature * jnp.log(CURVATURES[0] / CURVATURES[1])
    variance = grid.mean(law, loss**2) - grid.mean(law, loss) ** 2
    shares = [jax.nn.sigmoid(-difference / temperature) for difference in (gap, parabolas)]
    return Rest(wide, *shares, jf.density.entropy(law, grid), variance / temperature**2)


class Run(NamedTuple):
    """An ensemble of SGD, the density that is predicted for it, and what its last record has: values and errors."""

    rate: float
    temperature: float
    members: np.ndarray
    density: np.ndarray
    p: float
    p_reference: float  # against the density of the temperature RATIO / 2
    wide: tuple[float, float]
    entropy: tuple[float, float]


def compare(objective, grid, members, rate, batch_size, time):
    """Run SGD, and compare it with the density of its own temperature, and with that of RATIO / 2."""
    ensemble = train(objective, rate, batch_size, time, members, jax.random.key(batch_size))
    times = np.asarray(ensemble.times).reshape(-1, RECORDS + 1)[0]
    densities, other = (predict(objective, rate, b, times, grid) for b in (batch_size, rate / RATIO))
    last = np.asarray(ensemble.values)[:, -1]
    wide = (last > RIDGE).mean()
    coarse = jf.density.Grid(*GRID[:2], GRID[2] // 4)
    found = np.asarray(jf.density.histogram(last, coarse))
    # Estimated from n members in K cells an entropy is too small by (K − 1)/2n (Miller 1955).
    entropy = float(jf.density.entropy(found, coarse)) + (np.count_nonzero(found) - 1) / (2 * members)
    surprise = -np.log(found[found > 0])
    spread = np.sqrt(
        np.cov(surprise, fweights=np.rint(found[found > 0] * coarse.volume * members).astype(int))
    )
    return Run(
        rate,
        float(jf.dynamics.temperature(rate, batch_size)),
        last,
        np.asarray(densities.values[-1]),
        agreement(ensemble, densities, grid),
        agreement(ensemble, other, grid),
        (wide, np.sqrt(wide * (1 - wide) / members)),
        (entropy, spread / np.sqrt(members)),
    )


def draw_densities(ax, runs, names, grid, lines):
    """Histograms of ensembles over the densities that are predicted for them."""
    edges = np.arange(-30.25, 50.0, 1.5)
    x = np.asarray(grid.centers(0))
    for i, (run, name) in enumerate(zip(runs, names, strict=True)):
        counts = np.histogram(run.members, edges)[0] / len(run.members) / np.diff(edges)
        style = {"marker": "osD^vx"[i], "linestyle": "", "markersize": 5, "markerfacecolor": "none"}
        ax.plot((edges[1:] + edges[:-1]) / 2, counts, color=COLOURS[i], label=name, **style)
        if i in lines:
            ax.plot(x, run.density, **stroke(i), zorder=0)
    ax.set(xlabel="x", ylabel="density", xlim=(edges[0], edges[-1]))
    tidy(ax)


def draw_rest(axes, rest, runs):
    """Against the temperature: the probability of the wide well, and the entropy."""
    temperatures = [run.temperature for run in runs]
    axes[0].plot(TEMPERATURES, rest.by_free_energy, label="p/(1 − p) = exp(−ΔF/T), on a grid", **stroke(0))
    axes[0].plot(TEMPERATURES, rest.by_curvature, label="ΔF = Δ − ½T log 16", **stroke(1))
    axes[1].plot(TEMPERATURES, rest.entropy, label="law at rest, on a grid", **stroke(0))
    for ax, name in zip(axes, ("wide", "entropy"), strict=True):
        value, error = np.transpose([getattr(run, name) for run in runs])
        style = {"marker": "o", "linestyle": "", "color": COLOURS[5], "markerfacecolor": "none"}
        ax.errorbar(temperatures, value, 2 * error, capsize=3, label="SGD ± 2 SE", **style)
        ax.set(xscale="log", xlabel="temperature T = η/(2B)")
        ax.set_xticks([1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2], ["1/32", "1/16", "1/8", "1/4", "1/2"])
        ax.set_xticks([], minor=True)
        tidy(ax)
    axes[0].axhline(0.5, color="0.4", linewidth=0.9, zorder=0)
    axes[0].set(ylabel="probability of the wide well", ylim=(0, 1))
    axes[1].set(ylabel="entropy, in nats")


def tell_agreement(equal, others):
    """The headlines of the tests."""
    slow = [found.p for found in (*equal.values(), *others.values()) if found.rate <= RATE]
    adjusted = min(1.0, len(slow) * min(slow))  # Bonferroni
    headlines: dict[str, Any] = {
        "η ≤ 1: smallest p of equal densities, adjusted": common.within(adjusted, low=1e-3)
    }
    for b, found in equal.items():
        headlines[f"η/B = ¼, B = {b}: p of the density of T = 1/8"] = (
            common.within(found.p, high=1e-3) if b == max(equal) else (found.p, None)
        )
    for b, found in others.items():
        name = f"η = 1, B = {b}: p of the density of T = {found.temperature:g}, of T = 1/8"
        headlines[name] = ((found.p, found.p_reference), None)
    return headlines


def tell_rest(rest, runs):
    """The headlines of the laws at rest, and of what ensembles have in the end."""
    headlines: dict[str, Any] = {}
    for found in runs:
        for name, says in (("wide", "probability of the wide well"), ("entropy", "entropy")):
            exact = np.interp(found.temperature, TEMPERATURES, getattr(rest, name))
            key = f"SGD, T = {found.temperature:g}: {says}, standard error"
            headlines[key] = (getattr(found, name), (exact, None))
    half = np.exp(np.interp(0.5, rest.wide, np.log(TEMPERATURES)))
    grown, integral = np.ptp(rest.entropy), scipy.integrate.simpson(rest.slope, x=np.log(TEMPERATURES))
    return headlines | {
        "wide well: probability less that by exp(−ΔF/T), largest": common.within(
            abs(rest.wide - rest.by_free_energy).max(), high=1e-9, expected=0
        ),
        "wide well, T = 1/32: probability, and that by Δ − ½T log 16": common.near(
            rest.wide[0], rest.by_curvature[0], relative=0.01
        ),
        "temperature at which both wells have half, and 2Δ/log 16": common.near(
            half, 2 * HIGHER / np.log(16), relative=0.05
        ),
        "entropy at T = 1/2 less at 1/32, and ∫ Var(L)/T² dlog T": common.near(
            grown, integral, relative=1e-4
        ),
        "temperatures from which to the next the entropy falls": common.near(
            int((np.diff(rest.entropy) < 0).sum()), 0
        ),
    }


def main(arguments=None):
    run = common.start("temperature_is_everything", __doc__, arguments)
    settings = QUICK if run.quick else FULL
    grid, objective = jf.density.Grid(*GRID), noisy_wells()
    rest = Rest(*map(np.asarray, at_rest(jnp.asarray(TEMPERATURES), grid)))
    one = partial(compare, objective, grid, settings.members)
    equal = {b: one(RATIO * b, b, TIME) for b in common.progress(settings.sizes, "η/B = ¼")}
    others = {b: one(RATE, b, t) for b, t in common.progress(settings.others.items(), "η = 1")}
    still = sorted([equal[4], *others.values()], key=lambda found: found.temperature)

    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    shown = lambda p: "p < .001" if p < 0.001 else f"p = {p:.2g}"
    names = [f"B = {b}, η = {found.rate:g}: {shown(found.p)}" for b, found in equal.items()]
    draw_densities(axes[0, 0], equal.values(), names, grid, (0,))
    draw_densities(
        axes[0, 1], still, [f"T = {found.temperature:g}" for found in still], grid, range(len(still))
    )
    draw_rest(axes[1], rest, still)
    titles = "η/B = ¼: one density (line), SGD (markers)", "η = 1: a density for each batch size"
    for ax, title in zip(axes.flat, (*titles, "a flat minimum is preferred", "entropy grows"), strict=True):
        ax.set(title=title)
    law = {"temperature": TEMPERATURES, "wide": rest.wide, "entropy": rest.entropy}
    return run.save(figure, tell_agreement(equal, others) | tell_rest(rest, still), at_rest=law)
