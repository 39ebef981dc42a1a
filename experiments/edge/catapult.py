r"""The catapult: rates above the edge at the start throw a wide network to where its loss is flat enough.

With ηλ₀ > 2, λ₀ being the sharpness at the start, gradient descent cannot converge where it begins. In a wide
network the loss grows, until it is so large that its steps change the curvature; this falls below 2/η, and the
loss goes down after all. On a linear model with one hidden layer, $f = u \cdot v / \sqrt n$ with $L = \frac12
f^2$, the output and the curvature $\lambda = (|u|^2 + |v|^2)/n$ move by themselves:

$f' = (1 - \eta\lambda + \eta^2 f^2/n)\, f, \qquad \lambda' = \lambda + \frac{\eta f^2}{n}(\eta\lambda - 4)$.

So for wide models there are three phases: for $\eta\lambda_0 < 2$ *lazy*, f shrinks and λ stays; for $2 <
\eta\lambda_0 < 4$ *catapult*, f grows by the factor ηλ₀ − 1 a step, until after some $\ln n / (2
\ln(\eta\lambda_0 - 1))$ steps the loss is of order n, and λ falls; for $\eta\lambda_0 > 4$ λ grows with f, and
descent *diverges*. The largest loss is ∝ n, its step has a slope $1/(2 \ln(\eta\lambda_0 - 1))$ in ln n. Both
thresholds are found by bisection: on whether the loss ever rises above that of the start, and on whether the run
diverges.

The same is asked of a tanh network of one hidden layer (512 units, squared error, 200 digits), of rates ηλ₀ from
½ to 5: where the gradient in the ten leading eigenvectors (one for each output) begins to grow, which curvature
is left in the end, and where it diverges. No theory says that it should do so at 4.

Claim: Gradient descent with ηλ₀ from 2 to 4 first raises the loss and then converges where the curvature is below
2/η, in the linear model and in a wide network on digits; below 2 the curvature stays.

Figure: Left, losses of the linear model with n = 10,000 in the three phases. In the middle, its largest loss and
the step of it by the width, means over 64 starts (the step as it is where the first output is 1), with lines of
the slopes in theory. Right, for the network on digits, the curvature in the end over that at the start and the
largest loss over that at the start, by ηλ₀; the curve is 2/(ηλ₀), which the former must not pass.

Measured: in the linear model the loss rises from ηλ₀ = 2.0003 on and descent diverges from 4.0001 on, means over
16 starts; slopes 1.005 of the largest loss in n, .714 of its step in ln n (theory .721). In the network the leading
gradient grows from 2.06 on; for ηλ₀ ≤ 1.5 the curvature in the end is .99 of λ₀, from 2.2 to 3.6 it is 1.72/η to
1.99/η, after losses of up to 25 times the first; descent diverges from 3.82 on. The intervals were set on key 0 and
reached at the first run with these keys.

Sources: Lewkowycz, Bahri, Dyer, Sohl-Dickstein & Gur-Ari (2020, 2003.02218).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

FRESH = 1000  # the first random key; intervals were set on others
WIDTHS = {True: (100, 10_000), False: (100, 300, 1_000, 3_000, 10_000, 30_000)}
STARTS, BISECTED, HALVINGS = 16, 10_000, 12
MANY, LENGTH = 64, 40  # starts for the slopes in n, and steps
GROWTH = 3.0  # the ηλ₀ of the slopes in n
PHASES = (1.5, 2.5, 3.5, 4.1)
UNITS, EXAMPLES = {True: 128, False: 512}, 200
RATES = {
    True: (1.0, 3.0),
    False: (0.5, 1.0, 1.5, 1.9, 2.2, 2.6, 3.0, 3.3, 3.6, 4.0, 5.0),
}  # of the network, times λ₀
STEPS = {True: 100, False: 200}


def loss(params):
    """½ (u·v)²/n."""
    return 0.5 * (params["u"] @ params["v"]) ** 2 / params["u"].size


def curvature(params):
    return sum(jnp.sum(leaf**2) for leaf in params.values()) / params["u"].size


def starts(width, count):
    u, v = jax.random.normal(jax.random.key(FRESH), (2, count, width))
    return {"u": u, "v": v}


@partial(jax.jit, static_argnames="steps")
@partial(jax.vmap, in_axes=(0, 0, None))
def runs(params, scaled, steps):
    """Losses and curvatures along gradient descent with ηλ₀ = `scaled`, of stacked starts."""
    optimizer = jf.optim.gd(scaled / curvature(params))
    return jf.iterate(optimizer, loss, params, steps=steps, record=lambda p: (loss(p), curvature(p))).values


def recursion(output, level, rate, width, steps):
    """The two numbers of theory, by themselves: outputs f and curvatures λ."""
    found = [(output, level)]
    for _ in range(steps):
        f, lam = found[-1]
        q = rate * f * f / width
        found.append(((1 - rate * lam + rate * q) * f, lam + q * (rate * lam - 4)))
    return np.array(found).T


def bisect(above, low, high, count=1):
    """Where `above(values)` begins to be true, for each of `count` cases."""
    low, high = np.full(count, low), np.full(count, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        passed = np.asarray(above(jnp.asarray(middle)))
        low, high = np.where(passed, low, middle), np.where(passed, middle, high)
    return (low + high) / 2


def thresholds(params, steps):
    """By start the ηλ₀ from which the loss ever rises above its start, and from which it does not come down."""
    count = len(params["u"])

    def rises(scaled):
        losses = np.asarray(runs(params, scaled, steps)[0])
        return ~(losses.max(1) <= losses[:, 0])

    def diverges(scaled):
        losses = np.asarray(runs(params, scaled, steps)[0])
        return ~(losses[:, -1] < losses[:, 0])

    return bisect(rises, 1.0, 3.0, count), bisect(diverges, 3.0, 5.0, count)


def heights(widths):
    """By width the mean logarithm of the largest loss, and the mean step of it as for a first output of 1."""
    rows = []
    for width in widths:
        losses = np.asarray(runs(starts(width, MANY), jnp.full(MANY, GROWTH), LENGTH)[0])
        # A larger output f₀ at the start, L = f₀²/2, saves this number of steps.
        saved = np.log(2 * losses[:, 0]) / (2 * np.log(GROWTH - 1))
        rows.append((np.log(losses.max(1)).mean(), (losses.argmax(1) + saved).mean()))
    return np.array(rows).T


def network(units):
    problem = jf.problems.mlp("digits", (units,), loss="mse", key=jax.random.key(FRESH))
    data = jax.tree.map(lambda x: x[:EXAMPLES], problem.objective.data)
    return jf.Objective(problem.objective.losses, data), problem.params


@partial(jax.jit, static_argnames="steps")
def train(objective, params, rate, steps):
    """The losses of a run, and the curvature at its end."""
    end = jf.iterate(jf.optim.gd(rate), objective, params, steps=steps, record=objective)
    return end.values, jf.curvature.sharpness(objective, end.params).value


def begins_to_grow(objective, params, level, vectors):
    """The ηλ₀ from which the gradient in the leading eigenvectors is in ten steps ever larger than at the start."""

    def along(p):
        slope = ravel_pytree(jax.grad(objective)(p))[0]
        return jnp.linalg.norm(jax.vmap(lambda v: ravel_pytree(v)[0])(vectors) @ slope)

    def grows(scaled):
        run = jf.iterate(jf.optim.gd(scaled[0] / level), objective, params, steps=10, record=along)
        return [run.values[1:].max() > run.values[0]]

    return float(bisect(grows, 1.0, 3.0)[0])


def digits(quick):
    """Of the network: λ₀, by rate the largest loss and last curvature over the first, and both thresholds."""
    objective, params = network(UNITS[quick])
    # Each of the ten outputs has its leading eigenvalue, all of about the same size.
    found = jf.curvature.top_eigenpairs(objective, params, k=1 if quick else 10)
    level, steps = float(found.values[0]), STEPS[quick]
    rows = []
    for scaled in common.progress(RATES[quick], "rates"):
        losses, last = train(objective, params, scaled / level, steps)
        # A run that diverges has no curvature in the end.
        ended = bool(losses[-1] < losses[0])
        rows.append((float(losses.max() / losses[0]), float(last) / level) if ended else (np.nan, np.nan))
    if quick:
        return np.array(rows).T, None, None
    grows = begins_to_grow(objective, params, level, found.vectors)

    def diverges(scaled):
        losses = train(objective, params, scaled[0] / level, steps)[0]
        return [~(losses[-1] < losses[0])]

    return np.array(rows).T, grows, float(bisect(diverges, 2.5, 8.0)[0])


def slope(x, y):
    return float(np.polyfit(x, y, 1)[0])


def legend_of_both(left, right):
    """One legend for two vertical axes."""
    tidy(left, legend=False)
    named = [ax.get_legend_handles_labels() for ax in (left, right)]
    left.legend(
        named[0][0] + named[1][0],
        named[0][1] + named[1][1],
        frameon=False,
        fontsize="small",
        loc="upper left",
    )


def draw(figure, widths, high, scaled, rows):
    phases, sizes, ends = figure.subplots(1, 3)
    one = jax.tree.map(lambda x: x[:1], starts(BISECTED, STARTS))
    for i, phase in enumerate(PHASES):
        values = np.asarray(runs(one, jnp.array([phase]), LENGTH)[0])[0]
        values = np.where(values < 1e12, values, np.nan)
        phases.semilogy(values, label=f"ηλ₀ = {phase:g}", **stroke(i))
    phases.set(ylim=(1e-8, 1e12), xlabel="steps", ylabel="loss", title=f"linear model, n = {BISECTED:,}")
    logs = np.log(widths)
    sizes.plot(widths, np.exp(high[0]), "o", color=COLOURS[1], label="largest loss")
    sizes.plot(widths, np.exp(high[0].mean() + logs - logs.mean()), label="∝ n", **stroke(0))
    sizes.set(
        xscale="log",
        yscale="log",
        xlabel="width n",
        ylabel="largest loss",
        title=f"catapult at ηλ₀ = {GROWTH:g}",
    )
    late = sizes.twinx()
    late.plot(widths, high[1], "s", color=COLOURS[5], label="its step, for f₀ = 1 (right axis)")
    rate = 1 / (2 * np.log(GROWTH - 1))
    late.plot(
        widths, high[1].mean() + rate * (logs - logs.mean()), label="slope 1/(2 ln(ηλ₀ − 1))", **stroke(2)
    )
    late.set(ylabel="step of the largest loss", ylim=(0, 1.6 * high[1].max()))
    legend_of_both(sizes, late)
    ends.plot(scaled, rows[1], label="curvature in the end / at the start", marker="o", **stroke(0))
    fine = np.linspace(1.5, max(scaled), 60)
    ends.plot(fine, 2 / fine, label="edge, 2/(ηλ₀)", **stroke(1))
    ends.set(xlabel="ηλ₀", ylabel="curvature / λ₀", title="network on digits", ylim=(0, 1.6))
    top = ends.twinx()
    top.plot(scaled, rows[0], label="largest loss / first (right axis)", marker="s", **stroke(2))
    top.set(yscale="log", ylabel="largest loss / first", ylim=(0.5, 2e3))
    legend_of_both(ends, top)
    tidy(phases)


def tell(widths, high, limits, rows, grows, diverges, scaled):
    one = jax.tree.map(lambda x: x[:1], starts(BISECTED, STARTS))
    losses, levels = (np.asarray(each)[0] for each in runs(one, jnp.array([GROWTH]), LENGTH))
    output = float(one["u"][0] @ one["v"][0]) / BISECTED**0.5
    f, lam = recursion(output, levels[0], GROWTH / levels[0], BISECTED, LENGTH)
    error = max(abs(lam / levels - 1).max(), abs(f**2 / 2 - losses).max() / losses.max())
    scaled, ended = np.array(scaled), np.isfinite(rows[1])
    lazy, thrown = scaled < 1.6, ended & (scaled > 2)
    network = (
        {}
        if grows is None
        else {
            "network: ηλ₀ from which the gradient in the leading eigenvectors grows": common.near(
                grows, 2, by=0.1
            ),
            "network: ηλ₀ from which descent diverges": (diverges, 4),
        }
    )
    return network | {
        "linear model: error of the two recursions, relative": common.within(
            float(error), high=1e-9, expected=0
        ),
        "linear model: ηλ₀ from which the loss rises, mean": common.near(float(limits[0].mean()), 2, by=0.01),
        "linear model: ηλ₀ from which descent diverges, mean": common.near(
            float(limits[1].mean()), 4, by=0.05
        ),
        "linear model: slope of the largest loss in n": common.near(
            slope(np.log(widths), high[0]), 1, by=0.07
        ),
        "linear model: slope of its step in ln n": common.near(
            slope(np.log(widths), high[1]), 1 / (2 * np.log(GROWTH - 1)), relative=0.07
        ),
        "network, ηλ₀ < 1.6: curvature in the end / at the start": common.near(
            rows[1][lazy].tolist(),
            1,
            by=0.1 if len(scaled) > 2 else 0.2,  # the quick network is narrower
        ),
        "network, ηλ₀ > 2: η × curvature in the end": common.within(
            (rows[1] * scaled)[thrown].tolist(), 0, 2.1
        ),
        "network, largest ηλ₀ that converges: largest loss / first": common.within(
            float(rows[0][thrown][-1]), low=1
        ),
    }


def main(arguments=None):
    run = common.start("catapult", __doc__, arguments)
    quick = run.quick
    widths, scaled = np.array(WIDTHS[quick]), RATES[quick]
    high, limits = (
        heights(widths),
        thresholds(starts(BISECTED // (10 if quick else 1), STARTS), 150 if quick else 300),
    )
    rows, grows, diverges = digits(quick)
    figure = Figure(figsize=(16, 4.8), layout="constrained")
    draw(figure, widths, high, scaled, rows)
    headlines = tell(widths, high, limits, rows, grows, diverges, scaled)
    return run.save(
        figure, headlines, widths=widths, largest=high, thresholds=limits, scaled=scaled, network=rows
    )
