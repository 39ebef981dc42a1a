r"""Past the edge of stability with any optimizer: pairs of iterates flow where single ones do not.

Where the sharpness passes an optimizer's threshold, its iterates alternate, $z_k = m_k + (-1)^k\delta_k$, and leave
its stable flow, the one without oscillation. The midpoint m and the half-difference δ obey a map that is exact, and
near the identity: `pair_flow` is its logarithm, for any optimizer, out of its own steps. `rod_flow` is its first
order.

Each run begins as a random network and comes to its edge by itself: the study begins where the largest |e − 1| of a
step's derivative rises through 1.9, e = −.9 being the eigenvalue of what will oscillate. From there the optimizer
takes 500 steps, and the flows go over their time from the same state. Measured are the distances from the iterates'
midpoints at the end, as shares of the stable flow's, and how far the mean loss of the last half is missed.

Bursts can be so violent that nearby runs part from each other: the same optimizer is also started 1e-9 beside, and
the distance between the two runs is drawn too. With gradient descent and the adaptive methods the pairs are about as
near as that, and no flow can be nearer. With the heavy ball and Nesterov they are not: there the flow itself errs.

Claim: Past its edge any optimizer's pairs of iterates follow the flow of midpoint and half-difference; its stable
flow leaves them.

Figure: One panel for each optimizer: distance from the iterates' midpoints by step, of the stable flow (solid), the
rod flow (dashed), the flow of pairs of order 2 (dash-dotted), and of a run of the same optimizer that begins 1e-9
beside (thin grey). Bottom: the final distance of the rod flow (circles) and of pairs of order 2 (squares), over that
of the stable flow, for each optimizer; the dotted line is ½.

Measured: Digits, tanh 16-16-16, 500 steps from where the oscillating eigenvalue falls through −.9. Final distance of
the pairs of order 2 from the midpoints / the stable flow's: gradient descent .11, heavy ball β = .5 .29, β = .9 .37,
Nesterov .009, scalar RMSProp .022, RMSProp .031, Adam .076, NAdam .037. Mean loss of the last half within 1.7 %
(heavy ball β = .9: 10 %; the stable flow 39 %; others' .7 to 40 %). Of gradient descent and the adaptive methods a
run that begins 1e-9 beside ends about as far away as the pairs; of the heavy ball and Nesterov it ends far nearer, so
there the flow itself errs.

Sources: Regis & Chewi (2026, 2602.01480, 2605.06821); Cohen et al. (2021, 2103.00065; 2022, 2207.14484; 2024,
2410.24206).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.dynamics import modified_state, pair_flow, pair_state, record_pairs, rod_flow
from jaxflow.plot.style import COLOURS, stroke, tidy

EXAMPLES, RISE, EVERY = 400, 1.9, 15
BESIDE = 1e-9
# A constructor and the learning rate.
OPTIMIZERS = {
    "gradient descent": (jf.optim.gd, 0.35),
    "heavy ball, β = .5": (lambda rate: jf.optim.momentum(rate, 0.5), 0.55),
    "heavy ball, β = .9": (lambda rate: jf.optim.momentum(rate, 0.9), 0.5),
    "Nesterov, β = .9": (lambda rate: jf.optim.nesterov(rate, 0.9), 0.27),
    "scalar RMSProp": (lambda rate: jf.optim.scalar_rmsprop(rate, 0.99), 0.015),
    "RMSProp": (lambda rate: jf.optim.rmsprop(rate, 0.99), 3e-4),
    "Adam": (lambda rate: jf.optim.adam(rate, 0.9, 0.99), 1e-3),
    "NAdam": (lambda rate: jf.optim.nadam(rate, 0.9, 0.99), 1e-3),
}
FLOWS = ("stable flow", "rod flow", "pairs, order 2")


def digits():
    problem = jf.problems.mlp("digits", hidden=(16, 16, 16), loss="mse", key=jax.random.key(2))
    data = jax.tree.map(lambda x: x[:EXAMPLES], problem.objective.data)
    return jf.Objective(problem.objective.losses, data), problem.params


def flat(params):
    return ravel_pytree(params)[0]


def find_start(optimizer, objective, params, most):
    """The step at which |e − 1| has risen through RISE; `None` where it does not."""
    found = np.asarray(
        jf.dynamics.convergence(
            optimizer, objective, params, steps=most, every=EVERY, warmup=0, iterations=40, time_step=1.0
        ).radius
    )
    # The first steps may be above, as networks' are: only a later rise counts.
    rises = (found[:-1] < RISE) & (found[1:] >= RISE) & (np.arange(found.size - 1) >= 3)
    return EVERY * (1 + int(rises.argmax())) if rises.any() else None


def study(optimizer, objective, params, start, steps, names):
    """From a start: iterates, others that begin a little beside, and the flows that are named."""
    run = jf.iterate(optimizer, objective, params, steps=jnp.asarray(start), every=None)
    state = modified_state(run)
    whole = jf.solve.begin(jf.dynamics.optimizer_state(optimizer, objective, state))

    @jax.jit
    def iterates(state, whole, push):
        moved = jax.tree.map(lambda x: x * (1 + push), state.params)
        record = lambda p: (flat(p), objective(p))
        return jf.iterate(optimizer, objective, moved, steps=steps, state=whole, record=record).values

    numbers = {"time_step": 1.0, "warmup": 0}
    flows = {
        "stable flow": lambda: jf.dynamics.modified(optimizer, objective, order=1, **numbers),
        "rod flow": lambda: rod_flow(optimizer, objective, **numbers),
        "pairs, order 2": lambda: pair_flow(optimizer, objective, order=2, **numbers),
    }

    def follow(name):
        split = name != "stable flow"
        path = jf.integrate(
            flows[name](),
            state.params,
            jnp.arange(steps + 1.0),
            state=pair_state(optimizer, objective, state, order=2) if split else state,
            record=record_pairs(objective) if split else (lambda p: (p, p, objective(p))),
            rtol=1e-4,
            atol=1e-13,  # far below the second moments
            max_steps=20_000,
        )
        middle, _, losses = path.values
        return jax.vmap(flat)(middle), losses

    found = {"iterates": iterates(state, whole, 0.0), "beside": iterates(state, whole, BESIDE)}
    return jax.tree.map(np.asarray, found | {name: follow(name) for name in names})


def measure(found, names):
    """Distances from the midpoints of the iterates at inner times, and errors of the mean loss of the last half."""
    values, losses = found["iterates"]
    middle = lambda x: 0.25 * (x[:-2] + 2 * x[1:-1] + x[2:])
    half = losses.size // 2
    gaps = {name: np.linalg.norm(found[name][0][1:-1] - middle(values), axis=-1) for name in names}
    missed = {name: float(found[name][1][half:].mean() / losses[half:].mean() - 1) for name in names}
    gaps["a run 1e-9 beside"] = np.linalg.norm(middle(found["beside"][0]) - middle(values), axis=-1)
    return gaps, missed


def draw(ax, name, gaps):
    """Distances along the run."""
    for i, (flow, lane) in enumerate(gaps.items()):
        style = stroke(i) if flow in FLOWS else {"color": "0.6", "linewidth": 1, "linestyle": "-"}
        ax.plot(np.arange(1, lane.size + 1), np.maximum(lane, 1e-10), label=flow, **style)
    ax.set(title=name, yscale="log", ylim=(1e-8, 10), xlabel="steps from the start of the study")
    ax.set(ylabel="distance from the iterates' midpoints")
    tidy(ax, legend=False)


def draw_shares(ax, shares):
    """The final distances as shares of the stable flow's."""
    for flow in next(iter(shares.values())):
        values, i = [share[flow] for share in shares.values()], FLOWS.index(flow)
        place = np.arange(len(values)) + 0.22 * (i - 1.5)
        ax.plot(values, place, "os"[i - 1], color=COLOURS[i], label=flow)
    ax.axvline(0.5, color="0.4", linewidth=1, linestyle=":")
    ax.set(xscale="log", title="final distance / the stable flow's", xlabel="share")
    ax.set_yticks(range(len(shares)), list(shares))
    ax.invert_yaxis()
    tidy(ax)


