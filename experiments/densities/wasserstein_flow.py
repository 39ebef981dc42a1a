"""The Fokker–Planck equation is steepest descent of free energy, measured in the distance W₂.

p_t = (V′p)_x + T p_xx, with F(p) = ∫Vp + T∫p log p and the double well V = ¼(x² − 1)² unless another is named:

- Jordan, Kinderlehrer & Otto's steps, each to the minimiser of W₂²(p, q)/2τ + F(q), tend to it as τ → 0 at first
  order. The law is kept by its quantiles; Gaussians of two dimensions, in a quadratic V, have a closed form.
- Every step pays for its way, F(q) + W₂²(p, q)/2τ ≤ F(p), whatever τ is; and as τ → 0 ΣW₂²/τ is all that F loses.
- With V″ ≥ h two solutions come closer at least as fast as e^{−ht}. In V = ½hx² that is an equality for equal
  variances and for no others; where h < 0, as between two wells, they may move apart, at e^{|h|t} at most. A step
  brings them closer by 1/(1 + hτ).
- Particles without noise, ẋ = −V′ − T (log p̂)′ with p̂ an estimate from the particles themselves, have the same law;
  W₂ to it is compared with that of as many particles of Langevin's dynamics.

Claim: The Fokker–Planck equation is steepest descent of free energy in the distance W₂: minimising steps tend to it,
every step pays for its way, and solutions come closer.

Figure: Top left: quantiles of the law in time, in the double well, by the Fokker–Planck equation (lines) and by
minimising steps of τ = .2 (circles). Top right: W₂ at t = 1 from the law of τ → 0 against τ, in the double well
(circles) and for Gaussians of two dimensions (squares), with a line of slope 1 (grey). Bottom left: free energy in
time, of the equation (line) and of steps of τ = .2 (circles) and .05 (squares). Bottom right: W₂ between two
solutions over its start: in ½x² with equal variances (solid) and unequal ones (dashed), in ½x² + ¼x⁴ (dash-dotted)
and in the double well (dotted); the grey bands are the bounds e⁻ᵗ and eᵗ.

Measured: Double well, T = .15: W₂ from the equation's law at t = 1 of slope .980 in τ (.2 … .0125); Gaussians in two
dimensions .984, in one within 2e-16 of the closed form. F(q) + W₂²/2τ ≤ F(p) at all 560 steps; F lost / ΣW₂²/τ 1.125,
1.065, 1.033, 1.017, 1.008. W₂ eᵗ / its start at t = 3: ½x², equal variances 1 within 2e-5; unequal .65304 (exact
.65299); ½x² + ¼x⁴ .304. Between two wells W₂ grows 1.97 times, below eᵗ throughout. 1,066 particles without noise are
.010 from the law, Langevin's .027.

Sources: Jordan, Kinderlehrer & Otto (1998), SIAM J. Math. Anal. 29, 1; Ambrosio, Gigli & Savaré (2008); Carrillo,
McCann & Villani (2006) (contraction); Maoutsa, Reich & Opper (2020, 2006.00702) (particles).
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.tree_util import Partial
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import CLOCK, COLOURS, stroke, tidy

TEMPERATURE, TIMES = 0.15, np.linspace(0.0, 3.0, 31)
AT = 10  # the time t = 1, at which laws are compared
GRID, BANDWIDTH = (-5.0, 5.0), 0.05
# ½ax² + ¼bx⁴, of which V″ ≥ a.
BOWL, QUARTIC, WELL = (1.0, 0.0), (1.0, 1.0), (-1.0, 1.0)
PERCENT = (2, 10, 30, 50, 70, 90, 98)  # quantiles that are drawn
FIRST = (-0.5, 0.3)  # mean and standard deviation of the law that moves in the double well
# What the contraction is measured on: a potential, and the means and standard deviations of two laws.
PAIRS = {
    "½x², equal variances": (BOWL, (1.5, 0.3), (-1.0, 0.3)),
    "½x², unequal variances": (BOWL, (0.3, 0.2), (-0.3, 0.9)),
    "½x² + ¼x⁴": (QUARTIC, (1.5, 0.3), (-1.0, 0.3)),
    "double well": (WELL, (0.1, 0.1), (-0.1, 0.1)),
}


def polynomial(coefficients, x):
    return 0.5 * coefficients[0] * x**2 + 0.25 * coefficients[1] * x**4


def levels(number):
    return (np.arange(number) + 0.5) / number


def normal(law, number):
    """The quantiles of a Gaussian."""
    return law[0] + law[1] * scipy.special.ndtri(levels(number))


def solve(laws, cells):
    """The grid, and the densities (lane, T, cell) of Gaussians (potential, mean, deviation) at `TIMES`."""
    grid = jf.density.Grid(*GRID, cells)

    def lane(coefficients, start):
        langevin = jf.dynamics.langevin(Partial(polynomial, coefficients), TEMPERATURE)
        start = jf.density.gaussian(grid, start[0], start[1] ** 2)
        return jf.integrate(jf.density.fokker_planck(langevin, grid), start, TIMES).values

    return grid, np.asarray(jax.jit(jax.vmap(lane))(*map(jnp.asarray, zip(*laws, strict=True))))


def quantiles(grid, density, number):
    """The quantiles of densities (…, cell), each even within a cell: (…, number)."""
    edges = np.linspace(*GRID, grid.shape[0] + 1)
    below = np.cumsum(density, -1) * float(grid.volume)
    flat = below.reshape(-1, below.shape[-1])
    found = [np.interp(levels(number), np.concatenate([[0.0], row / row[-1]]), edges) for row in flat]
    return np.array(found).reshape(*below.shape[:-1], number)


def distance(x, y):
    """W₂ of stacks of quantiles (…, n)."""
    pairs = (jnp.asarray(z).reshape(-1, z.shape[-1]) for z in (x, y))
    return np.asarray(jax.jit(jax.vmap(jf.density.wasserstein))(*pairs)).reshape(x.shape[:-1])


def steps(lanes, number):
    """JKO steps of lanes (potential, quantiles, τ), `number` each, in one program."""
    run = lambda coefficients, start, tau: jf.density.jko(
        Partial(polynomial, coefficients), start, temperature=TEMPERATURE, step_size=tau, steps=number
    )
    parts = (jnp.asarray(part) for part in zip(*lanes, strict=True))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(*parts))


def closed_form(taus, number):
    """The largest deviation of a Gaussian step in ½x² from the closed form of one dimension."""
    run = lambda tau: jf.density.gaussian_jko(
        jnp.eye(1), jnp.ones(1), 0.09 * jnp.eye(1), temperature=TEMPERATURE, step_size=tau, steps=number
    )
    path = jax.jit(jax.vmap(run))(jnp.asarray(taus))
    mean, s, tau = path.means[..., 0], np.sqrt(path.covariances[..., 0, 0]), taus[:, None]
    root = np.sqrt(s[:, :-1] ** 2 + 4 * tau * TEMPERATURE * (1 + tau))
    off = mean[:, 1:] - mean[:, :-1] / (1 + tau), s[:, 1:] - (s[:, :-1] + root) / (2 * (1 + tau))
    return np.abs(np.stack(off)).max()


def plane(taus, number):
    """W₂ at t = 1 of Gaussian steps from the Ornstein–Uhlenbeck law; S at the start does not commute with H."""
    hessian, mean = np.array([[2.0, 0.6], [0.6, 0.8]]), np.array([1.0, -0.7])
    covariance = np.array([[0.3, -0.2], [-0.2, 0.5]])
    values, vectors = np.linalg.eigh(hessian)
    decay = (vectors * np.exp(-values)) @ vectors.T
    rest = TEMPERATURE * np.linalg.inv(hessian)
    law = decay @ mean, decay @ (covariance - rest) @ decay + rest

    def error(tau, count):
        path = jf.density.gaussian_jko(
            hessian, mean, covariance, temperature=TEMPERATURE, step_size=tau, steps=number
        )
        return jf.density.bures(path.means[count], path.covariances[count], *law)

    return np.asarray(jax.jit(jax.vmap(error))(jnp.asarray(taus), jnp.asarray(np.rint(1 / taus), int)))


def particles(number, key):
    """Particles at t = 1, without noise and by Langevin's dynamics, from one sample of the first law."""
    start = FIRST[0] + FIRST[1] * jax.random.normal(key, (number,))
    well = Partial(polynomial, WELL)
    flow = jf.integrate(jf.density.particle_flow(well, TEMPERATURE, BANDWIDTH), start, TIMES[[0, AT]])
    langevin = jf.dynamics.langevin(lambda x: jax.vmap(well)(x).sum(), TEMPERATURE)
    noisy = jf.integrate(langevin, start, TIMES[[0, AT]], step_size=0.01, key=jax.random.fold_in(key, 1))
    return np.stack([flow.params, noisy.params])


