"""SGD leaves minima of the loss that the smoothed loss does not have.

With y = x − η∇f(x), a step of SGD with the noise w in its gradient is y′ = y − ηw − η∇f(y − ηw), so that
E[y′|y] = y − η∇f̃(y): it descends f̃(y) = E f(y − ηw). For w ~ N(0, s²) and f = ½hx² + A cos ωx,

f̃(y) = ½h(y² + η²s²) + A e^{−ω²η²s²/2} cos ωy.

With κ = Aω² e^{−ω²η²s²/2}/h it has one minimum for κ ≤ 1, and for h = 1, A = .3, ω = 6 four of them for
κ > √(1 + u²), where u = 7.725 is a root of tan u = u: between η²s² = .018152 and .132197 there are two. Measured:

- where the minima of f̃, smoothed by quadrature, vanish;
- where runs are after 33 and 198 steps from the outermost minimum of f, at the rate .15, at which all minima of f are
  stable without noise (η f″ ≤ 1.8 < 2);
- the mean step E[y′ − y | y] of runs, fitted by −η(h y − b sin ωy): its b against Aω e^{−ω²η²s²/2}, and the η²s² at
  which the mean step has no more room for the minima;
- one-point convexity about 0, ⟨∇f̃(y), y⟩/|y|², along a run: at least h(1 − κ) for f̃, below 0 for f at many steps.

The noise carries runs out of the minima that f̃ still has as well, the later the smaller it is: that they vanish is
enough for leaving them, not necessary.

Claim: SGD leaves minima of the loss that the smoothed loss does not have.

Figure: Top left: the loss (solid) and the loss smoothed by the noise of a step of η²s² = .05 (dashed) and .2
(dash-dotted), with their minima (dots). Top right: density of 20,000 runs after 33 steps from the outermost minimum,
by the noise of a step (blue), and the minima of the smoothed loss (orange); the vertical lines are where these
vanish. Bottom left: size κ of the waves in the mean step of runs, with two standard errors (markers), and by theory
(dotted); the thin lines mark where four minima become two, and two one. Bottom right: one-point convexity about 0
along a run, of the loss (solid) and of the smoothed loss (dashed), with the bound h(1 − κ) (dotted).

Measured: ½x² + .3 cos 6x, noise of variance η²s² in a step: four minima of the smoothed loss become two at .018152
(closed form .018152), one at .13220 (.13220). The mean steps of SGD at η = .15 show the same at .01814 and .1321,
their waves ∝ exp(−18.02 η²s²) (18). Of 20,000 runs from the outermost minimum 9 % are still there after 33 steps at
η²s² = .0191 and .005 % after 198; at .009, where the smoothed loss has it too, 53 and 2 %; at .002 all. At .139 half
of them are below 0. At .2 the loss is one-point convex about 0 at 30 % of a run's steps, the smoothed one at all, by
at least .708 (bound .705).

Sources: Kleinberg, Li & Yuan (2018, 1802.06175).
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import brentq

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

H, A, OMEGA, RATE = 1.0, 0.3, 6.0, 0.15
FOLD = brentq(lambda u: np.sin(u) - u * np.cos(u), 2 * np.pi, 2.5 * np.pi)
KAPPA = {"4 → 2": np.sqrt(1 + FOLD**2), "2 → 1": 1.0}  # at which minima vanish
BETWEEN = {"4 → 2": (0.005, 0.05), "2 → 1": (0.05, 0.4)}  # η²s² that it is looked for between
CONVEX = 0.2  # η²s² of the run whose convexity is looked at
SHOWN = (0.0, 0.05, CONVEX)  # η²s² of the losses drawn: with four minima, two and one
STEPS, NOISE = 33, "noise of a step η²s²"


def loss(x):
    return 0.5 * H * x**2 + A * jnp.cos(OMEGA * x)


def slope(x):
    """f′, of NumPy's numbers."""
    return H * x - A * OMEGA * np.sin(OMEGA * x)


OUTER, TOP = (
    brentq(slope, 1.3, 1.5),
    brentq(slope, 1.0, 1.3),
)  # the outermost minimum, and the maximum before it


def smooth(v):
    """The smoothed loss for η²s² = v."""
    return jf.density.smoothed(loss, RATE, covariance=v / RATE**2, nodes=40)


@jax.jit
def slopes(v, places):
    return jax.vmap(jax.grad(smooth(v)))(places)


def minima(v, places):
    """Where the slope of the smoothed loss changes its sign upwards."""
    found = np.asarray(slopes(v, places))
    return places[:-1][(found[:-1] < 0) & (found[1:] > 0)]


