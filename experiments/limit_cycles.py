r"""SGD at rest does not stand still: its law descends a potential that is not the loss, and probability circulates.

About a minimum SGD is the Ornstein–Uhlenbeck process dx = −Hx dt + √(2TD) dW on the clock t = kη, with the Hessian H,
the covariance D of per-example gradients and T = η/(2B). Its law at rest is a Gaussian whose covariance S solves
HS + SH = 2TD. The potential Φ = −T log p = ½T xᵀS⁻¹x is the loss only where D is a multiple of the identity, and
where H and D do not commute a current WS⁻¹x p, W = TD − HS, runs for ever along the contours of Φ.

- In two coordinates, H = diag(1, 3), D = (1 .8; .8 1.2), T = ½, all is known: S = (.5 .2; .2 .2), W₁₂ = .2, and
  entropy is produced at the rate 8/7. `jaxflow.density` finds these from the Fokker–Planck equation on a grid; its
  error is of second order in the cells, which a second grid removes.
- A tanh network on 500 digits, 1,210 parameters, with the L2 penalty ½ µ|θ|², µ = .02, at its minimum (descent with
  momentum, then Newton's method). The antisymmetric W is a turn in each of P/2 planes that it does not mix; looked at
  are the ten in which it is fastest. In these E[θ_k θ_{k+1}ᵀ − θ_{k+1} θ_kᵀ], twice the area that a step sweeps, is
  measured in chains of SGD that start from the predicted law. Prediction: −2ηW for small η, and for iterates
  η(HS − SH) with their own covariance, HS + SH − ηHSH = ηD/B. What that leaves out (examples differ in curvature, and
  the loss has higher derivatives) falls as T, that is as 1/B. Chains read backwards sweep the opposite area, steps of
  all data with isotropic noise of the same trace none.

D has at most the rank N − 1, and has it in float64; float32 sees less. What counts is the effective rank
(tr D)²/tr D², which is far smaller. The quick version: 310 parameters (a hidden layer of 4), 250 digits.

Sources: Chaudhari & Soatto (2018, 1710.11029), whose β is 1/T; areas: Ghanta, Neu & Teitsworth (2017).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

HESSIAN, NOISE, TEMPERATURE = np.diag([1.0, 3.0]), np.array([[1.0, 0.8], [0.8, 1.2]]), 0.5
PENALTY, RATE = 0.02, 0.2  # µ, η
PLANES, BURN = 10, 300  # planes that are looked at, and records that are left out at the start
GROUPS = 16  # of chains, for the standard error of a sum over planes


class Settings(NamedTuple):
    hidden: int
    examples: int
    batch_sizes: tuple[int, ...]
    chains: tuple[int, int]  # their number, and their steps
    isotropic: tuple[int, int]
    cells: tuple[int, int]  # along each axis of the two grids


FULL = Settings(16, 500, (8, 32, 128), (160, 3000), (64, 1000), (64, 128))
QUICK = Settings(4, 250, (32, 128), (64, 1000), (32, 600), (32, 64))


class Areas(NamedTuple):
    """Areas a step (PLANES,), their sum, the standard errors of both, and the areas of the chains read backwards."""

    rate: np.ndarray
    error: np.ndarray
    total: float
    total_error: float
    back: np.ndarray


@dataclass(frozen=True)
class Penalised:
    """Per-example losses plus ½ µ|θ|²; equal by its parts, so that it is compiled once."""

    losses: Callable

    def __call__(self, params, batch):
        return self.losses(params, batch) + 0.5 * PENALTY * jnp.sum(ravel_pytree(params)[0] ** 2)


def tilted_bowl(x, slope):
    """One of the losses ½xᵀHx + gᵀx, of which the mean is a bowl and the gradients have one covariance everywhere."""
    return 0.5 * x @ HESSIAN @ x + slope @ x


def on_grid(cells):
    """SGD's law at rest on a grid: the grid, the law, its current, and the numbers that have a closed form."""
    slopes = np.sqrt(2) * np.linalg.cholesky(NOISE).T  # with both signs, of covariance D
    objective = jf.Objective(tilted_bowl, jnp.asarray(np.concatenate([slopes, -slopes])))
    grid = jf.density.Grid((-4.0, -2.6), (4.0, 2.6), (cells, cells))
    process = jf.dynamics.sgd(objective, 2 * TEMPERATURE, 1)
    chain = jf.density.chain(jf.density.fokker_planck(process, grid))
    law = jf.density.stationary(chain)
    turning = -0.5 * float(jf.density.circulation(law, chain))
    spread, produced = np.asarray(grid.covariance(law)), float(jf.density.entropy_production(law, chain))
    numbers = np.array([*spread[np.triu_indices(2)], turning, produced])
    return grid, np.asarray(law), np.asarray(jf.density.current(law, chain)), numbers


