"""Flatness, η/B and the test loss at one training loss: what holds on digits, what does not, and what can be undone.

Networks (tanh, 32 units, 2,410 parameters, 718 digits) are trained by SGD with fifteen pairs of learning rate η and
batch size B, from eight starts each. Each is looked at where its full training loss first comes within 2 % of .05, as
all measures of flatness fall along training: at a given time the faster network would be the flatter one.

- Sharpness λ_max and trace of the Hessian, and the width of the loss: the distance along filter-normalised random
  directions at which it has risen by .1, a mean over both ends of eight directions.
- Their rank correlations (Spearman) with η/B, and with the loss and the errors on 1,079 other digits; p-values by
  shuffling, two-sided. What depends on η/B alone has none with η at one η/B. Over all networks a correlation with
  the test loss may only say that both depend on η/B. So it is also taken between networks of one η and B: of the
  ranks less their mean there, shuffled there alone.
- A ReLU network whose first layer (weights and biases) is multiplied by α, and the weights of the second by 1/α, is
  the same function, of the same training and test loss (Dinh et al.). With T the diagonal matrix of these factors its
  Hessian is T⁻¹HT⁻¹. So sharpness and trace go up as α⁻² and as α², and no value of either is too large for a network
  that generalises. The filter-normalised width stays as it is.

The quick version has one learning rate, two batch sizes, a loss of .2, and 8 units in the ReLU network.

Claim: At one training loss sharpness and trace fall with η/B; the test loss follows none of it; rescaling undoes
both.

Figure: Each point is a network of training loss .05, trained with η = .1 (circles), .2 (squares) or .4 (triangles);
above each panel is the rank correlation with its p-value. Top: sharpness, trace of the Hessian, and width of the
slice, against η/B. Bottom left and middle: test loss against η/B and against sharpness. Bottom right: a ReLU network
whose layers are multiplied by α and 1/α: sharpness (circles), trace (squares) and width (triangles) over those of the
network as trained, measured (markers) and by T⁻¹HT⁻¹ (lines).

Measured: Digits, 120 networks, 15 pairs of η and B, loss .05 ± 2 %. Rank correlation with η/B: λ_max −.85, trace −.91
(p ≤ 5e-5, 1.64 → .75 and 19.3 → 9.0 over a factor 64), slice width .27 (p = .003), test loss −.05 (p = .60), test
error .14 (p = .13). At one η/B the trace still falls with η (−.30, p = .002). With the test loss: λ_max .09, trace
.13, width −.09 (p ≥ .17), within one setting .07, .22, −.08 (p = .44, .015, .44, of 22 asked). ReLU, layers × α, 1/α,
α = .01 … 100: λ_max and trace change 7,000 and 6,200 times, as T⁻¹HT⁻¹ to 3e-15; width and test loss by 6e-16.

Sources: Keskar, Mudigere, Nocedal, Smelyanskiy & Tang (2017, 1609.04836); Jastrzębski et al. (2017, 1711.04623);
Dinh, Pascanu, Bengio & Bengio (2017, 1703.04933); filter normalisation Li et al. (2018, 1712.09913).
"""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.stats
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from experiments.batches.flatness import Networks, digits, measure, train, width
from jaxflow.plot.style import COLOURS, stroke, tidy

SHUFFLES = 20_000
MEASURES = {"sharpness": "sharpness λ_max", "trace": "trace of the Hessian", "width": "width of the slice"}
TESTS = {"test_loss": "test loss", "test_error": "test error"}


class Settings(NamedTuple):
    """Learning rates; batch sizes; seeds; training loss; time on the clock t = kη; units and factors of the ReLU
    network."""

    rates: tuple[float, ...]
    sizes: tuple[int, ...]
    seeds: int
    level: float
    time: float
    units: int
    factors: np.ndarray


FULL = Settings((0.1, 0.2, 0.4), (8, 16, 32, 64, 128), 8, 0.05, 240.0, 16, np.geomspace(0.01, 100, 17))
QUICK = Settings((0.4,), (16, 128), 8, 0.2, 40.0, 8, np.geomspace(0.01, 100, 5))


