"""SGD over learning rates and batch sizes: its loss, its distance from gradient flow, and from its SDE.

The figure of `python -m jaxflow sweep` at full size: a tanh network on digits, every learning rate η × batch size B ×
seed run for K steps from one start, compared with gradient flow and a path of the SDE to the same time t = Kη. What
can be said of the maps beforehand:

- Loss. On a quadratic gradient descent ascends, and diverges, once η passes 2/sharpness. A network may be thrown to
  where the loss is flatter, and the sharpness falls along the flow as well. So the same steps on all data are
  looked at for many η, with squared error too.
- Distance from gradient flow, θ_K − θ(t), over the flow's way |θ(t) − θ(0)|. To first order in Kη the way is Kη|g|.
  K steps on all data err by −½Kη²Hg, so the ratio is ½η|Hg|/|g|: proportional to η, and the same for every K.
  Mini-batches add the sum of K independent errors, η√(K tr Σ/B), so their ratio is √(tr Σ/(KB))/|g|: the same for
  every η, and falling as 1/√B.
- Excess of the mean loss over that of the same steps on all data: to first order in the noise proportional to 1/B.
- Distance of the laws of SGD and its SDE: the energy coefficient H of the parameters at the end, unbiased, with its
  noise, what 95 % of random relabellings of runs and paths stay below. One cell of twenty is above it by chance;
  cells share their seeds' draws, so those of one batch size at small η are nearly one and the same test. The solver
  of the SDE errs too: its paths are compared with paths of four times as many substeps.

Claim: SGD over learning rates and batch sizes: how far it is from gradient flow is set by η on all data and by 1/√B
on mini-batches; its SDE holds while η × sharpness is small; 2/sharpness at the start is no edge.

Figure: Three maps over learning rate and batch size, each cell a mean over 16 seeds after 100 steps. Left: final
training loss. Middle: distance from gradient flow, in lengths of the flow's way. Right: distance H between the laws
of SGD and of its SDE; dots mark the cells where H is within its noise. On all of them the vertical line is
2/sharpness at the start, and the dashed lines join settings of equal temperature, whose value stands on them.

Measured: Digits (2,410 parameters), 9 rates × 4 batch sizes × 16 seeds, 100 steps, none diverges. Distance / way at
the smallest rates: on all data .996 × ½η|Hg|/|g|, power .995 in η; on batches of 4 … 512 .94–1.04 × √(tr Σ/KB)/|g|,
power −.516 in B. Excess loss ∝ B^−1.27 at η = .45. H above its noise in no cell with η × sharpness < .1, 88 % from .1
to 1, all above 1 (up to .44, at B = 512; the solver's own share at η = 1.28, B = 64 is .013 of .022). Descent on all
data always descends up to 2.3 × 2/sharpness; with squared error 2.1 ×, and ends above its start from 2.6 × on.

Sources: Cohen et al. (2021, 2103.00065); Lewkowycz et al. (2020, 2003.02218); McCandlish et al. (2018, 1812.06162);
Li, Tai & E (2017, 1511.06251); Székely & Rizzo (2013), J. Stat. Plan. Inference 143, 1249.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from experiments import common
from jaxflow.commands.sweep import command as sweep
from jaxflow.commands.sweep.laws import inhomogeneity
from jaxflow.commands.sweep.maps import maps
from jaxflow.commands.sweep.report import add_distances, mean

SMALL = (1e-4, 2e-4)  # rates at which the first order is all
WIDEST = 50  # the largest rate at which descent on all data is looked at, times sharpness/2
QUICK: dict[str, Any] = {
    "hidden": (8,),
    "learning_rates": (0.001, 0.01, 0.1, 2.5),
    "batch_sizes": (4, 64),
    "seeds": 16,
    "steps": 24,
}
FULL: dict[str, Any] = {
    "learning_rates": tuple(0.0025 * 2.0 ** (1.5 * k) for k in range(9)),
    "batch_sizes": (4, 16, 64, 512),
    "seeds": 16,
    "steps": 100,
}


def full_batch(problem, rates, steps):
    """The losses along, and the last parameters of, gradient descent on all data at each learning rate."""

    def run(rate):
        found = jf.iterate(
            jf.optim.gd(rate), problem.objective, problem.params, steps=steps, record=problem.objective
        )
        return found.values, ravel_pytree(found.params)[0]

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(jnp.asarray(rates)))


def wide_rates(problem, number):
    """Rates from half of 2/sharpness to WIDEST times that, and the sharpness."""
    sharpness = float(jf.dynamics.convergence(jf.optim.gd(1.0), problem.objective, problem.params).radius[0])
    return np.geomspace(0.5, WIDEST, number) * 2 / sharpness, sharpness


def edges(rates, sharpness, losses):
    """Largest rates, times sharpness/2, up to which all descend at every step, and all end below the start."""
    with np.errstate(invalid="ignore"):
        good = (np.diff(losses, axis=1) < 0).all(1), losses[:, -1] < losses[:, 0]
    last = lambda good: len(rates) - 1 if good.all() else int(np.argmin(good)) - 1
    return [float(rates[last(each)] * sharpness / 2) for each in good]


def theory(problem, steps, sizes):
    """|Hg|/2|g|, and the distance from gradient flow over its way by the noise of mini-batches, at small rates."""
    start, unravel = ravel_pytree(problem.params)
    slope = jax.grad(lambda x: problem.objective(unravel(x)))
    g, hg = jax.jvp(slope, (start,), (slope(start),))
    scale = float(jf.noise_scale(problem.objective, problem.params).simple)
    return float(jnp.linalg.norm(hg) / jnp.linalg.norm(g) / 2), np.sqrt(scale / (steps * np.asarray(sizes)))


def coarseness(problem, settings, rate, size):
    """H, and its noise, of paths of the SDE at the sweep's substeps and at four times as many, independent ones."""
    dynamics = jf.dynamics.sgd(problem.objective, rate, size)

    def ends(substeps, keys):
        times = [0.0, settings.steps * rate]
        run = lambda key: jf.integrate(dynamics, problem.params, times, key=key, substeps=substeps)
        found = jf.ensemble(lambda key: ravel_pytree(run(key).params)[0], keys, at_once=8)
        return np.asarray(found)

    keys = jax.random.split(jax.random.key(7), (2, settings.seeds))
    number = settings.steps * settings.substeps
    return inhomogeneity(ends(number, keys[0]), ends(4 * number, keys[1]))