def crossing(flow, slope):
    """The mean |cos| of the angle between a current and a gradient, weighted by the size of both."""
    return abs((flow * slope).sum(-1)).sum() / np.sqrt((flow**2).sum(-1) * (slope**2).sum(-1)).sum()


def closed_form(ax, cells, headlines):
    """The Fokker–Planck equation against the closed form, and its picture."""
    exact = jf.density.ou_law(HESSIAN, NOISE, TEMPERATURE)
    expected = np.asarray(exact.covariance)[np.triu_indices(2)]
    expected = [*expected, float(exact.current[0, 1]), float(exact.entropy_production)]
    (_, _, _, coarse), (grid, law, flow, fine) = map(on_grid, cells)
    found = fine + (fine - coarse) / ((cells[1] / cells[0]) ** 2 - 1)
    for i, name in enumerate(("S₁₁", "S₁₂", "S₂₂", "W₁₂", "entropy production")):
        headlines[f"grid: {name}, on the finer grid and extrapolated"] = ([fine[i], found[i]], expected[i])
    x = np.asarray(grid.points)
    slopes = {"Φ": TEMPERATURE * x @ np.linalg.inv(exact.covariance), "L": x @ HESSIAN}
    phi, loss = (0.5 * (x * slope).sum(-1) for slope in slopes.values())
    off = abs(np.asarray(jf.density.potential(law, TEMPERATURE, grid)) - phi)[phi < 4 * TEMPERATURE]
    headlines["grid: largest error of Φ where it is below 4T, in T"] = (off.max() / TEMPERATURE, 0)
    crossed = [crossing(flow, slope) for slope in slopes.values()]
    headlines["grid: |cos| of current and gradient of Φ, of L"] = (crossed, [0, None])
    jf.plot.density(law, grid, ax, currents=flow)
    for i, (name, values) in enumerate({"potential Φ": phi, "loss L": loss}.items()):
        style = {"colors": COLOURS[i], "linestyles": ("-", "--")[i], "linewidths": 1.7}
        ax.contour(*np.moveaxis(x, -1, 0), values, TEMPERATURE * np.array([0.5, 2.0, 4.5]), **style)
        ax.plot([], [], label=f"{name} = T/2, 2T, 9T/2", **stroke(i))
    ax.set(xlim=(-2.4, 2.4), ylim=(-2.0, 2.0))
    ax.legend(fontsize="small", loc="upper left", framealpha=0.85, edgecolor="none")


def digits(settings):
    """The objective of the penalised network, and its minimum."""
    problem = jf.problems.mlp("digits", (settings.hidden,), key=jax.random.key(1))
    data = jax.tree.map(lambda x: x[: settings.examples], problem.objective.data)
    objective, params = jf.Objective(Penalised(problem.objective.losses), data), problem.params
    for optimizer, steps in ((jf.optim.momentum(RATE, 0.9), 4000), (jf.optim.newton(), 5)):
        params = jf.iterate(optimizer, objective, params, steps=steps, every=None).params
    return objective, params


def covariance_of_iterates(hessian, noise):
    """S of HS + SH − ηHSH = η · `noise`, the covariance of a step's gradient, and a square root of S."""
    h, across = np.linalg.eigh(hessian)
    inside = RATE * (across.T @ noise @ across) / (np.add.outer(h, h) - RATE * np.outer(h, h))
    s = across @ inside @ across.T
    variances, axes = np.linalg.eigh(s)
    return s, axes * np.sqrt(np.maximum(variances, 0))


