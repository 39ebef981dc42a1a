r"""What gradient flow keeps in a layered network, gradient descent loses in proportion to its rate.

In a network of linear layers $x \mapsto W_n \cdots W_1 x$ the flow of any loss of the output keeps all of

$Q_l = W_{l+1}^\top W_{l+1} - W_l W_l^\top$,

and in a ReLU network, for each hidden unit, the squares of its outgoing weights less those of its incoming ones
and its bias. So a network that starts balanced stays so, and the flow cannot make one layer large at the cost of
another.

A step of gradient descent with rate η changes $Q_l$ by exactly $\eta^2 (G_{l+1}^\top G_{l+1} - G_l G_l^\top)$, G
being the gradients: what is of order η in it cancels. In a given time t = kη the sum is of order η: a drift with
the speed $\eta\,(G_{l+1}^\top G_{l+1} - G_l G_l^\top)$. The flow of descent's modified loss, $L +
\frac\eta4|\nabla L|^2$, is a gradient flow too, but its loss is not one of the output alone, and it drifts with
the same speed. It is asked here whether it drifts as the iterates do, to second order in η.

Digits (200, squared error), a linear network 64-16-16-10 and a ReLU network 64-16-16-10, from random weights and
for a time of 4. What is compared are all $Q_l$ (of the ReLU network their diagonals, with biases), as one vector.

Claim: Gradient flow conserves the balance of the layers, and gradient descent lets it drift at first order in its
rate, as its modified flow predicts to second order.

Figure: Left, the drift |Q(t) − Q(0)| over the rate, of the linear network along gradient descent of four rates
(lines), as predicted by the modified flow of each (markers), and along gradient flow, where it is 0 up to the
error of the solver. Right, at the end, by the rate: the drift of both networks, and the distance between the
linear network's Q and that of its modified flow, with slopes of the three smallest rates.

Measured: along gradient flow Q moves by 2e-7 of descent's drift at η = .00125, the error of the solver. A step of
descent changes Q by the formula up to 2e-13 of it. Slopes in η: 1.02 for the drift of the linear network, 1.01
for that of the ReLU network, 2.00 for the error of the modified flow, whose drift over descent's tends to 1.000.

Sources: Du, Hu & Lee (2018, 1806.00900); Arora, Cohen & Hazan (2018, 1802.06509); the modified loss: Barrett &
Dherin (2021, 2009.11162).
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import CLOCK, COLOURS, stroke, tidy
from jaxflow.problems.losses import squared_error

TIME = 4.0
RATES = {True: (0.005, 0.0025, 0.00125), False: (0.02, 0.01, 0.005, 0.0025, 0.00125)}
EXAMPLES = {True: 50, False: 200}
FIRST, SAVED = 0.00125, 25  # the first and the number of the times of curves


class Chain(NamedTuple):
    """The squared error of x ↦ x W₁ᵀ ⋯ W_nᵀ, of weights (W₁, …, W_n)."""

    def __call__(self, weights, batch):
        outputs = batch["x"]
        for weight in weights:
            outputs = outputs @ weight.T
        return squared_error(outputs, batch["y"])


def linear(count):
    """A network of linear layers, and its weights."""
    data = digits((16, 16), "identity", count)
    weights = [layer["w"].T for layer in data[1]]
    return jf.Objective(Chain(), data[0].data), weights


def digits(hidden, activation, count):
    problem = jf.problems.mlp("digits", hidden, activation, loss="mse", key=jax.random.key(3))
    data = jax.tree.map(lambda x: x[:count], problem.objective.data)
    return jf.Objective(problem.objective.losses, data), problem.params


def balance(weights):
    """All W_{l+1}ᵀ W_{l+1} − W_l W_lᵀ, as one vector."""
    pairs = itertools.pairwise(weights)
    return jnp.concatenate([(after.T @ after - before @ before.T).reshape(-1) for before, after in pairs])


def balance_of_units(params):
    """For each hidden unit the squares of its outgoing less those of its incoming weights and its bias."""
    pairs = itertools.pairwise(params)
    units = [(b["w"] ** 2).sum(1) - (a["w"] ** 2).sum(0) - a["b"] ** 2 for a, b in pairs]
    return jnp.concatenate(units)


def descend(objective, params, record, rate, every=None):
    """The balance along gradient descent, less that at the start, and the times."""
    run = jf.iterate(
        jf.optim.gd(rate), objective, params, steps=round(TIME / rate), every=every, record=record
    )
    return np.asarray(run.times), np.asarray(run.values - run.values[:1])


def follow(dynamics, params, times):
    """The same along a flow."""
    run = jf.integrate(dynamics, params, times, record=balance, rtol=1e-10, atol=1e-12)
    return np.asarray(run.values - run.values[:1])


def one_step(objective, weights, rate):
    """The largest error of the exact formula of a step, over the change of the balance in it."""
    gradient = jax.grad(objective)(weights)
    step = jf.iterate(jf.optim.gd(rate), objective, weights, steps=1, record=balance).values
    change = step[1] - step[0]
    return float(abs(change - rate**2 * balance(gradient)).max() / abs(change).max())


def size(values):
    return np.linalg.norm(values, axis=-1)


def slope(rates, values):
    """That of the three smallest rates."""
    return float(np.polyfit(np.log(rates[-3:]), np.log(values[-3:]), 1)[0])


def drifts(rates, count):
    """The curves of the linear network by rate, the flow's, and at the end the drifts and errors by rate."""
    objective, weights = linear(count)
    rectified, params = digits((16, 16), "relu", count)
    times = np.append(0, np.geomspace(FIRST, TIME, SAVED))
    curves, ends = {}, {"linear network": [], "modified flow, error": [], "ReLU network": []}
    for rate in common.progress(rates, "rates"):
        at, along = descend(objective, weights, balance, rate, every=1)
        predicted = follow(jf.dynamics.implicit_gradient_regularization(objective, rate), weights, times)
        curves[rate] = at, size(along), times, size(predicted)
        ends["linear network"].append(size(along[-1]))
        ends["modified flow, error"].append(size(along[-1] - predicted[-1]))
        ends["ReLU network"].append(size(descend(rectified, params, balance_of_units, rate)[1][-1]))
    flow = size(follow(jf.dynamics.gradient_flow(objective), weights, times))
    exact = one_step(objective, weights, rates[0])
    return curves, ends, (times, flow), exact


