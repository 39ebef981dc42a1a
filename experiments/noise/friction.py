r"""Friction has a best value: a well forgets fastest at γ = 2ω, and is left fastest at less than that.

Langevin dynamics with mass 1 and friction γ, dθ = u dt, du = −(γu + ∇L) dt + √(2γT) dW, has Gibbs' law at rest for
every γ (`jf.dynamics.underdamped_langevin`). How fast it gets there depends on γ, and too much friction is as bad as
too little.

*Within a well* of curvature ω² means decay at the rate Re(γ − √(γ²−4ω²))/2. It is γ/2 where they swing, close to ω²/γ
where they creep, and largest at γ = 2ω.

*Out of a well*, over a barrier of height ΔE and curvature −ω_b², the rate for γ ≥ ω_b is Kramers' κ (ω/2π) e^(−ΔE/T)
with κ = √(γ²/4ω_b² + 1) − γ/2ω_b, which falls as 1/γ. At little friction energy hardly changes, and what limits the
rate is how fast a particle gains ΔE: between two equal wells the law relaxes at γ (J/T) (ω/2π) e^(−ΔE/T), where J is
the action ∮u dx of the orbit that touches the barrier. Between these limits there is a largest rate. Here L is (x² −
1)²/4 at T = .1: ω² = 2, ω_b = 1, ΔE = .25 and J = 4/3. Relaxation of the law between the wells has twice the rate of
leaving one.

*Momentum* is friction 1 − β and mass m = ½(1+β)η on the clock t = kη; with batches of B its temperature is
η/(2B(1−β)). Per unit of mass its friction is (1−β)/m and its ω² is h/m, where h is the curvature. The best β thus
solves (1−β)² = 2(1+β)ηh. In the exact iterates the best β is (1 − √(ηh))².

Claim: Relaxation in a well is fastest at γ = 2ω, and escape from it has a largest rate in γ (Kramers' turnover).

Figure: Left: the rate at which the mean of a well relaxes against γ. Line: the formula. Circles: 16 ensembles of 500
paths, with four standard errors. Squares: `spectral_gap` of the Fokker–Planck equation in phase space, extrapolated
from three grids. Middle: rate of relaxation between two wells against γ. Circles: paths, with four standard errors.
Squares: `spectral_gap`, extrapolated. Solid line: twice Kramers' rate for γ ≥ 1, thin and dotted for less.
Dash-dotted: 1/(γτ), the limit of strong friction, where τ is the `mean_first_passage_time` to the top without mass.
Thick dotted line: the limit of little friction. Right: how much momentum forgets in a step, over √(ηh), against β on
a quadratic with ηh = .01. Circles: iterates. Line: the formula of the left panel by the map above. Vertical line: the
best β of the exact iterates.

Measured: Rates in a well by paths are within .2 % of the formula at seven γ, in an interval of 4 standard errors and
1 % for the step; `spectral_gap` is within .03 % at six. Between wells paths have .0052 at γ = .03, .0243 at .3 and
.0032 at 10. Both ends are below the largest, by 20 and 23 standard errors. `spectral_gap` is .0240, .0226, .0105 and
.0032 at γ = .3, 1, 3 and 10, within 4 standard errors and 3 % of paths. It is .99, .93 and .88 of twice Kramers' rate
at γ = 1, 3 and 10, and .99 of 1/(γτ) at 10. At γ = .03 paths have .70 of the limit of little friction. The best β of
iterates is .81, by the map .8103. The intervals .8 … 1.1 about Kramers' rate, for ΔE/T = 2.5, and .5 … 1 about the
limit of little friction, the 3 % and the grids were set after a look at exact gaps; the others were set before.

`spectral_gap` is asked at γ ≥ 1 within a well, as its grids are of first order in phase space.

Sources: Kramers (1940), Physica 7, 284; Hänggi, Talkner & Borkovec (1990), Rev. Mod. Phys. 62, 251; Kovachki & Stuart
(2021, 1906.04285) for the mass of momentum; Leimkuhler & Matthews (2013, 1203.5428) for the steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

OMEGA, BARRIER, TOP, TEMPERATURE, ACTION = np.sqrt(2.0), 0.25, 1.0, 0.1, 4 / 3
FRICTIONS = np.array([0.5, 1.0, 2.0, 2.5, 3.5, 5.0, 8.0])  # within a well
OUTER = np.array([0.03, 0.1, 0.3, 1.0, 3.0, 10.0])  # out of it
BLOCKS, DISPLACED, RECORDS = 16, 10.0, 12
ARROW = np.exp(-BARRIER / TEMPERATURE) * OMEGA / (2 * np.pi)
WELL = jf.problems.double_well()


def quadratic(x):
    return 0.5 * OMEGA**2 * jnp.sum(x**2)


def double(x):
    """The double well of a whole ensemble (n,), one state: its gradient is every particle's own."""
    return jnp.sum((x**2 - 1) ** 2) / 4