def turning_planes(current):
    """Orthonormal u₁, v₁, u₂, … of the planes in which W turns fastest (2 PLANES, P), and their part of all turns."""
    turns, vectors = np.linalg.eigh(1j * current)
    fastest = vectors[:, np.argsort(-turns)[:PLANES]].T * np.sqrt(2)
    pairs = np.stack([fastest.real, fastest.imag], 1).reshape(2 * PLANES, -1)
    return pairs, np.sort(turns)[-PLANES:].sum() / turns[turns > 0].sum()


def in_planes(matrix):
    """The entries (u, v) of a matrix, one for each plane."""
    return np.asarray(matrix)[..., range(0, 2 * PLANES, 2), range(1, 2 * PLANES, 2)]


def measured(run, params, root, directions, number, key):
    """The areas of chains `run(start, key, record)` from `number` draws of the law whose covariance has that root."""
    centre, unravel = ravel_pytree(params)
    begin, go = jax.random.split(key)
    starts = centre[None] + jax.random.normal(begin, (number, centre.size)) @ root.T
    record = lambda p: directions @ (ravel_pytree(p)[0] - centre)
    each = lambda start: run(unravel(start[0]), start[1], record)
    paths = jf.ensemble(each, (starts, jax.random.split(go, number))).values
    area = lambda x: jf.density.area_rate(x, skip=BURN)
    found, back = area(paths), area(paths[:, ::-1])
    sums = in_planes(jax.vmap(area)(paths.reshape(GROUPS, -1, *paths.shape[1:])).rate).sum(1)
    rate, error = in_planes(found.rate), in_planes(found.error)
    return Areas(rate, error, rate.sum(), sums.std(ddof=1) / np.sqrt(GROUPS), in_planes(back.rate))


def sweep(settings, objective, params, law, directions):
    """The areas of SGD by batch size, and those of isotropic noise of the trace that the largest batch has."""
    hessian, noise = np.asarray(law.hessian), np.asarray(law.noise)
    *keys, key = jax.random.split(jax.random.key(0), len(settings.batch_sizes) + 1)
    number, steps = settings.chains
    found = {}
    for k, b in zip(keys, settings.batch_sizes, strict=True):
        options = {"steps": steps, "batch_size": b}
        descend = lambda start, key, record, options=options: jf.iterate(
            jf.optim.gd(RATE), objective, start, key=key, record=record, **options
        )
        root = covariance_of_iterates(hessian, noise / b)[1]
        found[b] = measured(descend, params, root, directions, number, k)
    number, steps = settings.isotropic
    level = np.trace(noise) / len(noise) / settings.batch_sizes[-1]
    process, times = jf.dynamics.langevin(objective, RATE * level / 2), RATE * np.arange(steps + 1)
    diffuse = lambda start, k, record: jf.integrate(process, start, times, substeps=1, key=k, record=record)
    root = covariance_of_iterates(hessian, level * np.eye(len(noise)))[1]
    return found, measured(diffuse, params, root, directions, number, key)


def tell(headlines, found, isotropic, exact, limit):
    """The headlines of the areas; `exact` and `limit` are the predictions for batches of one example."""
    sizes, last = np.array(list(found)), list(found.values())[-1]
    whole = []
    for b, areas in found.items():
        whole.append((areas.total * b / exact.sum(), areas.total_error * b / exact.sum()))
        z = [abs((areas.rate - p / b) / areas.error).max() for p in (exact, limit)]
        headlines[f"B = {b}: area a step / η(HS − SH), ten planes"] = (list(areas.rate * b / exact), 1)
        headlines[f"B = {b}: largest |z| from η(HS − SH), from −2ηW"] = (z, None)
        headlines[f"B = {b}: sum over planes / predicted, standard error"] = (whole[-1], (1, None))
    ratio, error = np.transpose(whole)
    (slope, end), spread = np.polyfit(1 / sizes, ratio, 1, w=1 / error, cov="unscaled")
    headlines["the same as 1/B → 0, standard error"] = ((end, spread[1, 1] ** 0.5), (1, None))
    headlines["its slope in 1/B, standard error"] = ((slope, spread[0, 0] ** 0.5), None)
    headlines["reversed in time: sum over planes / forwards"] = (last.back.sum() / last.total, -1)
    z = [abs(isotropic.rate / isotropic.error).max(), abs(isotropic.total / isotropic.total_error)]
    headlines["isotropic noise: largest |z| of ten planes, |z| of the sum"] = (z, None)
    pair = isotropic.total / last.total, isotropic.total_error / last.total
    headlines["isotropic noise: sum / SGD's, standard error"] = (pair, (0, None))


