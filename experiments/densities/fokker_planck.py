"""Three levels agree: SGD's runs, paths of its SDE and the Fokker–Planck density; and where SGD leaves the other two.

The double well L = ¼(x² − 1)² at the temperature T = .08, from N(½, .1²), with Gaussian noise on the gradients whose
variance 2T/η keeps T as the learning rate η changes. The SDE and the density depend on T alone, so that η matters to
SGD only:

- at η = .0125 runs, paths and density are one law at five times, by `compare_density`,
- as η grows the law of SGD leaves the density, at first order in η. That law is known to rounding, as the iterates
  are a Markov chain whose step is Gaussian, here on a fine grid. The test's verdicts tell which distance these runs
  can detect,
- an equation with terms of order η more follows it further: drift −(L + ¼ηL′²)′ + ½ηT L‴ and noise √(2T)(1 + ½ηL″).
  The term ½ηT L‴ is of its order at a constant T; where T falls with η it is smaller, and left out by Li, Tai & E.

Claim: Runs of SGD, paths of its SDE and the Fokker–Planck density are one law while the learning rate is small; SGD
leaves the other two at first order in it.

Figure: Top: the three levels at η = .0125, at t = .4 and t = 3.2: histogram of SGD's runs (grey), histogram of the
paths of the SDE (orange outline) and density of the Fokker–Planck equation (line). Bottom left: at η = .4 and t = 3.2
SGD (grey), the density (solid), and the density of the second-order equation (dashed). Bottom right: L1 distance from
the exact law of SGD at t = 3.2 against η, of the density (solid) and of the second-order one (dashed), with fitted
slopes; circles tell whether 20,000 runs were found different from the density (filled) or not (hollow).

Moving: 4,000 runs of SGD at the smaller rate as bars, the density by the Fokker–Planck equation dashed, and the loss
dotted, from the start in one place to t = 3.2.

Measured: Double well, T = .08 at every η, 20,000 runs: no difference found at five times at η = .0125 (p = .54; paths
.96) and .025, found from .05 on (2,000 runs: from .1 on). L1 distance of SGD's exact law from the density .0068 at η
= .0125, .31 at .4, slope 1.03; from that of the second-order equation 7e-5 and .13, slope 2.04; without its term ½ηT
L‴ .95.

Sources: Li, Tai & E (2017, 1511.06251); Mandt, Hoffman & Blei (2017, 1704.04289); Risken (1989).
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from experiments.densities import moving_cloud
from jaxflow.plot.style import COLOURS, stroke, tidy

TEMPERATURE, START = 0.08, (0.5, 0.1)
TIMES = np.array([0.0, 0.2, 0.4, 0.8, 1.6, 3.2])
LOW, HIGH = -2.4, 2.4
SMALL, LARGE = 0.0125, 0.4


def loss(x):
    return jnp.sum(0.25 * (x**2 - 1) ** 2)


def noisy_losses(params, batch, key):
    """The losses of examples, each with a gradient of its own; `batch` holds the noise's standard deviation."""
    return loss(params) + batch * jax.vmap(jax.random.normal)(key) * params


@jf.dynamics.traceable
def second_order(rate, third):
    """The diffusion that the law of SGD follows to second order in its rate, at a constant temperature: third = 1."""
    slope = jax.grad(loss)
    bend = jax.grad(slope)

    def drift(t, x):
        corrected = slope(x) + 0.5 * rate * slope(x) * bend(x)
        return -corrected + 0.5 * rate * third * TEMPERATURE * jax.grad(bend)(x)

    return jf.dynamics.Field(
        drift=drift,
        diffusion=lambda t, x, xi: jnp.sqrt(2 * TEMPERATURE) * (1 + 0.5 * rate * bend(x)) * xi,
        brownian=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
    )


def density(dynamics, cells):
    grid = jf.density.Grid(LOW, HIGH, cells)
    equation = jf.density.fokker_planck(dynamics, grid)
    return jf.integrate(equation, jf.density.gaussian(grid, START[0], START[1] ** 2), TIMES)