def draw_steps(ax, exact, path, values, lanes):
    """Values of the Fokker–Planck equation over time as lines, of lanes of steps as markers."""
    ax.plot(TIMES, exact, label="Fokker–Planck", **stroke(5) | {"linestyle": "-"})
    for i, lane in enumerate(lanes):
        times = path.times[lane]
        times = times[times < TIMES[-1] + 1e-6]
        style = {"marker": "os"[i], "linestyle": "", "color": COLOURS[i + 1], "markersize": 6 - 2 * i}
        style |= {"markerfacecolor": "none", "label": f"steps of τ = {times[1]:g}"}
        ax.plot(times, values[lane, : times.size], **style)


def draw_errors(ax, taus, errors):
    """Distances from the laws that steps tend to, with their slopes; returned by name."""
    slopes = {}
    for i, (name, error) in enumerate(errors.items()):
        slopes[name] = float(np.polyfit(np.log(taus), np.log(error), 1)[0])
        label = f"{name}: slope {slopes[name]:.3f}"
        ax.loglog(taus, error, marker="os"[i], label=label, **stroke(i))
    ax.loglog(taus, 0.04 * taus, color="0.6", linewidth=1, label="slope 1")
    ax.set(title="at t = 1, from the law of τ → 0", xlabel="step τ", ylabel="W₂")
    ax.set_xticks(taus, [f"{tau:g}" for tau in taus])
    ax.set_xticks([], minor=True)
    return slopes


