r"""An optimizer tuned by gradient descent: `jax.grad` through training moves all four numbers of Adam at once.

An optimizer is a pytree of its numbers, so the gradient of the loss that it trains to is an optimizer too:
`jax.grad(lambda adam: validation(jf.iterate(adam, …).params))(jf.optim.adam(1e-3))`. Here Adam trains a tanh network
(16 hidden units, 1,210 parameters) on 1,000 digits for 30 steps, mini-batches of 32; the mean loss on 437 others is
tuned, over 32 keys, each with its own start and batches, the same at every outer step (common random numbers: a
smooth function). Adam with a cosine rate descends it in log η, logit b1, logit b2, log ε, from a rate 30 times too
small; ε begins at .01, as 1e-8 hardly has a gradient. Judged on 360 more digits, by keys that were not tuned on:

- Reverse mode agrees with forward mode to rounding, and with finite differences, in each of the four components.
- One compiled program for all hypergradients; each takes as long as 5 to 9 trainings, so 50 of them as long as some
  350. The rate alone takes a grid of 25 trainings, all four would take 25⁴. (Forward mode is a little faster here,
  for four numbers; reverse takes as long for any number of them.)
- All four tuned are better than the best rate with defaults, by 8 % in test loss. A short training wants short
  memories: 3 steps for both averages. At 120 steps, 4 to 6 of them, there is half as much to gain.

The trap: a hypergradient is a product of Jacobians, one per step. Above the best rate training is chaotic and the
product explodes, at η = 1 to 1e8 after 30 steps and to 1e22 after 120, so that its mean over keys says nothing of the
slope of the mean loss. So begin at a small rate; the outer Adam, which divides by its size, bounds every outer step.
Its b1 is .5, as with .9 it overshoots to twice the best rate and has won, by the validation loss after 30 steps, only
.004 of the .026 on fresh keys when its own rate is down. (Its b2 hardly matters: .999 ends in the same place.)

Claim: The gradient through training tunes all four numbers of Adam at once, and explodes where training is chaotic.

Figure: Top left: the validation loss after 30 steps that is being tuned, by outer step (solid), and the best of 25
rates with the other numbers at their defaults (dashed). Top right: Adam's four numbers on the way: η (solid), 1 − b1
(dashed), 1 − b2 (dash-dotted) and ε (dotted). Bottom left: validation loss along training on keys that were not tuned
on, at the start of tuning (solid), at the best rate (dashed) and with all four tuned (dash-dotted); bands hold 80 %
of the keys. Bottom right: the derivative of the final loss by log η of single runs, root mean square over keys,
against η, for trainings of 30 (circles) and 120 steps (squares).

Measured: Digits (1,210 parameters), batches of 32, 32 keys. Each component within 8e-9 of finite differences, 2e-13
of forward mode; one compiled program; 6.5 × the time of its trainings (forward mode 4.1 ×). 30 steps, on 128 other
keys: validation loss 2.05 at the start, .444 at the best of 25 rates, .418 with all four tuned (η .029, b1 .69, b2
.67, ε .0011); test loss .301 and .277, difference .0238 ± .0020 (SE); test accuracy 91.6 and 92.6 %. 120 steps: test
loss .202 and .195, 94.8 and 95.0 %. d loss / d log η of one run at η = .001 and 1: .40 and 8e7 after 30 steps, .63
and 1e22 after 120.

Sources: Maclaurin, Duvenaud & Adams (2015, 1502.03492), reverse mode; Franceschi et al. (2017, 1703.01785), forward
and reverse; Baydin et al. (2018, 1703.04782), a hypergradient through one step.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from experiments.benchmarks.timing import medians
from jaxflow.plot.style import stroke, tidy

HIDDEN, LEARN, BATCH = (16,), 1000, 32
START = jf.optim.adam(1e-3, 0.9, 0.999, eps=1e-2)
NAMES = ("log η", "logit b1", "logit b2", "log ε")
RATES, OUTER = np.geomspace(1e-3, 0.3, 25), 50


def coordinates(optimizer):
    """Where an Adam is, without bounds (4,): logarithms of rate and ε, logits of b1 and b2."""
    rate, b1, b2, eps = optimizer.hyperparameters.values()
    return jnp.array([np.log(rate), np.log(b1 / (1 - b1)), np.log(b2 / (1 - b2)), np.log(eps)])


def adam(at):
    """The Adam at these coordinates; the inverse of `coordinates`."""
    return jf.optim.adam(jnp.exp(at[0]), jax.nn.sigmoid(at[1]), jax.nn.sigmoid(at[2]), eps=jnp.exp(at[3]))


def digits():
    """The network, the objective it learns from, and the one it is validated on."""
    problem = jf.problems.mlp("digits", hidden=HIDDEN)
    losses, data = problem.objective.losses, problem.objective.data
    part = lambda rows: jf.Objective(losses, jax.tree.map(lambda x: x[rows], data))
    return problem, part(slice(LEARN)), part(slice(LEARN, None))


def train(optimizer, key, steps, every=None):
    """A run from a start and with batches that the key draws."""
    weights, batches = jax.random.split(key)
    params = jf.problems.mlp("digits", hidden=HIDDEN, key=weights).params
    return jf.iterate(optimizer, digits()[1], params, steps=steps, batch_size=BATCH, key=batches, every=every)


class Tuning:
    """Losses that Adam trains to, and their hypergradients: three programs, for all the `keys` at once.

    `losses(at) -> (K,)`; `slopes(at) -> (K,), (K, 4)`, with the reverse mode's; `forward(at) -> (K, 4)`.
    `traced` is how often JAX traced `slopes`, which is how many programs were compiled for it.
    """

    def __init__(self, steps, keys):
        validation = digits()[2]
        loss = lambda at, key: validation(train(adam(at), key, steps).params)
        every_key = lambda function: lambda at: jax.vmap(function, (None, 0))(at, keys)
        self.losses = jax.jit(every_key(loss))
        self.forward = jax.jit(every_key(jax.jacfwd(loss)))
        self.traced = 0

        def slopes(at):
            self.traced += 1
            return every_key(jax.value_and_grad(loss))(at)

        self.slopes = jax.jit(slopes)


def check(tuning, points):
    """Largest relative deviations of the hypergradient's components from differences, and from forward mode."""
    value = lambda at: tuning.losses(at).mean()
    deviations = []
    for at in points:
        # Central differences of two widths, extrapolated: the error is of fourth order.
        wide, narrow = (
            jnp.stack([(value(at + h * e) - value(at - h * e)) / (2 * h) for e in jnp.eye(4)])
            for h in (2e-3, 1e-3)
        )
        found = tuning.slopes(at)[1].mean(0)
        references = (4 * narrow - wide) / 3, tuning.forward(at).mean(0)
        deviations.append([jnp.abs(reference / found - 1) for reference in references])
    return np.max(deviations, axis=0)


