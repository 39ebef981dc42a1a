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

Measured: 16 starts. At one point: L2 shifts H by λ' to 1e-17 and leaves tr Σ to the last digit; smoothing leaves the
last layer's H to the bit, and tr Σ × .82. First layer doubled: with layer norm sharpness and tr Σ × .2500, without
it .65 and .57. Growth a step .8000 and 1.2000 at .9 and 1.1 × 2/λ_max; with the slope, 1.1 ×: .39 to 1.12. At the
end, over the network as it is (λ_max .17, tr Σ .071, noise scale 700, loss on others .355): L2 3.3, 18, 1.5, 1.04;
dropout 1.2, 4.8, 2.0, 1.05; smoothing 2.7, 5.1, 1.6, 1.27; layer norm 2.6, 3.5, 1.1, 1.02; frozen statistics 1.0,
.93, 1.0, 1.03; the easier half .21, .030, .11, 3.5. None has a lower loss on other digits at this time and rate.
The bounds of four standard errors were set after a first run.

Sources: Krogh & Hertz (1992), L2; Srivastava et al. (2014), dropout; Szegedy et al. (2016, 1512.00567), label
smoothing; Ba, Kiros & Hinton (2016, 1607.06450), layer norm; van Laarhoven (2017, 1706.05350), its scale; Bengio et
al. (2009), curricula.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, tidy

EXAMPLES, MASKS, HIDDEN, CLASSES = 500, 4, 16, 10
RATE, BATCH, DECAY, SMOOTH, DROP = 0.3, 32, 0.01, 0.1, 0.2
VARIANTS = ("as it is", "L2", "dropout", "label smoothing", "layer norm", "frozen statistics", "easier half")


def start(key):
    """Weights from N(0, 1/inputs), biases 0: two layers."""
    return jf.problems.mlp("digits", hidden=(HIDDEN,), key=key).params


def hidden(params, x):
    """What goes into the hidden units (B, 16)."""
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


def columns(x, y):
    """The columns of the network as it is, for images and labels."""
    n = len(x)
    ones = np.ones((n, HIDDEN))
    return {
        "x": x,
        "target": np.eye(CLASSES)[y],
        "mask": ones,
        "mean": 0 * ones,
        "deviation": ones,
        "layer": np.zeros(n),
        "decay": np.zeros(n),
    }


