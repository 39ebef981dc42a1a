r"""Why SimSiam does not collapse: predictor and stop-gradient hold up those modes of the data that are strong enough.

Two views of an example, each with noise σ² = .2, pass a network f. One passes a predictor $W_p$ too, and is pulled to
the other, through which no gradient goes. The digits are shifted, and scaled by one number to mean variance 1.

- *Linear*, f(x) = Wx with 32 outputs, in exact expectation. A principal component of variance λ survives the weight
  decay η where η < η* = λ²/(4(λ + σ²)), whatever the speed $\alpha_p$ of the predictor. Its squared weight then ends
  at $p_+^2/\alpha_p$. The flow is followed until it has settled, from principal components
  and from random weights, in which weak modes may start too low to survive.
- *Which part does it*: |W| in time. Without predictor it falls as $e^{-(\sigma^2 + \eta)t}$, without the stop at
  least as fast. BYOL's teacher without predictor only delays this. With the predictor that is optimal
  at all times |W| falls as $e^{-\eta t}$, by the decay alone.
- *A network* of 32 tanh units and 16 outputs, on one drawn pair of views for each example: the rank of its
  representation, which is the number of its principal components with a variance above .001.

Claim: SimSiam and BYOL keep those principal components whose variance passes a threshold set by the weight decay,
whatever the speed of the predictor; without predictor or stop-gradient all collapse, at the rate in theory.

Figure: Top left: rank of W in the linear model against the weight decay, from principal components (circles) and from
random weights with α = 1 (squares), .25 (triangles) and 4 (diamonds), and in theory (grey steps). Top right: squared
weight of each mode against its variance, measured (points) and in theory (lines), for η = .05 (solid), .2 (dashed),
.5 (dash-dotted), 1 (dotted) and 2 (yellow); at the bottom are collapsed modes. Bottom left: size of W over its start
in time at η = .1, of SimSiam (solid), BYOL (dashed), SimSiam without predictor (dash-dotted), BYOL without predictor
(green), SimSiam without stop-gradient (yellow) and with the optimal predictor (blue); the grey bands are exp(−(σ² +
η)t) and exp(−ηt). Bottom right: number of components with a variance above .001 of a tanh network against η, for
SimSiam with α = 1 (circles), .25 (squares) and 4 (triangles), BYOL (diamonds), SimSiam without predictor (downward
triangles) and without stop-gradient (sideways triangles).

Measured: Digits (mean variance 1, noise σ² = .2), linear, 32 outputs: modes kept at η = .05, .2, .5, 1, 2 27, 14, 8,
4, 2, as in theory, from principal components (at all 8 η) and from random weights with α = 1 and 4; a slow predictor,
α = .25, loses 2 of 27 at .05, 1 of 23 at .08 and 1 of 8 at .5, as weak modes start too low. Squared weights within
8e-7 of the points of rest. η = .1: rate of |W| −.3000 without predictor (−σ² − η), −.306 without the stop and never
above the bound, −.1000 (−η) with the optimal predictor; with both .640 of it is left, in BYOL .642; BYOL without
predictor as in its closed form. Tanh network of 16 outputs, rank at η = .003, .03, .3, 1: 16, 8, 2, 0 (BYOL 15, 9, 2,
0; α = 4 collapses from .3 on); without predictor or stop 0 at every η. The intervals were set on key 0 and reached at
the first run with this key.

Sources: Tian, Chen & Ganguli (2021, 2102.06810); Chen & He (2021, 2011.10566); Grill et al. (2020, 2006.07733).
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.linalg import expm

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy
from jaxflow.problems import optimal_predictor, self_supervised, simsiam_modes

FRESH = 1000  # the first random key; intervals were set on others
SIGMA, OUTPUTS, DECAY = 0.2**0.5, 32, 0.1
ASKED = (0.05, 0.2, 0.5, 1.0, 2.0)
SPEEDS = (1.0, 0.25, 4.0)
SMALL = 1e-3  # squared weights and variances below this have collapsed
VARIANTS: dict[str, dict[str, Any]] = {
    "SimSiam": {},
    "BYOL": {"method": "byol"},
    "SimSiam, no predictor": {"predictor": False},
    "BYOL, no predictor": {"method": "byol", "predictor": False},
    "SimSiam, no stop-gradient": {"stop_gradient": False},
}
WITHOUT = ("SimSiam, no predictor", "SimSiam, no stop-gradient")
OPTIMAL, TAUGHT = "SimSiam, optimal predictor", "BYOL, no predictor"
ALIGNED = "from principal components, α = 1"


def linear(decay, speed=1.0, **options):
    key = jax.random.key(FRESH)
    return self_supervised(
        "digits", OUTPUTS, augmentation=SIGMA, weight_decay=decay, predictor_speed=speed, key=key, **options
    )


def settled_weights(decay, speed, aligned):
    """Squared singular values of W where the flow has settled, largest first, and the residual velocity."""
    problem = linear(decay, speed)
    directions = jnp.linalg.eigh(problem.objective.data[0])[1]
    online = directions[:, ::-1][:, :OUTPUTS].T if aligned else 2 * problem.params.online
    flow, times = jf.dynamics.gradient_flow(problem.objective), jnp.array([0.0, 60 + 25 / decay])
    start = problem.params._replace(online=online)
    end = jf.integrate(flow, start, times, rtol=1e-5, atol=1e-8, max_steps=100_000).params
    left = max(float(jnp.abs(leaf).max()) for leaf in problem.objective(end))
    return np.linalg.svd(end.online, compute_uv=False) ** 2, left


def at_the_best(params, objective):
    """The velocity of W where the predictor is the optimal one, which is no player then."""
    best = params._replace(predictor=optimal_predictor(objective, params))
    return objective(best)._replace(predictor=None)


def collapse(times, names):
    """|W| over its start in time, of variants; the last with a predictor that is optimal at all times."""
    problems = {name: linear(DECAY, **VARIANTS[name]) for name in names}
    cases = {name: (problem.objective, problem.params) for name, problem in problems.items()}
    objective, params = cases["SimSiam"]
    cases[OPTIMAL] = (jf.VectorField(at_the_best, (objective,)), params._replace(predictor=None))
    norms = {}
    for name, (field, start) in cases.items():
        path = jf.integrate(
            jf.dynamics.gradient_flow(field), start, times, rtol=1e-8, atol=1e-12, max_steps=50_000
        )
        norms[name] = np.linalg.norm(path.values.online, axis=(1, 2))
    return {name: values / values[0] for name, values in norms.items()}


def rate(times, norms):
    """The rate of the last third of a decay."""
    late = len(times) * 2 // 3
    return float(np.polyfit(times[late:], np.log(norms[late:]), 1)[0])


def taught_norm(time):
    """|W| over its start in BYOL without predictor, where each component and its teacher are a linear equation."""
    problem = linear(DECAY, **VARIANTS[TAUGHT])
    every, directions = np.linalg.eigh(problem.objective.data[0])
    rates = [expm(time * np.array([[-v - SIGMA**2 - DECAY, v], [1.0, -1.0]])).sum(1)[0] for v in every]
    start = np.asarray(problem.params.online @ directions)
    return float(np.linalg.norm(start * rates) / np.linalg.norm(start))


def network_ranks(decays, steps, **options):
    """The rank of a network's representation after training, at every weight decay, and its total variance."""
    key = jax.random.key(FRESH)
    make = partial(self_supervised, "digits", 16, (32,), augmentation=SIGMA, draws=1, key=key, **options)
    ranks, totals = [], []
    for decay in decays:
        problem = make(weight_decay=decay)
        run = jf.iterate(jf.optim.gd(0.1), problem.objective, problem.params, steps=steps, every=None)
        z = problem.predict(run.params, problem.objective.data[0]["x"])
        spread = np.linalg.eigvalsh(np.cov(np.asarray(z).T, bias=True))
        ranks.append(int((spread > SMALL).sum()))
        totals.append(float(spread.sum()))
    return ranks, totals


