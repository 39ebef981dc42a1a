"""Why features are scaled: steps against the condition number, on real measurements in their own units.

Least squares on the diabetes data (442 patients, ten measurements in years, mm Hg, mg/dl …), features and target
less their means. X = USVᵀ, so the ten rows of SVᵀ with Uᵀy are the same function of the parameters less its minimum,
and the loss of the script is the excess loss. "Steps" are those until it is 10⁻⁴ of its start, from 0.

- Scaling is a preconditioner: with X' = XA the Hessian is AᵀHA. Dividing by standard deviations takes κ from 7.6·10⁴
  to 470, the correlations stay; X(XᵀX/N)^(−q/2) has the condition number κ^(1−q), up to 1, "whitened".
- All these start from the same loss, with the same shares c_i of it in each principal direction for all q, so the
  steps have a closed form: gradient descent needs the first k with Σc_i(1−ηλ_i)^2k ≤ 10⁻⁴, η = 2/(λ_min+λ_max):
  about (κ/4)·ln(10⁴c). The heavy ball needs about √κ of them. Newton's method needs one step in any coordinates.
- Gradient descent does not know the axes: on rotated features it has the same losses. Adam and AdaGrad do. On the
  principal axes, where the Hessian is diagonal, e ← e − ηe/√Σe² is AdaGrad's error in each direction whatever its λ
  is. On the measurements as they are, with the same κ, correlations hide the axes from it; after a random rotation
  it may be better or worse.
- Adam and AdaGrad are often called invariant to the scale of features; they are not. A feature × d has a gradient ×
  d, which they divide out, but it needs a parameter / d. They are invariant if the rate of each parameter is divided
  by d as well. One rate for all must be large enough for the farthest parameter, and then jitters the others.

Adam and AdaGrad have the best of 33 constant rates in each cell; rotations are eight drawn at random. The quick
version has fewer of all, and stops sooner.

Claim: Gradient descent pays κ, momentum √κ, Newton nothing; Adam and AdaGrad pay for the axes, and for units too.

Figure: Left: condition number with an intercept column, after subtracting means, after dividing by standard
deviations, and whitened, of three data sets. Middle: steps against κ while the features are partly whitened
(circles: gradient descent, squares: heavy ball; lines: closed forms), and while they are divided by powers of their
standard deviations (crosses). Right: steps of each method on the diabetes data in raw units, standardised, on the
principal axes of the standardised, these rotated at random (mean of eight, whiskers: least and most), and whitened.

Measured: Diabetes: κ 5.2e7 with an intercept, 7.6e4 centred, 470 standardised, 1 whitened; wine 4.6e8 … 45, breast
cancer 2.4e12 … 1.0e5. All steps of gradient descent and heavy ball as in closed form; ∝ κ^.997 and κ^.563 (its error
is kρᵏ: the steps are √κ times a logarithm). Raw, standardised: gradient descent 137,966 and 1,023, heavy ball 1,589
and 105, Adam 349 and 142, AdaGrad 3,177 and 816. Principal axes: Adam 65, AdaGrad 3; rotated 80–108 and 48–523.
Newton 1. With a rate for each parameter Adam on raw units has the losses of standardised ones to 1.5e-15.
The bounds on ratios of Adam's and AdaGrad's steps were set after a first run. Only the rotations are random: that on
rotated features was reached at the first run with other rotations, the rest is the same whenever it is run.

Sources: LeCun, Bottou, Orr & Müller (1998), Efficient BackProp, section 4.3; Nesterov (2004); Duchi, Hazan & Singer
(2011); the data are those of Efron, Hastie, Johnstone & Tibshirani (2004) and of scikit-learn.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from matplotlib.figure import Figure
from sklearn import datasets

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, tidy

FRESH = 1000  # the first random key; intervals were set on others
TARGET, MOST = 1e-4, 150_000  # of the excess loss; steps
SETS = ("diabetes", "wine", "breast_cancer")
STAGES = ("with intercept", "centred", "standardised", "whitened")
VARIANTS = ("raw units", "standardised", "principal axes", "rotated", "whitened")


def center(name):
    """Features in their own units and the target, less their means; the target of unit variance."""
    options = {"scaled": False} if name == "diabetes" else {}
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True, **options)
    return x, x - x.mean(0), (y - y.mean()) / y.std()


def condition(x):
    """The condition number of XᵀX."""
    values = np.linalg.svd(x / np.linalg.norm(x, axis=0).max(), compute_uv=False) ** 2
    return values[0] / values[-1]


def power_of_covariance(x, q):
    """(XᵀX/N)^(−q/2)."""
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    return (vectors * values ** (-q / 2)) @ vectors.T


def compress(x, y):
    """P rows that give the same excess loss as the N examples."""
    left, s, right = np.linalg.svd(x, full_matrices=False)
    scale = np.sqrt(x.shape[1] / len(x))
    seen = s > 1e-12 * s[0]
    return seen[:, None] * s[:, None] * right * scale, seen * (left.T @ y) * scale


def curves(make, steps, rates, x, y):
    """Excess losses over their start (…, T+1) of optimizers made of rates, for examples stacked likewise."""

    def curve(rate, x, y):
        objective = jf.problems.linear_regression(x, y).objective
        run = jf.iterate(make(*rate), objective, jnp.zeros(x.shape[1]), steps=steps, record=objective)
        return run.values / run.values[0]

    return jax.vmap(curve)(rates, x, y)


@partial(jax.jit, static_argnames=("make", "steps"))
def count_steps(make, steps, rates, x, y):
    """The first step at which the excess loss is at its target, or −1."""
    there = curves(make, steps, rates, x, y) <= TARGET
    return jnp.where(there.any(1), there.argmax(1), -1)


@jf.optim.traceable
def divide(scales):
    """Divide each parameter's update by its scale."""
    return optax.stateless(lambda updates, _: updates / scales)