def law_of_iterates(rate, cells):
    """The densities of SGD at `TIMES`, by the Gaussian kernel of its step and sums over midpoints.

    The kernel is wider than two cells, so that its sums err by e^{−2π²·4} at most.
    """
    x = LOW + (np.arange(cells) + 0.5) * (HIGH - LOW) / cells
    away = x[:, None] - (x - rate * (x**3 - x))
    kernel = np.exp(-(away**2) / (4 * TEMPERATURE * rate)) / np.sqrt(4 * np.pi * TEMPERATURE * rate)
    p = np.exp(-0.5 * ((x - START[0]) / START[1]) ** 2)
    p, found = p / (p.sum() * (x[1] - x[0])), []
    steps = np.rint(TIMES / rate).astype(int)
    for k in range(steps[-1] + 1):
        if k in steps:
            found.append(p)
        p = kernel @ p * (x[1] - x[0])
    return np.array(found)


def iterates(rate, members, key):
    """An ensemble of SGD at those of `TIMES` that are whole numbers of its steps."""
    deviation = jnp.full(1, np.sqrt(2 * TEMPERATURE / rate))
    objective = jf.Objective(noisy_losses, deviation)
    steps = round(TIMES[-1] / rate)

    def run(keys):
        start = START[0] + START[1] * jax.random.normal(keys[0])
        every = max(1, round(TIMES[1] / rate))
        return jf.iterate(
            jf.optim.gd(rate), objective, start, steps=steps, batch_size=1, key=keys[1], every=every
        )

    return jf.ensemble(run, jax.random.split(key, (members, 2)))


def paths(members, key):
    def run(keys):
        start = START[0] + START[1] * jax.random.normal(keys[0])
        return jf.integrate(
            jf.dynamics.langevin(loss, TEMPERATURE), start, TIMES, step_size=SMALL / 4, key=keys[1]
        )

    return jf.ensemble(run, jax.random.split(key, (members, 2)))


def draw_levels(ax, grid, i, runs, smooth, exact, title):
    """Bars of runs, the density, and the corrected one."""
    points = np.asarray(runs.values)[:, np.abs(np.asarray(runs.times) - TIMES[i]).argmin()]
    ax.hist(points, 60, range=(-1.8, 1.8), density=True, color="0.82", label=f"SGD, {len(points)} runs")
    x = np.asarray(grid.centers(0))
    for k, (name, p) in enumerate(exact.items()):
        ax.plot(x, p[i], label=name, **stroke((0, 1, 3)[k]))
    if smooth is not None:
        values = np.asarray(smooth.values)[:, i]
        counts, edges = np.histogram(values, 60, range=(-1.8, 1.8), density=True)
        ax.stairs(counts, edges, color=COLOURS[1], label=f"SDE, {len(values)} paths")
    ax.set(xlabel="x", xlim=(-1.8, 1.8), title=title)
    tidy(ax)


def draw_distances(ax, rates, apart, found, members):
    """Distances of the law of SGD from both densities against the rate, and where runs tell."""
    for k, (name, values) in enumerate(apart.items()):
        slope = np.polyfit(np.log(rates[:4]), np.log(values[:4]), 1)[0]
        ax.loglog(rates, values, label=f"{name}: slope {slope:.2f}", **stroke((0, 1)[k]))
    for differ, style in ((True, {"facecolors": COLOURS[5]}), (False, {"facecolors": "none"})):
        chosen = [rate for rate in rates if found[rate].differ == differ]
        heights = [apart["density"][rates.index(rate)] for rate in chosen]
        says = "found different" if differ else "not found different"
        ax.scatter(
            chosen, heights, s=60, edgecolors=COLOURS[5], zorder=3, label=f"{members} runs: {says}", **style
        )
    ax.set(
        xlabel="learning rate η, at one temperature",
        ylabel=f"L1 distance from the law of SGD at t = {TIMES[-1]:g}",
    )
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    tidy(ax)


def move(grid):
    """The runs and the density at the smaller rate, as they move."""
    deviation = jnp.full(1, np.sqrt(2 * TEMPERATURE / SMALL))
    return moving_cloud.moving(
        objective=jf.Objective(noisy_losses, deviation),
        dynamics=jf.dynamics.langevin(loss, TEMPERATURE),
        grid=grid,
        start=START,
        rate=SMALL,
        members=4000,
        until=TIMES[-1],
    )