def draw_contraction(ax, distances):
    """How fast two laws come closer, and the bounds."""
    for rate in (1, -1):
        ax.semilogy(TIMES, np.exp(rate * TIMES), color="0.6", linewidth=4, alpha=0.5)
        ax.annotate("$e^{t}$" if rate > 0 else "$e^{-t}$", (2.3, np.exp(2.3 * rate) * 1.35), color="0.4")
    for i, (name, row) in enumerate(distances.items()):
        ax.semilogy(TIMES, row / row[0], label=name, **stroke(i))
    ax.set(title="W₂ between two solutions", xlabel=CLOCK, ylabel="W₂ / W₂ at t = 0", ylim=(0.01, 25))


def contraction(distances, path):
    """What two solutions, and the steps of the last two lanes, tell about e^{−ht}."""
    over = [row / row[0] * np.exp(PAIRS[name][0][0] * TIMES) for name, row in distances.items()]
    equal, unequal, quartic, well = over
    (a, s), (b, r) = PAIRS["½x², unequal variances"][1:]
    later = lambda s: np.sqrt(TEMPERATURE + (s**2 - TEMPERATURE) * np.exp(-2 * TIMES[-1]))
    exact = np.hypot(a - b, (later(s) - later(r)) * np.exp(TIMES[-1])) / np.hypot(a - b, s - r)
    between = np.sqrt(np.mean((path.quantiles[-2] - path.quantiles[-1]) ** 2, -1))
    between = between[between > 1e-6 * between[0]]  # below, it is rounding
    closer = (1 + path.times[-1, 1]) * between[1:] / between[:-1]
    start = "W₂ eᵗ / its start"
    return {
        f"½x², equal variances: largest deviation of {start} from 1": common.within(
            np.abs(equal - 1).max(), high=1e-3, expected=0.0
        ),
        f"½x², unequal variances: {start}, t = 3": common.near(unequal[-1], exact, relative=2e-3),
        f"½x² + ¼x⁴: {start}, largest from t = .1 on, at t = 3": common.within(
            [quartic[1:].max(), quartic[-1]], high=1
        ),
        "double well: largest W₂ / its start": common.within((well * np.exp(TIMES)).max(), low=1),
        "double well: W₂ e⁻ᵗ / its start, largest from t = .1 on": common.within(well[1:].max(), high=1),
        "½x² + ¼x⁴: largest W₂ after a step × (1 + τ) / before": common.within(closer.max(), high=1),
    }