def all_networks(settings):
    """The measures of all networks that come near to the level, with their η, B and setting."""
    problem, found, tags, lost = digits((32,)), [], [], {}
    pairs = [(rate, size) for rate in settings.rates for size in settings.sizes]
    for i, (rate, size) in enumerate(common.progress(pairs, "η, B")):
        # Starts of their own, or the networks of different settings would be no independent samples.
        keys = jax.random.split(jax.random.key(i), settings.seeds)
        params, reached = train(problem, rate, size, keys, settings)
        reached = np.asarray(reached)
        values = measure(problem.objective, params, problem.test, problem.predict)
        found.append(np.stack([np.asarray(x)[reached] for x in values]))
        tags += [(rate, size, i)] * int(reached.sum())
        if not reached.all():
            lost[f"{rate:g}, {size}"] = int((~reached).sum())
    return Networks(*np.concatenate(found, 1)), np.array(tags), lost


def rank_correlation(a, b, groups=None):
    """Spearman's ρ, and its p-value by shuffling b; within groups, where they are given."""
    groups = np.zeros(len(a), int) if groups is None else groups
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    ranks = [scipy.stats.rankdata(values) for values in (a, b)]
    for values in ranks:
        for index in members:
            values[index] -= values[index].mean()
    a, b = (values / np.linalg.norm(values) for values in ranks)
    rng, shuffled = np.random.default_rng(0), np.tile(b, (SHUFFLES, 1))
    for index in members:
        shuffled[:, index] = rng.permuted(shuffled[:, index], axis=1)
    rho = float(a @ b)
    return rho, float((1 + np.sum(abs(shuffled @ a) >= abs(rho) - 1e-12)) / (1 + SHUFFLES))


def rescale(params, factor):
    """The same function of a ReLU network of two layers: the first times a factor, the second's weights over it."""
    first, last = params
    return jax.tree.map(lambda x: x * factor, first), {"w": last["w"] / factor, "b": last["b"]}


def undo(settings):
    """By the factor α: sharpness and trace of the rescaled network, by T⁻¹HT⁻¹, and the width."""
    problem = digits((settings.units,), "relu")
    objective = problem.objective
    params = jf.iterate(jf.optim.adam(0.01), objective, problem.params, steps=150).params
    flat, unravel = ravel_pytree(params)
    hessian = np.asarray(jax.jit(jax.hessian(lambda x: objective(unravel(x))))(flat))
    rows = []
    for factor in common.progress(settings.factors, "α"):
        there = rescale(params, factor)
        factors = np.asarray(ravel_pytree(rescale(jax.tree.map(jnp.ones_like, params), factor))[0])
        exact = hessian / np.outer(factors, factors)
        top = float(scipy.linalg.eigvalsh(exact, subset_by_index=[len(flat) - 1] * 2)[0])
        with warnings.catch_warnings():
            # ReLU has kinks. Both Hessians are those of the smooth piece that the parameters lie in.
            warnings.filterwarnings("ignore", message=".*not twice differentiable.*")
            sharpness = float(jf.curvature.sharpness(objective, there))
            trace = jf.curvature.trace(objective, there, jax.random.key(0), probes=64)
        wide = float(width(objective, there, jax.random.key(1)))
        held_out = float(jf.Objective(objective.losses, problem.test)(there))
        error = float(trace.error)
        rows.append((sharpness, top, float(trace), error, float(np.trace(exact)), wide, held_out))
    names = ("sharpness", "exact sharpness", "trace", "trace error", "exact trace", "width", "test loss")
    return dict(zip(names, np.transpose(rows), strict=True))


def tell(found, tags, lost):
    """The headlines of the networks."""
    ratio, setting = tags[:, 0] / tags[:, 1], tags[:, 2]
    headlines: dict[str, Any] = {"networks; those never so near to the loss": (
        (len(ratio), sum(lost.values())), None)}  # fmt: skip
    for name, shown in (MEASURES | TESTS).items():
        rho, p = rank_correlation(getattr(found, name), ratio)
        headlines[f"{shown} and η/B: rank correlation, p"] = ((rho, p), None)
        if name in ("sharpness", "trace"):
            headlines[f"{shown} and η/B: rank correlation below 0"] = common.within(rho, high=-0.5)
            headlines[f"{shown} and η/B: p of none"] = common.within(p, high=1e-3)
        if len(set(ratio)) < len(set(setting)):
            headlines[f"{shown} and η, at one η/B: rank correlation, p"] = (
                rank_correlation(getattr(found, name), tags[:, 0], ratio),
                None,
            )
    for name, shown in MEASURES.items():
        for other, against in TESTS.items():
            pair = getattr(found, name), getattr(found, other)
            headlines[f"{shown} and {against}: rank correlation, p"] = rank_correlation(*pair), None
            headlines[f"{shown} and {against}, within a setting: rank correlation, p"] = (
                rank_correlation(*pair, setting),
                None,
            )
    for name, shown in MEASURES.items():
        values, ends = getattr(found, name), (ratio == ratio.min(), ratio == ratio.max())
        means = tuple(float(values[end].mean()) for end in ends)
        headlines[f"{shown}: mean at η/B = {ratio.min():.2g}, {ratio.max():.2g}"] = means, None
    return headlines