def adam_in_units(rate, scales):
    """Adam with its own rate for each parameter."""
    return jf.optim.chain(jf.optim.adam(rate, eps=0.0), divide(scales))


def tune(x):
    """Rate and coefficient of the heavy ball and, with coefficient 0, of gradient descent; from the spectrum."""
    values = np.linalg.eigvalsh(x.T @ x / len(x))
    low, high = np.sqrt(values[[0, -1]])
    ball = (2 / (low + high)) ** 2, ((high - low) / (high + low)) ** 2
    return np.array([(2 / (low**2 + high**2), 0.0), ball])


def predict_steps(x, y, most):
    """Steps of both in closed form, by direction: e_k of e_{k+1} = (1 + β − ηλ)e_k − βe_{k−1}."""
    left, s, _ = np.linalg.svd(x / np.sqrt(len(x)), full_matrices=False)
    shares = (left.T @ y) ** 2 / ((left.T @ y) ** 2).sum()
    (rate, _), (ball, beta) = tune(x)
    lost = lambda k: np.sum(shares * (1 - rate * s**2) ** (2 * k)) <= TARGET
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if lost(middle) else (middle, high)
    last, error = np.ones_like(s), np.ones_like(s)
    for k in range(1, most):
        last, error = error, (1 + beta - ball * s**2) * error - beta * last
        if k == 1:  # the first step is from rest
            error = 1 - ball * s**2
        if np.sum(shares * error**2) <= TARGET:
            return high, k
    return high, -1


def family(x, y, powers, steps):
    """κ, measured and predicted steps (2, Q) of gradient descent and heavy ball on X times each matrix."""
    made = [x @ a for a in powers]
    rows = [compress(m, y) for m in made]
    xs, ys = (np.repeat(np.stack(part), 2, 0) for part in zip(*rows, strict=True))
    found = count_steps(jf.optim.momentum, steps, tuple(np.concatenate([tune(m) for m in made]).T), xs, ys)
    theory = np.array([predict_steps(m, y, MOST) for m in made]).T
    return np.array([condition(m) for m in made]), np.asarray(found).reshape(-1, 2).T, theory


def adaptive(variants, rates, steps):
    """Fewest steps over the rates, of Adam and AdaGrad, on each (x, y)."""
    rows = [compress(*v) for v in variants]
    xs, ys = (np.repeat(np.stack(part), len(rates), 0) for part in zip(*rows, strict=True))
    tiled = (np.tile(rates, len(rows)),)
    best = {}
    for name, make in {"Adam": jf.optim.adam, "AdaGrad": jf.optim.adagrad}.items():
        found = np.asarray(count_steps(make, steps, tiled, xs, ys)).reshape(len(rows), -1)
        best[name] = np.where(found < 0, steps + 1, found).min(1)
    return best


def invariance(x, y, deviation):
    """Largest difference of losses: Adam on standardised features, and on raw ones with a rate for each parameter;
    and what Newton's method leaves after one step on raw ones."""
    steps, run = 200, jax.jit(curves, static_argnames=("make", "steps"))
    rows = compress(x / deviation, y), compress(x, y)
    xs, ys = (np.stack(part) for part in zip(*rows, strict=True))
    rates = np.array([0.1, 0.1]), np.stack([np.ones_like(deviation), deviation])
    ours, theirs = np.asarray(run(adam_in_units, steps, rates, xs, ys))
    newton = np.asarray(run(jf.optim.newton, 1, (np.ones(1),), xs[1:], ys[1:]))
    return np.abs(ours - theirs).max(), newton[0, -1]


