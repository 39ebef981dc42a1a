"""Skip connections smooth the loss, if their branches are small: a plain and a residual network, seen on slices.

A layer takes x to tanh(Wx) in the plain network, and to x + tanh(Wx)/√depth in the residual one, which has no
normalisation. Both have dense layers of 16 units, begin with weights of variance 1/16, and are trained by Adam on all
of 300 digits until the training loss is .05. The loss is then looked at in the plane of two random directions with
the norms of the weights, filter by filter. A plane is a small part of a space of thousands of dimensions, and what
looks convex on it need not be. So, as Li et al. do in their Figure 7, every point of the plane is asked for the
lowest and the largest eigenvalue of the *whole* Hessian there: −λ_min/λ_max is near 0 where the loss is nearly
convex, 1 where it curves down as much as up.

- Share of the plane with −λ_min/λ_max > ½, and its median, by depth, over starts and planes.
- A control, with skip connections and branches that are not made smaller, x + tanh(Wx): what skip connections alone
  do. Along a filter-normalised direction every branch changes by as much as it has, whatever its size; made smaller,
  28 such changes at random add up to that of one layer.
- Why directions are filter-normalised: a ReLU network whose layers are multiplied by numbers of product 1 is the same
  function. Along filter-normalised directions from one random key its losses are the same too, along raw ones they
  are not. Where single units are rescaled, they are not the same along either.

In the quick version there are 8 units, 150 digits, two networks, one depth, one start, and fewer points.

Claim: Skip connections smooth the loss, if their branches are small; filter-normalised slices do not see the scale of
layers, but that of single units.

Figure: Left two columns, of the plain and of the residual network with 28 layers, on a plane of two random
directions: training loss with the run (top; yellow is low), and −λ_min/λ_max of the whole Hessian (bottom; yellow is
convex, dark blue is 1 and more). Third column, top: median of that ratio over the plane against depth, for the plain
network (solid), the residual one (dashed), and the residual one with large branches (dash-dotted); markers are single
starts. Bottom: the share of the plane where the ratio is below a value, at 28 layers, in the same lines; the grey
line is ½. Right column: loss along a line for a ReLU network as trained (solid), with its layers rescaled (circles)
and with single units rescaled (dash-dotted), in a raw direction (top) and a filter-normalised one (bottom).

Measured: Digits, dense tanh layers, at training loss .05, plane ±1, three starts. −λ_min/λ_max of the whole Hessian
at 4, 12, 28 layers, median: plain .54, .83, .93; residual with branches /√depth .24, .24, .26; with branches of size
1 .38, .86, .98, though it trains fastest (28 layers: 90–121 steps, 155–181 with small branches, plain 469–755). Above
½ at 28 layers: 63, 12 and 79 % of the plane. ReLU, layers × 10, .2, .5: losses change by 2e-15 on the
filter-normalised line, by 57 on the raw one; with single units rescaled by 113 and 21.

Sources: Li, Xu, Taylor, Studer & Goldstein (2018, 1712.09913); skip connections He, Zhang, Ren & Sun (2016,
1512.03385).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from experiments.landscapes.residual_networks import NAMES, Loss, columns, draw_weights, losses_of
from jaxflow.plot.style import COLOURS, legend_above, stroke, tidy

RATE, LEVEL, MOST = 1e-3, 0.05, 4000  # of Adam; the training loss at which it ends; steps at most
EVERY = 10  # steps between the records of a run that are drawn
PRODUCTS = 20  # Hessian products for each end of a spectrum, which find the ratio to .005
HIGH = 0.5  # −λ_min/λ_max above which a point counts as not convex at all
LAYERS = (10.0, 0.2, 0.5)  # factors of the layers of the rescaled network, of product 1


class Settings(NamedTuple):
    """Units; examples; depths; starts; points of a slice and of a map of curvature along each direction."""

    width: int
    examples: int
    depths: tuple[int, ...]
    starts: int
    fine: int
    coarse: int


FULL = Settings(16, 300, (4, 12, 28), 3, 41, 9)
QUICK = Settings(8, 150, (12,), 1, 11, 5)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Nonconvexity:
    """−λ_min/λ_max of the whole Hessian of a loss: a function of the parameters, which a slice can be taken of."""

    loss: Loss

    def __call__(self, params):
        # The lowest eigenvalue is minus the largest of −L. One loop over both signs compiles half as much.
        top = lambda sign: jf.curvature.top_eigenpairs(
            lambda p: sign * self.loss(p), params, products=PRODUCTS
        ).values[0]
        largest, deepest = jax.lax.map(top, jnp.array([1.0, -1.0]))
        return deepest / largest


class View(NamedTuple):
    """A trained network: the steps of its run, slices of the loss and of −λ_min/λ_max, and the run on the first."""

    steps: int
    losses: Any
    nonconvexity: Any
    projection: Any


def look(loss, depth, settings, seed):
    """Train a network, and look at the loss around it."""
    begin, draw = jax.random.split(jax.random.key(seed))
    optimizer, until = jf.optim.adam(RATE), {"loss": LEVEL}
    params = draw_weights(depth, settings.width, begin)
    run = jf.train(optimizer, loss, params, until=until, max_steps=MOST, every=EVERY)
    directions = jf.landscape.random_directions(run.params, draw, filters=columns)
    plane = jf.landscape.slice(loss, run.params, directions, points=settings.fine)
    curved = jf.landscape.slice(Nonconvexity(loss), run.params, directions, points=settings.coarse)
    return View(int(run.steps), plane, curved, jf.landscape.project(run, plane))


def relu_network():
    """A trained ReLU network, and two that are the same function: with layers rescaled, and with single units."""
    problem = jf.problems.mlp("digits", (16, 16), "relu")
    params = jf.iterate(jf.optim.adam(0.01), problem.objective, problem.params, steps=100).params
    units = [np.exp(np.random.default_rng(seed).normal(size=16)) for seed in (0, 1)]
    whole = [np.full(16, LAYERS[0]), np.full(16, LAYERS[0] * LAYERS[1])]
    return problem.objective, {
        "as trained": params,
        "layers rescaled": rescale(params, whole),
        "units rescaled": rescale(params, units),
    }


def rescale(params, factors):
    """The same function of a ReLU network, whose hidden units have outputs multiplied by positive factors."""
    into = [1.0, *factors]
    out = [*factors, 1.0]
    return tuple(
        {"w": layer["w"] * np.reshape(after, (1, -1)) / np.reshape(before, (-1, 1)), "b": layer["b"] * after}
        for layer, before, after in zip(params, into, out, strict=True)
    )


def lines(points):
    """Losses on lines through the three networks, along raw and filter-normalised directions of one random key."""
    objective, networks = relu_network()
    found: dict[str, dict[str, Any]] = {"raw": {}, "filter": {}}
    sizes = {}
    for kind, normalization in (("filter", "filter"), ("raw", None)):
        for name, params in networks.items():
            drawn = jf.landscape.random_directions(params, jax.random.key(3), normalization, count=1)
            sizes.setdefault(kind, float(drawn.values[0]))
            # Raw directions reach as far as those of the network as trained do.
            span = sizes["filter"] / sizes[kind]
            found[kind][name] = jf.landscape.slice(objective, params, drawn, span, points)
    return found


def draw_plane(ax, view, levels, title):
    """Contours of the loss, on levels shared with the other network, and the run.

    They are not drawn by `jaxflow.plot.landscape`, whose levels are each slice's own.
    """
    x, y = map(np.asarray, view.losses.coordinates)
    norm = LogNorm(levels[0], levels[-1])
    shown = np.clip(np.asarray(view.losses.losses).T, levels[0], levels[-1])
    filled = ax.contourf(x, y, shown, levels, cmap="viridis_r", norm=norm)
    ax.contour(x, y, shown, levels, colors="0.25", linewidths=0.3)
    path = np.asarray(view.projection.coordinates)
    path = path[np.isfinite(path).all(1)]
    share = f"the run; the plane holds {100 * float(view.projection.share):.2g} % of its motion"
    ax.plot(*path.T, color="white", linewidth=3, zorder=2)
    ax.plot(*path.T, color=COLOURS[1], linewidth=1.6, zorder=3, label=share)
    ax.plot(*path[0], "o", color=COLOURS[1], markerfacecolor="white", zorder=4)
    ax.plot(*path[-1], "o", color=COLOURS[1], markeredgecolor="white", zorder=4)
    ax.set_title(title, pad=22)
    ax.set(**dict(zip(("xlabel", "ylabel"), view.losses.directions.labels, strict=True)))
    legend_above(ax, 0.2, 1)
    return filled


def draw_map(ax, view, title):
    """−λ_min/λ_max where it was measured; what is above 1 has the colour of 1."""
    x, y = map(np.asarray, view.nonconvexity.coordinates)
    style = {"vmin": 0, "vmax": 1, "cmap": "cividis_r", "shading": "nearest"}
    drawn = ax.pcolormesh(x, y, np.asarray(view.nonconvexity.losses).T, **style)
    ax.plot(0, 0, "o", color=COLOURS[1], markeredgecolor="white")
    ax.set(**dict(zip(("xlabel", "ylabel"), view.losses.directions.labels, strict=True)), title=title)
    return drawn


def draw_depths(ax, depths, ratios):
    """The median of −λ_min/λ_max over a plane, a marker for each start, with a line through the means."""
    for i, (name, values) in enumerate(ratios.items()):
        medians = np.median(values, (2, 3))
        ax.plot(depths, medians.mean(1), label=name, **stroke(i))
        for start in medians.T:
            ax.plot(depths, start, "os^"[i], color=COLOURS[i], markerfacecolor="none")
    ax.set(xscale="log", xlabel="depth (hidden layers)", ylabel="median of −λ_min/λ_max over the plane")
    ax.set_xticks(depths, map(str, depths))
    ax.set_xticks([], minor=True)
    ax.set(ylim=(0, None))
    ax.set_title("how far from convex, by depth", pad=36)
    tidy(ax, legend=False)
    legend_above(ax, 0.2)


def draw_lines(ax, lines, kind):
    """Losses along one direction of three networks that are one function."""
    for i, (name, line) in enumerate(lines.items()):
        reach = np.linspace(-1, 1, len(line.losses))
        if name == "layers rescaled":
            style = {"marker": "o", "markerfacecolor": "none", "markersize": 5, "linestyle": ""}
            ax.plot(reach[::2], line.losses[::2], color=COLOURS[i], label=name, **style)
        else:
            ax.plot(reach, line.losses, label=name, **stroke(i))
    ax.set(yscale="log", xlabel="distance, in lengths of the normalised direction", ylabel="training loss")
    ax.set_title(f"ReLU, one function, {kind}", pad=22)
    tidy(ax, legend=False)
    legend_above(ax, 0.2, 3)


def draw_shares(ax, ratios, depth):
    """How much of the planes of the deepest networks has less than a given −λ_min/λ_max."""
    for i, (name, values) in enumerate(ratios.items()):
        ax.plot(np.sort(values[-1].ravel()), np.linspace(0, 1, values[-1].size), label=name, **stroke(i))
    ax.axvline(HIGH, color="0.4", linewidth=0.9)
    ax.set(xlabel="−λ_min/λ_max", ylabel="share of the plane below", xlim=(-0.05, 2.5))
    ax.set_title(f"{depth} layers, all starts (lines as above)")
    tidy(ax, legend=False)


def draw(views, depths, ratios, found):
    figure = Figure(figsize=(18.5, 9), layout="constrained")
    figure.get_layout_engine().set(wspace=0.05)
    axes = figure.subplots(2, 4, width_ratios=(1, 1.13, 1, 1))
    deep = depths[-1]
    shown = {name: views[name, deep, 0] for name in NAMES[:2]}
    values = np.concatenate([np.ravel(view.losses.losses) for view in shown.values()])
    levels = np.geomspace(values.min(), values.max(), 17)
    for i, (name, view) in enumerate(shown.items()):
        filled = draw_plane(axes[0, i], view, levels, f"{name}, {deep} layers: loss ({view.steps} steps)")
        drawn = draw_map(axes[1, i], view, f"{name}, {deep} layers: −λ_min/λ_max")
        for ax in axes[:, i]:
            ax.set(xticks=(-1, -0.5, 0, 0.5, 1), yticks=(-1, -0.5, 0, 0.5, 1))
    figure.colorbar(filled, ax=axes[0, 1], label="training loss", format="%.2g", ticks=levels[::4])
    figure.colorbar(drawn, ax=axes[1, 1], label="−λ_min/λ_max of the whole Hessian", extend="max")
    draw_depths(axes[0, 2], depths, ratios)
    draw_shares(axes[1, 2], ratios, deep)
    draw_lines(axes[0, 3], found["raw"], "raw directions")
    draw_lines(axes[1, 3], found["filter"], "filter-normalised")
    return figure


def tell(views, depths, ratios, found):
    """The headlines."""
    headlines: dict[str, Any] = {}
    for name, each in ratios.items():
        for depth, values in zip(depths, each, strict=True):
            numbers = float((values > HIGH).mean()), float(np.median(values))
            headlines[f"{name}, {depth} layers: share of −λ_min/λ_max > ½, median"] = numbers, None
            steps = [views[name, depth, seed].steps for seed in range(len(values))]
            headlines[f"{name}, {depth} layers: steps to a loss of {LEVEL}"] = steps, None
    for kind, lines in found.items():
        for name in ("layers rescaled", "units rescaled"):
            change = float(abs(lines[name].losses - lines["as trained"].losses).max())
            same = (name, kind) == ("layers rescaled", "filter")
            claim = common.within(change, high=1e-12, expected=0) if same else common.within(change, low=1)
            headlines[f"{name}, {kind}: largest change of the loss"] = claim
    plain, residual = (np.median(ratios[name][-1], (1, 2)) for name in NAMES[:2])
    about = f"{depths[-1]} layers: median of the residual networks over that of plain ones, by start"
    headlines[about] = common.within((residual / plain).tolist(), high=0.6)
    return headlines


def main(arguments=None):
    run = common.start("loss_landscape", __doc__, arguments)
    settings = QUICK if run.quick else FULL
    depths, seeds, names = settings.depths, range(settings.starts), NAMES[: 2 if run.quick else 3]
    views = {}
    for depth in common.progress(depths, "depths"):
        losses = losses_of(depth, settings.examples)
        for name in names:
            views |= {(name, depth, seed): look(losses[name], depth, settings, seed) for seed in seeds}
    ratios = {
        name: np.array([[views[name, depth, seed].nonconvexity.losses for seed in seeds] for depth in depths])
        for name in names
    }
    found = lines(2 * settings.fine - 1)
    held = {name: [float(views[name, depths[-1], seed].projection.share) for seed in seeds] for name in names}

    figure = draw(views, depths, ratios, found)
    return run.save(figure, tell(views, depths, ratios, found), ratios=ratios, motion_in_plane=held)