def main(arguments=None):
    run = common.start("wasserstein_flow", __doc__, arguments)
    taus = 0.2 * 0.5 ** np.arange(3 if run.quick else 5)
    number, count, cells = (1600, 20, 640) if run.quick else (6400, 80, 4000)
    grid, laws = solve([(WELL, FIRST)] + [(v, law) for v, *two in PAIRS.values() for law in two], cells)
    law = quantiles(grid, laws, number)
    lanes = [(WELL, normal(FIRST, number), tau) for tau in taus]
    lanes += [(QUARTIC, normal(law, number), taus[0]) for law in PAIRS["½x² + ¼x⁴"][1:]]
    path = steps(lanes, count)
    until = np.rint(1 / taus).astype(int)

    ends = np.stack([path.quantiles[i, k] for i, k in enumerate(until)])
    errors = {
        "double well": distance(ends, np.broadcast_to(law[0, AT], ends.shape)),
        "Gaussians, two dimensions": plane(taus, count),
    }
    paid = path.moved**2 / path.times[:, 1:2]
    broken = np.diff(path.free_energy, axis=1) + 0.5 * paid
    lost = [(np.ptp(path.free_energy[i, : k + 1])) / paid[i, :k].sum() for i, k in enumerate(until)]
    distances = dict(zip(PAIRS, distance(law[1::2], law[2::2]), strict=True))
    height = polynomial(WELL, grid.centers(0))
    energy = [float(jf.density.free_energy(p, height, TEMPERATURE, grid)) for p in laws[0]]

    figure = Figure(figsize=(11.5, 7.8), layout="constrained")
    axes = figure.subplots(2, 2)
    shown = np.array(PERCENT) * number // 100
    draw_steps(axes[0, 0], law[0][:, shown], path, path.quantiles[:, :, shown], [0])
    slopes = draw_errors(axes[0, 1], taus, errors)
    draw_steps(axes[1, 0], energy, path, path.free_energy, [0, 2])
    draw_contraction(axes[1, 1], distances)
    axes[0, 0].set(title=f"quantiles at {', '.join(map(str, PERCENT))} %", xlabel=CLOCK, ylabel="x")
    axes[1, 0].set(title="the free energy that is descended, double well", xlabel=CLOCK, ylabel="F(p)")
    for ax in axes.flat:
        tidy(ax)
        handles, labels = ax.get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True))  # the lines of one name once
        ax.legend(named.values(), named.keys(), frameon=False, fontsize="small")

    keys = jax.random.split(jax.random.key(0), 4 if run.quick else 8)
    samples = np.stack([particles(number // 6, key) for key in common.progress(keys, "particles")])
    target = quantiles(grid, laws[0, AT], samples.shape[-1])
    apart = distance(samples, np.broadcast_to(target, samples.shape))
    exact = closed_form(np.array([0.05, 0.1, 0.5, 2.0, 20.0]), count)
    headlines = {
        **{
            f"{name}: slope of the steps' W₂ in τ": common.near(slope, 1.0, by=0.05)
            for name, slope in slopes.items()
        },
        "½x²: largest deviation of Gaussian steps from the closed form": common.within(
            exact, high=1e-10, expected=0.0
        ),
        "all steps: largest F(q) + W₂²/2τ − F(p)": common.within(broken.max(), high=1e-12),
        f"double well: F lost until t = 1 / ΣW₂²/τ, τ = {', '.join(f'{tau:g}' for tau in taus)}": common.within(
            lost, low=1, high=1.15, expected=1.0
        ),
        **contraction(distances, path),
        f"{samples.shape[-1]} particles: W₂ from the law, without noise, Langevin's": (apart.mean(0), None),
    }
    return run.save(figure, headlines, taus=taus, errors=errors, distances=distances, particles=apart)
