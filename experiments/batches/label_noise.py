r"""Noise in the labels leads SGD along the manifold of minima, to where the trace of the Hessian is least.

A model with more parameters than examples fits them exactly on a whole manifold of minima, where the gradient of
every example is 0, and so is SGD's noise. Noise in the labels, of variance σ² and fresh at every step, does not
vanish there: its gradients have the covariance $\sigma^2 H / B$, with $H = \frac1N \sum_i \nabla f_i \nabla
f_i^\top$, the Hessian on the manifold. Across the manifold the iterates then spread with the covariance
$\eta\sigma^2/(2B)$ in every direction (that of $HS + SH = \eta\sigma^2 H/B$), and by the third derivatives of the
loss such a spread S pushes with the mean force $-\frac12 \nabla^3 L[S] = -\frac{\eta\sigma^2}{4B}
\nabla\,\mathrm{tr} H$. Only its part along the manifold moves anything. So, on the clock t = kη and for small η,

$\dot\theta = -\frac{\eta\sigma^2}{4B}\, P_\theta \nabla\,\mathrm{tr} H(\theta)$,

with P the projection onto the tangents of the manifold. The constant ¼ is what is measured here: for each η the
speed at which the mean tr H along SGD follows the flow, by least squares over the whole curve, and its limit for
η → 0.

What a finite η adds follows for one example at a step (B = 1). A step multiplies the spread by $I - \eta \nabla
f_i \nabla f_i^\top$ and adds $\eta^2\sigma^2 \nabla f_i \nabla f_i^\top$. Where all $|\nabla f_i|^2$ are alike,
and so tr H, it is $\eta\sigma^2/(2 - \eta\,\mathrm{tr} H)$ at rest, and the flow is faster by $1/(1 - \frac\eta2
\mathrm{tr} H)$.

The model is a diagonal linear network, $f(x) = x \cdot (u^2 - v^2)$ (96 parameters), on 20 digits, threes (1) and
eights (−1); SGD takes one example at a step, with noise of ±½. On the manifold tr H is least where $4 \sum_j
c_j|\beta_j|$ is, with c the mean squares of the features, among all $\beta = u^2 - v^2$ that fit: a linear
program, solved by SciPy, tells where the flow must end, and the answer is sparse. The control is SGD without
noise in the labels from near the same start.

Claim: SGD with label noise follows the flow of −(ησ²/4B) ∇ tr H along the manifold of minima, to the sparse
solution of a linear program; without it SGD stays.

Figure: Left, tr H along SGD of three rates (means over runs), along the limit flow, along the flow with the
factor for the largest rate, and along SGD without label noise, in the slow time ησ²t; the thin line is the least
value, by the linear program. In the middle, the constant (limit ¼) with which the runs follow the limit flow and
the flow with the factor, by the rate; standard errors are smaller than the markers. Right, the coefficients β at
the start, at the end of the longest run of SGD, and by the linear program.

Measured: the constant against the limit flow is .351, .292, .270 at η = .1, .05, .025, and .252 by a parabola to
η = 0; against the flow with the factor it is .263, .255, .253. The flow's tr H falls from 8.48 to 1.0015 of what
the linear program has as the least, .837; that of SGD at η = .1 ends at .92 of it, as its mean need not fit the
examples exactly.

Sources: Blanc, Gupta, Valiant & Valiant (2020, 1904.09080); Damian, Ma & Lee (2021, 2106.06530); the limit: Li,
Wang & Arora (2022, 2110.06914); the sparse solution: Woodworth et al. (2020, 2002.09277).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

EXAMPLES, NOISE = 20, 0.5
RATES = {True: (0.025,), False: (0.1, 0.05, 0.025)}
RUNS = {True: 4, False: 16}
END = {True: 4.0, False: 40.0}  # in the slow time ησ²t
LONG, LAST = {True: 1, False: 4}, 640.0  # how much longer the largest rate runs; when the flow ends
SAVED = 80


class Network(NamedTuple):
    """½(x·(u² − v²) − y − σε)² with fresh signs ε = ±1."""

    def __call__(self, params, batch, key):
        signs = jax.vmap(lambda each: jax.random.rademacher(each, (), float))(key)
        return 0.5 * (predict(params, batch["x"]) - batch["y"] - batch["noise"] * signs) ** 2


def predict(params, x):
    return x @ (params["u"] ** 2 - params["v"] ** 2)


def examples():
    """Threes and eights, (N, d) and ±1. Features have mean 0 and variance 1/d over all of these digits."""
    data = jf.problems.load("digits")
    kept = np.isin(data.y, (3, 8))
    x, y = np.asarray(data.x)[kept], np.where(data.y[kept] == 3, 1.0, -1.0)
    varied = x[:EXAMPLES].std(0) > 0
    x = ((x - x.mean(0)) / np.maximum(x.std(0), 1e-9))[:EXAMPLES, varied]
    return x / varied.sum() ** 0.5, y[:EXAMPLES]


def objective(x, y, noise):
    return jf.Objective(Network(), {"x": x, "y": y, "noise": np.full(len(y), noise)})


def trace(x, params):
    """tr H on the manifold, (1/N) Σ_i |∇f_i|²."""
    return 4 * (jnp.square(x).mean(0) * (params["u"] ** 2 + params["v"] ** 2)).sum()


@jf.dynamics.traceable
def along_manifold(x, rate):
    """The flow of −¼ ∇ tr H / (1 − η tr H / 2), projected onto what changes no output, in the slow time."""

    def drift(t, params):
        flat, unravel = ravel_pytree(params)
        level, force = jax.value_and_grad(lambda p: trace(x, unravel(p)))(flat)
        jacobian = jax.jacrev(lambda p: predict(unravel(p), x))(flat)
        normal = jacobian.T @ jnp.linalg.solve(jacobian @ jacobian.T, jacobian @ force)
        return unravel(-(force - normal) / (4 * (1 - rate * level / 2)))

    return jf.dynamics.Field(drift)


def start(x, y):
    """The end of gradient flow from random weights: a point of the manifold."""
    keys = jax.random.split(jax.random.key(1))
    params = {
        name: 1 + 0.3 * jax.random.normal(key, x.shape[1:]) for name, key in zip("uv", keys, strict=True)
    }
    loss = lambda p: 0.5 * jnp.mean((predict(p, x) - y) ** 2)
    # The slowest mode has a curvature of about .01.
    return jf.integrate(
        jf.dynamics.gradient_flow(loss), params, jnp.array([0.0, 5e3]), rtol=1e-10, atol=1e-12
    ).params


def descend(loss, params, x, rate, end, keys):
    """tr H along runs of SGD (R, T) with their slow times (T,), and the coefficients in the end (R, d)."""
    every = round(end / (rate**2 * NOISE**2) / SAVED)
    record = lambda p: (trace(x, p), p["u"] ** 2 - p["v"] ** 2)

    def run(key):
        options = {"steps": every * SAVED, "every": every, "batch_size": 1, "key": key, "record": record}
        traces, beta = jf.iterate(jf.optim.gd(rate), loss, params, **options).values
        return traces, beta[-1]

    traces, beta = jf.ensemble(run, keys)
    return np.arange(SAVED + 1) * every * rate**2 * NOISE**2, np.asarray(traces), np.asarray(beta)


def least_trace(x, y):
    """The least tr H on the manifold and its β: the linear program min Σ c_j |β_j| with Xβ = y."""
    weight = np.square(x).mean(0)
    found = scipy.optimize.linprog(np.tile(weight, 2), A_eq=np.hstack([x, -x]), b_eq=y)
    return 4 * found.fun, found.x[: x.shape[1]] - found.x[x.shape[1] :]


def follow(params, x, rate, end):
    """Slow times, tr H along the flow, and its last β."""
    times = jnp.append(0.0, jnp.geomspace(end / 4e3, end, 200))
    record = lambda p: (trace(x, p), p["u"] ** 2 - p["v"] ** 2)
    path = jf.integrate(along_manifold(x, rate), params, times, record=record, rtol=1e-7, max_steps=100_000)
    return np.asarray(times), np.asarray(path.values[0]), np.asarray(path.values[1][-1])


def speed(times, traces, flow):
    """¼ times the factor of time by which a curve of tr H follows that of the flow best, in least squares."""
    gap = lambda factor: np.square(traces - np.interp(factor * times, *flow)).sum()
    return scipy.optimize.minimize_scalar(gap, bounds=(0.3, 3), method="bounded").x / 4


def control(params, x, y, rate, end, keys):
    """Mean tr H along runs of SGD without label noise, from a point near the start."""
    away = {
        name: params[name] + 0.02 * jax.random.normal(k, x.shape[1:])
        for name, k in zip("uv", jax.random.split(jax.random.key(2)), strict=True)
    }
    times, traces, _ = descend(objective(x, y, 0.0), away, x, rate, end, keys)
    return times, traces.mean(0)


def measure(quick):
    """The runs by rate, the flows, the constants by rate (R,) with their errors, the control, the linear program."""
    x, y = examples()
    params, rates, end = start(x, y), RATES[quick], END[quick]
    loss, keys = objective(x, y, NOISE), jax.random.split(jax.random.key(0), RUNS[quick])
    limit, runs, constants = follow(params, x, 0.0, 1.5 * end), {}, {"limit": [], "factor": []}
    for rate in common.progress(rates, "rates"):
        longer = LONG[quick] if rate == max(rates) else 1
        runs[rate] = times, traces, _ = descend(loss, params, x, rate, longer * end, keys)
        kept, exact = times < 1.01 * end, follow(params, x, rate, 1.5 * end)
        for name, flow in (("limit", limit), ("factor", exact)):
            values = np.array([speed(times[kept], each[kept], flow[:2]) for each in traces])
            constants[name].append((values.mean(), values.std(ddof=1) / len(values) ** 0.5))
    flows = {
        "limit": limit,
        "factor": follow(params, x, max(rates), LONG[quick] * end),
        "last": follow(params, x, 0.0, LAST),
    }
    still = control(params, x, y, max(rates), LONG[quick] * end, keys)
    beta = np.asarray(params["u"] ** 2 - params["v"] ** 2)
    return (
        runs,
        flows,
        {name: np.array(each) for name, each in constants.items()},
        still,
        beta,
        least_trace(x, y),
    )


def draw(figure, runs, flows, constants, still, beta, program):
    curves, law, ends = figure.subplots(1, 3)
    for i, (rate, (times, traces, _)) in enumerate(runs.items()):
        style = {"color": COLOURS[i + 1], "markerfacecolor": "none", "label": f"SGD, η = {rate:g}"}
        curves.plot(times[1::2], traces.mean(0)[1::2], "osD"[i], markersize=5, **style)
    curves.plot(flows["last"][0][1:], flows["last"][1][1:], label="limit flow, η → 0", **stroke(0))
    label = f"flow with factor, η = {max(runs):g}"
    curves.plot(flows["factor"][0][1:], flows["factor"][1][1:], label=label, **stroke(1))
    curves.plot(still[0][1:], still[1][1:], label="SGD without label noise", **stroke(3))
    curves.axhline(program[0], color="0.4", linewidth=0.8)
    curves.text(
        0.02,
        program[0],
        "least on the manifold",
        transform=curves.get_yaxis_transform(),
        va="bottom",
        fontsize="small",
    )
    curves.set(xscale="log", yscale="log", xlabel="slow time ησ²t (t = steps × η)", ylabel="tr H")
    curves.set(xlim=(0.05, None), title="the trace of the Hessian")
    rates = np.array(list(runs))
    for i, (name, told) in enumerate(
        (("limit", "limit flow"), ("factor", "flow with factor 1/(1 − η tr H/2)"))
    ):
        law.plot(rates, constants[name][:, 0], marker="os"[i], label=f"against the {told}", **stroke(i))
    law.axhline(0.25, color="0.4", linewidth=0.8)
    law.text(0.98, 0.25, "¼", transform=law.get_yaxis_transform(), va="bottom", ha="right")
    law.set(xlabel="rate η", ylabel="constant", xlim=(0, None), title="the constant of −ησ² ∇ tr H")
    order = np.argsort(program[1])
    for i, (values, name) in enumerate(
        ((beta, "start"), (runs[max(runs)][2].mean(0), "end of SGD"), (program[1], "linear program"))
    ):
        style = {"color": COLOURS[(2, 1, 0)[i]], "markerfacecolor": "none", "linestyle": "", "label": name}
        ends.plot(values[order], marker="sox"[i], markersize=5, **style)
    ends.set(
        xlabel="coefficient, in the order of the linear program", ylabel="β", title="from dense to sparse"
    )
    for ax in (curves, law, ends):
        tidy(ax)


def main(arguments=None):
    run = common.start("label_noise", __doc__, arguments)
    runs, flows, constants, still, beta, program = measure(run.quick)
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    draw(figure, runs, flows, constants, still, beta, program)
    rates, seen = np.array(list(runs)), constants["limit"][:, 0]
    limit = {}
    if not run.quick:
        value = float(np.polyfit(rates, seen, len(rates) - 1)[-1])
        limit["constant of −ησ² ∇ tr H, extrapolated to η = 0"] = common.near(value, 0.25, by=0.0125)
    quarter = len(still[1]) // 4
    change = float(still[1][-1] / still[1][quarter] - 1)
    headlines = limit | {
        f"the same with the factor 1/(1 − η tr H/2), η = {rates[-1]:g}": common.near(
            float(constants["factor"][-1, 0]), 0.25, by=0.0125
        ),
        "constants by the rate, and their standard errors": (
            (seen.tolist(), constants["limit"][:, 1].tolist()),
            None,
        ),
        f"tr H of the flow at ησ²t = {LAST:g} / by the linear program": common.within(
            float(flows["last"][1][-1] / program[0]), 1, 1.01, expected=1
        ),
        f"tr H of SGD in the end, η = {rates[0]:g} / by the linear program": (
            float(runs[rates[0]][1][:, -1].mean() / program[0]),
            1,
        ),
        "without label noise: change of tr H in the last three quarters": common.near(change, 0, by=1e-3),
    }
    data = {"rates": rates, "constants": constants, "times": runs[rates[0]][0]}
    return run.save(figure, headlines, traces=runs[rates[0]][1].mean(0), beta=program[1], **data)
