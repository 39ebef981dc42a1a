r"""The edge of mini-batch training: a batch's sharpness along its own gradient sits at 2/η, that of all data below.

Gradient descent sharpens until the largest eigenvalue S of the Hessian is 2/η (`edge_of_stability`). With batches of
B examples two things differ:

- *Batch sharpness*, E[gᵀH_B g]/E[gᵀg] with a batch's own gradient g and Hessian H_B, rises to 2/η and stays there,
  as long as there is enough to drive it. At η = .75 that is so for all B. At η = .5 sharpening is all but over before
  it is reached, and the end is 85 to 94 % of 2/η. The rate .75 was chosen after trials, one to three runs each: .3
  ends at 60 to 70 %, .8 and .9 at 95 to 101 %, and 1.2 at 101 %, but from .8 on most runs of B = 16 diverge.
- S stays below, by a gap ΔS. Liao, Kolomvaki & Kyrillidis have ΔS = ηβσ_u²/(4αB): α = −∇S·∇L is the rate of
  sharpening, β = |∇S|², and σ_u² the variance of an example's gradient along the eigenvector u. It is two averages in
  one (`jaxflow.curvature.self_stabilization`). The *balance of noise*, ΔS = ησ_u²/(2B⟨x²⟩), has the displacement x
  along u, which is measured here. The *balance of sharpness*, ⟨x²⟩ = 2α/β, says how large it is.

What is measured is the gap below the S of gradient descent itself at the same η. That is 1 to 2 % above 2/η, because
S fluctuates, and it is the mean of log|1 − ηS| that is 0. α and β are taken at means of 60 iterates: at single ones
noise in other directions makes α negative. Against 2/η itself the gap is below 0 at B = 256.
Runs that diverge are counted and left out.

From B = 16 on the balance of noise holds within 40 %, over gaps that differ by a factor of 20. The formula is within
1.5 from B = 64 on, and has less than half of the gap at B = 16. It is the balance of sharpness that fails: ⟨x²⟩ is
smaller than 2α/β. At η = .5 it is taken with all directions too, in which oscillation lowers S by .93 α for gradient
descent, 1.16 α at B = 64 and 1.43 α at B = 16. Motion along u alone has .19, .69 and .49 α of this. What is above α
must be balanced by what noise adds to S, the largest of many eigenvalues; the formula has no term for either.

A tanh network with two hidden layers of 32 (3,466 parameters), squared error, on the 1,437 training digits; 6,000
steps, of which the rate rises linearly in the first 1,000, so that small batches survive the start; three runs each,
averaged over the last third. The quick version has one hidden layer of 16, 250 digits, 900 steps and one B, and its
gap is that below 2/η.

Claim: With mini-batches the sharpness of a batch along its own gradient sits at 2/η, and that of all data below it,
by a gap that follows from the noise along its eigenvector and from how far iterates oscillate on it; the closed form
for the latter, in which a single direction moves, fails at small batches.

Figure: Top: curvature times η/2 along training at η = .75, of which 1 (grey) is the edge, for batches of 16 (solid),
64 (dashed) and 256 (dash-dotted). At the left it is the sharpness of a batch along its own gradient, at the right the
largest eigenvalue of all data, there with gradient descent too (dotted). Bottom left: both over the last third of the
steps against the batch size: batch sharpness (circles) and full-batch sharpness (squares), at η = .75 (solid) and .5
(dashed), with standard errors over runs. Bottom right: how far the full-batch sharpness is below that of gradient
descent, measured (dots), by the balance of noise (solid) and by the formula (dashed), for η = .75 (black) and .5
(green).

Measured: Digits (1,437, 3,466 parameters, squared error), last third of 6,000 steps, three runs each. η = .75, B =
16, 64, 256: batch sharpness · η/2 .987 ± .023, .964 ± .007, .984 ± .003; of sums over steps 1.029, 1.003, .997;
full-batch sharpness · η/2 .834, .983, 1.013, gradient descent's 1.021. At B = 16 one of three runs diverges. η = .5,
where sharpening is over too early: .88, .85, .94; full-batch .824, .972, 1.004, gradient descent's 1.011. Gap to
gradient descent, η = .75: .50, .101, .022, power of 1/B 1.12 (η = .5: 1.19); over ηβσ²/(4αB) 2.5, 1.4, 1.4 (2.3, 1.4,
1.2); over ησ²/(2B⟨x²⟩) 1.23, .74, .81 (.95, .96, .72). ⟨x²⟩ over 2α/β: .41–.70, gradient descent's .82–.84.
Oscillation in all directions lowers S by 1.43 α (B = 16), 1.16 α (64), .93 α (gradient descent), along u alone by
.49, .69, .19 α.

Sources: Andreyev & Beneventano (2024, 2412.20553); Liao, Kolomvaki & Kyrillidis (2026, 2604.21016); Damian, Nichani &
Lee (2023, 2209.15594).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

import jaxflow as jf
from experiments import common
from experiments.edge.plateaus import gaps, plateau, rises_and_falls, slope
from jaxflow.plot.style import COLOURS, STEPS, stroke, tidy

PROBES = 16  # batches for each measurement of the batch sharpness
WINDOWS = 10  # means of iterates at which the balance of S is taken
ASKED = (16, 64, 256)  # batch sizes whose batch sharpness is compared with 2/η


class Settings(NamedTuple):
    """Network and data; steps, those in which the rate rises, and those between measurements; the runs."""

    hidden: tuple[int, ...]
    examples: int
    steps: int
    rise: int
    stride: int
    rates: tuple[float, ...]
    batches: tuple[int, ...]
    seeds: int


FULL = Settings((32, 32), 1437, 6_000, 1_000, 60, (0.5, 0.75), (16, 64, 256), 3)
QUICK = Settings((16,), 250, 900, 200, 30, (0.75,), (16,), 2)


class Runs(NamedTuple):
    """What was measured at one batch size, each of shape (rates, seeds, times)."""

    edge: jf.curvature.SelfStabilization
    batch: np.ndarray  # batch sharpness
    squared: np.ndarray  # mean squared gradient of a batch
    end: Any  # the last parameters, leaves (rates, seeds, …)


def network(settings):
    problem = jf.problems.mlp("digits", settings.hidden, loss="mse", key=jax.random.key(1))
    data = jax.tree.map(lambda x: x[: settings.examples], problem.objective.data)
    return jf.Objective(problem.objective.losses, data), problem.params


def train(objective, params, settings, size):
    """The runs of all rates and seeds at one batch size in one program; gradient descent where it is `None`."""
    stride = settings.stride
    record = jf.curvature.record_self_stabilization(objective, stride=stride)

    def run(rate, key):
        optimizer = jf.optim.gd(jf.optim.warmup(rate, settings.rise))
        draws: dict[str, Any] = {}
        if size is not None:
            drawn, measured = jax.random.split(key)
            batch = jf.curvature.record_batch_sharpness(objective, size, measured, batches=PROBES)
            metrics = {"batch": jf.solve.metrics.at_stride(batch, stride)}
            draws = {"batch_size": size, "key": drawn, "metrics": metrics}
        found = jf.iterate(optimizer, objective, params, steps=settings.steps, record=record, **draws)
        edge = found.values
        if size is None:  # a batch of all data: its gradient is along u, where the curvature is S
            return (edge, edge.sharpness, jnp.ones_like(edge.sharpness)), found.params
        batch = found.metrics["batch"]
        return (edge, batch.sharpness.value, batch.squared_gradient.value), found.params

    keys = jax.random.split(jax.random.key(5), settings.seeds if size else 1)
    lanes = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
    found, end = jax.jit(lanes)(jnp.array(settings.rates), keys)
    edge, batch, squared = jax.tree.map(lambda x: np.asarray(x)[..., ::stride], found)
    return Runs(edge, batch, squared, end)


def batch_headlines(rate, batches, plateaus):
    """Curvatures over 2/η; the batch sharpness is expected to be there at the largest rate."""
    found: dict[str, Any] = {}
    for size, each in zip(batches, plateaus, strict=True):
        expected = [1, None] if rate == max(FULL.rates) and size in ASKED else None
        pair = [each.batch * rate / 2, each.batch_error * rate / 2]
        found[f"η = {rate:g}, B = {size}: batch sharpness · η/2, standard error"] = (pair, expected)
        if expected is not None:
            # It comes to the edge from below, by some percent, and all the less is known of a short run.
            found[f"η = {rate:g}, B = {size}: the same alone"] = common.near(pair[0], 1, by=0.12)
    pooled = [float(each.pooled * rate / 2) for each in plateaus]
    found[f"η = {rate:g}: the same of sums over all steps, by B"] = (pooled, None)
    full = [float(each.sharpness * rate / 2) for each in plateaus]
    found[f"η = {rate:g}: full-batch sharpness · η/2, by B"] = (full, None)
    return found | {f"η = {rate:g}: runs that diverge, by B": ([each.diverged for each in plateaus], None)}


def gap_headlines(rate, batches, plateaus, found):
    """The gap against the formula, and against each of the two balances that it is made of."""
    listed, ones = ", ".join(map(str, batches)), [1] * len(batches)
    powers = [slope(batches, values, min(ASKED)) for values in (found.measured, found.formula, found.balance)]
    return {
        f"η = {rate:g}, B = {listed}: gap": (found.measured.tolist(), None),
        f"η = {rate:g}: its standard error": ([each.sharpness_error for each in plateaus], None),
        f"η = {rate:g}: gap / ηβσ²/(4αB)": ((found.measured / found.formula).tolist(), ones),
        f"η = {rate:g}: gap / balance of noise": common.within(
            (found.measured / found.balance).tolist(), low=0.5, high=2, expected=ones
        ),
        f"η = {rate:g}: ⟨x²⟩ / (2α/β)": ([each.balance for each in plateaus], ones),
        f"η = {rate:g}, B ≥ 16: power of 1/B: gap, formula, balance of noise": (
            common.near(powers, 1, by=0.4) if len(batches) > 1 else (powers, [1, 1, 1])
        ),
    }


def balance_headlines(objective, rate, runs, stride):
    """The balance of sharpness with all directions, and with u alone, at the first rate."""
    found = {}
    for name, size in {"B = 16": 16, "B = 64": 64, "gradient descent": None}.items():
        starts = jax.tree.map(lambda x: x[0], runs[size].end)
        alpha, *falls = rises_and_falls(objective, starts, rate, size, WINDOWS, stride).mean(0)
        said = f"η = {rate:g}, {name}: fall of S by oscillation / α, of it along u"
        found[said] = ([float(fall / alpha) for fall in falls], [1, None])
    return found


def smooth(values):
    """A running mean over a fifteenth of the times, of shape (times,), and of as many."""
    width = max(values.size // 15, 1)
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def draw_traces(ax, settings, rate, lines, title):
    """Smoothed means over runs, times η/2, against steps; `lines` by name, each of shape (seeds, times)."""
    for i, (name, values) in enumerate(lines.items()):
        alive = values[np.isfinite(values).all(1)]
        if alive.size:
            steps = np.arange(values.shape[1]) * settings.stride
            ax.plot(steps, smooth(alive.mean(0)) * rate / 2, label=name, **stroke(i))
    ax.axhline(1, color="0.4", linewidth=1, zorder=1)
    ax.set(title=title, xlabel=STEPS, ylim=(0.5, 1.2), ylabel="curvature · η/2   (1: the edge)")
    tidy(ax)
    ax.legend(frameon=False, fontsize="small", loc="lower right", ncols=2)


def draw_plateaus(ax, settings, plateaus):
    """Both curvatures at the plateau against the batch size."""
    for i, rate in enumerate(settings.rates):
        dash = "--" if i + 1 < len(settings.rates) else "-"
        for j, (name, kind) in enumerate({"batch": "batch sharpness", "sharpness": "full-batch S"}.items()):
            values = np.array([getattr(each, name) for each in plateaus[i]]) * rate / 2
            errors = np.array([getattr(each, f"{name}_error") for each in plateaus[i]]) * rate / 2
            look = {"color": COLOURS[(1, 5)[j]], "linestyle": dash, "marker": "os"[j], "capsize": 2}
            ax.errorbar(settings.batches, values, errors, label=f"{kind}, η = {rate:g}", **look)
    ax.axhline(1, color="0.4", linewidth=1, zorder=1)
    ax.set(title="both at the plateau, the last third of the steps", xscale="log", xlabel="batch size B")
    ax.set_xticks(settings.batches, [str(size) for size in settings.batches])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(ylabel="curvature · η/2   (1: the edge)")
    tidy(ax)


def draw_gaps(ax, settings, plateaus, found):
    """Gaps against the batch size: measured, and by the two predictions."""
    sizes = settings.batches
    for i, (rate, gap) in enumerate(zip(settings.rates, found, strict=True)):
        look = {"color": COLOURS[(3, 0)[i % 2]], "linewidth": 1}
        errors = [each.sharpness_error for each in plateaus[i]]
        dots = {"fmt": "o", "capsize": 2, "label": f"measured, η = {rate:g}"}
        ax.errorbar(sizes, gap.measured, errors, **look, **dots)
        ax.plot(sizes, gap.balance, linestyle="-", label="ησ²/(2B⟨x²⟩)", **look)
        ax.plot(sizes, gap.formula, linestyle="--", label="ηβσ²/(4αB)", **look)
    title = "how far S is below that of gradient descent:\nthe formula (dashed) has too little at small B"
    ax.set(title=title, xscale="log", yscale="log", xlabel="batch size B", ylabel="gap ΔS")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    tidy(ax)


def draw(settings, traced, plateaus, found):
    """The whole figure; `traced` are the runs by name whose curvatures are drawn against steps."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    axes, rate = figure.subplots(2, 2), settings.rates[-1]
    batch = {name: each.batch[-1] for name, each in traced.items() if name != "gradient descent"}
    full = {name: each.edge.sharpness[-1] for name, each in traced.items()}
    draw_traces(axes[0, 0], settings, rate, batch, f"batch sharpness, η = {rate:g}:\nat the edge for every B")
    title = f"largest eigenvalue S of all data, η = {rate:g}:\nthe lower, the smaller B"
    draw_traces(axes[0, 1], settings, rate, full, title)
    draw_plateaus(axes[1, 0], settings, plateaus)
    draw_gaps(axes[1, 1], settings, plateaus, found)
    return figure