def tell_undone(rescaled):
    """The headlines of the rescaled network."""
    spread = lambda name: float(np.ptp(rescaled[name]) / rescaled[name].mean())
    error = abs(rescaled["sharpness"] / rescaled["exact sharpness"] - 1).max()
    z = (rescaled["trace"] - rescaled["exact trace"]) / rescaled["trace error"]
    grown = {
        name: float(rescaled[name].max() / rescaled[name].min()) for name in ("sharpness", "exact trace")
    }
    return {
        "ReLU rescaled: sharpness / that of T⁻¹HT⁻¹, largest error": common.within(
            float(error), high=1e-6, expected=0
        ),
        "ReLU rescaled: trace less that of T⁻¹HT⁻¹, in standard errors, largest": common.within(
            float(abs(z).max()), high=4.5
        ),
        "ReLU rescaled: largest / least sharpness, trace": common.within(tuple(grown.values()), low=1e3),
        "ReLU rescaled: relative spread of the width, of the test loss": common.within(
            (spread("width"), spread("test loss")), high=1e-12, expected=(0, 0)
        ),
    }


def draw_points(ax, found, tags, name, against, shown):
    """A measure of each network against η/B or another measure; a colour and a marker for each η."""
    x = tags[:, 0] / tags[:, 1] if against is None else getattr(found, against)
    for i, rate in enumerate(np.unique(tags[:, 0])):
        here = tags[:, 0] == rate
        style = {"color": COLOURS[i], "marker": "os^D"[i], "linestyle": "", "markerfacecolor": "none"}
        ax.plot(x[here], getattr(found, name)[here], label=f"η = {rate:g}", markersize=5, **style)
    rho, p = rank_correlation(getattr(found, name), x)
    says = f"rank correlation {rho:.2f}, ".replace("-", "−") + ("p < .001" if p < 1e-3 else f"p = {p:.2g}")
    ax.set(xlabel="η/B" if against is None else shown[against], ylabel=shown[name])
    if against is None:
        ax.set(xscale="log")
        ax.xaxis.set_minor_formatter("")
    ax.set_title(says, fontsize="medium")
    tidy(ax, legend=False)


def draw_undone(ax, factors, rescaled):
    """Sharpness, trace and width of one function, relative to those of the network as trained."""
    middle = len(factors) // 2
    for i, name in enumerate(("sharpness", "trace", "width")):
        values, exact = rescaled[name], rescaled.get(f"exact {name}", rescaled[name])
        ax.plot(factors, exact / exact[middle], **stroke(i))
        style = {"color": COLOURS[i], "marker": "os^"[i], "linestyle": "", "markerfacecolor": "none"}
        ax.plot(factors, values / exact[middle], label=name, **style)
    ax.set(xscale="log", yscale="log", xlabel="factor α of the first layer, 1/α of the second")
    ax.set(ylabel="over that of the network as trained")
    ax.set_title("ReLU: one function. Lines: T⁻¹HT⁻¹; markers: measured", fontsize="medium")
    tidy(ax)


def main(arguments=None):
    run = common.start("flat_minima", __doc__, arguments)
    settings = QUICK if run.quick else FULL
    found, tags, lost = all_networks(settings)
    rescaled = undo(settings)

    figure = Figure(figsize=(15, 8.6), layout="constrained")
    axes = figure.subplots(2, 3)
    shown = MEASURES | TESTS
    for ax, name in zip(axes.flat, (*MEASURES, "test_loss"), strict=False):
        draw_points(ax, found, tags, name, None, shown)
    draw_points(axes[1, 1], found, tags, "test_loss", "sharpness", shown)
    draw_undone(axes[1, 2], settings.factors, rescaled)
    axes[0, 0].legend(frameon=False, fontsize="small", loc="lower left")
    asked = "Does flatness follow η/B, and the test loss flatness? SGD on digits; a point is a network"
    figure.suptitle(f"{asked} of training loss {settings.level:g}")
    networks = found._asdict() | dict(zip(("rate", "batch_size", "setting"), tags.T, strict=True))
    headlines = tell(found, tags, lost) | tell_undone(rescaled)
    return run.save(
        figure, headlines, networks=networks, lost=lost, factors=settings.factors, rescaled=rescaled
    )