def tune(tuning, steps):
    """Descend the mean loss by its hypergradients: coordinates (S+1, 4) and losses (S+1,)."""
    outer = jf.optim.adam(jf.optim.sgdr(0.2, period=steps), b1=0.5, b2=0.99)
    update, at = jax.jit(outer.update), coordinates(START)
    state, path, values = outer.init(at), [], []
    for _ in common.progress(range(steps + 1), "outer steps"):
        loss, slope = (x.mean(0) for x in tuning.slopes(at))
        path.append(at)
        values.append(float(loss))
        change, state = update(slope, state, at)
        at += change
    return jnp.stack(path), values


def default(rate):
    return coordinates(jf.optim.adam(rate))


def best_rate(tuning):
    """Of a grid of learning rates, the others at their defaults: the best Adam, its loss on the keys tuned on."""
    found = [float(tuning.losses(default(rate)).mean()) for rate in RATES]
    return default(RATES[np.argmin(found)]), min(found)


def explosion(tuning, rates):
    """The root mean square over keys of d loss / d log η of one run, at every rate; the others at their defaults."""
    return [float(jnp.sqrt((tuning.slopes(default(rate))[1][:, 0] ** 2).mean())) for rate in rates]


def judge(steps, chosen, fresh):
    """By name, on fresh keys: validation losses at every step, and (validation loss, test loss, test accuracy)."""
    problem, _, validation = digits()
    test = jf.Objective(problem.objective.losses, problem.test)

    def alone(at, key):
        path = train(adam(at), key, steps, every=1)
        end = path.params
        scores = validation(end), test(end), problem.score(end)
        return jax.lax.map(validation, path.values), jnp.stack(scores)

    run = jax.jit(lambda at: jax.lax.map(lambda key: alone(at, key), fresh, batch_size=16))
    return {name: tuple(map(np.asarray, run(at))) for name, at in chosen.items()}


