"""The price of a ravine: rates of convergence on an ill-conditioned quadratic, measured and from theory.

On ½(x₁² + κ x₂²) the error shrinks by a factor ρ a step, the spectral radius of the method's iteration matrix:

| method | rate η, coefficient β | ρ |
|---|---|---|
| gradient descent | η = 2/(κ+1) | (κ−1)/(κ+1) |
| heavy ball | η = 4/(√κ+1)², β = ((√κ−1)/(√κ+1))² | (√κ−1)/(√κ+1) |
| EMA momentum | the same β, η divided by 1−β | the same, iterate by iterate |
| Nesterov, look-ahead and shifted | η = 1/κ, β = (√κ−1)/(√κ+1) | 1 − 1/√κ |

For Nesterov's method √(1 − 1/√κ) is often quoted: the guarantee for any strongly convex function, slower by a
factor two than what happens on a quadratic. Heavy ball and Nesterov are tuned to be critically damped: their
iteration matrices are defective and the error is k·ρ^k, so log|error| is fitted by a + k log ρ + m log k over the
tail. A fit without m would measure ρ too large; m comes out 0 for gradient descent and 1 for the others.

Claim: Momentum takes √κ steps where gradient descent takes κ.

Figure: Top: 30 steps of each method from the black dot at the right, on the contours of ½(x₁² + 25x₂²); those of the
heavy ball (squares) and EMA momentum (diamonds) are the same points. Bottom left: distance from the minimum by step
at κ = 100, with the fitted factor ρ of each method in the legend. The heavy ball and EMA momentum coincide, and so do
both forms of Nesterov's method. Bottom right: 1 − ρ against κ, fitted (markers) and in theory (lines in the same
colours). The grey line is the guarantee of Nesterov's method for any strongly convex function.

Measured: Factor a step at κ = 100: gradient descent .980198 = 99/101; heavy ball and EMA momentum .818182 = 9/11;
both Nesterovs .900000, where 1 − 1/√κ = .9 (its guarantee is .949). Error ∝ k·ρ^k for all but gradient descent (power
.995–.997). κ from 4 to 10⁴: ρ within 3e-6 of theory.

Sources: Polyak (1964); Nesterov (1983, 2004); Lessard, Recht & Packard (2016, 1408.3595).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

KAPPA, SHOWN = 100.0, 25.0
METHODS = ("gradient descent", "heavy ball", "EMA momentum", "Nesterov, look-ahead", "Nesterov, shifted")
nesterov, ahead = jf.optim.nesterov, partial(jf.optim.nesterov, lookahead=True)


def ema(rate, beta):
    """EMA momentum at the rate that makes it the heavy ball."""
    return jf.optim.momentum(rate / (1 - beta), beta, ema=True)


def tune(kappa):
    """Each method by name: its optimizer at the textbook's parameters, which may be traced."""
    root = jnp.sqrt(kappa)
    ball = 4 / (root + 1) ** 2, ((root - 1) / (root + 1)) ** 2
    fast = 1 / kappa, (root - 1) / (root + 1)
    made = (
        jf.optim.gd(2 / (kappa + 1)),
        jf.optim.momentum(*ball),
        ema(*ball),
        ahead(*fast),
        nesterov(*fast),
    )
    return dict(zip(METHODS, made, strict=True))


def textbook(kappa):
    """ρ of each method in closed form."""
    root = np.sqrt(kappa)
    ball, fast = (root - 1) / (root + 1), 1 - 1 / root
    return dict(zip(METHODS, ((kappa - 1) / (kappa + 1), ball, ball, fast, fast), strict=True))


def radius(name, kappa):
    """The spectral radius of the companion matrix of x_{k+1} = p x_k − q x_{k−1}, the larger of both directions."""
    root = np.sqrt(kappa)
    radii = []
    for curvature in (1.0, kappa):
        if name == "gradient descent":
            p, q = 1 - 2 / (kappa + 1) * curvature, 0.0
        elif name.startswith("Nesterov"):
            beta, contraction = (root - 1) / (root + 1), 1 - curvature / kappa
            p, q = (1 + beta) * contraction, beta * contraction
        else:
            rate, beta = 4 / (root + 1) ** 2, ((root - 1) / (root + 1)) ** 2
            p, q = 1 + beta - rate * curvature, beta
        radii.append(np.abs(np.linalg.eigvals(np.array([[p, -q], [1.0, 0.0]]))).max())
    return float(max(radii))


