r"""The cycle at the edge of stability: how far the sharpness overshoots and when it falls, predicted.

Past S = 2/η the displacement x along the top eigenvector u grows, and by the third derivative of the loss it
lowers S. With $\alpha = -\nabla S\cdot\nabla L$, the speed of sharpening, $\beta = |\nabla S|^2$ (without its
part along u) and y = S − 2/η,

$x' = -(1 + \eta y)\,x, \qquad y' = y + \eta\,(\alpha - \tfrac12 \beta x^2)$,

a cycle about $|x| = \delta = \sqrt{2\alpha/\beta}$ that never comes to rest. In a network what is pushed along ∇S
also decays, as the loss is curved there. So Damian, Nichani & Lee follow the whole displacement v from a
*constrained* path θ†, projected descent on S = 2/η and u·∇L = 0:

$v' = P_{u^\perp}(v - \eta H v) - \eta\,(\tfrac12 x^2 - \alpha/\beta)\,\nabla S, \qquad y = \nabla S\cdot v$,

with u, H, α, β and ∇S of θ† at each step: the generalised recursion. It is of third order in the loss; what is
left out grows with x.

A tanh network 64-16-16-16-10 (1,754 parameters, squared error, 400 digits), η = .35. Slow descent brings it to S
= 2/η. There x is set to a multiple of δ, from 1 to .0001: the smaller it is, the longer S rises, and the more
violent is its fall. Gradient descent is run from each, and S is measured at every step, at the iterate less its
displacement. Nothing is fitted. The quick version is a valley of three parameters.

Claim: The generalised recursion predicts the cycle of gradient descent at the edge: the step of the largest
oscillation within a tenth, and the overshoot of the sharpness within a tenth; the oscillation itself the better the
smaller it is.

Figure: Left and middle, y and |x| for two starts: gradient descent (dots), the generalised recursion (lines), and
the two numbers with constant α and β (thin dotted lines). Right, by the largest |x| of a run over δ: predicted
over measured, of its step, of its size, of the crest and of the trough of y.

Measured: from x/δ = 1, .3, .1, .01, .0001 the largest |x| is 1.5, 2.1, 2.5, 3.1, 4.0 δ. Predicted over measured:
its step .98 to 1.02; the crest of y 1.04, 1.01, .99, .98 (from .3 on); the largest |x| 1.01, 1.02, 1.03, 1.04,
1.04; the trough that follows .96, .99, 1.01, 1.05. The mean of Sη/2 over 150 steps is within .0014. The two numbers
alone have the last crest 1.46 times too high, and no rest. The intervals were set on seed 2 and reached at the first
run with this one, the first of three at which the network comes up to the edge at all. On seed 2 the largest |x| and
the trough were predicted worse, by up to 1.22 and 1.60: there a large oscillation lowers S less than in proportion to
x².

Sources: Damian, Nichani & Lee (2023, 2209.15594).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

EXAMPLES, HIDDEN = 400, (16, 16, 16)
RATE, STEPS = 0.35, {True: 120, False: 150}
KICKS = {True: (0.5, 0.1), False: (1.0, 0.3, 0.1, 0.01, 1e-4)}  # x at the start, times δ
WARM = 1800  # steps of a tenth of the rate until the edge
# The first of the seeds 1002, 2002, 3002 whose network comes up to the edge in these steps; intervals were set on 2.
SEED = 3002


class Flat(NamedTuple):
    """Losses of flat parameters."""

    losses: Any
    unravel: Any

    def __call__(self, theta, batch):
        return self.losses(self.unravel(theta), batch)


class Edge(NamedTuple):
    """The sharpness S with its eigenvector u, ∇S without its part along u, and ∇L; flat."""

    sharpness: jax.Array
    vector: jax.Array
    rise: jax.Array
    slope: jax.Array

    @property
    def alpha(self):
        return -self.rise @ self.slope

    @property
    def beta(self):
        return self.rise @ self.rise

    @property
    def displacement(self):
        return self.vector @ self.slope / self.sharpness


def network(seed=SEED):
    """An objective of flat parameters, and the first of them."""
    problem = jf.problems.mlp("digits", HIDDEN, loss="mse", key=jax.random.key(seed))
    data = jax.tree.map(lambda x: x[:EXAMPLES], problem.objective.data)
    flat, unravel = ravel_pytree(problem.params)
    return jf.Objective(Flat(problem.objective.losses, unravel), data), flat


def edge(objective, theta, start=None):
    """What is needed of the third order at θ; u is followed from `start`, if it is given."""
    pair = jf.curvature.top_eigenpairs(objective, theta, start=None if start is None else start[None])
    u = pair.vectors[0]
    rise = jf.curvature.third_derivative(objective, theta, u, u)
    return Edge(pair.values[0], u, rise - (rise @ u) * u, jax.grad(objective)(theta))


def at_the_edge(objective, theta):
    """Parameters where a slow descent has just passed S = 2/η for the last time."""
    record = jf.curvature.record_sharpness(objective, stride=10, record=lambda p: p)
    run = jf.iterate(jf.optim.gd(RATE / 10), objective, theta, steps=WARM, record=record)
    above = np.asarray(run.values.sharpness)[::10] > 2 / RATE
    crossing = np.flatnonzero(above[1:] & ~above[:-1])[-1] + 1
    return run.values.recorded[10 * crossing]


@partial(jax.jit, static_argnames="steps")
def constrained_path(objective, theta, steps):
    """The path θ† along which S = 2/η and u·∇L = 0: projected descent, and `Edge` at each of its points."""

    def onto(w, at):
        for _ in range(2):
            w = w + (2 / RATE - at.sharpness) / at.beta * at.rise - at.displacement * at.vector
            at = edge(objective, w, at.vector)
        return w, at

    def step(carry, _):
        w, at = onto(*carry)
        free = at.slope - (at.slope @ at.vector) * at.vector + at.alpha / at.beta * at.rise
        return (w - RATE * free, at), (w, at)

    return jax.lax.scan(step, (theta, edge(objective, theta)), None, length=steps)[1]


@jax.jit
@partial(jax.vmap, in_axes=(None, None, 0))
def predict(objective, path, x):
    """x and y along the path from x at the start, by the generalised recursion."""

    def step(carry, here):
        (v, x), (w, at) = carry, here
        v = v - (v @ at.vector) * at.vector
        y = at.rise @ v
        push = (x**2 / 2 - at.alpha / at.beta) * at.rise
        v_next = v - RATE * (jf.curvature.hvp(objective, w, v) + push)
        return (v_next, -(1 + RATE * y) * x), (x, y)

    return jax.lax.scan(step, (jnp.zeros_like(path[0][0]), x), path)[1]


def simple(alpha, beta, x, steps):
    """x and y by two numbers, with constant α and β."""
    found = [(x, 0.0)]
    for _ in range(steps - 1):
        x, y = found[-1]
        found.append((-(1 + RATE * y) * x, y + RATE * (alpha - beta * x**2 / 2)))
    return np.array(found).T


@partial(jax.jit, static_argnames="steps")
def measure(objective, theta, steps):
    """x and y of gradient descent: y is S − 2/η at the iterate less its displacement along u."""
    run = jf.iterate(jf.optim.gd(RATE), objective, theta, steps=steps - 1).values

    def step(u, w):
        at = edge(objective, w, u)
        there = edge(objective, w - at.displacement * at.vector, at.vector)
        return there.vector, (at.displacement, there.sharpness - 2 / RATE)

    return jax.lax.scan(step, edge(objective, run[0]).vector, run)[1]


def valley(p):
    """Curvature y in x that is pulled up to z, and z up to 12."""
    x, y, z = p
    return 0.5 * y * x**2 + 0.005 * (y - z) ** 2 + 0.005 * (z - 12) ** 2


def extremes(x, y):
    """The step and the size of the largest |x|, the crest of y before it, and the trough of y after it."""
    top = int(np.argmax(abs(x)))
    return np.array([top, abs(x[top]), y[: top + 1].max(), -y[top:].min()])


def cycles(quick):
    """δ, and by kick (x, y) of gradient descent, of the generalised recursion, and of the two numbers."""
    if quick:
        objective, theta = jax.tree_util.Partial(valley), jnp.array([0.0, 2 / RATE, 11.0])
    else:
        objective, theta = network()
        theta = at_the_edge(objective, theta)
    steps, kicks = STEPS[quick], np.array(KICKS[quick])
    path = constrained_path(objective, theta, steps)
    at = jax.tree.map(lambda each: each[0], path[1])
    alpha, beta = float(at.alpha), float(at.beta)
    size = (2 * alpha / beta) ** 0.5
    told = np.stack(predict(objective, path, jnp.asarray(kicks * size)), 1)
    found = {}
    for kick, line in common.progress(zip(kicks, told, strict=True), "starts", total=len(kicks)):
        seen = np.stack(measure(objective, path[0][0] + kick * size * at.vector, steps))
        found[float(kick)] = seen, line, simple(alpha, beta, kick * size, steps)
    return size, found


def draw(figure, size, found, ratios):
    over, swing, right = figure.subplots(1, 3)
    kicks = list(found)
    for i, kick in enumerate((kicks[1], kicks[-1])):
        colour = COLOURS[(1, 0)[i]]
        for ax, part in ((over, 1), (swing, 0)):
            show = (lambda v: v) if part else (lambda v: abs(v) / size)
            seen, told, plain = (show(each[part]) for each in found[kick])
            ax.plot(seen, ".", color=colour, markersize=5, label=f"descent, x = {kick:g} δ at the start")
            ax.plot(told, color=colour, linewidth=1.5, label="generalised recursion" if i == 0 else None)
            ax.plot(plain, ":", color=colour, linewidth=1, label="two numbers" if i == 0 else None)
    over.axhline(0, color="0.5", linewidth=0.8)
    over.set(xlabel="steps", ylabel="y = S − 2/η", title="the sharpness above the edge")
    low = 1.3 * min(seen[1].min() for seen, _, _ in found.values())
    over.set_ylim(2 * low, -2.2 * low)
    swing.set(yscale="log", xlabel="steps", ylabel="|x| / δ", title="the oscillation")
    swing.set_ylim(1e-5, 300)
    sizes = [abs(seen[0]).max() / size for seen, _, _ in found.values()]
    for i, name in enumerate(("step of the largest |x|", "largest |x|", "crest of y", "trough of y")):
        # The crest and the trough of a run that begins at δ are hardly any.
        kept = slice(1 if i > 1 else 0, None)
        right.plot(sizes[kept], ratios[kept, i], marker="osD^"[i], markersize=5, label=name, **stroke(i))
    right.axhline(1, color="0.5", linewidth=0.8)
    right.set(
        xlabel="largest |x| / δ of the run",
        ylabel="predicted / measured",
        title="what the recursion predicts",
    )
    for ax in (over, swing, right):
        tidy(ax)


def main(arguments=None):
    run = common.start("self_stabilisation", __doc__, arguments)
    size, found = cycles(run.quick)
    ratios = np.array([extremes(*told) / extremes(*seen) for seen, told, _ in found.values()])
    plain = np.array([extremes(*two) / extremes(*seen) for seen, _, two in found.values()])
    kicks, violent = list(found), [abs(seen[0]).max() / size for seen, _, _ in found.values()]
    gentle = np.array(kicks) >= 0.1
    mean = [float(told[1].mean() - seen[1].mean()) * RATE / 2 for seen, told, _ in found.values()]
    headlines = {
        "largest |x| / δ, by x / δ at the start: " + ", ".join(f"{kick:g}" for kick in kicks): (
            violent,
            None,
        ),
        "step of the largest |x|, predicted / measured": common.near(ratios[:, 0].tolist(), 1, by=0.1),
        "crest of y, predicted / measured, x < δ at the start": common.near(
            ratios[np.array(kicks) < 1, 2].tolist(), 1, by=0.1
        ),
        "largest |x|, predicted / measured, x ≥ δ/10 at the start": common.near(
            ratios[gentle, 1].tolist(), 1, by=0.15
        ),
        "largest |x|, predicted / measured, from smaller x": (ratios[~gentle, 1].tolist(), 1),
        "trough of y, predicted / measured, x < δ at the start": (ratios[np.array(kicks) < 1, 3].tolist(), 1),
        "mean of S η/2, predicted less measured": common.near(mean, 0, by=0.02),
        "two numbers: crest of y, predicted / measured, smallest x": (float(plain[-1, 2]), 1),
    }
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    draw(figure, size, found, ratios)
    data = {"kicks": kicks, "measured": [each[0] for each in found.values()]}
    return run.save(figure, headlines, predicted=[each[1] for each in found.values()], delta=size, **data)
