"""Regularizers as changes of conditioning and noise: what each does to sharpness, tr Σ and the largest stable rate.

A tanh network (16 hidden units) learns 500 digits by SGD, 600 steps at η = .3, B = 32, from 16 starts: as it is, and
with L2 (λ' = .01), dropout (a fifth of the hidden units), label smoothing (.1), normalized hidden units, over the
units of each digit (layer norm) or by means and deviations over all digits at the start (batch statistics, frozen),
and on the easier half only, as a curriculum begins. Every one is a column of the data (targets, masks, means), each
digit with four masks, so that one compiled program trains and measures them all, each on its own objective.

What is known beforehand, at any one point of the parameters:

- L2 adds λ' to every eigenvalue of the Hessian, and the same vector to every gradient: tr Σ stays as it is.
- Label smoothing changes the targets, on which the curvature of cross-entropy in the outputs does not depend: the
  Hessian of the last layer stays as it is.
- With layer norm the loss does not change if the first layer is multiplied by c. Its Hessian there is c⁻² of what it
  was, and its tr Σ too: a larger layer is a flatter one, and learns as if by a smaller rate.
- Descent is stable up to η = 2/λ_max: where the objective less its slope is at rest, a run that begins a little
  apart along the sharpest direction is |1 − ηλ_max| times as far after each step. With the slope, which these rates,
  4 to 60, make a long step of, two runs part more slowly: they leave the place where λ_max was measured.

What is not: where training goes. Without a regularizer tr Σ goes to 0 with the loss; with dropout and label
smoothing it cannot, as the losses of examples cannot all be least at once.

Claim: At one point L2 leaves tr Σ and smoothing curvature as they are; where training ends, both and dropout keep
noise.

Figure: At the end of training, a mean over 16 starts with bars of two standard errors: sharpness of the objective
(left), tr Σ (middle left), the noise scale tr Σ/|∇L|² (middle right), and the loss on 1,297 other digits, without
masks or smoothing (right). The grey line is the network as it is.

Measured: 16 starts. At one point, on 100 digits: L2 shifts H by λ' to 1e-17 and leaves tr Σ to the last digit;
smoothing leaves the last layer's H to 1e-16, and tr Σ × .82. First layer doubled: with layer norm sharpness and tr Σ
× .2500, without it .49 and .51. Growth a step .8000 and 1.2000 at .9 and 1.1 × 2/λ_max; with the slope, 1.1 ×: .60
to 1.13. At the end, over the network as it is (λ_max .14, tr Σ .076, noise scale 730, loss on others .362): L2 3.6,
17, 1.3, 1.03; dropout 1.3, 4.9, 2.0, 1.02; smoothing 2.9, 4.7, 1.4, 1.26; layer norm 2.8, 3.3, 1.1, 1.00; frozen
statistics 1.1, .91, .98, 1.03; the easier half .23, .028, .10, 3.5. None has a lower loss on other digits at this
time and rate.
The bounds of four standard errors were set after a run with key 0 and reached at the first run with these keys.

Sources: Krogh & Hertz (1992), L2; Srivastava et al. (2014), dropout; Szegedy et al. (2016, 1512.00567), label
smoothing; Ba, Kiros & Hinton (2016, 1607.06450), layer norm; van Laarhoven (2017, 1706.05350), its scale; Bengio et
al. (2009), curricula.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from scipy.sparse.linalg import eigsh

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, tidy

FRESH = 1000  # the first random key; intervals were set on others
CLASSES, CHECKED = 10, 100  # digits in the checks at one point
RATE, BATCH, DECAY, SMOOTH, DROP = 0.3, 32, 0.01, 0.1, 0.2
VARIANTS = ("as it is", "L2", "dropout", "label smoothing", "layer norm", "frozen statistics", "easier half")


class Size(NamedTuple):
    """Digits to learn from, masks for each, hidden units, starts, steps."""

    examples: int
    masks: int
    hidden: int
    starts: int
    steps: int


SIZE = {False: Size(500, 4, 16, 16, 600), True: Size(60, 1, 4, 2, 200)}


def hidden(params, x):
    """What goes into the hidden units (B, H)."""
    return x @ params[0]["w"] + params[0]["b"][None]


def logits(params, batch):
    """The network's outputs, normalized and masked as the columns of the batch say."""
    z = hidden(params, batch["x"])
    own = z - z.mean(1, keepdims=True)
    own = own / jnp.sqrt((own**2).mean(1, keepdims=True))
    z = jnp.where(batch["layer"][:, None] > 0, own, (z - batch["mean"]) / batch["deviation"])
    return (jnp.tanh(z) * batch["mask"]) @ params[1]["w"] + params[1]["b"][None]