def draw(figure, curves, ends, flow):
    along, order = figure.subplots(1, 2)
    for i, (rate, (at, measured, times, predicted)) in enumerate(list(curves.items())[:4]):
        along.plot(at[1:], measured[1:] / rate, label=f"descent, η = {rate:g}", **stroke(i))
        hollow = {"color": COLOURS[i], "markerfacecolor": "none", "label": f"its modified flow, η = {rate:g}"}
        kept = times > rate
        along.plot(times[kept], predicted[kept] / rate, "osD^"[i], markersize=5, **hollow)
    smallest = min(curves)
    name = f"gradient flow, over {smallest:g}"
    along.plot(flow[0][1:], flow[1][1:] / smallest, label=name, **stroke(5))
    along.set(xscale="log", xlabel=CLOCK, ylabel="drift / rate, |Q(t) − Q(0)| / η", title="linear network")
    for i, (name, values) in enumerate(ends.items()):
        label = f"{name}: slope {slope(list(curves), values):.2f}"
        order.loglog(list(curves), values, marker="osD"[i], markersize=5, label=label, **stroke(i))
    order.set(xlabel="rate η", ylabel="drift, or its error", title=f"at t = {TIME:g}")
    order.set_xticks(list(curves), [f"{rate:g}" for rate in curves])
    order.set_xticks([], minor=True)
    for ax in (along, order):
        tidy(ax)


def main(arguments=None):
    run = common.start("balancedness", __doc__, arguments)
    rates = RATES[run.quick]
    curves, ends, flow, exact = drifts(rates, EXAMPLES[run.quick])
    worst = float(flow[1].max() / ends["linear network"][-1])
    # The ratio is 1 + O(η), so its limit is extrapolated from the two smallest rates.
    ratios = [curves[rate][3][-1] / curves[rate][1][-1] for rate in rates[-2:]]
    limit = float(2 * ratios[1] - ratios[0])
    headlines = {
        f"gradient flow: drift / descent's at η = {rates[-1]:g}": common.within(worst, high=1e-4, expected=0),
        "one step: error of η²(GᵀG − GGᵀ) / change": common.within(exact, high=1e-9, expected=0),
        "linear network: slope of the drift in η": common.near(
            slope(rates, ends["linear network"]), 1, by=0.05
        ),
        "ReLU network: slope of the drift in η": common.near(slope(rates, ends["ReLU network"]), 1, by=0.05),
        "modified flow: slope of the error of Q": common.near(
            slope(rates, ends["modified flow, error"]), 2, by=0.1
        ),
        "drift of the modified flow / of descent, extrapolated to η = 0": common.near(limit, 1, by=0.01),
    }
    figure = Figure(figsize=(12.5, 4.8), layout="constrained")
    draw(figure, curves, ends, flow)
    return run.save(figure, headlines, rates=rates, ends=ends)
