"""Where SGD's SDE is a good model of SGD, over learning rates and batch sizes, with SVAG as the arbiter.

SGD at learning rate η on batches of B, and its SDE dθ = −∇L dt + √(ηΣ/B) dW, from one start to one time on the clock
t = kη, for η = 1/8 … 2 and B = 1 … 64; settings of one η/B share their SDE. The law of the log of the training loss
is compared: the verdict is that of `jf.compare_ensembles`, the effect size the Wasserstein-2 distance in standard
deviations. Two things part SGD from its SDE, and both grow with η: the length of its steps, felt most where little
noise covers it (large B), and that few examples make no Gaussian noise (small B).

Is a gap the SDE's failure or a fault in solving it? SVAG(l), which is SGD at η/l on (1+r)/2 g₁ + (1−r)/2 g₂ with
r = √(2l−1) and g₁, g₂ the gradients of two batches, has the noise of SGD per unit time and tends to the SDE as
l → ∞; l = 1 is SGD itself. So where SGD and SDE differ, SVAG must leave the one and reach the other.

The model is a tanh network (8 hidden units) on iris, cross-entropy; its sharpness at the start is 1.3. The SDE is
solved by steps of 1/64, at most η/8. A run whose loss is not finite is counted as diverged and left out.

Claim: The SDE describes SGD at small learning rates; where it does not, SVAG leaves SGD and reaches the SDE.

Figure: Left: for each learning rate and batch size the Wasserstein-2 distance of SGD from its SDE, in standard
deviations, and the verdict; the darker, the farther, and bold where no difference was found. Middle: share of runs
whose log loss is below a value, at η = 2 and B = 4: the SDE (grey band), SGD (solid), SVAG(4) (dashed) and SVAG(32)
(dash-dotted). Right: the distance of SVAG(l) from the SDE against l, where l = 1 is SGD, for η = 2, B = 4 (circles),
η = 1, B = 1 (squares) and η = 1, B = 64 (diamonds). The grey line is the distance between two samples of the SDE.

Measured: Iris, 20 settings, 512 runs each: no difference found at η ≤ .5 with B = 4, η = .25 with B = 16, η = .125
with B = 1. At η = 2 SGD is .7–1.4 SD away. η = 2, B = 4: SVAG(1, 2, 4, 8, 16, 32) at 1.04, .58, .33, .27, .13, .10
SD, p from .001 to .70; two samples of the SDE are .14 apart.

Sources: Li, Malladi & Arora (2021, 2102.12470).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import stroke, tidy

TIME, SUBSTEPS = 4.0, 256


def log_loss(objective, params):
    return jnp.log(objective(params))


def discrete(problem, rate, batch_size, l, keys):
    """Final log losses of SVAG(l), of SGD at l = 1. Steps are traced: each batch size compiles once."""
    run = lambda key: jf.iterate(
        jf.optim.gd(rate / l),
        problem.objective,
        problem.params,
        steps=jnp.asarray(round(TIME / rate * l)),
        every=None,
        estimator=jf.solve.svag(batch_size, float(l)),
        key=key,
        record=jax.tree_util.Partial(log_loss, problem.objective),
    )
    return {"log loss": jf.ensemble(run, keys).values[:, -1]}


def continuous(problem, ratio, keys):
    """Final log losses of the SDE with η/B = `ratio`, all that it knows of the two."""
    dynamics = jf.dynamics.sgd(problem.objective, 0.125, 0.125 / ratio)
    run = lambda key: jf.integrate(
        dynamics,
        problem.params,
        [0.0, TIME],
        substeps=SUBSTEPS,
        key=key,
        record=jax.tree_util.Partial(log_loss, problem.objective),
    )
    return {"log loss": jf.ensemble(run, keys).values[:, -1]}


def judge(a, b, key):
    """The verdict on two ensembles, as numbers."""
    found = jf.compare_ensembles(a, b, key=key)
    return {
        "p": float(found.p_value),
        "effect": float(found.wasserstein[0] / found.spread[0]),
        "differ": bool(found.differ),
        "diverged": np.asarray(found.diverged).tolist(),
    }


def draw_map(ax, rates, sizes, cells):
    """Effect sizes as shades; the verdict in words."""
    effect = np.array([[cells[rate, size]["effect"] for rate in rates] for size in sizes])
    ax.imshow(effect, origin="lower", cmap="Greys", vmin=0, vmax=2.5, aspect="auto")
    for j, size in enumerate(sizes):
        for i, rate in enumerate(rates):
            cell = cells[rate, size]
            lost = f"\n{cell['diverged'][0]} diverged" if cell["diverged"][0] else ""
            says = "differs" if cell["differ"] else "holds"
            colour = "white" if cell["effect"] > 1.3 else "black"
            weight = "normal" if cell["differ"] else "bold"
            text = f"{cell['effect']:.2f} SD\n{says}{lost}"
            ax.text(i, j, text, ha="center", va="center", color=colour, weight=weight, fontsize="small")
    ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    ax.set_yticks(range(len(sizes)), [str(size) for size in sizes])
    ax.set(
        xlabel="learning rate η", ylabel="batch size B", title="distance of SGD from its SDE, and the verdict"
    )


def draw_laws(ax, laws, title):
    """Cumulative shares of ensembles of log losses."""
    for i, (name, values) in enumerate(laws.items()):
        x = np.sort(np.asarray(values["log loss"]))
        style = {"color": "0.75", "linewidth": 5} if i == 0 else stroke(i - 1)
        ax.plot(x, (np.arange(x.size) + 0.5) / x.size, label=name, **style)
    ax.set(title=title, xlabel="log of the training loss", ylabel="share of runs below")
    tidy(ax)


def main(arguments=None):
    run = common.start("sde_validity", __doc__, arguments)
    problem = jf.problems.mlp("iris", hidden=(8,))
    rates = (0.125, 2.0) if run.quick else (0.125, 0.25, 0.5, 1.0, 2.0)
    sizes = (4,) if run.quick else (1, 4, 16, 64)
    ladder = (1, 4, 32) if run.quick else (1, 2, 4, 8, 16, 32)
    members = 128 if run.quick else 512
    roots = iter(jax.random.split(jax.random.key(0), 100))
    keys = lambda: jax.random.split(next(roots), members)
    ratios = sorted({rate / size for rate in rates for size in sizes})
    smooth = {r: continuous(problem, r, keys()) for r in common.progress(ratios, "SDEs")}
    settings = [(rate, size) for size in sizes for rate in rates]
    sgd = {s: discrete(problem, *s, 1, keys()) for s in common.progress(settings, "SGD")}
    test = jax.random.key(1)
    cells = {s: judge(sgd[s], smooth[s[0] / s[1]], test) for s in settings}

    chosen = [s for s in ((2.0, 4), (1.0, 1), (1.0, 64)) if s in cells]
    svag = {
        s: {l: sgd[s] if l == 1 else discrete(problem, *s, l, keys()) for l in ladder}
        for s in common.progress(chosen, "SVAG")
    }
    arbiter = {s: {l: judge(x, smooth[s[0] / s[1]], test) for l, x in svag[s].items()} for s in chosen}
    worst, ratio = chosen[0], chosen[0][0] / chosen[0][1]
    floor = judge(continuous(problem, ratio, keys()), smooth[ratio], test)

    figure = Figure(figsize=(15, 4.6), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    draw_map(axes[0], rates, sizes, cells)
    laws = {"SDE": smooth[ratio], "SGD": sgd[worst]}
    laws |= {f"SVAG({l})": svag[worst][l] for l in (4, ladder[-1])}
    draw_laws(axes[1], laws, f"η = {worst[0]:g}, B = {worst[1]}, t = {TIME:g}")
    headlines: dict[str, Any] = {
        "cells where the SDE holds": (sum(not c["differ"] for c in cells.values()), None)
    }
    for i, (s, found) in enumerate(arbiter.items()):
        name = f"η = {s[0]:g}, B = {s[1]}"
        axes[2].loglog(
            ladder, [v["effect"] for v in found.values()], marker="osD"[i], label=name, **stroke(i)
        )
        headlines[f"{name}: distance in SD of SVAG(l) from the SDE, l = {', '.join(map(str, ladder))}"] = (
            [v["effect"] for v in found.values()],
            None,
        )
        first, last = found[1], found[ladder[-1]]
        headlines[f"{name}: p, SGD and SVAG({ladder[-1]})"] = ([first["p"], last["p"]], None)
        if s == worst:
            headlines[f"{name}: p of SGD's law being the SDE's"] = common.within(first["p"], high=0.01)
            headlines[f"{name}: p of SVAG({ladder[-1]})'s"] = common.within(last["p"], low=1e-3)
            about = f"{name}: distance of SVAG({ladder[-1]}) from the SDE / that of SGD"
            headlines[about] = common.within(last["effect"] / first["effect"], high=0.5)
    axes[2].axhline(floor["effect"], color="0.5", linewidth=1, label="SDE against SDE")
    axes[2].set(
        title="SVAG(l), SGD at l = 1, approaches the SDE", xlabel="l", ylabel="Wasserstein-2 distance / SD"
    )
    axes[2].set_xticks(ladder, [str(l) for l in ladder])
    axes[2].set_xticks([], minor=True)
    tidy(axes[2])
    headlines["SDE against SDE: distance in SD, p"] = ([floor["effect"], floor["p"]], None)
    headlines["SDE against SDE: p of one law"] = common.within(floor["p"], low=1e-3)
    smallest, largest = ([cells[rate, size]["effect"] for size in sizes] for rate in (rates[0], rates[-1]))
    headlines[f"η = {rates[0]:g}: distances in SD, B = {', '.join(map(str, sizes))}"] = (smallest, None)
    headlines[f"η = {rates[-1]:g}: distances in SD, B = {', '.join(map(str, sizes))}"] = (largest, None)
    return run.save(figure, headlines, cells={f"{r:g}, {b}": c for (r, b), c in cells.items()})
