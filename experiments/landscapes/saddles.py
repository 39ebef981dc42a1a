"""Saddles: index grows with loss, deep linear networks have those of theory, and noise leaves one in time.

- Near points along the training of a small network critical points are searched for by damped Gauss–Newton steps on
  |∇L|². Their share of negative curvatures is drawn against their loss. Most searches end at gradient-flat points,
  where Hg = 0 and g ≠ 0; they are drawn apart, as they are no critical points.
- A deep linear network with the loss ½|W_N … W_1 − Σ|² has a saddle for each set K of modes of Σ that it keeps, r of
  n. With N = 2 layers and k hidden units its index is (k − r)(n − r) + I, where I counts the pairs of a mode i kept
  and a stronger one j left out: a hidden unit that is not in use and a mode left out have the curvatures ±λ_j, and
  such a pair λ_i ± λ_j. With N > 2 layers it is I alone, as the layers between pass nothing to such a unit: the
  saddle at 0 then has no curvature at all. Counted at the saddles, with two layers at weights that a search finds
  from off them.
- Gradient flow from small weights passes the saddles that keep 0, 1, 2, … modes. Along the curvature −λ_j a component
  c_j of the start grows as exp(λ_j t), so that a mode has reached half its strength at t = ln(√(2λ_j)/c_j)/λ_j.
- SGD from a saddle of curvature −|λ|, with noise of variance s² in the gradient along it, T = ηs²/2, is gone beyond r
  after the mean time (ln(r/√(T/|λ|)) + (C + ln 2)/2)/|λ|, with Euler's C = .5772: logarithmic in the noise, over |λ|.
  At a finite rate the growth ln(1 + η|λ|)/η takes the place of |λ|, and T/|λ| is divided by 1 + η|λ|/2.

Claim: The index of critical points grows with their loss; a deep linear network's saddles have the index that theory
gives; noise leaves a saddle in a time ∝ ln(1/noise)/|λ|.

Figure: Top left: share of negative curvatures against loss where each search ended, at critical points (dots) and at
gradient-flat points (crosses). Top right: negative curvatures found at the saddles of deep linear networks against
the index in theory, for five pairs of depth and width (markers); the dotted line is equality. Bottom left: loss of
gradient flow from small weights in time (solid), the losses of the saddles that it passes (dashed, with their
indices), and the times in theory at which a mode has half its strength (dotted). Bottom right: mean exit time of SGD
from a saddle, times its rate of growth, against the logarithm of the noise, for three curvatures and two rates
(markers, with two standard errors), and the exact mean of the SDE (line).

Measured: Digits 0–3 (49 parameters, L2 penalty), 304 searches along 16 trainings: 76 end at critical points (61 of
them distinct, |g| ≤ 1e-10), 228 at gradient-flat points (median |g| 6e-4). Rank correlation of loss and share of
negative curvatures .87, at the flat points .94. Deep linear networks of 2, 3 and 4 layers, all 16 sets of kept modes
at two widths: 80 of 80 indices are those in theory; from off a saddle of two layers the search is back at its loss
within 5e-15. Gradient flow from small weights: modes at half their strength at t = 2.3300, 3.2575, 4.7385, 9.0249, by
escape times 2.3295, 3.2576, 4.7385, 9.0249. SGD, |λ| = .5, 1, 2, two rates, nine noises over four decades: slope of
mean exit time × growth rate in ln(1/noise) .9974 ± .0015 (SE), what is left .6353 ± .0041, in theory .6352; largest
|z| of 54 2.6.

Sources: Dauphin et al. (2014, 1406.2572); Frye et al. (2021, 2003.10397); Baldi & Hornik (1989); Saxe, McClelland &
Ganguli (2014, 1312.6120); Kramers (1940); for the exit time Kifer (1981).
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import spearmanr

import jaxflow as jf
from experiments import common
from experiments.landscapes.deep_linear import (
    MODES,
    DeepLinear,
    deep_linear_indices,
    index_in_theory,
    plateaus,
)
from experiments.landscapes.noisy_exits import draw_exits, leave, tell_exits
from jaxflow.plot.style import COLOURS, stroke, tidy

CLASSES, FEATURES, HIDDEN, DECAY = 4, 4, 5, 1e-3  # of the digits network: 49 parameters


def penalised_error(params, batch):
    """Half the squared error of a tanh network, with a penalty, without which minima would be at infinity."""
    out = jnp.tanh(batch["x"] @ params["w"] + params["b"][None]) @ params["v"] + params["c"][None]
    penalty = 0.5 * DECAY * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
    return 0.5 * jnp.sum((out - batch["y"]) ** 2, 1) + penalty


def digits_network():
    """Four digits by their first principal components, and a function that draws weights."""
    data = jf.problems.mlp("digits", hidden=(1,), standardize=False).objective.data
    x, y = np.asarray(data["x"]), np.asarray(data["y"])
    x, y = x[y < CLASSES][:400], y[y < CLASSES][:400]
    x = x - x.mean(0)
    x = x @ np.linalg.svd(x, full_matrices=False)[2][:FEATURES].T

    def draw(key):
        first, last = jax.random.split(key)
        return {
            "w": jax.random.normal(first, (FEATURES, HIDDEN)) / FEATURES**0.5,
            "b": jnp.zeros(HIDDEN),
            "v": jax.random.normal(last, (HIDDEN, CLASSES)) / HIDDEN**0.5,
            "c": jnp.zeros(CLASSES),
        }

    data = {"x": jnp.asarray(x / x.std(0)), "y": jnp.asarray(np.eye(CLASSES)[y])}
    return jf.Objective(penalised_error, data), draw


def along_training(seeds, looks):
    """Critical points near `looks` points each of the training from several draws."""
    objective, draw = digits_network()
    steps = np.unique(np.geomspace(1, 600, looks).round().astype(int)) - 1
    train = lambda key: (
        jf.iterate(jf.optim.momentum(0.1, 0.9), objective, draw(key), steps=int(steps[-1])).values
    )
    paths = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), seeds))
    starts = jax.tree.map(lambda x: x[:, steps].reshape(-1, *x.shape[2:]), paths)
    return jf.landscape.index_against_loss(objective, starts, max_steps=1000, negative=1e-8)


def draw_indices(ax, found):
    """The share of negative curvatures against the loss, critical points apart from others."""
    loss, share = np.asarray(found.points.loss), np.asarray(found.share)
    good, flat = np.asarray(found.converged), np.asarray(found.points.gradient_flat)
    ax.plot(
        loss[flat], share[flat], "x", color=COLOURS[2], markersize=5, label=f"gradient-flat: {flat.sum()}"
    )
    other = ~good & ~flat
    if other.any():
        ax.plot(
            loss[other], share[other], "+", color="0.6", markersize=6, label=f"out of steps: {other.sum()}"
        )
    ax.plot(
        loss[good], share[good], "o", color=COLOURS[1], markersize=5, label=f"critical points: {good.sum()}"
    )
    ax.set(
        title=f"{len(loss)} searches along training, {CLASSES} digits",
        xlabel="loss where the search ended",
        ylabel="share of negative curvatures",
    )
    tidy(ax)


def draw_deep_indices(ax, rows):
    """Index found against the index in theory."""
    most = max(row[3] for row in rows) + 1
    ax.plot([0, most], [0, most], color="0.5", linewidth=1, linestyle=":", label="theory")
    cases = list(dict.fromkeys(row[:2] for row in rows))
    for i, (layers, hidden) in enumerate(cases):
        points = np.array([row[3:5] for row in rows if row[:2] == (layers, hidden)])
        name = f"{layers} layers, {hidden} hidden"
        # Equal ones are seen inside one another.
        hollow = {"marker": "o^sDv"[i], "markersize": 4 + 2 * i, "fillstyle": "none", "linestyle": ""}
        ax.plot(points[:, 0], points[:, 1], color=COLOURS[i], label=name, **hollow)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    ax.set(
        title="deep linear networks: all sets of kept modes",
        xlabel="index in theory",
        ylabel="negative curvatures found",
    )
    tidy(ax)


def draw_plateaus(ax, times, losses, law, hidden):
    """The loss along gradient flow, and the saddles that it passes."""
    ax.plot(times, losses, label="gradient flow", **stroke(0))
    for r in range(len(MODES) + 1):
        height = 0.5 * np.sum(MODES[r:] ** 2)
        ax.axhline(height, color=COLOURS[1], linewidth=1, linestyle="--", label=None if r else "saddles")
        index = index_in_theory(tuple(range(r)), hidden, 2)
        text, shift = (f"index {index}", 3) if index else ("minimum", -11)
        place = {"textcoords": "offset points", "ha": "right", "fontsize": "small"}
        ax.annotate(text, (times[-1], height), (-2, shift), **place)
    for m, t in enumerate(law):
        ax.axvline(
            t, color=COLOURS[5], linewidth=1, linestyle=":", label=None if m else "half a mode, in theory"
        )
    title = f"gradient flow from small weights, two layers, {hidden} hidden"
    ax.set(title=title, xlabel="time t of gradient flow", ylabel="loss", ylim=(-1, 16.5))
    tidy(ax, legend=False)
    ax.legend(loc="center right", fontsize="small", framealpha=1, edgecolor="none", bbox_to_anchor=(1, 0.68))


def main(arguments=None):
    run = common.start("saddles", __doc__, arguments)
    found = along_training(*((3, 8) if run.quick else (16, 20)))
    network = DeepLinear(jax.random.split(jax.random.key(4), 2))
    cases = [(2, 4), (3, 4)] if run.quick else [(2, 4), (2, 6), (3, 4), (3, 6), (4, 4)]
    rows = deep_linear_indices(network, cases)
    times, hidden = np.linspace(0, 12, 1201), 5
    losses, half, law = plateaus(network, hidden, 1e-4, times)
    slopes, rates = ((1.0, 2.0), (0.02,)) if run.quick else ((0.5, 1.0, 2.0), (0.01, 0.03))
    noises = np.geomspace(1e-5, 1e-1, 3 if run.quick else 9)
    exits = leave([(slope, rate) for slope in slopes for rate in rates], noises, 400 if run.quick else 1500)

    figure = Figure(figsize=(11.5, 8.2), layout="constrained")
    axes = figure.subplots(2, 2)
    draw_indices(axes[0, 0], found)
    draw_deep_indices(axes[0, 1], rows)
    draw_plateaus(axes[1, 0], times, losses, law, hidden)
    draw_exits(axes[1, 1], exits)

    headlines = tell_indices(found)
    two = [row for row in rows if row[0] == 2]
    headlines["deep linear: saddles, of them with the index in theory"] = common.near(
        [len(rows), sum(row[3] == row[4] for row in rows)], len(rows)
    )
    headlines["two layers, from off the saddle: largest error of its loss"] = common.within(
        max(abs(row[5]) for row in two), high=1e-9, expected=0
    )
    headlines["gradient flow: times at which modes have half their strength"] = (half.tolist(), law.tolist())
    gap = float(np.abs(half / law - 1).max())
    headlines["the same: largest relative gap"] = common.within(gap, high=2e-3, expected=0)
    return run.save(figure, headlines | tell_exits(exits), deep=rows, exits=exits, **points_of(found))


def points_of(found):
    """What is drawn of the searches along training."""
    points = found.points
    kept = {"loss": points.loss, "gradient_norm": points.gradient_norm, "flatness": points.flatness}
    kept |= {"status": points.status, "steps": points.steps, "index": found.index, "distance": found.distance}
    return {f"digits_{name}": np.asarray(values).tolist() for name, values in kept.items()}


def tell_indices(found):
    """The headline numbers of the searches along training."""
    loss, share = np.asarray(found.points.loss), np.asarray(found.share)
    good, flat = np.asarray(found.converged), np.asarray(found.points.gradient_flat)
    distinct = len(np.unique(loss[good].round(8)))
    rank = lambda chosen: spearmanr(loss[chosen], share[chosen])[0]
    return {
        "digits: searches, critical points, distinct ones, gradient-flat points": (
            [len(loss), int(good.sum()), distinct, int(flat.sum())],
            None,
        ),
        "critical points: rank correlation of loss and share of negative curvatures": common.within(
            rank(good), low=0.75
        ),
        "gradient-flat points: the same": common.within(rank(flat), low=0.75),
        "distance from the start: median of critical points, of gradient-flat ones": (
            [float(np.median(found.distance[chosen])) for chosen in (good, flat)],
            None,
        ),
        "critical points: largest |g|; gradient-flat points: median |g|": (
            [
                float(np.max(found.points.gradient_norm[good])),
                float(np.median(found.points.gradient_norm[flat])),
            ],
            None,
        ),
    }
