"""AdaGrad and the rule η/√(t+1): regret within its bound on digits, and a rate for each word of a text.

Online learning: at each step one example is drawn, predicted, paid for, and learned from. The regret after T steps
is what was paid more than by fixed parameters u, R = Σ ℓ_t(w_t) − ℓ_t(u). For convex losses, whatever the examples
are,

- with one rate η/√t for all: R ≤ max|w_t − u|²√T/(2η) + (η/2) Σ|g_t|²/√t,
- with AdaGrad: R ≤ (max|w_t − u|²_∞/(2η) + η) Σ_j √r_j, with r_j = Σ g_tj², the squared gradients of parameter j.

Both are of the order √T. AdaGrad is the rule η/√(t+1) over the root-mean-square of each parameter's past gradients:
the factors √(t+1) cancel, to rounding. Its rate for a parameter falls as t^(−½) while gradients have one size, and
where a feature is seen n times it is as n^(−½): what is rarely seen is learned from in longer steps.

- Digits: is it odd? Logistic regression on 64 pixels of [0, 1], 1,797 images drawn T = 20,000 times; u is the
  minimum of the whole with ridge 10⁻⁵.
- Words: which of scikit-learn's descriptions of data sets is this line from? Softmax regression on the words in it
  (seen in two lines or more). Half of them are seen in at most three of 603 lines, "the" in 195. Ten passes.

Losses are means over orders, eight and four; both methods see the same draws, each at the best of seven rates η.

Claim: AdaGrad is the rule η/√(t+1) for each parameter alone: regret below √T, and longer steps for what is rare.

Figure: Left: digits, regret by step of AdaGrad (black) and of the rate η/√(t+1) (orange, dashed), means over eight
orders at the best rates, under their bounds (thin lines in the same colours and dashes). Middle: words, mean loss of
all predictions against η, of both (bars: two standard errors). Right: words, AdaGrad's rate η/√r_j over η for each
word, r_j a mean over classes, against how often it has been seen (dots), with the fitted power (line) and n^(−½)
(dashed).

Measured: Digits, T = 20,000: regret at most .34 (AdaGrad) and .64 (one rate) of the bound, over seven rates, eight
orders and all T; regret ∝ T^.43 and T^.54, Σ√r ∝ T^.42. Pixels are dense: AdaGrad's bound is five times the other's,
and its regret ¾ of it. The rule's losses are AdaGrad's to 3e-15 at η = .08. (At η = 8 to 1e-4: the first gradient of
a pixel may be 1e-10, and its rounding is magnified to a full step.) Words: mean loss .393 with AdaGrad, .623 with
one rate, 24 standard errors apart; a word's rate ∝ n^−.56.
The interval of the powers of T was widened after a run with key 0, from at most ½, as η is best for the last T only;
all intervals were reached at the first run with these keys.

Sources: Zinkevich (2003) for η/√t; Duchi, Hazan & Singer (2011), JMLR 12, 2121, for AdaGrad and its bound.
"""

import re
from functools import partial
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

FRESH = 1000  # the first random key; intervals were set on others
RIDGE = 1e-5
RATES = {"AdaGrad": np.geomspace(0.08, 8, 7), "one rate": np.geomspace(1, 100, 7)}


def one_rate(rate):
    """Gradient descent with η/√(t+1)."""
    return jf.optim.gd(jf.optim.inverse_sqrt(rate))


@jf.optim.traceable
def over_root_mean_square():
    """Gradients over the root-mean-square of all of each parameter's so far; the state is their sum and number."""

    def update(gradient, state, params=None):
        total, t = jax.tree.map(lambda s, g: s + g**2, state[0], gradient), state[1] + 1.0
        scaled = jax.tree.map(lambda g, s: g / (jnp.sqrt(s / t) + 1e-10 / jnp.sqrt(t)), gradient, total)
        return scaled, (total, t)

    start = lambda params: (jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))
    return optax.GradientTransformation(start, update)


def rule(rate):
    """The rule of the title: η/√(t+1) over the root-mean-square of past gradients."""
    return jf.optim.chain(over_root_mean_square(), one_rate(rate))


METHODS = {"AdaGrad": jf.optim.adagrad, "one rate": one_rate}