@cache
def variances():
    """The variances of the components that W has outputs for, largest first."""
    return np.linalg.eigvalsh(linear(DECAY).objective.data[0])[::-1][:OUTPUTS]


def predicted_weights(decays):
    """The squared weights where modes end, for each weight decay; 0 where they collapse."""
    modes = simsiam_modes(variances(), augmentation=SIGMA, weight_decay=np.asarray(decays)[:, None])
    return np.where(modes.survives, np.nan_to_num(modes.strength), 0)


def all_modes(decays, speeds):
    """Squared weights that the flow ends at, for each weight decay, by start and speed; the largest velocity left."""
    cases = {ALIGNED: (1.0, True)}
    cases |= {f"from random weights, α = {speed:g}": (speed, False) for speed in speeds}
    found, left = {}, 0.0
    for name, (speed, aligned) in common.progress(cases.items(), "linear"):
        ends = [settled_weights(decay, speed, aligned) for decay in decays]
        found[name] = np.stack([strengths for strengths, _ in ends])
        left = max(left, *(velocity for _, velocity in ends))
    return found, left


def draw_counts(ax, decays, found):
    """Surviving modes against weight decay: the staircase of the thresholds, and what was found."""
    fine = np.geomspace(min(decays) / 1.3, max(decays) * 1.3, 400)
    ax.plot(fine, (predicted_weights(fine) > 0).sum(1), color="0.6", linewidth=1.5, label="in theory: η < η*")
    for i, (name, strengths) in enumerate(found.items()):
        marker = {"marker": "os^D"[i], "markersize": 4 + 3 * (len(found) - 1 - i), "fillstyle": "none"}
        ax.plot(decays, (strengths > SMALL).sum(1), linestyle="", color=COLOURS[i], label=name, **marker)
    ax.set(title="linear model: modes that survive (α: speed of the predictor)", xscale="log")
    ax.set(xlabel="weight decay η", ylabel=f"rank of W (of {OUTPUTS})")
    tidy(ax)