def main(arguments=None):
    run = common.start("fokker_planck", __doc__, arguments)
    cells, members = (300, 2000) if run.quick else (600, 20000)
    rates = [SMALL * 2**k for k in range(6)]
    keys = jax.random.split(jax.random.key(0), len(rates) + 1)
    grid = jf.density.Grid(LOW, HIGH, cells)
    smooth = density(jf.dynamics.langevin(loss, TEMPERATURE), cells)
    corrected = {rate: np.asarray(density(second_order(rate, 1.0), cells).values) for rate in rates}
    without = [density(second_order(rate, 0.0), cells).values for rate in rates[:4]]
    laws = {rate: law_of_iterates(rate, cells) for rate in rates}
    l1 = lambda p, q: float(jf.density.l1_distance(p[-1], q[-1], grid))
    apart = {
        "density": [l1(laws[rate], smooth.values) for rate in rates],
        "corrected density": [l1(laws[rate], corrected[rate]) for rate in rates],
    }
    wandering = paths(members, keys[-1])
    runs, found = {}, {}
    for rate, key in zip(common.progress(rates, "SGD"), keys, strict=False):
        runs[rate] = iterates(rate, members, key)
        found[rate] = jf.density.compare_density(runs[rate], smooth)
    of_paths = jf.density.compare_density(wandering, smooth)

    figure = Figure(figsize=(11.5, 7.8), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    exact = {"density": np.asarray(smooth.values)}
    for ax, i in zip(axes, (2, 5), strict=False):
        title = f"three levels at η = {SMALL}, t = {TIMES[i]:g}"
        draw_levels(ax, grid, i, runs[SMALL], wandering, exact, title)
    both = exact | {"corrected density": corrected[LARGE]}
    draw_levels(axes[2], grid, 5, runs[LARGE], None, both, f"η = {LARGE}, t = {TIMES[5]:g}")
    draw_distances(axes[3], rates, apart, found, members)
    for ax in axes[:3]:
        ax.set_ylabel("density p(x)")

    left = lambda p: float(np.sum(p[-1][: cells // 2]) * (HIGH - LOW) / cells)
    far = [*apart.values(), [l1(laws[rate], p) for rate, p in zip(rates, without, strict=False)]]
    slopes = [np.polyfit(np.log(rates[:4]), np.log(values[:4]), 1)[0] for values in far]
    told = [rate for rate in rates if found[rate].differ]
    headlines = {
        f"η = {SMALL}: p of one law, SGD": common.within(float(found[SMALL].adjusted.min()), low=1e-3),
        "p of one law, SDE": common.within(float(of_paths.adjusted.min()), low=1e-3),
        "slope in η of the law of SGD − density": common.near(slopes[0], 1.0, by=0.1),
        "slope in η of the law of SGD − corrected density": common.near(slopes[1], 2.0, by=0.1),
        "the same without the term ½ηT L‴": common.near(slopes[2], 1.0, by=0.1),
        f"L1 distances at η = {SMALL}, {LARGE}": ([apart["density"][0], apart["density"][-1]], None),
        "the same, corrected": ([apart["corrected density"][0], apart["corrected density"][-1]], None),
        f"smallest η that {members} runs tell from the density": (min(told, default=None), None),
        f"share left of 0 at t = {TIMES[-1]:g}: density": (left(np.asarray(smooth.values)), None),
        f"the same, SGD at η = {SMALL}, {LARGE}: runs": (
            [float(np.mean(np.asarray(runs[r].values)[:, -1] < 0)) for r in (SMALL, LARGE)],
            [left(laws[r]) for r in (SMALL, LARGE)],
        ),
    }
    return run.save(
        figure,
        headlines,
        moving=None if run.quick else move(grid),
        rates=rates,
        apart=apart,
        verdicts={str(rate): found[rate].message for rate in rates},
        p_values={str(rate): found[rate].adjusted for rate in rates},
        paths=of_paths.message,
    )