def relaxation(friction, omega=OMEGA):
    """The slowest rate of a well."""
    return np.real(friction - np.emath.sqrt(friction**2 - 4 * omega**2)) / 2


def kramers(friction):
    """Twice the rate over the barrier, where friction is not small."""
    return 2 * (np.sqrt(friction**2 / 4 / TOP**2 + 1) - friction / 2 / TOP) * ARROW


def gap(objective, friction, cells, high):
    """The spectral gap in phase space, from grids of which each halves the cells of the last."""
    dynamics = jf.dynamics.underdamped_langevin(objective, TEMPERATURE, friction=friction)
    found = []
    for n in cells:
        grid = jf.density.Grid((-high[0], -high[1]), high, (n + n // 4, n))
        found.append(float(jf.density.spectral_gap(jf.density.fokker_planck(dynamics, grid))))
    first = 2 * np.array(found[1:]) - found[:-1]  # without the error of order 1, then of order 2
    return (4 * first[1] - first[0]) / 3


def passage():
    """The mean time from the bottom of a well to the top of the barrier, without mass and at friction 1."""
    grid = jf.density.Grid(-3.0, 0.0, 600)
    langevin = jf.dynamics.langevin(WELL.objective, TEMPERATURE)
    equation = jf.density.fokker_planck(langevin, grid, walls=("reflecting", "absorbing"))
    return float(np.interp(-1.0, grid.centers(0), jf.density.mean_first_passage_time(equation)))


def slowest_mode(values):
    """The largest modulus of a root of z² = az + b, fitted to z_{k+2} = a z_{k+1} + b z_k."""
    a, b = np.linalg.lstsq(np.stack([values[1:-1], values[:-2]], 1), values[2:])[0]
    return np.abs(np.roots([1.0, -a, -b])).max()


def decay(friction, number, key):
    """The rate at which the means of blocks of paths relax in a well, and its standard error."""
    span = 0.25 / relaxation(friction)
    run = jf.integrate(
        jf.dynamics.underdamped_langevin(quadratic, TEMPERATURE, friction=jnp.asarray(friction)),
        jnp.full(BLOCKS * number, DISPLACED),
        jnp.asarray(span * np.arange(RECORDS + 1)),
        substeps=50,
        key=key,
        record=lambda x: x.reshape(BLOCKS, -1).mean(1),
    )
    rates = [-np.log(slowest_mode(mean)) / span for mean in np.asarray(run.values).T]
    return np.mean(rates), np.std(rates, ddof=1) / np.sqrt(BLOCKS)


def escape(friction, number, key):
    """The rate at which paths from −1 forget their well, and its standard error."""
    about = min(kramers(friction), friction * ACTION / TEMPERATURE * ARROW)
    step = min(0.1, 0.3 / friction)
    piece = 100 * step
    early, late = (max(round(share / about / piece), 1) for share in (0.8, 1.6))
    dynamics = jf.dynamics.underdamped_langevin(double, TEMPERATURE, friction=jnp.asarray(friction))
    state, params, signs = None, -jnp.ones(number), []
    for k in range(late):
        clock = jnp.asarray(piece * np.array([k, k + 1.0]))
        more = {"key": jax.random.fold_in(key, k), "substeps": 100, "state": state}
        run = jf.integrate(dynamics, params, clock, **more)
        state, params = run.state, run.params
        if k + 1 in (early, late):
            signs.append(-np.sign(np.asarray(params)).reshape(BLOCKS, -1).mean(1))
    total = np.sum(signs, 1)
    rate = lambda sums: np.log(sums[0] / sums[1]) / (piece * (late - early))
    left = np.array([rate(total - np.array(signs)[:, i]) for i in range(BLOCKS)])  # the jackknife
    return rate(total), np.sqrt((BLOCKS - 1) * np.var(left))


def draw_well(ax, quick, key):
    frictions = FRICTIONS[[0, 5]] if quick else FRICTIONS
    keys = jax.random.split(key, len(frictions))
    mean, error = np.transpose([decay(g, 500, k) for g, k in zip(frictions, keys, strict=True)])
    seen = frictions[1:1] if quick else frictions[1:]
    gaps = np.array([gap(quadratic, g, (32, 64, 128), (1.6, 2.0)) for g in seen])
    fine = np.geomspace(0.4, 10, 400)
    ax.loglog(fine, relaxation(fine), label="Re(γ − √(γ²−4ω²))/2", **stroke(0))
    ax.errorbar(frictions, mean, 4 * error, label="paths ± 4 SE", **marks(1))
    if not quick:
        ax.loglog(seen, gaps, label="spectral gap", **marks(5, "s", 9))
    ax.set(title="within a well, ω² = 2", xlabel="friction γ", ylabel="rate of relaxation")
    headlines = {}
    for g, m, e in zip(frictions, mean, error, strict=True):
        exact = relaxation(g)
        headlines[f"γ = {g:g}: rate in a well, paths"] = common.near(m, exact, by=4 * e, relative=0.01)
    if not quick:
        ratios = (gaps / relaxation(seen)).tolist()
        headlines["spectral gap of a well over the formula"] = common.near(ratios, 1, by=0.02)
        headlines["γ of the fastest paths, over 2ω"] = common.within(
            frictions[mean.argmax()] / (2 * OMEGA), 0.8, 1.25
        )
    return headlines, {"frictions": frictions, "mean": mean, "error": error, "gaps": gaps}


def draw_escape(ax, quick, key):
    frictions = OUTER[[3]] if quick else OUTER
    keys = jax.random.split(key, len(frictions))
    number = 6000 if quick else 10_000
    pairs = common.progress(zip(frictions, keys, strict=True), "escapes")
    mean, error = np.transpose([escape(g, number, k) for g, k in pairs])
    seen = np.array([1.0]) if quick else OUTER[2:]
    gaps = np.array([gap(WELL.objective, g, (40, 80, 160), (1.9, 1.9)) for g in seen])
    fine = np.geomspace(0.02, 15, 200)
    ax.loglog(fine[fine >= TOP], kramers(fine[fine >= TOP]), label="Kramers, γ ≥ ω_b", **stroke(0))
    ax.loglog(fine[fine < TOP], kramers(fine[fine < TOP]), color=COLOURS[0], linestyle=":", linewidth=1)
    low, strong = fine[fine < 0.15], fine[fine > 2]
    ax.loglog(low, low * ACTION / TEMPERATURE * ARROW, label="γ (J/T)(ω/2π) e^(−ΔE/T)", **stroke(3))
    ax.errorbar(frictions, mean, 4 * error, label="paths ± 4 SE", **marks(1))
    ax.loglog(seen, gaps, label="spectral gap", **marks(5, "s", 9))
    ax.set(title="out of it, ΔE/T = 2.5", xlabel="friction γ", ylabel="rate between two wells")
    headlines = {}
    for g, value in zip(seen, gaps, strict=True):
        at = np.flatnonzero(frictions == g)[0]
        told = f"γ = {g:g}: rate between wells, paths against the spectral gap"
        headlines[told] = common.near(mean[at], value, by=4 * error[at], relative=0.03)
        if g >= TOP:
            told = f"γ = {g:g}: spectral gap over twice Kramers' rate"
            headlines[told] = common.within(value / kramers(g), 0.8, 1.1, expected=1)
    if not quick:
        time = passage()
        ax.loglog(strong, 1 / (strong * time), label="1/(γτ), no mass", **stroke(2))
        strongest = gaps[-1] * seen[-1] * time
        headlines["γ = 10: spectral gap over 1/(γτ)"] = common.near(strongest, 1, by=0.1)
        best = int(mean.argmax())
        for end, name in ((0, "least"), (-1, "most")):
            lead = (mean[best] - mean[end]) / np.hypot(error[best], error[end])
            headlines[f"largest rate less that at {name} friction, in standard errors"] = common.within(
                lead, 4
            )
        headlines["least friction: rate over its limit"] = common.within(
            mean[0] / (frictions[0] * ACTION / TEMPERATURE * ARROW), 0.5, 1.0
        )
    return headlines, {"frictions": frictions, "mean": mean, "error": error, "gaps": gaps}


def draw_momentum(ax, curvature=0.01):
    betas = np.array([0.5, 0.6, 0.7, 0.75, 0.78, 0.81, 0.84, 0.87, 0.9, 0.95])
    iterates = jax.vmap(
        lambda beta: (
            jf.iterate(jf.optim.momentum(1.0, beta), lambda x: curvature * x**2 / 2, 1.0, steps=40).values
        )
    )(jnp.asarray(betas))
    found = np.array([-np.log(slowest_mode(x)) for x in np.asarray(iterates)]) / np.sqrt(curvature)
    fine = np.linspace(0.45, 0.97, 600)
    mapped = lambda b: (
        relaxation((1 - b) * 2 / (1 + b), np.sqrt(curvature * 2 / (1 + b))) / np.sqrt(curvature)
    )
    ax.plot(fine, mapped(fine), label="friction (1−β)/m, ω² = h/m", **stroke(0))
    ax.plot(betas, found, label="iterates", **marks(1))
    best = (1 - np.sqrt(curvature)) ** 2
    ax.axvline(best, color="0.5", linestyle=":", label="β = (1 − √(ηh))²")
    ax.set(title="momentum on a quadratic, ηh = .01", xlabel="momentum β", ylabel="rate a step / √(ηh)")
    by_map = fine[np.argmax(mapped(fine))]
    return {
        "momentum: best β of the iterates tried": common.near(betas[found.argmax()], best, by=0.031),
        "momentum: best β by the map": common.near(by_map, best, by=0.01),
        "momentum: rates over those of the map": common.near((found / mapped(betas)).tolist(), 1, by=0.1),
    }, {"betas": betas, "rates": found}


def marks(i, marker="o", size=6):
    """Hollow markers without a line."""
    style = {"marker": marker, "linestyle": "", "color": COLOURS[i], "markersize": size}
    return style | {"markerfacecolor": "none"}


def main(arguments=None):
    run = common.start("friction", __doc__, arguments)
    keys = jax.random.split(jax.random.key(0))
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    axes, headlines, data = figure.subplots(1, 3), {}, {}
    for ax, name, found in (
        (axes[0], "well", draw_well(axes[0], run.quick, keys[0])),
        (axes[1], "escape", draw_escape(axes[1], run.quick, keys[1])),
        (axes[2], "momentum", draw_momentum(axes[2])),
    ):
        headlines, data[name] = headlines | found[0], found[1]
        tidy(ax)
    return run.save(figure, headlines, data=data)