def draw_strengths(ax, decays, found):
    """Where the squared weights end against the variance of the mode: points of rest, and what was found."""
    fine = np.geomspace(0.1, 12, 600)
    shown = [pair for pair in zip(decays, found, strict=True) if pair[0] in ASKED]
    for i, (decay, strengths) in enumerate(shown):
        rest = simsiam_modes(fine, augmentation=SIGMA, weight_decay=decay).strength
        ax.plot(fine, rest, **stroke(i))
        ax.plot(variances(), strengths, "o", markersize=4, color=COLOURS[i], label=f"η = {decay:g}")
    ax.set(title="linear model: where modes end (points), and theory (lines)", xscale="log")
    ax.text(0.23, 0.02, "collapsed", color="0.3")
    ax.set(xlabel="variance λ of the principal component", ylabel="squared weight s of the mode")
    tidy(ax)


def draw_norms(ax, times, norms):
    """|W| in time for all variants, and the bound."""
    ax.plot(times, np.exp(-(SIGMA**2 + DECAY) * times), color="0.8", linewidth=6, label="exp(−(σ² + η)t)")
    ax.plot(times, np.exp(-DECAY * times), color="0.9", linewidth=6, label="exp(−ηt)")
    for i, (name, values) in enumerate(norms.items()):
        ax.plot(times, values, label=name, **stroke(i))
    ax.set(title=f"linear model: size of W, η = {DECAY:g}", yscale="log", ylim=(1e-7, 3))
    ax.set(xlabel="time t of the flow", ylabel="|W(t)| / |W(0)|")
    tidy(ax)


def draw_ranks(ax, decays, ranks):
    """The rank of the network's representation against weight decay."""
    for i, (name, found) in enumerate(ranks.items()):
        shifted = np.asarray(decays) * 1.03 ** (i - (len(ranks) - 1) / 2)
        ax.plot(shifted, found, marker="os^Dv<"[i], markersize=5, label=name, **stroke(i))
    ax.set(title="tanh network: rank of the representation", xscale="log", ylim=(-0.5, 16.5))
    ax.set(xlabel="weight decay η", ylabel="components with variance > .001 (of 16)")
    tidy(ax)