def main(arguments=None):
    run = common.start("edge_of_every_optimizer", __doc__, arguments)
    steps, most = (100, 150) if run.quick else (500, 1050)
    chosen = dict(list(OPTIMIZERS.items())[:1]) if run.quick else OPTIMIZERS
    names = ("stable flow", "pairs, order 2") if run.quick else FLOWS
    objective, params = digits()
    figure = Figure(figsize=(15, 11), layout="constrained")
    panels = figure.subplot_mosaic("abcd;efgh;ssss")
    headlines, shares, data = {}, {}, {}
    for letter, name in zip("abcdefgh", common.progress(chosen, "optimizers"), strict=False):
        make, rate = chosen[name]
        start = find_start(make(rate), objective, params, most)
        if start is None:
            headlines[f"{name}: no rise through {RISE} in {most} steps"] = (None, None)
            continue
        gaps, missed = measure(study(make(rate), objective, params, start, steps, names), names)
        draw(panels[letter], f"{name}, η = {rate:g}", gaps)
        shares[name] = {flow: float(gaps[flow][-1] / gaps["stable flow"][-1]) for flow in names[1:]}
        for flow, share in shares[name].items():
            # Half as far as the stable flow, at most.
            claim = common.within(share, high=0.5) if flow == "pairs, order 2" else (share, None)
            headlines[f"{name}: final distance of {flow} / that of the stable flow"] = claim
        for flow, error in missed.items():
            headlines[f"{name}: late mean loss by {flow}, relative error"] = (error, None)
        if not run.quick:  # which ends before the stable flow has left
            less = abs(missed["pairs, order 2"] / missed["stable flow"])
            headlines[f"{name}: error of that by pairs / by the stable flow"] = common.within(less, high=1)
        data[name] = {"rate": rate, "start": start, "gaps": gaps, "missed": missed}
    draw_shares(panels["s"], shares)
    figure.legend(
        *panels["a"].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False
    )
    return run.save(figure, headlines, runs=data)
