"""Another batch size, the same training: the linear rule for SGD and momentum, the square root for Adam and RMSProp.

With κ times the batch size, `jf.rescale` turns η into κη for SGD and momentum, and into √κ η for Adam and RMSProp,
whose 1 − β become κ(1 − β) and whose ε becomes ε/√κ: the SDEs stay, so that the laws of the loss agree wherever as
many examples have been seen. Measured on digits, with ensembles of runs that each have their own start and batches:

- at κ = 4 the losses of the rescaled optimizers are those of the original; at unchanged hyperparameters ("naive")
  they are far behind,
- at larger κ the rules break: κη is no longer small against 2/sharpness, the velocity's memory η/(1−β) grows with η,
  and a large batch's noise no longer outweighs its gradient, as the square-root rule assumes.

Starts are networks trained for three epochs, as both rules are known to fail early, where gradients outweigh noise;
for the same reason the adaptive methods go from a batch of 1. A verdict is by `jf.compare_ensembles` on the log of
the training loss, at three times jointly.

Claim: After the linear rule (SGD, momentum) and the square-root rule (Adam, RMSProp) training is the same, until the
batch is too large.

Figure: The four panels at the left: mean training loss against epochs, for each optimizer. The grey band is the
original batch size; the lines are κ = 4 (solid), 16 (dashed) and 64 (dash-dotted) times that with rescaled
hyperparameters, and 4 times that with unchanged ones, "naive" (dotted). Right: the largest gap in the mean log loss
from the original, in standard deviations, against κ; a line for each optimizer rescaled, hollow markers where no
difference was found, crosses for the naive ones at κ = 4.

Measured: Digits, B × 4: mean log losses within .36, .24, .10, .11 SD for SGD, momentum, Adam, RMSProp (p = .38, .66,
.82, .51); at unchanged hyperparameters 15.5, 4.0, 9.3, 6.9 SD (p < .001), losses 91, 24, 74, 55 % higher at the end.
B × 64: 1.0, 3.7, 4.2, 4.2 SD, all found different; SGD alone still passes B × 16.

Sources: Goyal et al. (2017, 1706.02677); Malladi, Lyu, Panigrahi & Arora (2022, 2205.10287).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

RECORDS = 5


def methods():
    """The optimizers by name, with the batch size they are for."""
    adam, rmsprop = jf.optim.adam(1e-3), jf.optim.rmsprop(1e-3, 0.99)
    return {
        "SGD": (jf.optim.gd(0.05), 32),
        "momentum": (jf.optim.momentum(0.001, 0.9), 32),
        "Adam": (jf.rescale(adam, 8, 1), 1),
        "RMSProp": (jf.rescale(rmsprop, 8, 1), 1),
    }


def warm(members):
    """The objective, and networks (stacked) after three epochs of SGD from starts of their own."""
    problem = lambda key=None: jf.problems.mlp("digits", hidden=(16,), key=key)
    objective = problem().objective
    keys = jax.random.split(jax.random.key(0), members)
    train = lambda key: jf.iterate(
        jf.optim.gd(0.05), objective, problem(key).params, steps=135, batch_size=32, every=None, key=key
    )
    return objective, jf.ensemble(train, keys).params


def log_loss(objective, params):
    return jnp.log(objective(params))


def train(optimizer, batch_size, objective, starts, examples, key):
    """Log losses of an ensemble, against the number of examples seen."""
    steps = examples // batch_size
    run = lambda lane: jf.iterate(
        optimizer,
        objective,
        lane[1],
        steps=steps,
        time_step=float(batch_size),
        batch_size=batch_size,
        every=steps // RECORDS,
        key=lane[0],
        record=jax.tree_util.Partial(log_loss, objective),
    )
    members = jax.tree.leaves(starts)[0].shape[0]
    return jf.ensemble(run, (jax.random.split(key, members), starts))


def judge(run, base, key):
    """Of equal laws: the p-value; the largest gap in the mean in SD; the same at the end, as a share of the loss."""
    found = jf.compare_ensembles(run, base, key=key, at=base.times[jnp.array([1, 3, RECORDS])])
    a, b = (np.asarray(x.values)[:, 1:] for x in (run, base))
    alive = np.isfinite(a).all(1)
    gap = a[alive].mean(0) - b.mean(0) if alive.any() else np.full(RECORDS, np.inf)
    spread = b.std(0)
    return {
        "p": float(found.p_value),
        "gap": float(np.abs(gap / spread).max()),
        "loss": float(np.expm1(gap[-1])),
        "diverged": int((~alive).sum()),
    }


def draw_curves(ax, name, curves, size):
    """The loss against epochs: the geometric mean over runs."""
    for i, (label, run) in enumerate(curves.items()):
        values = np.asarray(run.values)
        mean = np.exp(values[np.isfinite(values).all(1)].mean(0))
        style = {"color": "0.75", "linewidth": 6} if i == 0 else stroke(i - 1)
        ax.semilogy(np.asarray(run.times) / size, mean, label=label, **style)
    ax.set(title=name, xlabel="examples seen / examples (epochs)", ylabel="training loss")
    tidy(ax)


def main(arguments=None):
    run = common.start("batch_scaling", __doc__, arguments)
    chosen = methods()
    if run.quick:
        chosen = {name: chosen[name] for name in ("SGD", "Adam")}
    factors = (4,) if run.quick else (4, 16, 64)
    members, examples = (32, 2560) if run.quick else (48, 10240)
    objective, starts = warm(2 * members)
    halves = [jax.tree.map(lambda x, i=i: x[i::2], starts) for i in (0, 1)]
    keys = iter(jax.random.split(jax.random.key(1), 40))
    figure = Figure(figsize=(14.5, 7.4), layout="constrained")
    panels = figure.subplot_mosaic("abe;cde")
    headlines: dict[str, Any] = {}
    verdicts = {}
    for i, (name, (optimizer, size)) in enumerate(common.progress(chosen.items(), "methods")):
        base = train(optimizer, size, objective, halves[0], examples, next(keys))
        curves, found = {f"B = {size}": base}, {}
        for factor in factors:
            other = jf.rescale(optimizer, size, factor * size)
            curves[f"B = {factor * size}, rescaled"] = scaled = train(
                other, factor * size, objective, halves[1], examples, next(keys)
            )
            found[factor] = judge(scaled, base, next(keys))
        naive = train(optimizer, 4 * size, objective, halves[1], examples, next(keys))
        curves[f"B = {4 * size}, naive"] = naive
        before = judge(naive, base, next(keys))
        draw_curves(panels["abcd"[i]], name, curves, objective.size)
        headlines[f"{name}, κ = 4, rescaled: p, largest gap in SD, last gap / loss"] = (
            [found[4][k] for k in ("p", "gap", "loss")],
            None,
        )
        headlines[f"{name}, κ = 4, naive: p, largest gap in SD, last gap / loss"] = (
            [before[k] for k in ("p", "gap", "loss")],
            None,
        )
        # Four standard errors of a gap between two means, of as many members each, in standard deviations.
        reach = 4 * (2 / members) ** 0.5
        headlines[f"{name}, κ = 4, rescaled: p of one law"] = common.within(found[4]["p"], low=1e-3)
        headlines[f"{name}, κ = 4, rescaled: gap in SD"] = common.within(found[4]["gap"], high=reach)
        headlines[f"{name}, κ = 4, naive: p of one law"] = common.within(before["p"], high=0.01)
        for factor in factors[1:]:
            headlines[f"{name}, κ = {factor}, rescaled: p, largest gap in SD, diverged"] = (
                [found[factor][k] for k in ("p", "gap", "diverged")],
                None,
            )
        verdicts[name] = {"rescaled": found, "naive": before}
        ax, gaps = panels["e"], [v["gap"] for v in found.values()]
        ax.loglog(list(found), gaps, label=f"{name}, rescaled", **stroke(i))
        marks = {"marker": "osD^"[i], "linestyle": "", "color": COLOURS[i], "markersize": 8}
        for factor, v in found.items():
            hollow = {"markerfacecolor": "none"} if v["p"] > 0.05 else {}
            ax.plot(factor, v["gap"], **marks | hollow)
        ax.plot(4, before["gap"], **marks | {"marker": "x"}, label=f"{name}, naive")
    ax = panels["e"]
    ax.set(
        title="hollow: no difference found",
        xlabel="κ, the factor of the batch size",
        ylabel="largest gap in mean log loss / SD",
    )
    ax.set_xticks([4, 16, 64], ["4", "16", "64"])
    ax.set_xticks([], minor=True)
    tidy(ax)
    ax.legend(frameon=False, fontsize="small", loc="lower right")
    return run.save(figure, headlines, verdicts=verdicts)