def linear_headlines(decays, found, left):
    """Counts of modes and where they end, against theory."""
    listed, ends = ", ".join(f"{decay:g}" for decay in decays), predicted_weights(decays)
    expected = (ends > 0).sum(1).tolist()
    headlines: dict[str, Any] = {
        f"linear, {name}: modes kept at η = {listed}": ((strengths > SMALL).sum(1).tolist(), expected)
        for name, strengths in found.items()
    }
    for name, strengths in found.items():
        apart = np.abs((strengths > SMALL).sum(1) - expected).max()
        # From random weights a mode near its threshold may be lost.
        most = 0 if name == ALIGNED else 2
        headlines[f"linear, {name}: largest gap of a number"] = common.within(apart, high=most, expected=0)
    off = np.abs(found[ALIGNED] - ends).max()
    headlines["squared weights from principal components: largest distance from theory"] = common.within(
        off, high=1e-4, expected=0
    )
    headlines["largest velocity where the flow is called settled"] = common.within(
        left, high=1e-3, expected=0
    )
    return headlines


def norm_headlines(times, norms):
    """Rates of collapse, against theory."""
    bound = -(SIGMA**2 + DECAY)
    plain, free = (norms[name] for name in WITHOUT)
    excess = np.max(free * np.exp(-bound * times))
    headlines: dict[str, Any] = {
        "no predictor: rate of |W|": common.near(rate(times, plain), bound, by=1e-4),
        "no stop-gradient: largest |W| / bound, at most 1": common.within(excess, high=1 + 1e-6),
        "no stop-gradient: late rate of |W|, at most that of the bound": common.within(
            rate(times, free), high=bound + 1e-4, expected=bound
        ),
        "optimal predictor: rate of |W|": common.near(rate(times, norms[OPTIMAL]), -DECAY, by=1e-3),
    }
    about = "|W| at the end / at the start"
    if TAUGHT in norms:
        exact = taught_norm(times[-1])
        headlines[f"{TAUGHT}: {about}"] = common.near(norms[TAUGHT][-1], exact, relative=1e-3)
    kept = [name for name in ("SimSiam", "BYOL") if name in norms]
    ends = {f"{name}: {about}": common.within(norms[name][-1], low=0.5) for name in kept}
    return headlines | ends


def main(arguments=None):
    run = common.start("why_simsiam_does_not_collapse", __doc__, arguments)
    # At none of them a mode is so near to its threshold that the flow has not settled at the end of its time.
    decays = (0.2, 1.0) if run.quick else (0.05, 0.08, 0.2, 0.35, 0.5, 1.0, 2.0, 3.0)
    speeds, steps = (SPEEDS[:1], 100) if run.quick else (SPEEDS, 2000)
    found, left = all_modes(decays, speeds)
    times = np.linspace(0, 10.0 if run.quick else 40.0, 41)
    norms = collapse(times, ("SimSiam", *WITHOUT) if run.quick else tuple(VARIANTS))
    trained = decays if run.quick else (0.003, 0.03, 0.1, 0.3, 1.0)
    networks = {f"SimSiam, α = {speed:g}": {"predictor_speed": speed} for speed in speeds}
    networks |= {name: VARIANTS[name] for name in (WITHOUT if run.quick else ("BYOL", *WITHOUT))}
    ranks, totals = {}, {}
    for name, options in common.progress(networks.items(), "networks"):
        ranks[name], totals[name] = network_ranks(trained, steps, **options)

    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    draw_counts(axes[0, 0], decays, found)
    draw_strengths(axes[0, 1], decays, found[ALIGNED])
    draw_norms(axes[1, 0], times, norms)
    draw_ranks(axes[1, 1], trained, ranks)

    headlines = linear_headlines(decays, found, left) | norm_headlines(times, norms)
    listed = ", ".join(f"{decay:g}" for decay in trained)
    for name, counts in ranks.items():
        headlines[f"network, {name}: rank at η = {listed}"] = (
            common.near(counts, 0) if name in WITHOUT else (counts, None)
        )
        headlines[f"network, {name}: total variance"] = (totals[name], None)
    return run.save(figure, headlines, decays=decays, strengths=found, times=times, norms=norms, ranks=ranks)
