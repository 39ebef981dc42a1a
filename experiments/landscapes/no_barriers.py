"""The minima of a network are connected: what blocks the straight line between two of them is an order of units.

Networks 64-h-10 on digits, tanh, cross-entropy + 5e-4|w|², in minima that L-BFGS finds from different starts. The
barrier of a path is its largest loss above the line between the losses at its ends. For widths h from 4 to 64 it is
measured, over pairs of minima,

- on the straight line;
- on the straight line after the hidden units of one network are put into the order in which its weights are nearest
  to the other's, and after their signs are matched too (tanh is odd), which changes no function;
- on a chain of two lines and on a Bézier curve, whose one bend is trained;
- on a band that grows from 9 to 33 images (AutoNEB), with nine points between every two.

At one width: losses and test accuracies along the paths of one pair, and how eight minima are connected, by the
spanning tree of bands and of straight lines. It is drawn with a minimum as a line that ends at its loss, and with
groups of minima that join where the lowest way between them is highest. A band of 9 images shows why new images are
needed: the longer it is relaxed, the lower are its images, and the higher is the loss between them.

Claim: Minima of a network are connected: bent paths between them have almost no barrier once it is wide, and most of
what blocks the straight line is the order and the signs of hidden units.

Figure: Six kinds of path, named above: the straight line (solid), the straight line with units in order (dashed) and
with order and signs (dash-dotted), a chain of one bend (green, dotted), a Bézier curve of one bend (yellow) and a
band (blue, dotted). Top left: the barrier against the number of hidden units, median of the pairs with their range.
Top right: loss along the paths of one pair of 16 hidden units, above the lower end. Bottom left: test accuracy along
the same paths. Bottom right: how eight minima are connected by bands (blue) and by straight lines (black): each line
ends below at the loss of a minimum, and joins others at the height of the lowest path between them.

Moving: a band of 21 images between two minima of the Müller–Brown surface, from the straight line on. Dark is low.
On the right, the loss along it, which comes down from 13 to the saddle at −40.7.

Measured: Digits, tanh 64-h-10, cross-entropy + 5e-4|w|², three pairs of minima at each h (gradient norms below 2e-6),
median barriers at h = 4, 16, 64: straight 1.19, .28, .20; units in order .59, .108, .0097; signs too .33, .021,
.00096; chain of one bend .22, .016, .0076; Bézier .18, .012, .0042; band (AutoNEB) .076, .0026, .00078. At h = 4 no
path is free of a barrier, and the straight line is blocked at every h. Test accuracy at h = 16 falls by 12.8 points
on the straight line, 6.1 with units in order, .3 to .6 on all others. Eight minima there: the tree of bands has its
highest pass .0021 above the highest of them, that of straight lines .386. A band without new images, 50, 200, 800
steps: its 9 images come down to .019, .0020, .0004, the loss between them to .023, .0067, .0099.

Sources: Draxler, Veschgini, Salmhofer & Hamprecht (2018, 1803.00885); Garipov, Izmailov, Podoprikhin, Vetrov & Wilson
(2018, 1802.10026); Entezari, Sedghi, Saukh & Neyshabur (2022, 2110.06296); Ainsworth, Hayase & Srinivasa (2023,
2209.04836); the picture of the tree Becker & Karplus (1997).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from scipy.optimize import minimize

import jaxflow as jf
from experiments import common
from experiments.landscapes import bending_band
from jaxflow.dynamics.penalty import penalized
from jaxflow.landscape import align, connect, curve, interpolate, neb, refine
from jaxflow.plot.style import COLOURS, stroke, tidy
from jaxflow.problems.models.networks import compute_by_columns

SHOWN = 16  # the width of the paths and of the tree that are drawn
BAND: dict[str, Any] = {"points": 9, "max_steps": 60, "climb": False}
GROWS = {
    True: {"insert": 4, "rounds": 1},
    False: {"insert": 24, "rounds": 3},
}  # by whether it is the quick version
DECAY = 5e-4
NAMES = (
    "straight",
    "units in order",
    "order and signs",
    "chain, one bend",
    "Bézier, one bend",
    "band (AutoNEB)",
)
EXAMPLES = {True: 700, False: None}  # None: all
RELAXED = (50, 200, 800)  # steps of a band without new images
BENT = {True: 400, False: 800}  # steps of the curves
FLOOR = 1e-5  # lower barriers are drawn here


def digits(examples):
    """The problem, and its loss on some examples or all, with the penalty, for networks of any width."""
    problem = jf.problems.mlp("digits", (SHOWN,))
    data = jax.tree.map(lambda x: x[:examples], problem.objective.data)
    objective: Any = jf.Objective(problem.objective.losses, data)
    return problem, penalized(compute_by_columns(objective), 2 * DECAY)


def minima(objective, width, count):
    """Minima from several starts, and the norms of the gradient there."""
    starts = [jf.problems.mlp("digits", (width,), key=jax.random.key(seed)).params for seed in range(count)]
    unravel = ravel_pytree(starts[0])[1]
    slope = jax.jit(jax.value_and_grad(lambda x: objective(unravel(x))))
    both = lambda x: [np.asarray(part) for part in slope(x)]
    options = {"maxiter": 10_000, "maxfun": 10_000, "gtol": 1e-7, "ftol": 0, "maxcor": 20}
    found = [
        minimize(both, ravel_pytree(start)[0], jac=True, method="L-BFGS-B", options=options)
        for start in starts
    ]
    return [unravel(jnp.asarray(one.x)) for one in found], [np.linalg.norm(one.jac) for one in found]


def paths(objective, a, b, key, band, steps):
    """All paths between two minima, by name, and the distance before and after alignment."""
    ordered, signed = align(a, b), align(a, b, signs=True)
    lines = [interpolate(objective, a, end) for end in (b, ordered.params, signed.params)]
    bent = [curve(objective, a, b, key=key, kind=kind, steps=steps) for kind in ("polychain", "bezier")]
    found = refine(objective, neb(objective, a, b, **band))
    distances = [ordered.distance_before, ordered.distance, signed.distance]
    return dict(zip(NAMES, [*lines, *bent, found], strict=True)), distances


def relax_band(objective, a, b):
    """Barriers of a band of 9 images, at its images and densely, by the number of steps."""
    bands = [neb(objective, a, b, points=9, max_steps=steps, climb=False) for steps in RELAXED]
    return [(float(band.barrier), float(refine(objective, band).barrier)) for band in bands]


def trees(objective, ends, band):
    """The spanning trees of bands and of straight lines: edges and the heights of their passes; and all losses."""
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *ends)
    bands, lines = connect(objective, stacked, **band), connect(objective, stacked, path="straight")
    height = lambda tree: [float(tree.saddles[i, j]) for i, j in tree.edges]
    heights = {"bands": height(bands), "straight lines": height(lines)}
    return {"bands": bands.edges.tolist(), "straight lines": lines.edges.tolist()}, heights, bands.losses


def draw_barriers(ax, widths, barriers):
    """Barriers against width: the median of the pairs, and the range of all."""
    for i, name in enumerate(NAMES):
        found = np.maximum(barriers[name], FLOOR)
        middle = np.median(found, 1)
        shifted = np.asarray(widths) * 1.035 ** (i - 2.5)
        ax.plot(shifted, middle, marker="o", markersize=4, label=name, **stroke(i))
        ax.vlines(shifted, found.min(1), found.max(1), color=COLOURS[i], linewidth=1)
    ax.set(title="barrier: median and range of the pairs", xlabel="hidden units", ylabel="barrier")
    ax.set(xscale="log", yscale="log", xticks=widths, xticklabels=widths)
    ax.minorticks_off()
    tidy(ax, legend=False)


def draw_losses(ax, found):
    """Losses along the paths of one pair, above the lower end."""
    for i, path in enumerate(found.values()):
        losses = np.asarray(path.losses)
        above = losses - min(losses[0], losses[-1])
        ax.plot(path.arclength / path.arclength[-1], np.maximum(above, FLOOR), **stroke(i))
    ax.set(title=f"losses along the paths of one pair, {SHOWN} hidden units")
    ax.set(xlabel="share of the length", ylabel="loss above the lower end", yscale="log")
    tidy(ax, legend=False)


def draw_scores(ax, found, scores):
    """Accuracies on the test examples along the paths of the same pair."""
    for i, (path, score) in enumerate(zip(found.values(), scores.values(), strict=True)):
        ax.plot(path.arclength / path.arclength[-1], 100 * score, **stroke(i))
    ax.set(title="test accuracy along the same paths")
    ax.set(xlabel="share of the length", ylabel="accuracy on 360 examples, %")
    tidy(ax, legend=False)


def draw_tree(ax, edges, heights, losses, shifted, **line):
    """Minima as lines that end at their losses, and join where the way between them is highest."""
    lowest = losses.min() - FLOOR
    groups = {k: [k] for k in range(len(losses))}
    order = sorted(zip(heights, edges, strict=True))
    for _, (p, q) in order:
        joined = groups[p] + groups[q]
        groups.update(dict.fromkeys(joined, joined))
    place = {k: shifted + x for x, k in enumerate(groups[0])}
    tops = {k: (place[k], losses[k] - lowest, [k]) for k in place}
    for height, (p, q) in order:
        (x, low, some), (y, other, more), top = tops[p], tops[q], height - lowest
        ax.plot([x, x, y, y], [low, top, top, other], **line)
        tops.update(dict.fromkeys(some + more, ((x + y) / 2, top, some + more)))
    return place


def draw_trees(ax, edges, heights, losses):
    """Both trees, each with the minima in its own order."""
    ticks, names = [], []
    for i, (kind, colour) in enumerate((("bands", COLOURS[5]), ("straight lines", COLOURS[0]))):
        shifted = i * (len(losses) + 1)
        place = draw_tree(ax, edges[kind], heights[kind], losses, shifted, color=colour, linewidth=1.7)
        ticks += place.values()
        names += map(str, place)
        ax.text(shifted + (len(losses) - 1) / 2, 1.0, kind, ha="center", va="center", color=colour)
    ax.set_xticks(ticks, names)
    ax.set(title=f"how {len(losses)} minima are connected, {SHOWN} hidden units", yscale="log")
    ax.set(xlabel="number of the minimum", ylabel="loss above the lowest", ylim=(FLOOR, 1.6))
    tidy(ax, legend=False)


def main(arguments=None):
    run = common.start("no_barriers", __doc__, arguments)
    widths, pairs, many = ((SHOWN,), 1, 3) if run.quick else ((4, 8, 16, 32, 64), 3, 8)
    band = BAND | GROWS[run.quick]
    problem, objective = digits(EXAMPLES[run.quick])
    barriers = {name: np.zeros((len(widths), pairs)) for name in NAMES}
    distances, slopes, found = np.zeros((len(widths), pairs, 3)), [], {}
    for i, width in enumerate(common.progress(widths, "widths")):
        ends, norms = minima(objective, width, many if width == SHOWN else 2 * pairs)
        slopes += norms
        for j in range(pairs):
            key = jax.random.key(100 * i + j)
            between, distances[i, j] = paths(
                objective, ends[2 * j], ends[2 * j + 1], key, band, BENT[run.quick]
            )
            for name, path in between.items():
                barriers[name][i, j] = path.barrier
            found.setdefault(width, (ends, between))
    ends, shown = found[SHOWN]
    score = jax.jit(jax.vmap(problem.score))
    scores = {name: np.asarray(score(path.params)) for name, path in shown.items()}
    edges, heights, losses = trees(objective, ends, band)
    at_images, densely = zip(*relax_band(objective, ends[0], ends[1]), strict=True)

    figure = Figure(figsize=(11.5, 8.6), layout="constrained")
    axes = figure.subplots(2, 2)
    draw_barriers(axes[0, 0], widths, barriers)
    draw_losses(axes[0, 1], shown)
    draw_scores(axes[1, 0], shown, scores)
    draw_trees(axes[1, 1], edges, heights, losses)
    figure.legend(loc="outside upper center", ncols=len(NAMES), frameon=False)

    middle = {name: np.median(values, 1).tolist() for name, values in barriers.items()}
    headlines: dict[str, Any] = {
        "largest norm of the gradient at a minimum": common.within(max(slopes), high=1e-5, expected=0)
    }
    for name in NAMES:
        # The straight line is blocked at every width.
        blocked = common.within(middle[name], low=0.05) if name == "straight" else (middle[name], None)
        headlines[f"barrier at h = {', '.join(map(str, widths))}, {name}"] = blocked
    for name in NAMES[1:]:
        share = middle[name][-1] / middle["straight"][-1]
        most = 0.3 if name == "units in order" else 0.1
        headlines[f"h = {widths[-1]}: barrier / that of the straight line, {name}"] = common.within(
            share, high=most
        )
    shorter = np.median(distances[:, :, 1:] / distances[:, :, :1], 1)
    for i, what in enumerate(NAMES[1:3]):
        headlines[f"distance / that before, {what}"] = (shorter[:, i].tolist(), None)
    for name in NAMES:
        lost = min(scores[name][0], scores[name][-1]) - scores[name].min()
        headlines[f"h = {SHOWN}: test accuracy lost on the way, {name}"] = (lost, None)
    steps = ", ".join(map(str, RELAXED))
    headlines[f"h = {SHOWN}, 9 images, {steps} steps: barrier at the images"] = (at_images, None)
    headlines["the same, with nine points between every two"] = (densely, None)
    for kind, passes in heights.items():
        highest = max(passes) - losses.max()
        bound = {"high": 0.01} if kind == "bands" else {"low": 0.1}
        said = f"tree of {kind}: highest pass above the highest of {many} minima"
        headlines[said] = common.within(highest, **bound)
    headlines["the highest of them above the lowest"] = (np.ptp(losses), None)
    data = {
        "barriers": barriers,
        "distances": distances,
        "edges": edges,
        "heights": heights,
        "losses": losses,
    }
    moving = None if run.quick else bending_band.moving()
    return run.save(figure, headlines, moving=moving, widths=widths, **data)
