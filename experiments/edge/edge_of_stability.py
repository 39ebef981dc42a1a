r"""The edge of stability: sharpness rises along training until the steps are just stable, and then stays there.

On a quadratic of largest curvature S an optimizer is stable up to a threshold: 2/η for gradient descent, 2(1+β)/η for
the heavy ball, and for Adam, of the eigenvalues of P^{-1/2} H P^{-1/2} with the diagonal P that it divides by,
2(1+β₁)/((1−β₁)η) = 38/η; `jaxflow.curvature.stability_threshold` finds each from the optimizer alone. Networks
trained on all data do not stay below it. S rises while the loss falls (progressive sharpening) until it passes the
threshold; then the sharpest coordinate oscillates and grows, which by the third derivative of the loss lowers S
again. So S hovers at the threshold, and the loss goes down, but not at every step.

A tanh network with two hidden layers of 32 (3,466 parameters), squared error, on 500 digits, all at every step; every
learning rate is a lane of one compiled program, and S is followed warm by `record_sharpness`. What is averaged is
sharpness over threshold, over the last third of the steps. Whether that is 1 depends on there being time:

- Gradient descent, 3,000 steps: η = .3, .4 and .6 reach the edge; η = .2 does not in that time.
- Heavy ball, β = .9: it trains so fast that at η ≤ .5 the loss is at 2e-4, and sharpening all but over, before the
  edge is reached; at η = .6 the start is 1.2 times too sharp and the run diverges, which is data. In between is a
  window whose place depends on the starting weights: of those of keys 0 to 3, two are at the edge at η = .55 (1,
  which is used here, and 3), and two diverge.
- Adam sharpens at a pace in t = kη that hardly depends on η, and is at the edge from t = 4 to 7 on. For η = .002 that
  is more than 2,000 steps, so these are 6,000; how far it is after 2,000 is said as well.

The quick version, gradient descent and heavy ball only, has hidden layers of 16, 250 digits and 1,200 steps.

Claim: Sharpness rises until the steps are just stable, and stays there: at 2/η, 2(1+β)/η, and preconditioned at
Adam's 38/η, while the loss goes down by ups and downs.

Figure: Top left: sharpness of gradient descent in time at four learning rates, and the threshold 2/η of each (thin
line of the same colour, labelled at the right). Top right: loss of gradient descent at η = .2 (dashed), which stays
below the edge, and at η = .6 (dash-dotted), which is at it and goes up at 44 % of the steps. Bottom left: sharpness
over threshold of the heavy ball for four pairs of β and η; the line that leaves the panel at its top diverges. Bottom
right: preconditioned sharpness over threshold of Adam at η = .002 (dashed) and .003 (solid). The grey lines below are
the threshold.

Measured: Digits (500, 3,466 parameters, squared error), sharpness / threshold over the last third of 3,000 steps:
gradient descent 1.005, 1.007, 1.022 at η = .3, .4, .6 (loss up at 24–44 % of the steps); .81, and never up, at η =
.2. Heavy ball 1.002 at β = .5, η = .5; at β = .9 .990 at η = .55, .944 at .5 (out of time), divergence at .6. Adam,
6,000 steps, .994 and .995 at η = .002 and .003; after 2,000 steps .58 and .92. Thresholds found within 5e-11 of the
formulas.

Sources: Cohen, Kaur, Li, Kolter & Talwalkar (2021, 2103.00065); adaptive methods: Cohen et al. (2022, 2207.14484);
why it stays: Damian, Nichani & Lee (2023, 2209.15594).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import CLOCK, tidy

# Colour and dash of the lanes of a panel, from light to dark and back, as neighbours cross.
LINES = (("#56B4E9", "--"), ("#D55E00", "-"), ("#000000", ":"), ("#009E73", "-."), ("#CC79A7", "-"))
ADAM, ADAM_STEPS, EARLIER = (0.002, 0.003), 6_000, 2_000
HIGHEST = 1.5  # sharpness / threshold that is shown
STRIDE = 10  # steps between measurements of the sharpness


class Settings(NamedTuple):
    """Network, data and steps; where sharpness / threshold is expected to end, by (η, β) of a lane, and how near."""

    hidden: tuple[int, ...]
    examples: int
    steps: int
    near: float
    lanes: dict[tuple[float, float], float | None]


DESCENT = {(0.2, 0.0): None, (0.3, 0.0): 1, (0.4, 0.0): 1, (0.6, 0.0): 1}
HEAVY_BALL = {(0.5, 0.5): 1, (0.5, 0.9): None, (0.55, 0.9): 1, (0.6, 0.9): None}
FULL = Settings((32, 32), 500, 3_000, 0.05, DESCENT | HEAVY_BALL)
QUICK = Settings(
    (16, 16),
    250,
    1_200,
    0.08,
    {(0.2, 0.0): None, (0.4, 0.0): 1, (0.5, 0.0): 1, (0.6, 0.0): 1, (0.65, 0.5): 1},
)


class Lanes(NamedTuple):
    """Times and sharpness / threshold (L, M) where it was measured, all losses (L, steps + 1), thresholds (L,)."""

    times: np.ndarray
    ratio: np.ndarray
    losses: np.ndarray
    thresholds: np.ndarray

    @property
    def tail(self) -> np.ndarray:
        """The mean of sharpness / threshold over the last third; NaN for a lane that diverged."""
        return self.ratio[:, -(self.ratio.shape[1] // 3) :].mean(1)

    @property
    def rises(self) -> np.ndarray:
        """The share of steps on which the loss rises."""
        with np.errstate(invalid="ignore"):
            return (np.diff(self.losses, axis=1) > 0).mean(1)

    def of(self, chosen: np.ndarray) -> "Lanes":
        """Some of the lanes."""
        return Lanes(*(part[chosen] for part in self))


def network(settings):
    problem = jf.problems.mlp("digits", settings.hidden, loss="mse", key=jax.random.key(1))
    data = jax.tree.map(lambda x: x[: settings.examples], problem.objective.data)
    return jf.Objective(problem.objective.losses, data), problem.params


def train(objective, params, make, numbers, steps, adaptive=False):
    """A run of `make(*lane)` for each lane of `numbers`, all in one program."""

    def run(*lane):
        optimizer = make(*lane)
        record = jf.curvature.record_sharpness(
            objective, stride=STRIDE, preconditioner=optimizer if adaptive else None, record=objective
        )
        found = jf.iterate(optimizer, objective, params, steps=steps, record=record)
        threshold = jf.curvature.stability_threshold(optimizer)
        return found.times, found.values.sharpness, found.values.recorded, threshold

    found = jax.jit(jax.vmap(run))(*map(jnp.asarray, numbers))
    times, sharpness, losses, thresholds = map(np.asarray, found)
    measured = sharpness[:, ::STRIDE] / thresholds[:, None]
    return Lanes(times[:, ::STRIDE], measured, losses, thresholds)


def style(i):
    colour, dash = LINES[i % len(LINES)]
    return {"color": colour, "linestyle": dash, "linewidth": 1.6}


def draw_sharpness(ax, lanes, rates):
    """The sharpness of each rate, and its threshold 2/η as a thin line of its colour."""
    for i, η in enumerate(rates):
        ax.plot(lanes.times[i], lanes.ratio[i] * lanes.thresholds[i], label=f"η = {η:g}", **style(i))
        ax.axhline(lanes.thresholds[i], color=style(i)["color"], linewidth=0.9, zorder=1)
        at = (1.01, lanes.thresholds[i])
        ax.text(*at, f"2/{η:g}", transform=ax.get_yaxis_transform(), va="center", fontsize="small")
    ax.set(title="gradient descent: sharpness, and thresholds 2/η (thin lines)", ylabel="sharpness S")
    ax.set(ylim=(0, 1.1 * lanes.thresholds.max()))
    tidy(ax)


def draw_ratio(ax, lanes, names, title):
    for i, name in enumerate(names):
        diverges = not np.isfinite(lanes.ratio[i, -1])
        # What follows the first jump of a run that diverges tells nothing, nor does Adam's preconditioner at step 0.
        end = int(np.argmax(lanes.ratio[i] > HIGHEST)) + 1 if diverges else None
        label = f"{name}: diverges" if diverges else name
        ax.plot(lanes.times[i, 1:end], lanes.ratio[i, 1:end], label=label, **style(i))
    ax.axhline(1, color="0.4", linewidth=0.9, zorder=1)
    ax.set(title=title, ylabel="sharpness / threshold", ylim=(0, HIGHEST))
    tidy(ax)


def draw_losses(ax, lanes, rates):
    for i in (0, len(rates) - 1):
        times = np.linspace(0, lanes.times[i, -1], lanes.losses.shape[1])
        name = f"η = {rates[i]:g}: the loss rises at {100 * lanes.rises[i]:.0f} % of the steps"
        ax.plot(times[1:], lanes.losses[i, 1:], label=name, **style(i) | {"linewidth": 1.1})
    ax.set(title="gradient descent: below the edge, and at it", ylabel="loss", yscale="log")
    tidy(ax)


def with_momentum(settings, headlines, panels):
    """Gradient descent and the heavy ball, which is the former at β = 0, in one program."""
    rates, betas = np.array(list(settings.lanes)).T
    lanes = train(*network(settings), jf.optim.momentum, (rates, betas), settings.steps)
    error = abs(lanes.thresholds / (2 * (1 + betas) / rates) - 1).max()
    headlines["thresholds found over 2(1+β)/η: largest error"] = common.within(
        float(error), high=1e-8, expected=0
    )
    names = [f"β = {β:g}, η = {η:g}" if β else f"η = {η:g}" for η, β in settings.lanes]
    for i, expected in enumerate(settings.lanes.values()):
        name = f"{'heavy ball' if betas[i] else 'gradient descent'}, {names[i]}"
        headlines[f"{name}: sharpness / threshold"] = (
            (float(lanes.tail[i]), None)
            if expected is None
            else common.near(lanes.tail[i], 1, by=settings.near)
        )
    plain = betas == 0
    for i in np.flatnonzero(plain):
        change = [float(lanes.rises[i]), float(lanes.losses[i, -1] / lanes.losses[i, 0])]
        headlines[f"gradient descent, {names[i]}: share of steps up, loss / loss at the start"] = (
            change,
            None,
        )
    draw_sharpness(panels["s"], lanes.of(plain), rates[plain])
    draw_losses(panels["l"], lanes.of(plain), rates[plain])
    draw_ratio(panels["m"], lanes.of(~plain), [names[i] for i in np.flatnonzero(~plain)], "heavy ball")
    return lanes


def with_adam(settings, headlines, panels):
    lanes = train(*network(settings), jf.optim.adam, (ADAM,), ADAM_STEPS, adaptive=True)
    headlines["Adam: thresholds found over 38/η: largest error"] = common.within(
        float(abs(lanes.thresholds * np.array(ADAM) / 38 - 1).max()), high=1e-8, expected=0
    )
    for i, η in enumerate(ADAM):
        said = f"Adam, η = {η:g}: preconditioned sharpness / threshold"
        headlines[said] = common.near(lanes.tail[i], 1, by=settings.near)
        headlines[f"{said}, after {EARLIER:,} steps"] = (float(lanes.ratio[i, EARLIER // STRIDE]), None)
    draw_ratio(panels["a"], lanes, [f"η = {η:g}" for η in ADAM], "Adam: preconditioned sharpness")
    return lanes


def main(arguments=None):
    run = common.start("edge_of_stability", __doc__, arguments)
    settings = QUICK if run.quick else FULL
    headlines: dict[str, Any] = {}
    figure = Figure(figsize=(16, 4.5) if run.quick else (13, 8.5), layout="constrained")
    panels = figure.subplot_mosaic("slm" if run.quick else "sl;ma")
    found = {"momentum": with_momentum(settings, headlines, panels)}
    if not run.quick:
        found["adam"] = with_adam(settings, headlines, panels)
    for ax in panels.values():
        ax.set(xscale="log", xlabel=CLOCK)
    measured = {name: {"times": each.times, "ratio": each.ratio} for name, each in found.items()}
    return run.save(figure, headlines, sharpness_over_threshold=measured)