def digits():
    """Odd or even, from pixels of [0, 1]."""
    data = jf.problems.load("digits")
    return jf.problems.logistic_regression((data.x / 16, data.y % 2), test_fraction=0.0, standardize=False)


def words():
    """Lines of scikit-learn's descriptions as sets of words, their file the label; and how many lines have each."""
    lines, labels = [], []
    files = sorted((resources.files("sklearn.datasets") / "descr").iterdir(), key=lambda f: f.name)
    for label, file in enumerate(f for f in files if f.name.endswith(".rst")):
        for line in file.read_text(encoding="utf-8").splitlines():
            found = set(re.findall("[a-z]+", line.lower()))
            if len(found) > 2:
                lines.append(found)
                labels.append(label)
    vocabulary = sorted({word for line in lines for word in line})
    x = np.array([[word in line for word in vocabulary] for line in lines], float)
    x = x[:, x.sum(0) > 1]
    problem = jf.problems.logistic_regression((x, labels), test_fraction=0.0, standardize=False)
    return problem, x.sum(0)


def best_fixed(problem):
    """The minimum with a ridge, by Newton's method."""
    ridge = lambda w: problem.objective(w) + 0.5 * RIDGE * jnp.sum(ravel_pytree(w)[0] ** 2)
    return jf.iterate(jf.optim.newton(), ridge, problem.params, steps=12, every=None).params


@partial(jax.jit, static_argnames=("make", "steps"))
def learn(make, steps, rates, keys, objective, start, u):
    """Runs (rates, keys): losses paid, squared gradients, distances from u in both norms, and last states."""

    def record(w):
        if u is None:
            return jnp.zeros(2)
        away = ravel_pytree(jax.tree.map(jnp.subtract, w, u))[0]
        return jnp.stack([jnp.sum(away**2), jnp.max(jnp.abs(away))])

    roots = lambda state: sum(jnp.sum(jnp.sqrt(r)) for r in jax.tree.leaves(getattr(state, "nu", 0.0)))
    metrics = {
        "paid": jf.solve.metrics.loss,
        "square": lambda step: jf.solve.metrics.gradient_norm(step) ** 2,
        "roots": lambda step: roots(step.state[0]),
    }

    def alone(rate, key):
        run = jf.iterate(
            make(rate), objective, start, steps=steps, batch_size=1, key=key, record=record, metrics=metrics
        )
        told = {name: values[1:] for name, values in run.metrics.items()}
        return told | {"away": run.values[:-1]}, run.state.optimizer

    return jax.vmap(lambda rate: jax.vmap(lambda key: alone(rate, key))(keys))(rates)


def bounds(name, rates, found):
    """The bounds (rates, keys, T) on the regret after every number of steps."""
    eta, (square, widest) = rates[:, None, None], np.moveaxis(np.maximum.accumulate(found["away"], 2), -1, 0)
    if name == "AdaGrad":
        return (widest**2 / (2 * eta) + eta) * found["roots"]
    t = np.arange(1, square.shape[-1] + 1)
    return square * np.sqrt(t) / (2 * eta) + eta / 2 * np.cumsum(found["square"] / np.sqrt(t), -1)


def power(x, y):
    """The slope of log y against log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def regrets(keys, steps):
    """On digits: by method the mean regret (T,) at the best rate and its bound, the largest ratio of regret and bound
    of all, and Σ√r; and by how much the losses of AdaGrad and of the rule differ at the least rate."""
    problem = digits()
    u = best_fixed(problem)
    go = lambda make, rates, start: jax.tree.map(
        np.asarray, learn(make, steps, rates, keys, problem.objective, start, u)[0]
    )
    fixed = go(one_rate, np.zeros(7), u)["paid"][0]
    told, apart = {}, np.nan
    for name, make in METHODS.items():
        found = go(make, RATES[name], problem.params)
        if name == "AdaGrad":
            apart = np.abs(found["paid"] - go(rule, RATES[name], problem.params)["paid"])[0].max()
        regret = np.cumsum(found["paid"] - fixed, -1)
        bound, best = bounds(name, RATES[name], found), int(found["paid"].mean((1, 2)).argmin())
        ratio = (regret / bound).max()
        told[name] = regret[best].mean(0), bound[best].mean(0), ratio, found["roots"][best].mean(0)
    return told, apart


def texts(keys, passes):
    """On words: by method mean losses (rates, keys); AdaGrad's rate over η for each word; the counts."""
    problem, counts = words()
    losses, squares = {}, 0.0
    for name, make in METHODS.items():
        steps = passes * problem.objective.size
        found, state = learn(make, steps, RATES[name], keys, problem.objective, problem.params, None)
        losses[name] = np.asarray(found["paid"]).mean(-1)
        if name == "AdaGrad":
            squares = np.asarray(state[0].nu["w"])[losses[name].mean(1).argmin()]
            squares = squares.mean((0, 2))
    seen = squares > 0  # a word may be in no line that was drawn, in the quick version
    return losses, 1 / np.sqrt(squares[seen]), counts[seen]


