r"""Separable data: the direction of the weights tends to the largest margin, as slowly as 1/log t.

On data that a hyperplane separates the logistic loss has no minimum. Gradient flow runs off to infinity, and its
direction to that of $\hat w$, the shortest w with all margins $y_n\, w \cdot x_n \ge 1$: the support vector
machine. More exactly, with $\hat w = \sum_n \alpha_n y_n x_n$, for almost all data,

- $\theta(t) = \hat w \log t + \tilde w + o(1)$, so that the direction is wrong by a constant over log t;
- the margin of every support vector tends to $\log t - \log(N \alpha_n)$, and the loss to $|\hat w|^2/t$;
- the least normalised margin is below the largest possible one, $1/|\hat w|$, by
  $\frac{1}{|\hat w|}(\log(N \max_n \alpha_n) - \sum_n \alpha_n \log(N \alpha_n) / |\hat w|^2) / \log t$.

In t nothing of this can be seen: log t is 28 at $t = 10^{12}$. So the flow is solved in the clock s = log(1 + t),
in which $d\theta/ds = e^s (-\nabla L)$ stays of order 1; written as $\frac1N \sum_n y_n x_n \exp(s +
\log\sigma(-m_n))$ it has no number that is too large or small, and s goes to 3,000. Gradient descent on the loss
sees the same path for small t. Descent on log L, whose gradient is $\nabla L / L$, sees it fast: there log t
grows in proportion to the steps, and the error falls as 1/k.

Zeros and ones of the digits (360, 52 pixels and a constant), weights from 0. The support vector machine is solved
apart, by SciPy's non-negative least squares. Of its margins 18 are 1 and the next are 1.005, 1.014 and 1.017: a
digit with the margin 1 + δ acts until log t is some 1/δ, so that the law with its constant is reached only beyond
log t = 300.

Claim: The direction of gradient flow tends to the largest margin as 1/log t, and its margins to log t − log(Nα),
but with real data only at times that no run in t reaches; descent on log L takes as many steps as that is log t.

Figure: Left, the distance between the unit vectors of θ and of the support vector machine, by log t, along the
flow, gradient descent, and descent on log L (whose log t is that of the same loss). In the middle, the margins of
the support vectors less log t (lines), and what they tend to (dots at the right). Right, the distance by the
number of steps, of the two kinds of descent.

Measured: at log t = 3,000 every margin of a support vector is log t − log(Nα) within 1e-5 (the constants are
−5.15 to −1.60), the gap of the margin 1.008 of its formula, t L = |ŵ|². The slope of the error is −1.003 in log
t, over the last factor 5, and −.998 in the steps of descent on log L. Error × log t at t = 10¹² is still .55 of
what it becomes. After 100,000 steps descent is .24 from the direction, as the flow is at that time (ratio
1.0002).

Sources: Soudry, Hoffer, Nacson, Gunasekar & Srebro (2018, 1710.10345); descent on log L: Nacson et al. (2019,
1803.01905).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.tree_util import Partial
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

END = {True: 1500.0, False: 3000.0}  # in log t
RATE, STEPS = 0.5, {True: 10_000, False: 100_000}  # of descent
FAST, FAST_STEPS = 0.2, 40_000  # of descent on log L
SAVED = 120


def signed_digits():
    """The inputs times their labels ±1, (N, d), of zeros and ones, with a constant input."""
    data = jf.problems.load("digits")
    kept = np.isin(data.y, (0, 1))
    x = np.asarray(data.x, float)[kept] / 16
    x = np.hstack([x[:, x.std(0) > 0], np.ones((len(x), 1))])
    return x * np.where(data.y[kept] == 0, -1.0, 1.0)[:, None]


class Machine(NamedTuple):
    """The hard-margin support vector machine: its weights ŵ (d,), and the multipliers α (N,)."""

    weights: np.ndarray
    alpha: np.ndarray

    @property
    def length(self):
        return float(np.linalg.norm(self.weights))


def support_vectors(z):
    """min |w| with z w ≥ 1, as a problem of the least distance (Lawson & Hanson 1974, chapter 23)."""
    system = np.vstack([z.T, np.ones(len(z))])
    goal = np.append(np.zeros(z.shape[1]), 1.0)
    found = scipy.optimize.nnls(system, goal, maxiter=100 * len(z))[0]
    residual = system @ found - goal
    return Machine(-residual[:-1] / residual[-1], -found / residual[-1])


@jf.dynamics.traceable
def log_time(z):
    """Gradient flow of the logistic loss of margins z θ in the clock s = log(1 + t)."""

    def drift(s, theta):
        return z.T @ jnp.exp(s + jax.nn.log_sigmoid(-(z @ theta))) / z.shape[0]

    return jf.dynamics.Field(drift)


def logistic(theta, batch):
    return jax.nn.softplus(-(batch @ theta))


def log_loss(z, theta):
    """log L, for losses as small as one likes."""
    margins = z @ theta
    # log(log(1 + e^−m)) is −m − e^−m/2 + …
    safe = jnp.minimum(margins, 30.0)
    logs = jnp.where(margins < 30.0, jnp.log(jnp.log1p(jnp.exp(-safe))), -margins)
    return jax.nn.logsumexp(logs) - jnp.log(z.shape[0])


def direction_error(theta, machine):
    units = theta / np.linalg.norm(theta, axis=-1, keepdims=True)
    return np.linalg.norm(units - machine.weights / machine.length, axis=-1)


def flow(z, end):
    """Times s and weights (T, d) along the flow in log time."""
    times = jnp.append(0.0, jnp.geomspace(0.1, end, SAVED))
    run = jf.integrate(log_time(z), jnp.zeros(z.shape[1]), times, rtol=1e-8, atol=1e-8, max_steps=1_000_000)
    return np.asarray(times)[1:], np.asarray(run.values)[1:]


def descend(loss, size, rate, steps):
    """Steps and weights of gradient descent, at even intervals."""
    every = max(1, steps // 1000)
    run = jf.iterate(jf.optim.gd(rate), loss, jnp.zeros(size), steps=steps, every=every)
    return every * np.arange(1, len(run.values)), np.asarray(run.values)[1:]


def slope(x, y, start):
    kept = x >= start
    return float(np.polyfit(np.log(x[kept]), np.log(y[kept]), 1)[0])


def draw(figure, z, machine, paths, end):
    log_t, steps = (
        {name: each[0] for name, each in paths.items()},
        {name: each[1] for name, each in paths.items()},
    )
    errors, margins, by_step = figure.subplots(1, 3)
    for i, (name, (_, _, theta)) in enumerate(paths.items()):
        wide = {"linewidth": (1.7, 4, 1.7)[i], "alpha": (1, 0.5, 1)[i]}
        errors.loglog(log_t[name], direction_error(theta, machine), label=name, **stroke(i) | wide)
        if steps[name] is not None:
            by_step.loglog(steps[name], direction_error(theta, machine), label=name, **stroke(i))
    far = np.array([end / 30, end])
    reached = direction_error(paths["gradient flow"][2][-1], machine) * end
    errors.plot(far, 2 * reached / far, color="0.5", linewidth=0.9, label="slope −1")
    errors.axvline(np.log(1e12), color="0.6", linewidth=0.8)
    errors.text(
        np.log(1e12), 1.0, " t = 10¹²", transform=errors.get_xaxis_transform(), va="top", fontsize="small"
    )
    s, _, theta = paths["gradient flow"]
    active = np.flatnonzero(machine.alpha > 0)
    active = active[np.argsort(machine.alpha[active])][:: max(1, len(active) // 6)]
    for i, n in enumerate(active):
        margins.plot(s, theta @ z[n] - s, **stroke(i) | {"linewidth": 1.3})
        margins.plot(
            s[-1], -np.log(len(z) * machine.alpha[n]), "o", color=COLOURS[i % len(COLOURS)], clip_on=False
        )
    margins.plot([], [], color="0.3", label="margin of a support vector")
    margins.plot([], [], "o", color="0.3", label="−log(Nα)")
    margins.set(xscale="log", xlim=(1, end), ylim=(-6, 1), xlabel="log t", ylabel="margin − log t")
    margins.set(title="every margin has its constant")
    errors.set(
        xlabel="log t", ylabel="distance of the unit vectors", title="direction against the largest margin"
    )
    by_step.set(xlabel="steps", ylabel="distance of the unit vectors", title="the same by the steps it takes")
    for ax in (errors, margins, by_step):
        tidy(ax)


def tell(z, machine, paths, end):
    s, _, theta = paths["gradient flow"]
    active = machine.alpha > 0
    logs = np.log(len(z) * machine.alpha[active])
    last = z @ theta[-1]
    offsets = last[active] - end + logs
    gap = 1 / machine.length - last.min() / np.linalg.norm(theta[-1])
    constant = (logs.max() - machine.alpha[active] @ logs / machine.length**2) / machine.length
    loss = float(np.exp(end + log_loss(z, theta[-1])))
    error = direction_error(theta, machine)
    log_t, steps, path = paths["gradient descent"]
    same = np.interp(log_t[-1], s, error) / direction_error(path[-1], machine)
    _, fast, quick = paths["descent on log L"]
    early = int(np.argmax(s > np.log(1e12)))
    return {
        "support vectors: largest |margin − log t + log(Nα)|": common.near(
            float(abs(offsets).max()), 0, by=0.01
        ),
        "support vectors: range of −log(Nα)": ((float(-logs.max()), float(-logs.min())), None),
        "flow: gap of the margin × log t / its constant": common.near(
            float(gap * end / constant), 1, by=0.02
        ),
        "flow: t L / |ŵ|²": common.near(loss / machine.length**2, 1, by=0.01),
        "flow: slope of the error in log t, last factor 5": common.near(
            slope(s, error, end / 5), -1, by=0.05
        ),
        "flow: error × log t at t = 10¹² / in the end": (
            float(error[early] * s[early] / (error[-1] * end)),
            None,
        ),
        f"descent, {steps[-1]:,} steps: error of the flow / its": common.near(float(same), 1, by=0.01),
        "descent on log L: slope of the error in the steps, last factor 5": common.near(
            slope(fast, direction_error(quick, machine), fast[-1] / 5), -1, by=0.05
        ),
    }


def main(arguments=None):
    run = common.start("margin", __doc__, arguments)
    z, end = signed_digits(), END[run.quick]
    machine = support_vectors(z)
    s, theta = flow(z, end)
    steps, path = descend(jf.Objective(logistic, z), z.shape[1], RATE, STEPS[run.quick])
    fast, quick = descend(Partial(log_loss, jnp.asarray(z)), z.shape[1], FAST, FAST_STEPS)
    log_losses = np.asarray(jax.vmap(lambda each: log_loss(z, each))(quick))
    paths = {
        "gradient flow": (s, None, theta),
        "gradient descent": (np.log1p(RATE * steps), steps, path),
        "descent on log L": (2 * np.log(machine.length) - log_losses, fast, quick),
    }
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    draw(figure, z, machine, paths, end)
    headlines = tell(z, machine, paths, end)
    return run.save(figure, headlines, log_t=s, error=direction_error(theta, machine), alpha=machine.alpha)
