"""What four optimizers of the adaptive families promise, measured: Lookahead, RAdam, AdaBound and SWATS.

- Lookahead averages noise away. On a quadratic of curvature λ with additive noise, the variance of its slow weights
  over that of its inner SGD is α²(1−r²ᵏ)/(α²(1−r²ᵏ) + 2α(1−α)(1−rᵏ)), r = 1 − ηλ. Measured on the ten standardised
  features of the diabetes data, each with a curvature of its own, as SGD finds their means one patient at a time:
  there the noise is additive, and as it is in the data.
- RAdam multiplies Adam's step by r_t, so that the variance of r_t/√v̂ is that of the limit, from t = 5 on. The
  formula is a first-order expansion of an approximation (that v̂ is χ² with ρ_t degrees of freedom); it is measured
  on Gaussian gradients, with the optimizers' own states. Adam's 1/√v̂ has an infinite variance at first; RAdam's
  rate is quieter at first than at the end.
- AdaBound clips each parameter's rate into bounds that close on α* as 1/(γt). Every rate on digits is inside them,
  and all end on one rate, as EMA momentum.
- SWATS runs as Adam until the rate γ = pᵀp/(−pᵀg), at which SGD's step projected on Adam's is Adam's, agrees with
  its own average to a tolerance. Public codes take a relative one, 10⁻² here. As γ fluctuates from batch to batch it
  passes by its average within tens of steps, long before the average, over 1/(1−β₂) = 1,000 steps, has settled. The
  rate Λ with which SGD goes on is then proportional to Adam's rate, and so tells of that and not of the problem.
  With the paper's tolerance, 10⁻⁹ and absolute, no run switches at all.

Claim: Lookahead and AdaBound do as their formulas say, RAdam from t = 30; SWATS switches by chance, to small rates.

Figure: Top left: Lookahead, variance of the slow weights over SGD's against ηλ, for α = .2, .5, .8 with k = 5 and α
= .5 with k = 20, measured (markers, bars of two standard errors) and theory (lines). Top right: standard deviation
of 1/√v̂ for Adam (dashed) and of r_t/√v̂ for RAdam (solid) over their mean at the end, by step. Bottom left:
AdaBound on digits, rates of all parameters: least, median and largest (lines) between the bounds (grey). Bottom
right: digits, training loss of EMA momentum against its rate (line), and of SWATS at the rate Λ to which each run
switched (markers: one for each of Adam's rates α), with Adam's own loss at these rates (horizontal lines).

Measured: Lookahead: 40 variance ratios within 2.1 standard errors of theory, mean ratio to it 1.001. RAdam: r_t
times Adam to 6e-12; deviation of its rate .56, .88, .96, .98 × that at the end for t = 5, 10, 30, 100. AdaBound:
all rates within their bounds, the outermost on them, |rate/α* − 1|·γt = 1.00. SWATS, α = .001, .003, .01, eight
seeds: switched after 16, 12, 5 steps in the median, 60 at most, to Λ = .024, .076, .29 ∝ α^1.09, where 1.8 is the
best rate; losses after 600 steps .35, .12, .037, of Adam .26, .075, .016 (18 standard errors or more), of EMA
momentum at best .0063. The intervals of the last three were set after a run with key 0 and reached at the first run
with these keys.

Sources: Zhang, Lucas, Hinton & Ba (2019, 1907.08610); Liu et al. (2020, 1908.03265); Luo, Xiong, Liu & Sun (2019,
1902.09843); Keskar & Socher (2017, 1712.07628).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from experiments.teaching.feature_scaling import center
from experiments.training.swats_switches import ALPHAS, MOMENTUM_RATES, swats_headlines, switches, watch
from jaxflow.plot.style import COLOURS, stroke, tidy

RATE, CURVATURES = 0.1, np.geomspace(0.2, 5, 10)  # ηλ from .02 to .5
CELLS = ((1.0, 5), (0.2, 5), (0.5, 5), (0.8, 5), (0.5, 20))  # α and k; α = 1 is SGD
FRESH = 1000  # the first random key; intervals were set on others
GAMMA, FINAL = 0.01, 0.1


class Size(NamedTuple):
    """Members and steps of Lookahead; gradients and steps of RAdam; steps of AdaBound; hidden units, starts and steps
    of the networks."""

    members: int
    online: int
    wide: int
    noisy: int
    bounded: int
    hidden: tuple[int, ...]
    starts: int
    trained: int


# Almost all of a quick run is compilation, so it has fewer programs, of a network without hidden units.
SIZE = {
    False: Size(128, 8000, 4000, 5000, 5000, (16,), 8, 600),
    True: Size(32, 4000, 1000, 300, 1000, (), 2, 200),
}


def means_of(point, batch):
    """½ Σ λ_j (θ_j − x_j)²: losses whose minimum is the mean of the examples."""
    return 0.5 * ((point[None] - batch) ** 2 * CURVATURES[None]).sum(-1)


@partial(jax.jit, static_argnames="steps")
def look_ahead(cells, keys, x, steps):
    """Errors of the weights after every fifth step (cells, keys, T, 10), from the mean."""
    objective, mean = jf.Objective(means_of, x), x.mean(0)

    def alone(alpha, k, key):
        optimizer = jf.optim.lookahead(jf.optim.gd(RATE), k, alpha)
        run = jf.iterate(optimizer, objective, mean, steps=steps, batch_size=1, key=key, every=5)
        return run.values - mean[None]

    return jax.vmap(lambda a, k: jax.vmap(lambda key: alone(a, k, key))(keys))(*cells)


def variance_ratios(members, steps):
    """Ratios of Lookahead's variances to SGD's (4, 10), their standard errors, and theory."""
    _, x, _ = center("diabetes")
    cells = tuple(np.array(column, float) for column in zip(*CELLS, strict=True))
    keys = jax.random.split(jax.random.key(FRESH), members)
    errors = np.asarray(look_ahead(cells, keys, jnp.asarray(x / x.std(0)), steps))
    late = errors[:, :, steps // 20 :: 4] ** 2  # the last three quarters, at multiples of 20 steps
    each = late.mean(2)
    ratio = each[1:].mean(1) / each[0].mean(0)
    spread = each[1:] / each[0].mean(0) - ratio[:, None] * each[0] / each[0].mean(0)
    alpha, k = (np.array(c)[1:, None] for c in cells)
    r = 1 - RATE * CURVATURES
    slow = alpha**2 * (1 - r ** (2 * k))
    return (
        ratio,
        spread.std(1, ddof=1) / np.sqrt(members),
        slow / (slow + 2 * alpha * (1 - alpha) * (1 - r**k)),
    )


@partial(jax.jit, static_argnames=("wide", "steps"))
def deviations(wide, steps, key):
    """Standard deviation and mean (T, 2), by optimizer, of the factor by which each gradient is multiplied, with
    β₁ = 0; both optimizers see the same gradients."""
    optimizers = {"Adam": jf.optim.adam(1.0, b1=0.0), "RAdam": jf.optim.radam(1.0, b1=0.0)}

    def step(states, key):
        g, told, after = jax.random.normal(key, (wide,)), {}, {}
        for name, optimizer in optimizers.items():
            update, after[name] = optimizer.update(g, states[name])
            factor = -update / g
            told[name] = jnp.stack([factor.std(), factor.mean()])
        return after, told

    states = {name: optimizer.init(jnp.zeros(wide)) for name, optimizer in optimizers.items()}
    return jax.lax.scan(step, states, jax.random.split(key, steps))[1]


def rectification(steps, b2=0.999):
    """r_t of the paper for t = 5 … steps."""
    t, limit = np.arange(5, steps + 1), 2 / (1 - b2) - 1
    rho = limit - 2 * t * b2**t / (1 - b2**t)
    return np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))


@partial(jax.jit, static_argnames="steps")
def bounded_rates(objective, start, key, steps):
    """Least, median and largest rate −update/m of AdaBound's parameters at every step (T, 3)."""

    def rates(step):
        flat = [
            jnp.concatenate([a.ravel() for a in jax.tree.leaves(t)]) for t in (step.updates, step.state.mu)
        ]
        rate = jnp.where(jnp.abs(flat[1]) > 1e-30, -flat[0] / flat[1], jnp.nan)
        return jnp.nanquantile(rate, jnp.array([0.0, 0.5, 1.0]))

    optimizer = jf.optim.adabound(1e-3, final_learning_rate=FINAL, gamma=GAMMA)
    return watch(optimizer, objective, start, key, steps, {"rates": rates}).metrics["rates"][1:]