def main(arguments=None):
    run = common.start("edge_of_stochastic_stability", __doc__, arguments)
    settings = QUICK if run.quick else FULL
    objective, params = network(settings)
    runs = {size: train(objective, params, settings, size) for size in common.progress(settings.batches, "B")}
    descent = None if run.quick else train(objective, params, settings, None)
    headlines: dict[str, Any] = {}
    plateaus, found = [], []
    for i, rate in enumerate(settings.rates):
        reference = 2 / rate
        if descent is not None:
            whole = plateau(descent, i)
            reference = whole.sharpness
            headlines[f"η = {rate:g}, gradient descent: sharpness · η/2"] = common.near(
                float(reference * rate / 2), 1, by=0.03
            )
            headlines[f"η = {rate:g}, gradient descent: ⟨x²⟩ / (2α/β)"] = (whole.balance, 1)
        plateaus.append([plateau(runs[size], i) for size in settings.batches])
        found.append(gaps(rate, settings.batches, plateaus[i], reference))
        headlines |= batch_headlines(rate, settings.batches, plateaus[i])
        headlines |= gap_headlines(rate, settings.batches, plateaus[i], found[i])

    traced = {f"B = {size}": runs[size] for size in settings.batches if size in ASKED}
    if descent is not None:
        headlines |= balance_headlines(objective, settings.rates[0], runs | {None: descent}, settings.stride)
        traced["gradient descent"] = descent
    figure = draw(settings, traced, plateaus, found)
    data = {str(size): {"batch": each.batch, "sharpness": each.edge.sharpness} for size, each in runs.items()}
    return run.save(figure, headlines, runs=data, gaps=[each._asdict() for each in found])