def draw_spectrum(ax, noise, law):
    """The eigenvalues of D, with its rank and its effective rank."""
    values = np.linalg.eigvalsh(noise)[::-1]
    ax.loglog(np.arange(len(values)) + 1, np.maximum(values, 1e-20), label="eigenvalues of D", **stroke(0))
    effective, rank = float(law.effective_rank), law.largest_rank
    ax.axvline(effective, label=f"effective rank {effective:.1f}", **stroke(1))
    ax.axvline(rank, label=f"N − 1 = {rank}", **stroke(2))
    ax.set(xlabel="number of the eigenvalue", ylabel="eigenvalue", ylim=(1e-19, 3))
    tidy(ax).legend(frameon=False, fontsize="small", loc="lower left")


def draw_areas(ax, found, isotropic, exact, limit):
    """Areas over their prediction: of SGD, of SGD reversed, and of isotropic noise."""
    number, (last, areas) = np.arange(1, PLANES + 1), list(found.items())[-1]
    marks = [(f"SGD, B = {b}", each.rate, each.error, b) for b, each in found.items()]
    marks += [(f"B = {last}, reversed", areas.back, areas.error, last)]
    marks += [("isotropic noise", isotropic.rate, isotropic.error, last)]
    for i, (label, rate, error, b) in enumerate(marks):
        style = {"marker": "osDxv"[i], "color": COLOURS[i], "markerfacecolor": "none", "linestyle": ""}
        at = number + 0.2 * (i - (len(found) - 1) / 2) * (i < len(found))
        ax.errorbar(at, rate * b / exact, 2 * error * b / exact, capsize=2, label=label, **style)
    ax.plot(number, limit / exact, label="−2ηW, for small η", **stroke(5))
    ax.axhline(1, color="0.4", linewidth=0.9, zorder=0)
    ax.set(xlabel="plane, the fastest first", ylabel="area a step / η(HS − SH), ± 2 SE", xticks=number)
    ax.set_ylim(-1.2, 1.8)
    tidy(ax).legend(frameon=False, fontsize="small", loc="upper left", ncols=2)


def main(arguments=None):
    run = common.start("limit_cycles", __doc__, arguments)
    settings = QUICK if run.quick else FULL
    headlines: dict[str, tuple[Any, Any]] = {}
    figure = Figure(figsize=(16, 5.2), layout="constrained")
    axes = figure.subplots(1, 3)
    closed_form(axes[0], settings.cells, headlines)

    objective, params = digits(settings)
    law = jf.density.ou_limit(objective, params, RATE, 1)
    hessian, noise = np.asarray(law.hessian), np.asarray(law.noise)
    directions, share = turning_planes(np.asarray(law.current))
    covariance, _ = covariance_of_iterates(hessian, noise)
    exact = RATE * in_planes(directions @ (hessian @ covariance - covariance @ hessian) @ directions.T)
    limit = in_planes(directions @ law.area_per_step @ directions.T)
    headlines["network: loss above the minimum, by ½gᵀH⁻¹g"] = (float(law.above_minimum), 0)
    ranks = [int(np.linalg.matrix_rank(noise.astype(dtype))) for dtype in (np.float64, np.float32)]
    headlines["network: rank of D in float64, in float32"] = (ranks, [law.largest_rank, None])
    headlines["network: effective rank of D"] = (float(law.effective_rank), None)
    headlines["network: share of all turns in the ten planes"] = (share, None)
    found, isotropic = sweep(settings, objective, params, law, jnp.asarray(directions))
    tell(headlines, found, isotropic, exact, limit)

    draw_spectrum(axes[1], noise, law)
    draw_areas(axes[2], found, isotropic, exact, limit)
    titles = ("law at rest and its current", f"{len(noise):,} parameters: noise of the gradients")
    for ax, title in zip(axes, (*titles, f"ten planes with {share:.0%} of all turns"), strict=True):
        ax.set_title(title, loc="right")
    return run.save(figure, headlines, predicted_at_batch_one=exact, limit_at_batch_one=limit)


if __name__ == "__main__":
    main()