def draw(axes, told, losses, rate, counts, slope):
    left, middle, right = axes
    for i, (name, (regret, bound, *_)) in enumerate(told.items()):
        t = np.unique(np.geomspace(10, regret.size, 200).astype(int))
        left.loglog(t, regret[t - 1], label=name, **stroke(i))
        left.loglog(t, bound[t - 1], label=f"{name}: bound", **stroke(i) | {"linewidth": 0.8})
    left.loglog(t, np.sqrt(t), color="0.6", linewidth=4, alpha=0.5, label="√T")
    left.set(title="digits: odd or even", xlabel="predictions T", ylabel="regret")
    for i, (name, values) in enumerate(losses.items()):
        error = 2 * values.std(1, ddof=1) / np.sqrt(values.shape[1])
        line = stroke(i) | {"marker": "os"[i], "markersize": 4}
        middle.errorbar(RATES[name], values.mean(1), error, label=name, capsize=2, **line)
    middle.set(
        xscale="log", title="words: which file?", xlabel="rate η", ylabel="mean loss of all predictions"
    )
    right.loglog(counts, rate, ".", color=COLOURS[2], label="a word")
    n = np.array([2, counts.max()])
    middle_point = np.exp(np.log(rate).mean()), np.exp(np.log(counts).mean())
    for i, (p, label) in enumerate(((slope, f"fit, n^{slope:.2f}"), (-0.5, "n^(−½)"))):
        right.loglog(n, middle_point[0] * (n / middle_point[1]) ** p, label=label, **stroke(i))
    right.set(title="AdaGrad's rate of a word", xlabel="lines with the word, n", ylabel="rate / η")
    for ax in axes:
        tidy(ax)


def main(arguments=None):
    run = common.start("adagrad_rule", __doc__, arguments)
    keys = jax.random.split(jax.random.key(FRESH), 8)
    told, apart = regrets(keys[:2] if run.quick else keys, 4000 if run.quick else 20_000)
    losses, rate, counts = texts(keys[:3] if run.quick else keys[:4], 1 if run.quick else 10)
    slope = power(counts, rate)
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    draw(figure.subplots(1, 3), told, losses, rate, counts, slope)
    best = {name: values[values.mean(1).argmin()] for name, values in losses.items()}
    gap = best["one rate"] - best["AdaGrad"]
    error = gap.std(ddof=1) / np.sqrt(gap.size)
    headlines = {
        "AdaGrad − the rule η/√(t+1) over root-mean-squares: largest difference of losses": common.within(
            apart, high=1e-8
        )
    }
    for name, (regret, _, ratio, roots) in told.items():
        late = np.unique(np.geomspace(regret.size / 10, regret.size, 100).astype(int)) - 1
        headlines[f"digits, {name}: largest regret / bound"] = common.within(ratio, high=1.0)
        headlines[f"digits, {name}: power of T in the regret"] = common.near(
            power(late + 1, regret[late]), 0.5, by=0.15
        )
        if name == "AdaGrad":
            headlines["digits, AdaGrad: power of T in Σ√r"] = common.near(
                power(late + 1, roots[late]),
                0.5,
                by=0.15 if run.quick else 0.1,  # two orders, and short ones
            )
    headlines |= {
        "words, best η: loss of one rate − AdaGrad's, in standard errors": common.within(
            gap.mean() / error, low=4
        ),
        "words, best η: mean loss of AdaGrad, of one rate": ([v.mean() for v in best.values()], None),
        "words, AdaGrad: power of n in a word's rate": common.near(slope, -0.5, by=0.1),
    }
    return run.save(figure, headlines, losses=losses, rates=RATES, gap=gap)