def draw(axes, ratios, noise, bounds, told):
    look, rectified, clipped, switch = axes.flat
    x = RATE * CURVATURES
    for i, ((alpha, k), value, error, theory) in enumerate(zip(CELLS[1:], *ratios, strict=True)):
        look.plot(x, theory, **stroke(i))
        style = {"fmt": "osD^"[i], "color": COLOURS[i], "markersize": 4, "capsize": 2}
        look.errorbar(x, value, 2 * error, label=f"α = {alpha:g}, k = {k}", **style)
    look.set_xscale("log")
    look.set_xticks(ticks := (0.02, 0.05, 0.1, 0.2, 0.5), [f"{tick:g}" for tick in ticks])
    look.set_xticks([], minor=True)
    look.set(title="Lookahead", xlabel="ηλ", ylabel="variance of slow weights / SGD's")
    t = np.arange(1, len(noise["Adam"]) + 1)
    for name, line, first in (("RAdam", stroke(0), 5), ("Adam", stroke(1), 3)):
        values = noise[name][first - 1 :, 0] / noise["Adam"][-1, 1]
        rectified.loglog(t[first - 1 :], values, label=name, **line)
    rectified.set(
        title="RAdam: noise of the rate", xlabel="step t", ylabel="standard deviation of the rate / mean"
    )
    t = np.arange(1, len(bounds) + 1)
    low, high = FINAL * (1 - 1 / (GAMMA * t + 1)), FINAL * (1 + 1 / (GAMMA * t))
    clipped.fill_between(t, low, high, color="0.85", label="between the bounds")
    for i, name in enumerate(("least", "median", "largest")):
        clipped.loglog(t, bounds[:, i], label=name, **stroke(i))
    clipped.set(
        title="AdaBound on digits: rates", xlabel="step t", ylabel="rate of a parameter", ylim=(5e-4, 20)
    )
    momentum, swats, adam = told
    switch.set(xscale="log", yscale="log")
    if momentum is not None:
        switch.plot(MOMENTUM_RATES, momentum.mean(1), label="EMA momentum", **stroke(0))
    for i, alpha in enumerate(ALPHAS):
        loss, _, found = (a[i] for a in swats)
        switch.plot(found, loss, "osD"[i], color=COLOURS[i + 1], label=f"SWATS, α = {alpha:g}")
        switch.axhline(adam[i].mean(), label=f"Adam, α = {alpha:g}", **stroke(i + 1) | {"linewidth": 1})
    switch.set(title="SWATS on digits", xlabel="rate of SGD: η, or Λ at the switch", ylabel="training loss")
    for ax in axes.flat:
        tidy(ax)