def vanishing(places):
    """The η²s² at which minima of the smoothed loss vanish, by bisection."""
    found = {}
    for name, (low, high) in BETWEEN.items():
        many = int(name[0])
        while high - low > 1e-5 * low:
            middle = 0.5 * (low + high)
            low, high = (middle, high) if len(minima(middle, places)) >= many else (low, middle)
        found[name] = 0.5 * (low + high)
    return found


def runs(v, start, steps, every, key):
    """SGD from each of `start` (n,) for each η²s² of `v` (m,): (m, steps / every + 1, n)."""

    def lane(v, key):
        noise = jf.optim.gradient_noise(v / RATE**2, 0.0, key=key)
        sgd = jf.optim.chain(noise, jf.optim.gd(RATE))
        total = lambda x: loss(x).sum()  # the gradient of each run is its own
        return jf.iterate(sgd, total, start, steps=steps, every=every, time_step=RATE).values

    return np.asarray(jax.jit(jax.vmap(lane))(jnp.asarray(v), jax.random.split(key, len(v))))


def mean_step(x):
    """h and b in the mean step −η(h y − b sin ωy) of runs x (K + 1, n), and the standard error of b."""
    y = x - RATE * slope(x)
    here, step = y[:-1].ravel(), -np.diff(y, axis=0).ravel() / RATE
    columns = np.stack([here, -np.sin(OMEGA * here)], 1)
    square = np.linalg.inv(columns.T @ columns)
    fitted = square @ (columns.T @ step)
    left = (step - columns @ fitted)[:, None] * columns
    return *fitted, np.sqrt((square @ (left.T @ left) @ square)[1, 1])


def observe_vanishing(v, fits):
    """The η²s² at which minima vanish in the mean steps of runs, and the slope of log κ: κ = bω/h is log-linear."""
    h, b, error = np.transpose(fits)
    line = np.polyfit(v, np.log(OMEGA * b / h), 1, w=b / error)
    return {name: (np.log(kappa) - line[1]) / line[0] for name, kappa in KAPPA.items()}, line[0]


def draw_losses(ax, places):
    """The loss and two smoothed ones, with their minima."""
    for i, v in enumerate(SHOWN):
        values = np.asarray(jax.vmap(smooth(v))(places))
        low = minima(v, places)
        ax.plot(places, values, label=f"η²s² = {v:g}" if v else "the loss", **stroke(i))
        ax.plot(low, np.interp(low, places, values), "o", color=COLOURS[i], markersize=6)
    ax.set(title="smoothed losses and their minima", xlabel="y", ylabel="f̃(y)")
    tidy(ax)


def draw_ends(ax, v, ends, places, vanish):
    """Where runs are, by the noise of a step, over the minima of the smoothed loss."""
    edges = np.linspace(-2.2, 2.2, 111)
    shares = np.array([np.histogram(x, edges)[0] for x in ends]) / ends.shape[1] / np.diff(edges)
    sides = np.exp(np.interp(np.arange(v.size + 1) - 0.5, np.arange(v.size), np.log(v)))
    filled = ax.pcolormesh(sides, edges, shares.T, cmap="Blues", vmax=1.5, rasterized=True)
    ax.figure.colorbar(filled, ax=ax, label=f"density of x after {STEPS} steps", extend="max")
    fine = np.geomspace(v[0], v[-1], 150)
    low = [minima(one, places) for one in fine]
    at = np.repeat(fine, [len(some) for some in low])
    ax.plot(at, np.concatenate(low), ".", color=COLOURS[1], markersize=4, label="minima of f̃")
    for value in vanish.values():
        ax.axvline(value, color="0.3", linewidth=1, linestyle=":")
    ax.set(
        title=f"runs from {OUTER:.2f}, η = {RATE:g}; dotted: minima vanish",
        xscale="log",
        xlabel=NOISE,
        ylabel="x",
    )
    ax.legend(loc="lower left", fontsize="small", framealpha=0.9, edgecolor="none")


def draw_waves(ax, v, fits, exact):
    """κ that the mean steps of runs show, and its law."""
    h, b, error = np.transpose(fits)
    fine = np.linspace(0, 1.05 * v[-1], 50)
    ax.semilogy(
        fine, A * OMEGA**2 / H * np.exp(-0.5 * OMEGA**2 * fine), label="Aω² exp(−ω²η²s²/2)/h", **stroke(5)
    )
    dots = {"marker": "o", "linestyle": "", "color": COLOURS[1], "markersize": 5, "capsize": 3}
    ax.errorbar(v, OMEGA * b / h, 2 * OMEGA * error / h, label="runs, ± 2 SE", **dots)
    for name, value in exact.items():
        ax.plot([0, value, value], [KAPPA[name]] * 2 + [0.3], color="0.3", linewidth=1, linestyle=":")
        ax.annotate(
            f"{name} minima", (value, KAPPA[name]), (6, 4), textcoords="offset points", fontsize="small"
        )
    ax.set(title="waves in the mean step of runs", xlabel=NOISE, ylabel="κ = ωb/h", ylim=(0.4, 14))
    tidy(ax)