def data(key):
    """The columns of every variant (variants, 2000, …) for a start, and of the other digits (variants, 1297, …)."""
    whole = jf.problems.split(jf.problems.load("digits"), 0.0)[0]
    x, y = np.asarray(whole["x"]), np.asarray(whole["y"])
    params = start(key)
    random = np.random.default_rng(0)
    x, y, rest = x[:EXAMPLES], y[:EXAMPLES], columns(x[EXAMPLES:], y[EXAMPLES:])
    plain = jax.tree.map(lambda a: np.repeat(a, MASKS, 0), columns(x, y))
    z = np.asarray(hidden(params, jnp.asarray(x)))
    kept = (random.random((EXAMPLES * MASKS, HIDDEN)) >= DROP) / (1 - DROP)
    statistics = {"mean": z.mean(0), "deviation": z.std(0)}
    frozen = lambda n: {name: np.tile(a, (n, 1)) for name, a in statistics.items()}
    layer = lambda n: {"layer": np.ones(n)}
    easy = np.tile(np.argsort(difficulty(x, y))[: EXAMPLES // 2], 2 * MASKS)
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
    stack = lambda base, changes: jax.tree.map(
        lambda *a: jnp.asarray(np.stack(a)), *[base | c for c in changes]
    )
    return params, stack(plain, changes), stack(rest, others)


def difficulty(x, y):
    """How hard each digit is: its loss in a linear model of all of them, fitted by ridge regression."""
    target = np.eye(CLASSES)[y]
    weights = np.linalg.solve(x.T @ x + len(x) * np.eye(x.shape[1]), x.T @ (target - target.mean(0)))
    return np.sum((x @ weights + target.mean(0) - target) ** 2, 1)


@partial(jax.jit, static_argnames="steps")
def train(params, examples, others, key, steps):
    """Parameters at the end; sharpness, tr Σ, |∇L|² and the loss on others (variants, 4)."""

    def alone(columns, other):
        objective = jf.Objective(losses, columns)
        run = jf.iterate(
            jf.optim.gd(RATE), objective, params, steps=steps, batch_size=BATCH, key=key, every=None
        )
        noise = jf.noise_scale(objective, run.params)
        sharp = jf.curvature.sharpness(objective, run.params).value
        test = losses(run.params, other).mean()
        return run.params, jnp.stack([sharp, noise.trace, noise.squared_gradient, test])

    return jax.lax.map(lambda pair: alone(*pair), (examples, others))


FIRST = ({"w": True, "b": True}, {"w": False, "b": False})


@jax.jit
def checks(params, ends, examples):
    """By variant: at one point the Hessian of the last layer, tr Σ, and sharpness and tr Σ of the first layer and of
    the first layer doubled; at the ends of training, the growth a step, over three, of what is apart along the
    sharpest direction, at .9 and 1.1 × 2/λ_max on the objective less its slope, and at 1.1 × on the objective."""
    flat, back = ravel_pytree(params[1])
    scaled = lambda c: (jax.tree.map(lambda a: c * a, params[0]), params[1])

    def alone(end, columns):
        objective = jf.Objective(losses, columns)
        bend = jax.hessian(lambda v: objective((params[0], back(v))))(flat)

        def of_first(c):
            noise = jf.noise_scale(objective, scaled(c), trainable=FIRST)
            return jf.curvature.sharpness(objective, scaled(c), trainable=FIRST).value, noise.trace

        sharp, noise = jax.lax.map(of_first, jnp.array([1.0, 2.0]))
        top = jf.curvature.top_eigenpairs(objective, end)
        near = jax.tree.map(lambda a, v: a + 1e-6 * v[0], end, top.vectors)

        slope = jax.grad(objective)(end)
        inner = lambda p: sum(
            jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(p), strict=True)
        )

        def grown(share, tilt):
            level = lambda p: objective(p) - tilt * inner(p)
            go = lambda p: (
                jf.iterate(jf.optim.gd(2 * share / top.values[0]), level, p, steps=3, every=None).params
            )
            apart = ravel_pytree(jax.tree.map(jnp.subtract, go(near), go(end)))[0]
            return (jnp.linalg.norm(apart) / 1e-6) ** (1 / 3)

        growth = jax.lax.map(
            lambda pair: grown(*pair), (jnp.array([0.9, 1.1, 1.1]), jnp.array([1.0, 1.0, 0.0]))
        )
        return bend, jf.noise_scale(objective, params).trace, jnp.concatenate([sharp, noise]), growth

    return jax.lax.map(lambda pair: alone(*pair), (ends, examples))


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
    measured, told = [], None
    for key in jax.random.split(jax.random.key(0), 2 if run.quick else 16):
        weights, batches = jax.random.split(key)
        params, examples, others = data(weights)
        ends, numbers = train(params, examples, others, batches, 600)
        sharp, trace, square, test = np.asarray(numbers).T
        measured.append(np.stack([sharp, trace, trace / square, test], 1))
        if told is None:
            told = tuple(map(np.asarray, checks(params, ends, examples)))
    measured = np.array(measured)
    bend, noise, layers, growth = told
    figure = Figure(figsize=(15, 4.4), layout="constrained")
    draw(figure.subplots(1, 4), measured)
    at = {name: i for i, name in enumerate(VARIANTS)}
    gap = np.abs(bend[at["L2"]] - bend[0] - DECAY * np.eye(len(bend[0]))).max()
    halved = layers[at["layer norm"]]
    headlines = {
        "one point, L2: |H − H as it is − λ'| at most, last layer": common.within(gap, high=1e-12),
        "one point, L2: tr Σ / as it is": common.near(noise[at["L2"]] / noise[0], 1.0, by=1e-9),
        "one point, label smoothing: |H − H as it is| at most, last layer": common.within(
            np.abs(bend[at["label smoothing"]] - bend[0]).max(), high=1e-12
        ),
        "one point, label smoothing: tr Σ / as it is": (noise[at["label smoothing"]] / noise[0], None),
        "layer norm, first layer doubled: its sharpness, tr Σ / before": common.near(
            [halved[1] / halved[0], halved[3] / halved[2]], 0.25, by=1e-6
        ),
        "as it is, first layer doubled: its sharpness, tr Σ / before": (
            [layers[0, 1] / layers[0, 0], layers[0, 3] / layers[0, 2]],
            None,
        ),
        "growth a step at .9 × 2/λ_max, all variants": common.near(growth[:, 0], 0.8, by=0.02),
        "growth a step at 1.1 × 2/λ_max, all variants": common.near(growth[:, 1], 1.2, by=0.02),
        "the same with the slope, all variants": (growth[:, 2], None),
    }
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
    return run.save(figure, headlines, variants=VARIANTS, measured=measured.mean(0), growth=growth)