def losses(params, batch):
    """Cross-entropy to the targets, and the penalty."""
    told = -jnp.sum(batch["target"] * jax.nn.log_softmax(logits(params, batch)), 1)
    size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
    return told + 0.5 * batch["decay"] * size


def columns(x, y, units=16):
    """The columns of the network as it is, for images and labels, and a number of hidden units."""
    n = len(x)
    ones = np.ones((n, units))
    return {
        "x": x,
        "target": np.eye(CLASSES)[y],
        "mask": ones,
        "mean": 0 * ones,
        "deviation": ones,
        "layer": np.zeros(n),
        "decay": np.zeros(n),
    }


def data(key, size):
    """A start, the columns of every variant for it (variants, examples · masks, …), and those of the other digits."""
    whole = jf.problems.split(jf.problems.load("digits"), 0.0)[0]
    x, y = np.asarray(whole["x"]), np.asarray(whole["y"])
    params = jf.problems.mlp("digits", hidden=(size.hidden,), key=key).params
    random, count = np.random.default_rng(FRESH), size.examples
    x, y, rest = x[:count], y[:count], columns(x[count:], y[count:], size.hidden)
    plain = jax.tree.map(lambda a: np.repeat(a, size.masks, 0), columns(x, y, size.hidden))
    z = np.asarray(hidden(params, jnp.asarray(x)))
    kept = (random.random((count * size.masks, size.hidden)) >= DROP) / (1 - DROP)
    statistics = {"mean": z.mean(0), "deviation": z.std(0)}
    frozen = lambda n: {name: np.tile(a, (n, 1)) for name, a in statistics.items()}
    layer = lambda n: {"layer": np.ones(n)}
    easy = np.tile(np.argsort(difficulty(x, y))[: count // 2], 2 * size.masks)
    changes = (
        {},
        {"decay": np.full(len(plain["x"]), DECAY)},
        {"mask": kept},
        {"target": (1 - SMOOTH) * plain["target"] + SMOOTH / CLASSES},
        layer(len(plain["x"])),
        frozen(len(plain["x"])),
        {"x": x[easy], "target": np.eye(CLASSES)[y[easy]]},
    )
    others = ({}, {}, {}, {}, layer(len(rest["x"])), frozen(len(rest["x"])), {})
    stack = lambda base, changes: jax.tree.map(lambda *a: np.stack(a), *[base | c for c in changes])
    return params, stack(plain, changes), stack(rest, others)


def difficulty(x, y):
    """How hard each digit is: its loss in a linear model of all of them, fitted by ridge regression."""
    target = np.eye(CLASSES)[y]
    weights = np.linalg.solve(x.T @ x + len(x) * np.eye(x.shape[1]), x.T @ (target - target.mean(0)))
    return np.sum((x @ weights + target.mean(0) - target) ** 2, 1)


@partial(jax.jit, static_argnames="steps")
def train(params, examples, others, key, steps):
    """By variant the parameters at the end, and their loss on others."""

    def alone(columns, other):
        objective = jf.Objective(losses, columns)
        run = jf.iterate(
            jf.optim.gd(RATE), objective, params, steps=steps, batch_size=BATCH, key=key, every=None
        )
        return run.params, losses(run.params, other).mean()

    return jax.lax.map(lambda pair: alone(*pair), (examples, others))


@jax.jit
def measure(ends, examples):
    """By variant sharpness, tr Σ and |∇L|² (variants, 3), of the whole objective."""

    def alone(end, columns):
        objective = jf.Objective(losses, columns)
        noise = jf.noise_scale(objective, end)
        sharp = jf.curvature.sharpness(objective, end).value
        return jnp.stack([sharp, noise.trace, noise.squared_gradient])

    return jax.lax.map(lambda pair: alone(*pair), (ends, examples))


@jax.jit
def derivatives(params, ends, examples):
    """By variant at the start, at the start with the first layer doubled, and at the end: slopes of all examples'
    losses (variants, 3, N, P), and the Hessian of their mean (variants, 3, P, P), formed whole."""
    doubled = (jax.tree.map(lambda a: 2 * a, params[0]), params[1])

    def alone(end, columns):
        points = [ravel_pytree(p) for p in (params, doubled, end)]
        at = lambda flat: losses(points[0][1](flat), columns)
        both = lambda flat: (jax.jacrev(at)(flat), jax.hessian(lambda v: at(v).mean())(flat))
        return jax.lax.map(both, jnp.stack([flat for flat, _ in points]))

    return jax.lax.map(lambda pair: alone(*pair), (ends, examples))


def spread(slopes):
    """tr Σ of slopes (…, N, P)."""
    return slopes.var(-2).sum(-1)


def sharpest_directions(bends):
    """Largest eigenvalues (V,) and their vectors (V, P) of matrices (V, P, P)."""
    pairs = [eigsh(bend, 1, which="LA", v0=np.ones(len(bend))) for bend in bends]
    return np.array([value[0] for value, _ in pairs]), np.stack([vector[:, 0] for _, vector in pairs])


def of_dense(slopes, bends):
    """What `measure` finds, from derivatives formed whole: of few examples and parameters."""
    return np.stack([sharpest_directions(bends)[0], spread(slopes), (slopes.mean(-2) ** 2).sum(-1)], -1)


@jax.jit
def growths(ends, examples, values, vectors):
    """By variant at the end of training the growth a step, over three, of what is apart along the sharpest direction:
    at .9 and 1.1 × 2/λ_max on the objective less its slope, and at 1.1 × on the objective."""

    def alone(end, columns, top, vector):
        objective = jf.Objective(losses, columns)
        flat, back = ravel_pytree(end)
        slope = jax.grad(lambda v: objective(back(v)))(flat)

        def perturbed_loss(share, tilt, away):
            level = lambda v: objective(back(v)) - tilt * jnp.vdot(slope, v)
            start = flat + away * vector
            return jf.iterate(jf.optim.gd(2 * share / top), level, start, steps=3, every=None).params

        share, tilt = jnp.array([0.9, 1.1, 1.1]), jnp.array([1.0, 1.0, 0.0])
        cases = jnp.repeat(share, 2), jnp.repeat(tilt, 2), jnp.tile(jnp.array([0.0, 1e-6]), 3)
        there = jax.lax.map(lambda case: perturbed_loss(*case), cases).reshape(3, 2, -1)
        return (jnp.linalg.norm(there[:, 1] - there[:, 0], axis=1) / 1e-6) ** (1 / 3)

    return jax.lax.map(lambda four: alone(*four), (ends, examples, values, vectors))


def checks(params, ends, examples):
    """Headlines of what is known beforehand, on a few digits."""
    slopes, bends = map(np.asarray, derivatives(params, ends, examples))
    # Flat parameters begin with the first layer, biases before weights.
    first = params[0]["w"].size + params[0]["b"].size
    last, noise = bends[:, 0, first:, first:], spread(slopes[:, 0])
    ratio = [
        sharpest_directions(bends[:, 1, :first, :first])[0]
        / sharpest_directions(bends[:, 0, :first, :first])[0],
        spread(slopes[:, 1, :, :first]) / spread(slopes[:, 0, :, :first]),
    ]
    growth = np.asarray(growths(ends, examples, *sharpest_directions(bends[:, 2])))
    at = {name: i for i, name in enumerate(VARIANTS)}
    gap = np.abs(last[at["L2"]] - last[0] - DECAY * np.eye(len(last[0]))).max()
    return {
        "one point, L2: |H − H as it is − λ'| at most, last layer": common.within(gap, high=1e-12),
        "one point, L2: tr Σ / as it is": common.near(noise[at["L2"]] / noise[0], 1.0, by=1e-9),
        "one point, label smoothing: |H − H as it is| at most, last layer": common.within(
            np.abs(last[at["label smoothing"]] - last[0]).max(), high=1e-12
        ),
        "one point, label smoothing: tr Σ / as it is": (noise[at["label smoothing"]] / noise[0], None),
        "layer norm, first layer doubled: its sharpness, tr Σ / before": common.near(
            [part[at["layer norm"]] for part in ratio], 0.25, by=1e-6
        ),
        "as it is, first layer doubled: its sharpness, tr Σ / before": ([part[0] for part in ratio], None),
        "growth a step at .9 × 2/λ_max, all variants": common.near(growth[:, 0], 0.8, by=0.02),
        "growth a step at 1.1 × 2/λ_max, all variants": common.near(growth[:, 1], 1.2, by=0.02),
        "the same with the slope, all variants": (growth[:, 2], None),
    }


def draw(axes, measured):
    mean = np.mean(measured, 0)
    error = 2 * measured.std(0, ddof=1) / np.sqrt(len(measured))
    place = np.arange(len(VARIANTS))[::-1]
    titles = ("sharpness λ_max", "tr Σ", "noise scale tr Σ/|∇L|²", "loss on other digits")
    for i, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        ax.barh(place, mean[:, i], xerr=error[:, i], color=COLOURS[2], ecolor="k", capsize=3, height=0.65)
        ax.axvline(mean[0, i], color="0.4", linewidth=1)
        ax.set_yticks(place, VARIANTS if i == 0 else [])
        ax.set(title=title, xlabel="at the end of training")
        if i in (1, 2):
            ax.set_xscale("log")
        tidy(ax)


def main(arguments=None):
    run = common.start("regularizers", __doc__, arguments)
    size, measured, headlines = SIZE[run.quick], [], {}
    for key in jax.random.split(jax.random.key(FRESH), size.starts):
        weights, batches = jax.random.split(key)
        params, examples, others = data(weights, size)
        ends, test = train(params, examples, others, batches, size.steps)
        few = jax.tree.map(lambda a: a[:, :: size.masks][:, :CHECKED], examples)
        if run.quick:
            sharp, trace, square = of_dense(*(np.asarray(a)[:, 2] for a in derivatives(params, ends, few))).T
        else:
            sharp, trace, square = np.asarray(measure(ends, examples)).T
        measured.append(np.stack([sharp, trace, trace / square, test], 1))
        if not headlines:
            headlines = checks(params, ends, few)
    measured = np.array(measured)
    figure = Figure(figsize=(15, 4.4), layout="constrained")
    draw(figure.subplots(1, 4), measured)
    logs = np.log(measured / measured[:, :1])
    for i, name in enumerate(VARIANTS[1:], 1):
        ratio = np.exp(logs[:, i].mean(0))
        headlines[f"{name}, at the end: λ_max, tr Σ, noise scale, loss on others, / as it is"] = (ratio, None)
        if name in ("L2", "dropout", "label smoothing") and not run.quick:
            sigma = logs[:, i, 1].mean() / logs[:, i, 1].std(ddof=1) * np.sqrt(len(logs))
            headlines[f"{name}, at the end: log tr Σ above as it is, standard errors"] = common.within(
                sigma, low=4
            )
    headlines["as it is, at the end: λ_max, tr Σ, noise scale, loss on others"] = (
        measured[:, 0].mean(0),
        None,
    )
    return run.save(figure, headlines, variants=VARIANTS, measured=measured.mean(0))
