"""SGD's stationary loss depends on learning_rate / batch_size alone.

SGD at learning rate η on batches of B independent draws has the temperature T = η/(2B), and its SDE
dθ = −∇L dt + √(2TΣ(θ)) dW depends on η and B only through T. Near a minimum its stationary covariance solves HS + SH
= 2TΣ, so that the excess loss is ½ tr HS = ½ T tr Σ, whatever the Hessian is. Measured on handwritten digits:

- η/B held constant over four B = 8 … 256: on the clock t = kη the same loss curves and one stationary excess loss,
- η held constant over the same B: other temperatures, other losses,
- excess loss against T: one line, ½ T tr Σ, on which the SDE's own ensembles lie too.

The model is logistic regression of 600 digits on their 8 leading principal components, whitened, with an L2
penalty of ½ µ|θ|², µ = .1: its Hessian has eigenvalues from .1 to .33, so that it forgets within t ≈ 10 and the
largest rate, .16, is small against 2/.33. Everything starts at the minimum. A run's loss is averaged over the second
half of its time, one number for each run; verdicts are by `jf.compare_ensembles` on these.

Claim: SGD's stationary loss depends on learning_rate / batch_size alone.

Figure: Left: mean excess loss in time at one η/B, for four batch sizes (lines, with the p-value of the comparison
with B = 32) and for the SDE (grey band): one curve. Middle: the same at one η: a curve for each batch size. Right:
stationary excess loss against temperature, of SGD at one η/B (squares), of SGD at one η (circles) and of the SDE
(crosses), with the prediction ½ T tr Σ (line).

Measured: Digits, four B = 8 … 256. Rate / B constant: the excess losses within 4.5 % of each other, smallest p .13
(for three comparisons), gaps above 8.0 % excluded. Rate constant: from 4 × the reference's to ⅛ of it, every p ≤
.003. Excess loss = .98–1.05 × ½ T tr Σ over a factor 32 in T, power 1.001; the SDE .99, 1.03, 1.00 × the same.

Sources: Mandt, Hoffman & Blei (2017, 1704.04289); Jastrzębski et al. (2017, 1711.04623); Smith & Le (1710.06451).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import CLOCK, COLOURS, stroke, tidy

PENALTY, COMPONENTS = 0.1, 8
REFERENCE, RATE = 32, 0.02  # the batch size at which both rules have one learning rate, and that rate
LONGEST = 0.03  # ½η times the largest curvature, .33, at the largest rate, .16: what steps of a length add


@dataclass(frozen=True)
class Penalised:
    """Per-example losses plus ½ µ|θ|²; equal by its parts, so that it is compiled once."""

    losses: Callable

    def __call__(self, params, batch):
        size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return self.losses(params, batch) + 0.5 * PENALTY * size


def digits(examples):
    """The objective on a number of digits, and its minimum."""
    data = jf.problems.load("digits")
    x, y = data.x[:examples], data.y[:examples]
    scores = np.linalg.svd(x - x.mean(0), full_matrices=False)[0][:, :COMPONENTS]
    problem = jf.problems.logistic_regression((scores * np.sqrt(len(x)), y), test_fraction=0.0)
    objective = jf.Objective(Penalised(problem.objective.losses), problem.objective.data)
    minimum = jf.iterate(jf.optim.newton(), objective, problem.params, steps=10, every=None).params
    return objective, minimum


def train(objective, start, rate, batch_size, time, members, key):
    """Losses of an ensemble of SGD at 40 times."""
    steps = round(time / rate)
    return jf.ensemble(
        lambda k: jf.iterate(
            jf.optim.gd(rate),
            objective,
            start,
            steps=steps,
            batch_size=batch_size,
            every=steps // 40,
            key=k,
            record=objective,
        ),
        jax.random.split(key, members),
    )


def diffuse(objective, start, temperature, time, members, key):
    """The same of the SDE, which is told any rate and batch size of that temperature."""
    rate = 8 * RATE
    dynamics = jf.dynamics.sgd(objective, rate, rate / (2 * temperature))
    times = np.linspace(0.0, time, 41)
    return jf.ensemble(
        lambda k: jf.integrate(dynamics, start, times, step_size=rate / 4, key=k, record=objective),
        jax.random.split(key, members),
    )


def stationary(run, floor):
    """The mean excess loss of every run over the second half of its time."""
    values = np.asarray(run.values)
    return (values[:, values.shape[1] // 2 :] - floor).mean(1)


def verdict(excess, reference, key):
    """Of equal stationary losses: the p-value, and the gap with its interval as shares of the reference's."""
    found = jf.compare_ensembles({"loss": excess}, {"loss": reference}, key=key)
    gap, low, high = (np.ravel(x)[0] / reference.mean() for x in (found.gap, found.low, found.high))
    return {"p": float(found.p_value), "gap": gap, "low": low, "high": high}


def draw_curves(ax, runs, found, smooth, floor):
    """Mean excess loss against time, by batch size, over the SDE's at the reference's temperature."""
    mean = lambda run: (np.asarray(run.values) - floor).mean(0)[1:]
    ax.semilogy(
        smooth.times[1:], mean(smooth), color="0.75", linewidth=5, label=f"SDE, η/B = 1/{REFERENCE / RATE:g}"
    )
    for i, (batch_size, run) in enumerate(runs.items()):
        p = found[batch_size]["p"] if batch_size in found else None
        says = "the reference" if p is None else f"p = {p:.2g}" if p > 0.001 else "p < .001"
        ax.semilogy(run.times[1:], mean(run), label=f"B = {batch_size}: {says}", **stroke(i))
    ax.set(xlabel=CLOCK, ylabel="mean excess loss")
    tidy(ax)


