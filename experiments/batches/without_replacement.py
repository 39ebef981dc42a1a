r"""The order of the batches: an epoch of SGD descends, on average over orders, a loss with the slopes of its batches.

The data are cut into m batches, and an epoch of SGD takes one step of rate η with each of them. Averaged over all m!
orders, and to second order in η, the iterate after the epoch is that of the gradient flow, after the time mη, of

$\tilde L = L + \frac{\eta}{4m} \sum_k |\nabla L_k|^2$,

a penalty on the slope of every batch. Where each step draws one of the m batches anew, with replacement, the mean is
to this order that of gradient descent on all data, which descends $L + \frac\eta4 |\nabla L|^2$. The two differ by
$-\frac{m\eta^2}{4} \nabla\,(\frac1m \sum_k |\nabla L_k|^2 - |\nabla L|^2)$: without replacement SGD is, on average,
pushed to where its batches agree.

A tanh network (8 hidden units, 610 parameters, cross-entropy) on digits in four batches. The means are exact and not
sampled: all 24 orders and all 256 sequences with replacement are run. A mean less the end of a flow is of order η³
where the flow is the right one, and of order η² where it is not. So each mean is compared with the flow of the loss,
with that of its own kind of drawing, and with that of the other kind.

Claim: The mean of SGD over the orders of its batches leaves the flow of L + (η/4m) Σ|∇L_k|² at third order in an
epoch, and any other of these flows at second order.

Figure: Left, the distance of the mean after one epoch without replacement (all 24 orders) from the ends of three
flows, by the rate η, with the slopes of the three smallest rates. In the middle, the same for the mean with
replacement (all 256 sequences). A slope of 3 is that of the right flow. Right, the distance between the two means
(points), and the formula for it (line).

Measured: slopes at η ≤ .02: without replacement 1.97 from the flow of L, 2.01 from gradient descent's, 2.98 from the
right one; with replacement 1.96, 2.99 from gradient descent's, which is the right one there, and 1.96. The difference
of the two means at η = .005, along the formula's, is .996 of it.

Sources: Smith, Dherin, Barrett & De (2021, 2101.12176); gradient descent: Barrett & Dherin (2021, 2009.11162).
"""

from itertools import permutations, product

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import stroke, tidy

BATCHES, EXAMPLES = 4, 128
RATES = {True: (0.02, 0.01, 0.005), False: (0.16, 0.08, 0.04, 0.02, 0.01, 0.005)}
PLAIN, OF_ALL, OF_BATCHES = "L", "L + (η/4)|∇L|²", "L + (η/4m) Σ|∇L_k|²"
PENALTIES = {PLAIN: (0, 0), OF_ALL: (1, 0), OF_BATCHES: (0, 1)}  # of all data, of each batch, times η/4
WITHOUT, WITH = "without replacement", "with replacement"
RIGHT = {WITHOUT: OF_BATCHES, WITH: OF_ALL}


@jf.optim.traceable
def in_order(batches):
    """The estimator whose step k takes the examples `batches[k]` (m, B)."""

    def draw(objective, state, step, key):
        index = batches[step]
        return (lambda params: objective.minibatch(params, index)), state

    return jf.solve.Draws(draw, batch_size=batches.shape[1])


def square(loss, params):
    """|∇loss|²."""
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jax.grad(loss)(params)))


def penalized(objective, batches, whole, each, params):
    """L + `whole` · |∇L|² + `each` · (1/m) Σ_k |∇L_k|²."""
    squares = jax.vmap(lambda index: square(lambda p: objective.minibatch(p, index), params))(batches)
    return objective(params) + whole * square(objective, params) + each * squares.mean()


def setting():
    """A network, its objective on some digits, and the examples of each batch (m, B)."""
    problem = jf.problems.mlp("digits", (8,), key=jax.random.key(0))
    data = jax.tree.map(lambda x: x[:EXAMPLES], problem.objective.data)
    return (
        jf.Objective(problem.objective.losses, data),
        problem.params,
        jnp.arange(EXAMPLES).reshape(BATCHES, -1),
    )


@jax.jit
def mean_end(objective, params, batches, rate, sequences):
    """The mean of the parameters after one epoch, over sequences (S, m) of batches."""

    def run(sequence):
        estimator = in_order(batches[sequence])
        end = jf.iterate(jf.optim.gd(rate), objective, params, steps=BATCHES, estimator=estimator, every=None)
        return ravel_pytree(end.params)[0]

    return jax.vmap(run)(sequences).mean(0)


