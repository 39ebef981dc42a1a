r"""A network whose outputs are scaled up is lazy: it follows its linearisation, within ∝ 1/α, and learns less.

A network h(w, x) is trained as f = α(h(w, x) − h(w₀, x)) with the loss ℓ(f)/α², by gradient flow of the squared
error. The outputs f move at the same speed at every α, but a large α moves them by tiny changes of w. In the limit
the kernel stays as it is, and f follows the flow of the linearised network, which has a closed form.

Networks 64-32-10 on 200 digits:

- For α ≥ 4, at a fixed time: the distance of f from the linearised flow, |w − w₀| and the change of the kernel, each
  over its own size, fall as 1/α for tanh, whose derivatives are smooth. That of a ReLU network jumps where an input
  crosses the edge of a unit. A move of size 1/α crosses a number of edges ∝ 1/α, each of which changes other entries
  of the kernel by as much: the norm of its change should fall as 1/√α.
- The test error when the training loss reaches .02, by α, for several starts, next to that of the linearised flow.
- Training losses on the way, and the kernel before and after rich training, with its eigenvalues.

Claim: A network whose outputs are scaled up by α follows its linearisation up to a distance ∝ 1/α, and at the same
training loss it tests worse than a rich one.

Figure: Top left: relative size at t = 30 against the scale α of the distance from the linearised flow (circles), of
|w − w₀| (squares) and of the kernel change (diamonds) for tanh, and of distance (triangles) and kernel change
(downward triangles) for ReLU, with fitted slopes. Top middle: test error at training loss .02 against α, mean and
standard error over starts (circles), and that of the linearised flow (dashed, with its band). Top right: training
losses of one start in time, at α = 1/16 (solid), α = 1 (dashed) and of the linearised flow (dash-dotted). Bottom: the
tangent kernel between examples, ordered by class, at the start and after training at α = 1/16, and the eigenvalues of
both (circles before, squares after).

Measured: Digits (200, 2,410 parameters, tanh), gradient flow of the squared error to t = 30, slopes in α from 4 to
32: distance from the linearised flow −.988, |w − w₀| −.999, kernel change −.994; for ReLU, whose kernel jumps where
an input crosses the edge of a unit, −.46 (distance) and −.53 (kernel), by the number of crossings −1/2. Test error at
training loss .02, six starts: 20.6, 21.4, 24.4, 25.7, 26.5 % at α = 1/16, 1/4, 1, 2, 8; linearised flow 26.9 %; α =
1/16 less the linearised flow −6.3 ± .5 points (SE). Kernel change / kernel at t = 1000: 1.5 at α = 1/16, .59 at 1,
.057 at 8.

Sources: Chizat, Oyallon & Bach (2019, 1812.07956); the linearised flow, Lee et al. (2019, 1902.06720).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.kernels import Predictions, lazy_predictions, tangent_kernel
from jaxflow.plot.style import COLOURS, stroke, tidy
from jaxflow.problems.losses import squared_error

COUNT = {True: 30, False: 200}  # training digits, by whether it is the quick version
LARGE = {
    True: (4.0, 16.0),
    False: (4.0, 8.0, 16.0, 32.0),
}  # the α of slopes
ALPHAS = {True: (0.125, 8.0), False: (0.0625, 0.25, 1.0, 2.0, 8.0)}
STARTS = {True: 2, False: 6}
END = 30.0  # the time of slopes
LEVEL = {True: 0.05, False: 0.02}  # the training loss at which errors are compared
LAST = {True: 60.0, False: 1000.0}
TRAINED = {"w": True, "start": False, "alpha": False}


class Setting(NamedTuple):
    """A network at its start, its data, and its linearised flow."""

    predict: Any
    w: Any
    x: Any
    y: Any
    test: Any

    def outputs(self, moved, alpha, x):
        """The scaled outputs f at x, for stacked parameters."""
        return jax.vmap(lambda w: alpha * (self.predict(w, x) - self.predict(self.w, x)))(moved)

    def lazy(self, times):
        """The linearised flow, which is the same at every α."""
        kernels = [tangent_kernel(self.predict, self.w, x, self.x) for x in (self.x, self.test["x"])]
        zero = Predictions(*(jnp.zeros((x.shape[0], 10)) for x in (self.x, self.test["x"])))
        return lazy_predictions(kernels[0], zero, jax.nn.one_hot(self.y, 10), times, test_kernel=kernels[1])


class Scaled(NamedTuple):
    """The losses ℓ(α(h(w) − h(w₀)))/α² of models {w, start, alpha}."""

    predict: Any

    def __call__(self, model, batch):
        change = self.predict(model["w"], batch["x"]) - self.predict(model["start"], batch["x"])
        return squared_error(model["alpha"] * change, batch["y"]) / model["alpha"] ** 2


def start(count, seed=0, activation="tanh"):
    problem = jf.problems.mlp("digits", (32,), activation, key=jax.random.key(seed))
    batch = problem.objective.take(jnp.arange(count))
    return Setting(problem.predict, problem.params, batch["x"], batch["y"], problem.test)


def times_until(last):
    """Times of the same number always, so that the program of a flow is compiled once."""
    return jnp.append(jnp.zeros(1), jnp.geomspace(1.0, last, 61))


def train_flow(setting, alpha, times, rtol):
    """Parameters along gradient flow, stacked over the times."""
    objective = jf.Objective(Scaled(setting.predict), {"x": setting.x, "y": setting.y})
    model = {"w": setting.w, "start": setting.w, "alpha": jnp.asarray(alpha)}
    flow = jf.dynamics.gradient_flow(objective)
    run = jf.integrate(flow, model, times, rtol=rtol, max_steps=200_000, trainable=TRAINED)
    return run.values["w"]


def size(tree):
    return float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))))


def measures(setting, alphas, rtol):
    """At a fixed time by α: distance from the linearised flow, |w − w₀| and kernel change, over their sizes."""
    times = times_until(END)
    limit = setting.lazy(times).train[-1]
    before = tangent_kernel(setting.predict, setting.w, setting.x)
    rows = []
    for alpha in alphas:
        moved = train_flow(setting, alpha, times, rtol)
        last = jax.tree.map(lambda leaf: leaf[-1], moved)
        outputs = setting.outputs(moved, alpha, setting.x)[-1]
        after = tangent_kernel(setting.predict, last, setting.x)
        shift = jax.tree.map(jnp.subtract, last, setting.w)
        pairs = ((outputs - limit, limit), (shift, setting.w), (after - before, before))
        rows.append([size(change) / size(whole) for change, whole in pairs])
    names = ("distance from the linearised flow", "|w − w₀|", "kernel change")
    return dict(zip(names, np.transpose(rows).tolist(), strict=True))


def slope_of(alphas, values):
    return float(np.polyfit(np.log(alphas), np.log(values), 1)[0])


def scores(setting, train, test):
    """Training losses and test errors of predictions over time."""
    losses = jax.vmap(lambda f: squared_error(f, setting.y).mean())(train)
    return np.asarray(losses), 1 - np.asarray((test.argmax(-1) == setting.test["y"][None]).mean(-1))


def value_at_level(times, found, level):
    """A value at the time at which the loss reaches a level, by lines in the logarithms; NaN where it does not."""
    losses, values = found
    if losses[-1] > level:
        return float("nan")
    i = int(np.argmax(losses <= level))
    share = np.log(losses[i - 1] / level) / np.log(losses[i - 1] / losses[i])
    return float((1 - share) * values[i - 1] + share * values[i])


def curves(times, alphas, starts):
    """For each start, losses and errors by α and of the linearised flow (under infinity), and the final weights."""
    found, last = [], []
    for setting in common.progress(starts, "starts"):
        lazy = setting.lazy(times)
        by_alpha = {float("inf"): scores(setting, lazy.train, lazy.test)}
        for alpha in alphas:
            moved = train_flow(setting, alpha, times, 1e-5)
            outputs = (setting.outputs(moved, alpha, x) for x in (setting.x, setting.test["x"]))
            by_alpha[alpha] = scores(setting, *outputs)
            last.append(jax.tree.map(lambda leaf: leaf[-1], moved))
        found.append(by_alpha)
    return found, dict(zip(alphas, last[: len(alphas)], strict=True))


def said(alpha):
    """An α as text: 8, or 1/8."""
    return f"{alpha:g}" if alpha >= 1 else f"1/{1 / alpha:g}"


def draw_slopes(ax, alphas, found):
    for i, (name, values) in enumerate(found.items()):
        label = f"{name}: slope −{-slope_of(alphas, values):.2f}"
        ax.plot(alphas, values, marker="osD^vP"[i], markersize=4, label=label, **stroke(i))
    ax.set(
        xscale="log", yscale="log", xlabel="scale α", title=f"how lazy: at t = {END:g}, each over its size"
    )
    ax.set(xticks=alphas, xticklabels=[said(alpha) for alpha in alphas], ylabel="relative size")
    ax.set_ylim(top=8 * max(map(max, found.values())))
    ax.minorticks_off()
    tidy(ax)


def draw_errors(ax, alphas, errors, level):
    """Mean test errors with their standard errors over the starts."""
    mean = {alpha: 100 * np.mean(values) for alpha, values in errors.items()}
    spread = {alpha: 100 * np.std(values, ddof=1) / len(values) ** 0.5 for alpha, values in errors.items()}
    limit, width = mean[float("inf")], spread[float("inf")]
    bar = [spread[alpha] for alpha in alphas]
    ax.errorbar(
        alphas, [mean[a] for a in alphas], bar, marker="o", capsize=3, label="networks", color=COLOURS[0]
    )
    ax.axhline(limit, color=COLOURS[1], linestyle="--", label="linearised flow")
    ax.axhspan(limit - width, limit + width, color=COLOURS[1], alpha=0.2, linewidth=0)
    ax.set(xscale="log", xlabel="scale α", ylabel="test error, %")
    ax.set(xticks=alphas, xticklabels=[said(alpha) for alpha in alphas])
    ax.set_title(f"what it costs: mean ± SE at training loss {level:g}")
    ax.minorticks_off()
    tidy(ax)


def draw_losses(ax, times, by_alpha, shown):
    for i, alpha in enumerate(shown):
        name = "linearised flow" if np.isinf(alpha) else f"α = {said(alpha)}"
        ax.plot(times[1:], by_alpha[alpha][0][1:], label=name, **stroke(i))
    ax.set(xscale="log", yscale="log", xlabel="training time t", ylabel="training loss")
    ax.set_title("losses on the way, of one start")
    tidy(ax)


def draw_kernels(axes, setting, weights):
    """The traces of the kernel at the start and after rich training, and the eigenvalues of both."""
    rich = min(weights)
    for ax, name, w in zip(
        axes, ("at the start", f"after training, α = {said(rich)}"), (setting.w, weights[rich]), strict=False
    ):
        block = tangent_kernel(setting.predict, w, setting.x, output="trace")
        jf.plot.kernel(block, ax, labels=np.asarray(setting.y), eigenvalues=axes[2], label=f"K {name}")
        ax.set_title(f"kernel {name}")
    axes[2].set(title="eigenvalues of the kernel")


def main(arguments=None):
    run = common.start("lazy_and_rich", __doc__, arguments)
    large, alphas, level = LARGE[run.quick], ALPHAS[run.quick], LEVEL[run.quick]
    count = COUNT[run.quick]
    starts = [start(count, seed) for seed in range(STARTS[run.quick])]
    first = starts[0]
    slopes = measures(first, large, 1e-9)
    if not run.quick:
        kinked = measures(start(count, 0, "relu"), large, 1e-6)
        slopes |= {f"{name}, ReLU": kinked[name] for name in list(kinked)[::2]}
    times = np.asarray(times_until(LAST[run.quick]))
    found, weights = curves(jnp.asarray(times), alphas, starts)
    errors = {
        alpha: [value_at_level(times, by_alpha[alpha], level) for by_alpha in found]
        for alpha in (*alphas, float("inf"))
    }

    figure = Figure(figsize=(15, 8.6), layout="constrained")
    axes = figure.subplots(2, 3)
    draw_slopes(axes[0, 0], large, slopes)
    draw_errors(axes[0, 1], alphas, errors, level)
    draw_losses(
        axes[0, 2], times, found[0], (min(alphas), 1.0 if 1.0 in alphas else max(alphas), float("inf"))
    )
    draw_kernels(axes[1], first, weights)

    headlines: dict[str, Any] = {}
    for name, values in slopes.items():
        expected, by = (-0.5, 0.1) if "ReLU" in name else (-1, 0.05)
        headlines[f"slope in α, {name}"] = common.near(slope_of(large, values), expected, by=by)
    for alpha, values in errors.items():
        name = "linearised flow" if np.isinf(alpha) else f"α = {alpha:g}"
        headlines[f"test error at training loss {level:g}, {name}"] = (float(np.mean(values)), None)
    gaps = {
        alpha: np.array(values) - errors[float("inf")]
        for alpha, values in errors.items()
        if np.isfinite(alpha)
    }
    for alpha in (min(alphas), max(alphas)):
        se = float(gaps[alpha].std(ddof=1) / len(gaps[alpha]) ** 0.5)
        headlines[f"α = {alpha:g}: test error less that of the linearised flow"] = (
            float(gaps[alpha].mean()),
            None,
        )
        headlines[f"α = {alpha:g}: its standard error over {len(gaps[alpha])} starts"] = (se, None)
        if not run.quick:  # of two starts there is hardly a standard error
            said = f"α = {alpha:g}: the gap in standard errors"
            rich = alpha == min(alphas)
            bound = {"high": -4} if rich else {"low": -4, "high": 4}
            headlines[said] = common.within(float(gaps[alpha].mean() / se), **bound)
    kernel = tangent_kernel(first.predict, first.w, first.x)
    for alpha, w in weights.items():
        change = size(tangent_kernel(first.predict, w, first.x) - kernel) / size(kernel)
        headlines[f"α = {alpha:g}, t = {times[-1]:g}: kernel change / kernel"] = (
            common.within(change, low=0.5)
            if alpha == min(alphas)
            else common.within(change, high=0.1)
            if alpha == max(alphas)
            else (change, None)
        )
    data = {"alphas": alphas, "errors": [errors[alpha] for alpha in errors], "times": times, "slopes": slopes}
    return run.save(figure, headlines, large=large, **data)