def draw(axes, path, values, baseline, scores, sizes):
    loss, numbers, curves, trap = axes.flat
    loss.semilogy(values, label="all four tuned by hypergradients", **stroke(0))
    loss.axhline(baseline, label=f"best of {len(RATES)} rates, others default", **stroke(1))
    loss.set(
        title="the tuned loss, after 30 steps", xlabel="outer step", ylabel="validation loss, keys tuned on"
    )
    along = zip(*(adam(at).hyperparameters.values() for at in path), strict=True)
    for i, (name, y) in enumerate(zip(("η", "1 − b1", "1 − b2", "ε"), map(np.array, along), strict=True)):
        numbers.semilogy(1 - y if i in (1, 2) else y, label=name, **stroke(i))
    numbers.set(title="Adam's four numbers", xlabel="outer step", ylabel="value")
    for i, (name, (curve, _)) in enumerate(scores.items()):
        curves.semilogy(curve.mean(0), label=name, **stroke(i))
        low, high = np.quantile(curve, (0.1, 0.9), axis=0)
        curves.fill_between(range(len(low)), low, high, color=stroke(i)["color"], alpha=0.15, linewidth=0)
    curves.set(title="training, keys not tuned on: mean, 80 %", xlabel="step", ylabel="validation loss")
    for ax in (loss, curves):
        ax.set_yticks(ticks := (0.4, 0.6, 1, 2), [f"{x:g}" for x in ticks])
    for i, (steps, (rates, size)) in enumerate(sizes.items()):
        trap.loglog(rates, size, marker="os"[i], markersize=4, label=f"{steps} steps", **stroke(i))
    trap.set(title="the trap: it explodes above the best rate", xlabel="learning rate η, others default")
    trap.set_ylabel("d loss / d log η of one run, root mean square")
    for ax in axes.flat:
        ax.set_yticks([], minor=True)
        tidy(ax)


def main(arguments=None):
    run = common.start("hypergradients", __doc__, arguments)
    keys = jax.random.split(jax.random.key(0), 8 if run.quick else 32)
    fresh = jax.random.split(jax.random.key(1), 16 if run.quick else 128)
    rates = np.geomspace(1e-3, 1, 4 if run.quick else 13)
    headlines, data, sizes, shown = {}, {}, {}, []
    for steps in (30,) if run.quick else (30, 120):
        tuning = Tuning(steps, keys)
        path, values = tune(tuning, OUTER)
        grid, baseline = best_rate(tuning)
        chosen = {"start": path[0], "best rate": grid, "all four tuned": path[-1]}
        scores = judge(steps, chosen, fresh)
        sizes[steps] = rates, explosion(tuning, rates)
        if not shown:
            shown = [path, values, baseline, scores]
            differences, forward = check(tuning, (path[0], path[OUTER // 5]))
            for name, off in zip(NAMES, differences, strict=True):
                headlines[f"d loss / d {name}: relative deviation from finite differences"] = common.within(
                    off, high=1e-6, expected=0
                )
            headlines["largest deviation of any from forward mode"] = common.within(
                forward.max(), high=1e-9, expected=0
            )
            functions = {"train": tuning.losses, "reverse": tuning.slopes, "forward": tuning.forward}
            taken = medians({name: partial(f, path[0]) for name, f in functions.items()}, 9)
            about = "seconds of reverse, of forward mode / of the trainings alone"
            headlines[about] = [taken[x] / taken["train"] for x in ("reverse", "forward")], None
            headlines["programs compiled for all hypergradients"] = common.near(tuning.traced, 1)
        measured = {"keys tuned on: validation loss": [values[0], baseline, values[-1]]}
        for i, what in enumerate(("validation loss", "test loss", "test accuracy")):
            measured[f"fresh keys: {what}"] = [score[:, i].mean() for _, score in scores.values()]
        for what, three in measured.items():
            headlines[f"{steps} steps, {what} at the start, of the best rate, tuned"] = three, None
        gap = scores["all four tuned"][1][:, 1] - scores["best rate"][1][:, 1]
        apart = [gap.mean(), gap.std(ddof=1) / len(gap) ** 0.5]
        headlines[f"{steps} steps, fresh keys: test loss, tuned − best rate, ± SE"] = apart, None
        if steps == 30:
            said = "30 steps: the same in standard errors"
            headlines[said] = common.within(apart[0] / apart[1], high=-3)
        tuned = [*adam(path[-1]).hyperparameters.values()]
        headlines[f"{steps} steps: the best rate; η, b1, b2, ε tuned"] = [jnp.exp(grid[0]), *tuned], None
        ends = [sizes[steps][1][i] for i in (0, -1)]
        headlines[f"{steps} steps: d loss / d log η of one run, rms, at η = .001, 1"] = ends, None
        data[f"{steps} steps"] = {"path": path, "losses": values, "explosion": sizes[steps]}
    figure = Figure(figsize=(12.5, 8.6), layout="constrained")
    draw(figure.subplots(2, 2), *shown, sizes)
    return run.save(figure, headlines, runs=data)