def fit(path):
    """ρ and m of |x_k| ≈ C k^m ρ^k over the second half of a path (T, 2), as far as float64 reaches."""
    error = np.hypot(path[:, 0], path[:, 1])
    last = int(np.argmax(error < 1e-290)) or error.size
    k = np.arange(last // 2, last)
    columns = np.stack([np.ones(k.size), k, np.log(k)], 1)
    _, slope, power = np.linalg.lstsq(columns, np.log(error[k]), rcond=None)[0]
    return float(np.exp(slope)), float(power)


def run_all(kappas, steps):
    """Paths (κ, T, 2) of every method, one compiled call a method."""

    def path(kappa, optimizer):
        problem = jf.problems.ravine(kappa)
        return jf.iterate(optimizer, problem.objective, problem.params, steps=steps).values

    optimizers = jax.vmap(tune)(kappas)
    return {
        name: np.asarray(jax.vmap(path)(kappas, optimizers[name]))
        for name in common.progress(METHODS, "methods")
    }


def draw_paths(ax):
    """Every path over the contours; EMA momentum in hollow markers around the heavy ball's."""
    problem = jf.problems.ravine(SHOWN)
    paths = {
        name: jf.iterate(optimizer, problem.objective, problem.params, steps=30)
        for name, optimizer in tune(SHOWN).items()
    }
    jf.plot.plane(problem.objective, paths, ax, extent=(-0.05, 1.05, -0.55, 0.45), levels=14)
    hollow = next(line for line in ax.lines if line.get_label() == "EMA momentum")
    hollow.set(markersize=8, markerfacecolor="none", markeredgewidth=1.5)
    ax.set_title(f"30 steps of each on ½(x₁² + {SHOWN:g} x₂²)")
    ax.legend(loc="lower center", ncols=len(paths), fontsize="small", frameon=False)


def main(arguments=None):
    run = common.start("ravine", __doc__, arguments)
    kappas = jnp.asarray([4.0, KAPPA, 1e4] if run.quick else [4.0, 10.0, 30.0, KAPPA, 300.0, 1e3, 3e3, 1e4])
    paths = run_all(kappas, 4000 if run.quick else 20_000)
    at = int(np.argmax(kappas == KAPPA))
    figure = Figure(figsize=(12.5, 8.2), layout="constrained")
    panels = figure.subplot_mosaic("pp;er")
    errors, rates = panels["e"], panels["r"]
    draw_paths(panels["p"])
    headlines, fits = {}, {}
    smooth = np.geomspace(4, 1e4, 60)
    for i, (name, path) in enumerate(paths.items()):
        fits[name] = np.array([fit(p) for p in path])
        rho, power = fits[name][at]
        theory = textbook(KAPPA)[name]
        headlines[f"{name}, κ = 100: factor a step ρ"] = common.near(rho, theory, by=2e-5)
        headlines[f"{name}, κ = 100: ρ of the companion matrix"] = common.near(
            radius(name, KAPPA), theory, by=1e-6
        )
        headlines[f"{name}, κ = 100: power m of k"] = common.near(power, 0.0 if i == 0 else 1.0, by=0.03)
        errors.semilogy(np.hypot(*path[at, :301].T), label=f"{name}: ρ = {rho:.4f}", **stroke(i))
        rates.loglog(smooth, 1 - textbook(smooth)[name], **stroke(i))
        marker = {"marker": "osD^v"[i], "markersize": 10 - 1.6 * i, "linestyle": "", "color": COLOURS[i]}
        rates.plot(kappas, 1 - fits[name][:, 0], label=name, **marker | {"markerfacecolor": "none"})
    rates.loglog(
        smooth, 1 - np.sqrt(1 - smooth**-0.5), color="0.6", linewidth=1, label="Nesterov, the guarantee"
    )
    headlines["EMA momentum and heavy ball: largest distance"] = common.within(
        np.abs(paths["EMA momentum"][at] - paths["heavy ball"][at]).max(), high=1e-14, expected=0.0
    )
    gaps = [np.abs(fits[n][:, 0] - textbook(np.asarray(kappas))[n]).max() for n in paths]
    headlines["all κ and methods: largest error of ρ"] = common.within(max(gaps), high=1e-4, expected=0.0)
    headlines["Nesterov, κ = 100: the guarantee √(1 − 1/√κ)"] = (np.sqrt(1 - KAPPA**-0.5), None)
    errors.set(title="κ = 100: distance from the minimum", xlabel="step k", ylabel="|x|", ylim=(1e-25, 10))
    rates.set(title="measured (markers), theory (lines)", xlabel="condition number κ", ylabel="1 − ρ")
    tidy(errors)
    tidy(rates)
    return run.save(figure, headlines, kappas=kappas, fits=fits)