def draw(axes, conditions, kappa, found, theory, count, table):
    bars, laws, methods = axes
    for i, (name, values) in enumerate(conditions.items()):
        bars.bar(np.arange(4) + 0.27 * (i - 1), values, 0.25, label=name, color=COLOURS[(0, 1, 2)[i]])
    bars.set_xticks(range(4), STAGES)
    bars.set(yscale="log", title="condition numbers", ylabel="κ")
    for i, name in enumerate(("gradient descent", "heavy ball")):
        order = np.argsort(kappa)
        laws.loglog(kappa[order], theory[i][order], color=COLOURS[i], linewidth=1)
        laws.loglog(kappa[:count], found[i][:count], "os"[i], color=COLOURS[i], label=name)
        laws.loglog(kappa[count:], found[i][count:], "x", color=COLOURS[i], markersize=9)
    laws.set(title="steps to 10⁻⁴ of the loss", xlabel="condition number κ", ylabel="steps")
    for i, (name, (low, middle, high)) in enumerate(table.items()):
        place = np.arange(5) + 0.2 * (i - 1.5)
        methods.bar(place, middle, 0.18, label=name, color=COLOURS[(0, 1, 2, 3)[i]])
        spread = np.stack([middle - low, high - middle])
        methods.errorbar(place, middle, spread, fmt="none", ecolor="0.35", capsize=2, linewidth=1)
    methods.set_xticks(range(5), [name.replace(" ", "\n") for name in VARIANTS], fontsize="small")
    methods.set(yscale="log", ylim=(0.8, None), title="steps on diabetes", ylabel="steps")
    for ax in axes:
        tidy(ax)


def tabulate(found, best):
    """By method least, mean and most steps (3, 5) on the variants; rotations do nothing to the first two."""
    table = {}
    for i, name in enumerate(("gradient descent", "heavy ball")):
        raw, standard, white = found[i]
        table[name] = np.tile(np.array([raw, standard, standard, standard, white], float), (3, 1))
    for name, steps in best.items():
        raw, standard, axes, white, *turned = np.asarray(steps, float)
        rows = [[raw, standard, axes, f(turned), white] for f in (np.min, np.mean, np.max)]
        table[name] = np.array(rows)
    return table


def main(arguments=None):
    run = common.start("feature_scaling", __doc__, arguments)
    conditions = {}
    for name in SETS:
        raw, x, _ = center(name)
        stages = np.c_[raw, np.ones(len(raw))], x, x / x.std(0), x @ power_of_covariance(x, 1.0)
        conditions[name] = [condition(stage) for stage in stages]

    _, x, y = center("diabetes")
    deviation, white = x.std(0), power_of_covariance(x, 1.0)
    powers = [0.6, 0.4, 0.2, 0.0] if run.quick else np.linspace(0.9, 0.0, 10)
    scalings = [0.0, 1.0] if run.quick else [0.0, 0.25, 0.5, 0.75, 1.0]
    matrices = [power_of_covariance(x, q) for q in powers] + [np.diag(deviation**-p) for p in scalings]
    kappa, found, theory = family(x, y, [*matrices, white], 20_000 if run.quick else MOST)
    reached = found > 0
    count = len(powers)

    standard = x / deviation
    axes = standard @ np.linalg.eigh(standard.T @ standard)[1]
    turns = scipy.stats.ortho_group.rvs(x.shape[1], 4 if run.quick else 8, random_state=FRESH)
    variants = [x, standard, axes, x @ white, *(axes @ turn for turn in turns)]
    rates, steps = np.geomspace(1e-4, 30, 9 if run.quick else 33), 5000 if run.quick else 10_000
    best = adaptive([(v, y) for v in variants], rates, steps)
    table = tabulate(np.stack([found[:, count], found[:, -2], found[:, -1]], 1), best)
    apart, newton = invariance(x, y, deviation)

    figure = Figure(figsize=(15, 4.8), layout="constrained")
    draw(figure.subplots(1, 3), conditions, kappa, np.where(reached, found, np.nan), theory, count, table)
    power = lambda i: float(np.polyfit(*np.log([kappa[1:count], theory[i][1:count]]), 1)[0])
    adam, adagrad = table["Adam"][1], table["AdaGrad"][1]
    headlines = {
        "condition number of diabetes: with intercept, centred, standardised, whitened": (
            conditions["diabetes"],
            None,
        ),
        "both: largest |steps − closed form|": common.near(np.abs(found - theory)[reached].max(), 0),
        "gradient descent: power of κ in its steps": common.near(power(0), 1.0, by=0.03),
        "heavy ball: power of κ in its steps": common.near(power(1), 0.5, by=0.08),
        "Newton on raw units: loss after one step / start": common.within(newton, high=1e-15),
        "Adam, raw with a rate for each parameter − standardised": common.within(apart, high=1e-8),
        "Adam: steps raw / standardised, of a κ × 162": common.within(adam[0] / adam[1], 1.2, 12.7),
        "AdaGrad: steps on principal axes / standardised, κ the same": common.within(
            adagrad[2] / adagrad[1], high=0.1
        ),
        "Adam: steps on principal axes / standardised, κ the same": common.within(
            adam[2] / adam[1], high=0.9
        ),
        "Adam and AdaGrad, rotated: most steps / least (of gradient descent 1)": common.within(
            [table[name][2, 3] / table[name][0, 3] for name in best], low=1.1
        ),
    }
    return run.save(
        figure, headlines, kappa=kappa, steps=found, predicted=theory, table=table, conditions=conditions
    )