def draw_convexity(ax, found, bound):
    """One-point convexity along a run."""
    for i, (name, constant) in enumerate(found.items()):
        ax.plot(
            constant, label=f"{name}: below 0 at {100 * np.mean(constant < 0):.0f} % of steps", **stroke(i)
        )
    ax.axhline(bound, color="0.3", linewidth=1, linestyle=":", label="h(1 − κ)")
    title = f"a run's one-point convexity about 0, η²s² = {CONVEX:g}"
    ax.set(title=title, xlabel="step k", ylabel="slope × y / y²", ylim=(-10.5, 9))
    tidy(ax)


def main(arguments=None):
    run = common.start("smoothed_loss", __doc__, arguments)
    keys = jax.random.split(jax.random.key(0), 3)
    places = np.linspace(-2.2, 2.2, 2001 if run.quick else 8001) + 1e-5
    exact = {name: 2 / OMEGA**2 * np.log(A * OMEGA**2 / (H * kappa)) for name, kappa in KAPPA.items()}
    found = vanishing(places)

    told = np.array([0.002, 0.009, *(1.05 * value for value in exact.values())])
    v = np.concatenate([told, np.geomspace(1e-3, 0.5, 12 if run.quick else 60)])
    start = jnp.full(1000 if run.quick else 20_000, OUTER)
    later = runs(v, start, 6 * STEPS, STEPS, keys[0])[:, [1, 6]]
    outer = (np.abs(later) > TOP).mean(-1)
    waves = np.array([0.005, 0.015, 0.025, 0.05, 0.08, 0.11, 0.14, 0.17])
    start = jnp.linspace(-2.0, 2.0, 20_000 if run.quick else 200_000)
    fits = [mean_step(x) for x in runs(waves, start, 10, 1, keys[1])]
    seen, decay = observe_vanishing(waves, fits)

    x = runs([CONVEX], jnp.full(1, OUTER), 100, 1, keys[2])[0, :, 0]
    y = jnp.asarray(x - RATE * slope(x))
    along = lambda loss: np.asarray(jf.density.one_point_convexity(loss, y, 0.0).constant)
    convex = {"f": along(loss), "f̃": along(smooth(CONVEX))}
    bound = H - A * OMEGA**2 * np.exp(-0.5 * OMEGA**2 * CONVEX)

    figure = Figure(figsize=(11.5, 7.8), layout="constrained")
    axes = figure.subplots(2, 2)
    draw_losses(axes[0, 0], places)
    draw_ends(axes[0, 1], v[len(told) :], later[len(told) :, 0], places, exact)
    draw_waves(axes[1, 0], waves, fits, exact)
    draw_convexity(axes[1, 1], convex, bound)

    headlines = {
        f"η²s² at which minima vanish, {name}": common.near(found[name], exact[name], relative=1e-3)
        for name in exact
    }
    headlines["minima of f̃ at η²s² = 0, .05, .2"] = ([len(minima(one, places)) for one in SHOWN], [4, 2, 1])
    for i, one in enumerate(told[:3]):
        name = f"η²s² = {one:.3g}: share of runs in an outer minimum after {STEPS}, {6 * STEPS} steps"
        headlines[name] = (outer[i], None)
    name = f"η²s² = {told[2]:.3g}: median |x| after {6 * STEPS} steps, against the minimum of f̃"
    headlines[name] = (np.median(np.abs(later[2, 1])), minima(told[2], places)[-1])
    below = np.mean(later[3, 1] < 0)
    headlines[f"η²s² = {told[3]:.3g}: share of runs below 0 after {6 * STEPS} steps"] = common.near(
        below,
        0.5,
        by=2 / np.sqrt(later.shape[-1]),  # four standard errors
    )
    for name, value in seen.items():
        headlines[f"mean steps of runs: η²s² at which minima vanish, {name}"] = common.near(
            value, exact[name], relative=0.025
        )
    headlines["mean steps of runs: slope of log κ in η²s²"] = common.near(decay, -0.5 * OMEGA**2, by=0.5)
    headlines["along a run: share of steps with one-point convexity below 0, f, f̃"] = (
        [np.mean(constant < 0) for constant in convex.values()],
        None,
    )
    headlines["along a run: least one-point convexity of f̃, against its bound"] = common.within(
        convex["f̃"].min(), low=bound, expected=bound
    )
    return run.save(figure, headlines, v=v, outer=outer, waves=waves, fits=fits, convexity=convex)