def draw_line(ax, ensembles, predicted):
    """Stationary excess losses against temperature; `ensembles`: (temperature, excess of every run) by name."""
    ax.loglog([3e-5, 2e-3], [predicted(3e-5), predicted(2e-3)], label="½ T tr Σ", **stroke(0))
    styles = (
        {"marker": "s", "markersize": 9},
        {"marker": "o", "markersize": 6},
        {"marker": "x", "markersize": 7},
    )
    for (name, points), style, colour in zip(ensembles.items(), styles, (1, 2, 0), strict=True):
        x, y = [t for t, _ in points], [excess.mean() for _, excess in points]
        hollow = {
            "markerfacecolor": "none",
            "markeredgewidth": 1.6,
            "linestyle": "",
            "color": COLOURS[colour],
        }
        ax.plot(x, y, label=name, **style | hollow)
    ax.set(
        title="excess loss is proportional to T",
        xlabel="temperature T = η/(2B)",
        ylabel="stationary excess loss",
    )
    tidy(ax)


def main(arguments=None):
    run = common.start("temperature", __doc__, arguments)
    sizes = (8, REFERENCE) if run.quick else (8, REFERENCE, 64, 256)
    time, members = (20.0, 64) if run.quick else (40.0, 96)
    objective, start = digits(300 if run.quick else 600)
    floor, trace = float(objective(start)), float(jf.noise_scale(objective, start).trace)
    predicted = lambda temperature: 0.5 * temperature * trace
    keys = iter(jax.random.split(jax.random.key(0), 40))
    rules = {
        "η/B constant": {b: RATE * b / REFERENCE for b in sizes},
        "η constant": dict.fromkeys(sizes, RATE),
    }
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    axes = figure.subplots(1, 3)

    warm = float(jf.dynamics.temperature(RATE, REFERENCE))
    chosen = [warm] if run.quick else [warm / 8, warm, 4 * warm]
    smooth = {t: diffuse(objective, start, t, time, members // 2, next(keys)) for t in chosen}
    reference = train(objective, start, RATE, REFERENCE, time, members, next(keys))
    base = stationary(reference, floor)
    found, ensembles = {}, {}
    for ax, (rule, rates) in zip(axes, rules.items(), strict=False):
        runs = {
            b: reference if b == REFERENCE else train(objective, start, rate, b, time, members, next(keys))
            for b, rate in common.progress(rates.items(), rule)
        }
        excess = {b: stationary(r, floor) for b, r in runs.items()}
        found[rule] = {b: verdict(x, base, next(keys)) for b, x in excess.items() if b != REFERENCE}
        ensembles[f"SGD, {rule}"] = [(rates[b] / (2 * b), x) for b, x in excess.items()]
        draw_curves(ax, runs, found[rule], smooth[warm], floor)
    ensembles["SDE"] = [(t, stationary(r, floor)) for t, r in smooth.items()]
    draw_line(axes[2], ensembles, predicted)
    for ax, title in zip(
        axes, ("η/B constant: one loss for all batch sizes", "η constant: a loss for each"), strict=False
    ):
        ax.set(title=title, ylim=(predicted(RATE / 2 / sizes[-1]) / 30, 2 * predicted(RATE / 16)))
        ax.legend(frameon=False, fontsize="small", loc="lower center", ncols=2)

    same, other = (list(f.values()) for f in found.values())
    against = verdict(base, ensembles["SDE"][chosen.index(warm)][1], next(keys))
    adjusted = min(1.0, len(same) * min(v["p"] for v in same))  # Bonferroni
    headlines: dict[str, Any] = {
        "η/B constant: smallest p of equal losses, adjusted": common.within(adjusted, low=1e-3)
    }
    headlines["η/B constant: gaps of the losses, shares"] = ([v["gap"] for v in same], 0.0)
    headlines["η/B constant: largest gap not excluded"] = (max(max(-v["low"], v["high"]) for v in same), None)
    headlines["η constant: largest p of equal losses, adjusted"] = common.within(
        len(other) * max(v["p"] for v in other), high=0.01
    )
    headlines["SGD and SDE of one T: p, gap"] = ([against["p"], against["gap"]], None)
    for name, points in ensembles.items():
        ratio = [x.mean() / predicted(t) for t, x in points]
        error = max(x.std(ddof=1) / predicted(t) / len(x) ** 0.5 for t, x in points)
        headlines[f"{name}: excess loss / ½ T tr Σ"] = common.near(ratio, 1.0, by=4 * error + LONGEST)
    t, x = (
        np.log([f(p) for e in ensembles.values() for p in e]) for f in (lambda p: p[0], lambda p: p[1].mean())
    )
    headlines["power of T in the excess loss"] = common.near(
        float(np.polyfit(t, x, 1)[0]), 1.0, by=0.1 if run.quick else 0.03
    )
    return run.save(figure, headlines, verdicts=found, trace=trace, minimum=floor)