def main(arguments=None):
    run = common.start("adaptive_families", __doc__, arguments)
    size = SIZE[run.quick]
    ratios = variance_ratios(size.members, size.online)
    noise = jax.tree.map(np.asarray, deviations(size.wide, size.noisy, jax.random.key(FRESH)))
    problem = jf.problems.mlp("digits", hidden=size.hidden, key=jax.random.key(FRESH))
    bounds = np.asarray(
        bounded_rates(problem.objective, problem.params, jax.random.key(FRESH + 1), size.bounded)
    )
    keys = jax.vmap(jax.random.split)(jax.random.split(jax.random.key(FRESH), size.starts))
    starts = jax.vmap(lambda key: jf.problems.mlp("digits", hidden=size.hidden, key=key).params)(keys[:, 0])
    swats, adam, momentum, switched = switches(
        problem.objective, starts, keys[:, 1], steps=size.trained, quick=run.quick
    )
    figure = Figure(figsize=(12.5, 9), layout="constrained")
    draw(figure.subplots(2, 2), ratios, noise, bounds, (momentum, swats, adam))

    value, error, theory = ratios
    t = np.arange(1, len(bounds) + 1)
    low, high = FINAL * (1 - 1 / (GAMMA * t + 1)), FINAL * (1 + 1 / (GAMMA * t))
    slack = max((low / bounds[:, 0]).max(), (bounds[:, 2] / high).max())
    closing = np.abs(bounds[:, [0, 2]] / FINAL - 1).max(1) * GAMMA * t
    spread = noise["RAdam"][:, 0] / noise["RAdam"][-1, 0]
    apart = np.abs(noise["RAdam"][4:, 0] / noise["Adam"][4:, 0] / rectification(size.noisy) - 1).max()
    headlines = {
        "Lookahead: largest |variance ratio − theory| of 40, in standard errors": common.within(
            np.abs((value - theory) / error).max(), high=4.5
        ),
        "Lookahead: mean of variance ratio / theory": common.near((value / theory).mean(), 1.0, by=0.03),
        "RAdam / Adam: largest relative deviation from r_t, t ≥ 5": common.within(apart, high=1e-6),
        "RAdam: deviation of the rate at t = 5, 10, 30 / at the end": (spread[[4, 9, 29]], 1.0),
        "RAdam: the same at t = 100": common.near(spread[99], 1.0, by=0.1),
        "AdaBound: rates over their bounds, largest": common.within(slack, high=1 + 1e-9),
        "AdaBound: |rate / α* − 1|·γt at the end": common.near(closing[-1], 1.0, by=0.01),
    }
    headlines |= swats_headlines(swats, adam, momentum, switched)
    return run.save(
        figure, headlines, theory=theory, ratio=value, error=error, switched=swats[1], rates=swats[2]
    )