def flow_end(loss, params, time):
    """The end of the gradient flow of a loss."""
    path = jf.integrate(
        jf.dynamics.gradient_flow(loss), params, jnp.array([0.0, time]), rtol=1e-12, atol=1e-14
    )
    return ravel_pytree(path.params)[0]


def push(objective, batches, params):
    """∇ of (1/m) Σ|∇L_k|² − |∇L|², at the start."""
    excess = lambda p: penalized(objective, batches, -1.0, 1.0, p) - objective(p)
    return ravel_pytree(jax.jit(jax.grad(excess))(params))[0]


def epochs(rates):
    """By kind of drawing and flow the distances (R,); the differences of the two means (R, P); their formula."""
    objective, params, batches = setting()
    sequences = {
        WITHOUT: jnp.array(list(permutations(range(BATCHES)))),
        WITH: jnp.array(list(product(range(BATCHES), repeat=BATCHES))),
    }
    gaps = {(kind, flow): [] for kind in sequences for flow in PENALTIES}
    apart = []
    for rate in common.progress(rates, "rates"):
        means = {kind: mean_end(objective, params, batches, rate, each) for kind, each in sequences.items()}
        for flow, (whole, each) in PENALTIES.items():
            loss = Partial(penalized, objective, batches, whole * rate / 4, each * rate / 4)
            end = flow_end(loss, params, BATCHES * rate)
            for kind, mean in means.items():
                gaps[kind, flow].append(float(jnp.linalg.norm(mean - end)))
        apart.append(np.asarray(means[WITHOUT] - means[WITH]))
    formula = -BATCHES / 4 * np.square(rates)[:, None] * np.asarray(push(objective, batches, params))
    return gaps, np.array(apart), formula


def slope(rates, values):
    """That of the three smallest rates."""
    return float(np.polyfit(np.log(rates[-3:]), np.log(values[-3:]), 1)[0])


def draw(figure, rates, gaps, apart, formula):
    axes = figure.subplots(1, 3)
    for ax, kind in zip(axes, (WITHOUT, WITH), strict=False):
        for i, flow in enumerate(PENALTIES):
            values = gaps[kind, flow]
            name = f"flow of {flow}: slope {slope(rates, values):.2f}"
            ax.loglog(rates, values, marker="osD"[i], markersize=5, label=name, **stroke(i))
        ax.set(title=f"mean after an epoch {kind}", ylabel="distance from the end of the flow")
        ax.set_ylim(0.5 * min(map(min, gaps.values())), 30 * max(map(max, gaps.values())))
    axes[2].loglog(rates, np.linalg.norm(apart, axis=1), "o", color=stroke(1)["color"], label="measured")
    axes[2].loglog(rates, np.linalg.norm(formula, axis=1), label="mη²/4 |∇(Σ|∇L_k|²/m − |∇L|²)|", **stroke(0))
    axes[2].set(title="distance between the two means", ylabel="|mean without − mean with replacement|")
    for ax in axes:
        ax.set(xlabel="rate η")
        ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
        ax.set_xticks([], minor=True)
        tidy(ax)
    figure.suptitle("One epoch of SGD on digits, in four batches")


def main(arguments=None):
    run = common.start("without_replacement", __doc__, arguments)
    rates = RATES[run.quick]
    gaps, apart, formula = epochs(rates)
    headlines = {}
    for (kind, flow), values in gaps.items():
        right = flow == RIGHT[kind]
        headlines[f"{kind}, distance from the flow of {flow}: slope in η"] = common.near(
            slope(rates, values), 3 if right else 2, by=0.1
        )
    # The formula is the leading order, so what is left of it is of relative order η.
    share = float(np.vdot(apart[-1], formula[-1]) / np.vdot(formula[-1], formula[-1]))
    name = f"η = {rates[-1]:g}: difference of the means along the formula's / the formula's"
    headlines[name] = common.near(share, 1, by=10 * rates[-1])
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    draw(figure, rates, gaps, apart, formula)
    distances = {f"{kind}: {flow}": values for (kind, flow), values in gaps.items()}
    return run.save(figure, headlines, rates=rates, distances=distances)
