r"""SGD at rest does not stand still: its law descends a potential that is not the loss, and probability circulates.

About a minimum SGD is the Ornstein–Uhlenbeck process dx = −Hx dt + √(2TD) dW on the clock t = kη, with the Hessian H,
the covariance D of per-example gradients and T = η/(2B). Its law at rest is a Gaussian whose covariance S solves
HS + SH = 2TD. The potential Φ = −T log p = ½T xᵀS⁻¹x is the loss only where D is a multiple of the identity, and
where H and D do not commute a current WS⁻¹x p, W = TD − HS, runs for ever along the contours of Φ.

- In two coordinates, H = diag(1, 3), D = (1 .8; .8 1.2), T = ½, all is known: S = (.5 .2; .2 .2), W₁₂ = .2, and
  entropy is produced at the rate 8/7. `jaxflow.density` finds these from the Fokker–Planck equation on a grid; its
  error is of second order in the cells, which a second grid removes.
- A tanh network on 500 digits, 1,210 parameters, with the L2 penalty ½ µ|θ|², µ = .02, at its minimum (descent with
  momentum, then Newton's method). The antisymmetric W is a turn in each of P/2 planes that it does not mix; the ten
  in which it is fastest are looked at. In these E[θ_k θ_{k+1}ᵀ − θ_{k+1} θ_kᵀ], twice the area that a step sweeps, is
  measured in chains of SGD that start from the predicted law. Prediction: −2ηW for small η, and for iterates η(HS −
  SH) with their own covariance, HS + SH − ηHSH = ηD/B. That leaves out what is of the order of T, so that the rest
  falls as 1/B: examples differ in curvature, which adds E[(H_i − H)S(H_i − H)] to D, and makes up the excess of the
  sum over planes; in single planes the loss's higher derivatives count as much. Chains read backwards sweep the
  opposite area, steps of all data with isotropic noise of the same trace none.

D has at most the rank N − 1, and has it in float64; float32 sees less. What counts is the effective rank
(tr D)²/tr D², which is far smaller. The quick version: 385 parameters (a hidden layer of 5), 250 digits.

Claim: SGD at rest does not stand still: its law descends a potential that is not the loss, and probability circulates
for ever.

Figure: Left: density at rest in two coordinates (blue), its current (arrows), and contours at T/2, 2T and 9T/2 of the
potential Φ (solid), along which the current runs, and of the loss (dashed), which it crosses. Middle: area that SGD
on digits sweeps in a step, over the prediction η(HS − SH), in the ten planes of the fastest turns, with two standard
errors: B = 8 (circles), 32 (squares), 128 (diamonds), chains of B = 128 read backwards (crosses), and isotropic noise
(triangles). The dotted line is the limit −2ηW for small η, the grey one is 1. Right: the sum over these planes over
its prediction against 1/B, for the three batch sizes, with the line that the noise of curvatures adds (dashed) and
the prediction without it (solid).

Measured: Two coordinates, T = ½, from the Fokker–Planck equation: W₁₂ .2000 (exact .2), entropy production 1.1428
(8/7), Φ within .004 T of its closed form; mean |cos| of current and gradient .0004 for Φ, .40 for the loss. Digits
(500, 1,210 parameters, L2 penalty), at the minimum: D has rank 499 = N − 1 in float64, 353 in float32, effective rank
38.6. Area a step over η(HS − SH) in the ten planes of the fastest turns (45 % of all): .97–1.04 at B = 32 and
.97–1.03 at B = 128 (largest |z| 2.9, 2.3), their sum 1.016 ± .005 and 1.006 ± .004 (SE). At B = 8 .97–1.19 (largest
|z| 12), sum 1.084 ± .004; the excess of the sum is (.68 ± .05)/B, by the curvatures of single examples .70/B, and
what is left as 1/B → 0 .999 ± .004. Read backwards −.999; isotropic noise of the same trace −.0008 ± .0006 of SGD's.

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
from experiments.noise import swept_areas
from experiments.noise.swept_areas import PLANES, in_planes
from jaxflow.plot.style import COLOURS, stroke, tidy

HESSIAN, NOISE, TEMPERATURE = np.diag([1.0, 3.0]), np.array([[1.0, 0.8], [0.8, 1.2]]), 0.5
PENALTY, RATE = 0.02, 0.2  # µ, η


class Settings(NamedTuple):
    hidden: int
    examples: int
    batch_sizes: tuple[int, ...]
    chains: tuple[int, int]  # their number, and their steps
    isotropic: tuple[int, int]
    cells: tuple[int, int]  # along each axis of the two grids


FULL = Settings(16, 500, (8, 32, 128), (160, 3000), (64, 1000), (64, 128))
QUICK = Settings(5, 250, (16, 64), (64, 700), (32, 450), (32, 64))


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
        headlines[f"grid: {name}, on the finer grid and extrapolated"] = common.near(
            [fine[i], found[i]], expected[i], relative=0.01
        )
    x = np.asarray(grid.points)
    slopes = {"Φ": TEMPERATURE * x @ np.linalg.inv(exact.covariance), "L": x @ HESSIAN}
    phi, loss = (0.5 * (x * slope).sum(-1) for slope in slopes.values())
    off = abs(np.asarray(jf.density.potential(law, TEMPERATURE, grid)) - phi)[phi < 4 * TEMPERATURE]
    headlines["grid: largest error of Φ where it is below 4T, in T"] = common.within(
        off.max() / TEMPERATURE, high=0.03, expected=0
    )
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


def sweep(settings, objective, params, directions, noise, roots):
    """The areas of SGD by batch size, and of isotropic noise of the same trace as that of the largest batch.

    `roots` are those of the covariances of iterates with D, and with its mean eigenvalue times 1.
    """
    *keys, key = jax.random.split(jax.random.key(0), len(settings.batch_sizes) + 1)
    number, steps = settings.chains
    found = {}
    for k, b in zip(keys, settings.batch_sizes, strict=True):
        options = {"steps": steps, "batch_size": b}
        descend = lambda start, key, record, options=options: jf.iterate(
            jf.optim.gd(RATE), objective, start, key=key, record=record, **options
        )
        found[b] = swept_areas.measure(descend, params, roots[0] / b**0.5, directions, number, k)
    number, steps = settings.isotropic
    temperature, times = jf.dynamics.temperature(RATE, b), RATE * np.arange(steps + 1)
    process = jf.dynamics.langevin(objective, temperature * np.trace(noise) / len(noise))
    diffuse = lambda start, k, record: jf.integrate(process, start, times, substeps=1, key=k, record=record)
    return found, swept_areas.measure(diffuse, params, roots[1] / b**0.5, directions, number, key)


def tell(headlines, found, isotropic, exact, limit, excess):
    """The headlines of the areas.

    `exact` and `limit` are predictions for batches of one example, `excess` is that of the sum, in parts of `exact`.
    """
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
    headlines["its slope in 1/B, standard error; that by curvatures"] = (
        (slope, spread[0, 0] ** 0.5),
        (excess, None),
    )
    gaps = [abs(end - 1) / spread[1, 1] ** 0.5, abs(slope - excess) / spread[0, 0] ** 0.5]
    headlines["both less what theory has, in standard errors"] = common.within(gaps, high=4)
    headlines["reversed in time: sum over planes / forwards"] = common.near(
        last.back.sum() / last.total, -1, by=0.06
    )
    z = [abs(isotropic.rate / isotropic.error).max(), abs(isotropic.total / isotropic.total_error)]
    headlines["isotropic noise: largest |z| of ten planes, |z| of the sum"] = common.within(z, high=4)
    pair = isotropic.total / last.total, isotropic.total_error / last.total
    headlines["isotropic noise: sum / SGD's, standard error"] = (pair, (0, None))


def draw_sums(ax, found, exact, excess):
    """The sum over planes, in parts of its prediction, against 1/B."""
    x = np.array([0, 1.1 / min(found)])
    ax.plot(x, 1 + excess * x, label="with the noise of curvatures", **stroke(1))
    ax.axhline(1, label="η(HS − SH)", **stroke(0))
    for i, (b, areas) in enumerate(found.items()):
        style = {"marker": "osD"[i], "color": COLOURS[i], "markerfacecolor": "none", "linestyle": ""}
        value, error = areas.total * b / exact.sum(), areas.total_error * b / exact.sum()
        ax.errorbar(1 / b, value, 2 * error, capsize=3, label=f"SGD, B = {b}", **style)
    ax.set(xlabel="1 / batch size B", ylabel="sum over planes / predicted, ± 2 SE", xlim=x)
    tidy(ax).legend(frameon=False, fontsize="small", loc="upper left")


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
    headlines: dict[str, Any] = {}
    figure = Figure(figsize=(16, 5.2), layout="constrained")
    axes = figure.subplots(1, 3)
    closed_form(axes[0], settings.cells, headlines)

    objective, params = digits(settings)
    law = jf.density.ou_limit(objective, params, RATE, 1)
    hessian, noise = np.asarray(law.hessian), np.asarray(law.noise)
    directions, share = swept_areas.turning_planes(np.asarray(law.current))
    modes = np.linalg.eigh(hessian)
    spread = lambda matrix: swept_areas.covariance_of_iterates(modes, matrix, RATE)
    area = lambda s: RATE * in_planes(directions @ (hessian @ s - s @ hessian) @ directions.T)
    even = np.trace(noise) / len(noise) * np.eye(len(noise))
    roots = [swept_areas.root_of(spread(matrix)) for matrix in (noise, even)]
    exact, limit = area(spread(noise)), in_planes(directions @ law.area_per_step @ directions.T)
    added = swept_areas.noise_of_curvatures(objective, params, roots[0])
    excess = float(area(spread(added)).sum() / exact.sum())
    headlines["network: loss above the minimum, by ½gᵀH⁻¹g"] = common.within(
        float(law.above_minimum), high=1e-20, expected=0
    )
    ranks = [int(np.linalg.matrix_rank(noise.astype(dtype))) for dtype in (np.float64, np.float32)]
    headlines["network: rank of D in float64, in float32"] = (ranks, [law.largest_rank, None])
    headlines["network: effective rank of D"] = (float(law.effective_rank), None)
    headlines["network: share of all turns in the ten planes"] = (share, None)
    found, isotropic = sweep(settings, objective, params, jnp.asarray(directions), noise, roots)
    tell(headlines, found, isotropic, exact, limit, excess)

    draw_areas(axes[1], found, isotropic, exact, limit)
    draw_sums(axes[2], found, exact, excess)
    axes[0].set_title("law at rest and its current", loc="right")
    axes[1].set_title(f"{len(noise):,} parameters: ten planes with {100 * share:.0f} % of all turns")
    axes[2].set_title("the rest falls as the temperature")
    return run.save(figure, headlines, predicted_at_batch_one=exact, limit_at_batch_one=limit)