def main(arguments=None):
    run = common.start("digits_sweep", __doc__, arguments)
    with tempfile.TemporaryDirectory() as folder:
        chosen = sweep.Sweep(**(QUICK if run.quick else FULL), output=Path(folder))
        settings, problem, optimizer = sweep.prepare(chosen)
        flow = sweep.follow(settings, problem)
        dataset = add_distances(sweep.trials(settings, problem, optimizer), flow)
    rates, sizes = np.asarray(settings.learning_rates), np.asarray(settings.batch_sizes)
    sharpness = dataset.attrs["sharpness_at_start"]
    headlines: dict[str, Any] = {}

    said = "all data, {}: largest η × sharpness/2, to {}, that descends always; ends below its start"
    wide, sharp = wide_rates(problem, 20 if run.quick else 80)
    # All rates at once, of which two are small and some wide.
    losses, ends = full_batch(problem, np.concatenate([SMALL, rates, wide]), settings.steps)
    small, losses, ends, far = ends[:2], losses[2 : -len(wide)], ends[2 : -len(wide)], losses[-len(wide) :]
    headlines[said.format("cross-entropy", WIDEST)] = (edges(wide, sharp, far), None)
    if not run.quick:
        squares = jf.problems.mlp("digits", settings.hidden, loss="mse")
        wide, sharp = wide_rates(squares, 80)
        far, _ = full_batch(squares, wide, settings.steps)
        headlines[said.format("squared error", WIDEST)] = (edges(wide, sharp, far), None)
    gap = np.linalg.norm(ends - flow.ends, axis=1) / dataset["flow_travelled"].values
    factor, noise = theory(problem, settings.steps, sizes)
    tiny = dataclasses.replace(settings, learning_rates=SMALL)
    near = sweep.follow(tiny, problem)
    ratio = np.linalg.norm(small - near.ends, axis=1) / np.linalg.norm(near.ends - near.start, axis=1)
    headlines["all data, η = 1e-4 and 2e-4: power of η in distance / way"] = common.near(
        float(np.log2(ratio[1] / ratio[0])), 1, by=0.02
    )
    headlines["all data, η = 1e-4: distance / way over ½η|Hg|/|g|"] = common.near(
        float(ratio[0] / (1e-4 * factor)), 1, by=0.02
    )
    distance = mean(dataset, "distance_to_flow")
    fit = lambda values, x: float(np.polyfit(np.log(x), np.log(values), 1)[0])
    headlines["mini-batches, smallest η: power of B in distance / way"] = common.near(
        fit(distance[0], sizes), -0.5, by=0.05
    )
    headlines["mini-batches, smallest η: distance / way over √(tr Σ/(KB))/|g|"] = common.near(
        (distance[0] / noise).tolist(), 1, by=0.1
    )

    excess = mean(dataset, "final_loss") - losses[:, -1, None]
    middle = int(np.argmin(np.abs(rates * sharpness - 0.3)))
    noisy = slice(0, 3)  # of larger batches the excess is lost in the scatter of the seeds
    headlines[f"η = {rates[middle]:g}: power of B in the excess loss, B = {sizes[noisy].tolist()}"] = (
        fit(np.maximum(excess[middle, noisy], 1e-12), sizes[noisy]),
        -1,
    )

    law, floor = dataset["distance_to_sde"].values, dataset["distance_to_sde_noise"].values
    scaled = rates * sharpness
    for name, among, expected in (
        ("below 0.1", scaled < 0.1, 0.05),
        ("0.1 to 1", (scaled >= 0.1) & (scaled < 1), None),
        ("above 1", scaled >= 1, 1),
    ):
        said = f"SDE, η × sharpness {name}: share of cells with H above its noise, median and largest H"
        part = law[among]
        share = float(np.mean(part > floor[among]))
        headlines[said] = ([share, float(np.median(part)), float(part.max())], [expected, None, None])
        # Cells of one batch size are nearly one and the same test.
        bound = {0.05: {"high": 0.3}, 1: {"low": 0.9}}.get(expected)
        if bound is not None:
            about = f"share of cells with H above its noise, η × sharpness {name}"
            headlines[about] = common.within(share, **bound, expected=expected)
    if not run.quick:
        for rate, size in ((rates[-3], 64),):
            found = coarseness(problem, settings, float(rate), size)
            headlines[
                f"SDE, η = {rate:g}, B = {size}: H of its substeps against four times as many, noise"
            ] = (
                list(found),
                [0, None],
            )
    headlines["diverged"] = common.near(int(dataset["diverged"].sum()), 0)
    best = sweep.report.summary(settings, problem, optimizer, dataset)["best"]
    headlines["best: η, B, loss, test accuracy"] = (
        [best[name] for name in ("learning_rate", "batch_size", "final_loss", "test_score")],
        None,
    )
    cells = {
        "learning_rates": rates,
        "batch_sizes": sizes,
        "loss": mean(dataset, "final_loss"),
        "loss_of_all_data": losses[:, -1],
        "loss_of_flow": flow.losses[1:],
        "distance_to_flow": distance,
        "distance_to_flow_of_all_data": gap,
        "distance_to_sde": law,
        "distance_to_sde_noise": floor,
        "sharpness": flow.sharpness,
        "seconds_a_trial": dataset.attrs["wall_time_per_trial"],
    }
    return run.save(maps(settings, problem, optimizer, dataset), headlines, cells=cells)
