"""Which way is up: directional derivatives, tangent planes, and the gradient as the direction of steepest ascent.

The slope of f along a unit vector v is D_v f = lim (f(x + hv) − f(x))/h. Where f is differentiable it is g·v for one
vector g, the gradient: among all directions the slope is a cosine, largest along g, where it is |g|, and 0 along the
contour. Measured on Himmelblau's function of two variables, without derivatives of it but where a gradient is named:

- Central differences along v over a grid against g·v from `jax.grad`.
- The direction in which a step of length h climbs highest. It is the gradient's only in the limit: for finite h it
  is off by the angle h·(u⊥ᵀHu)/|g|, with u = g/|g|, u⊥ across it, and H the Hessian. The direction in which the
  symmetric difference f(x + hv) − f(x − hv) is largest is off by a multiple of h² only.
- The tangent plane f(x) + g·d misses f by at most ½|λ|h² on a circle of radius h, λ the eigenvalue of H that is
  largest in absolute value.

In many dimensions a random direction tells little. On a digits network with d parameters the slope along a random
unit vector is |g|/√d in root mean square. The mean of n vectors (D_v L)v, v drawn from N(0, I), is an estimate of the
gradient that needs no backward pass; its cosine with the gradient is about √(n/(n + d + 1)).

Claim: The gradient gives every slope as g·v and is the limit of steepest ascent; one random direction in d sees 1/√d.

Figure: Top left: Himmelblau's function with two tangent planes, each touching at its dot. Top middle: the gradient
field (arrows of one length, uphill) on the contours. Top right: the slope D_v f along v = (1, 1)/√2 (arrow) at every
point; on the black lines it is 0, there v runs along a contour. Bottom left: slopes at (½, 1) against the angle of v,
by differences (circles) and g·v (line); the vertical line is the gradient's angle. Bottom middle: against h, the
error of the tangent plane (circles) and the angles from the gradient of the highest step (squares) and of the largest
symmetric difference (triangles), with h² and h as predicted (lines). Bottom right: digits, cosine of the gradient
with the mean of n random directions weighted by their slopes (circles), and √(n/(n + d + 1)) (line).

Measured: Himmelblau at (½, 1): differences are g·v to 6e-11 of the largest slope, over 161² points. Highest step: its
angle from the gradient ∝ h^.994, at h = 2⁻⁹ .999 of the prediction; symmetric differences ∝ h^2.000. Tangent plane:
error ∝ h^2.001, 1.0001 × ½|λ|h². Digits, d = 1,210: mean square of 10,000 slopes 1.006 × |g|²/d, cosine of their
weighted mean .9437 (predicted .9444).

Sources: Any text on the calculus of several variables; gradients from random directions: Baydin, Pearlmutter, Syme,
Wood & Torr (2022, 2202.08587); their cosine follows from E|(D_v L)v|² = (d + 2)|g|².
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

AT, OTHER = np.array([0.5, 1.0]), np.array([1.2, -1.3])
ALONG = np.array([1.0, 1.0]) / np.sqrt(2)
STEP = 1e-5  # of central differences: truncation and rounding are both near 1e-9 of the slopes


def himmelblau(x):
    return jf.problems.himmelblau().objective(x)


gradient = jax.jit(jax.vmap(jax.grad(himmelblau)))
values = jax.jit(jax.vmap(himmelblau))
hessian = jax.jit(jax.hessian(himmelblau))


def unit(angle):
    """The unit vectors at these angles (..., 2), in NumPy."""
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def slopes(points, direction):
    """D_v f at points (..., 2) by central differences."""
    ends = np.broadcast_arrays(points + STEP * direction, points - STEP * direction)
    up, down = values(np.stack(ends).reshape(-1, 2)).reshape(2, -1)
    return np.asarray(up - down) / (2 * STEP)


def lost(length, symmetric, angle):
    """Minus what a step climbs; for a `symmetric` of 1, minus the symmetric difference."""
    v = length * jnp.stack([jnp.cos(angle[0]), jnp.sin(angle[0])])
    return -(himmelblau(AT + v) - symmetric * himmelblau(AT - v)) / length


@jax.jit
def steepest_angles(lengths, symmetric, start):
    """The angle of the best direction for each length (H,), by Newton's method."""

    def find(length, symmetric):
        objective = Partial(lost, length, symmetric)
        return jf.iterate(jf.optim.newton(), objective, start[None], steps=8, every=None).params[0]

    return jax.vmap(find)(lengths, symmetric)


def plane_error(lengths, g):
    """The largest distance of the tangent plane from f on circles (H,) of 720 points."""
    circle = unit(np.linspace(0, 2 * np.pi, 720, endpoint=False))
    d = lengths[:, None, None] * circle
    found = np.asarray(values((AT + d).reshape(-1, 2))).reshape(d.shape[:2])
    return np.abs(found - himmelblau(AT) - d @ g).max(1)


@jax.jit
def forward_slopes(objective, params, directions):
    """D_v L along every row of directions (n, d), by forward mode, one after another."""
    flat, back = ravel_pytree(params)
    loss = lambda x: objective(back(x))
    return jax.lax.map(lambda v: jax.jvp(loss, (flat,), (v,))[1], directions)


def random_directions(count, seed):
    """On digits: slopes along unit vectors, in units of |g|/√d; and cosines with the gradient of n = 1 … count."""
    problem = jf.problems.mlp("digits", hidden=(16,))
    g = np.asarray(ravel_pytree(jax.jit(jax.grad(problem.objective))(problem.params))[0])
    v = np.random.default_rng(seed).normal(size=(count, g.size))
    seen = np.asarray(forward_slopes(problem.objective, problem.params, v))
    sums = np.cumsum(seen[:, None] * v, 0)
    cosines = sums @ g / np.linalg.norm(sums, axis=1) / np.linalg.norm(g)
    scaled = seen / np.linalg.norm(v, axis=1) * np.sqrt(g.size) / np.linalg.norm(g)
    return scaled, cosines, g.size


def draw_surface(ax):
    x, y = np.meshgrid(np.linspace(-2, 3, 41), np.linspace(-3, 3, 41))
    z = np.asarray(values(np.stack([x, y], -1).reshape(-1, 2))).reshape(x.shape)
    ax.plot_surface(x, y, z, cmap="cividis", alpha=0.75, linewidth=0, rcount=41, ccount=41)
    ax.plot_wireframe(x, y, z, color="0.3", linewidth=0.3, rcount=21, ccount=21)
    for point, colour in ((AT, COLOURS[1]), (OTHER, COLOURS[0])):
        g, level = np.asarray(gradient(point[None])[0]), float(himmelblau(point))
        a, b = np.meshgrid([-0.8, 0.8], [-0.8, 0.8])
        plane = level + g[0] * a + g[1] * b
        ax.plot_surface(point[0] + a, point[1] + b, plane, color=colour, alpha=0.55, edgecolor=colour)
        ax.plot(*point, level, marker="o", color=colour, markeredgecolor="w", markersize=7)
    ax.computed_zorder = False  # what is drawn later is in front
    ax.view_init(26, 32)
    ax.set(title="tangent planes", xlabel="x", ylabel="y", zlabel="f")


def draw_fields(ax, field):
    axis = np.linspace(-5, 5, 161)
    grid = np.stack(np.meshgrid(axis, axis), -1)
    z = np.asarray(values(grid.reshape(-1, 2))).reshape(grid.shape[:2])
    ax.contour(axis, axis, z, levels=np.geomspace(2, 600, 14), colors="0.65", linewidths=0.8)
    coarse = grid[5::10, 5::10]
    g = np.asarray(gradient(coarse.reshape(-1, 2))).reshape(coarse.shape)
    g = g / np.linalg.norm(g, axis=-1, keepdims=True)
    ax.quiver(*np.moveaxis(coarse, -1, 0), *np.moveaxis(g, -1, 0), color=COLOURS[5], scale=24, width=0.004)
    ax.set(title="gradients, uphill across the contours", xlabel="x", ylabel="y", aspect="equal")
    along = slopes(grid, ALONG).reshape(z.shape)
    shown = field.pcolormesh(axis, axis, along, cmap="PuOr", vmin=-250, vmax=250, shading="nearest")
    field.contour(axis, axis, along, levels=[0.0], colors="k", linewidths=1.2)
    field.annotate("", (-3.4, -3.4), (-4.6, -4.6), arrowprops={"arrowstyle": "->", "linewidth": 2})
    field.text(-3.3, -3.9, "v")
    field.set(title="slope along v = (1, 1)/√2", xlabel="x", ylabel="y", aspect="equal")
    field.figure.colorbar(shown, ax=field, label="D_v f")
    exact = np.asarray(gradient(grid.reshape(-1, 2))) @ ALONG
    return np.abs(along.ravel() - exact).max() / np.abs(exact).max()


def main(arguments=None):
    run = common.start("directional_derivatives", __doc__, arguments)
    figure = Figure(figsize=(14, 8.4), layout="constrained")
    names = (("surface", "fields", "along"), ("cosine", "orders", "random"))
    panels = figure.subplot_mosaic(names, per_subplot_kw={"surface": {"projection": "3d"}})
    draw_surface(panels["surface"])
    field_error = draw_fields(panels["fields"], panels["along"])

    g, curvature = np.asarray(gradient(AT[None])[0]), np.asarray(hessian(AT))
    size, uphill = np.linalg.norm(g), np.arctan2(g[1], g[0])
    angles = np.linspace(-np.pi, np.pi, 73)
    seen = slopes(AT, unit(angles))
    ax = panels["cosine"]
    ax.plot(np.degrees(angles), unit(angles) @ g, label="g·v", **stroke(0))
    ax.plot(np.degrees(angles), seen, "o", color=COLOURS[1], markersize=4, label="differences")
    ax.axvline(np.degrees(uphill), color="0.6", label="angle of the gradient")
    ax.set(title="slopes at (½, 1)", xlabel="angle of v (degrees)", ylabel="D_v f")

    lengths = 2.0 ** -np.arange(3, 10)
    ones = np.ones_like(lengths)
    stacked = np.concatenate([lengths, lengths]), np.concatenate([0 * ones, ones])
    found = np.asarray(steepest_angles(*stacked, uphill))
    highest, symmetric = np.abs(found - uphill).reshape(2, -1)
    u, across = g / size, np.array([-g[1], g[0]]) / size
    turn, bend = abs(across @ curvature @ u) / size, np.abs(np.linalg.eigvalsh(curvature)).max() / 2
    missed = plane_error(lengths, g)
    power = lambda y: float(np.polyfit(np.log(lengths[2:]), np.log(y[2:]), 1)[0])
    ax = panels["orders"]
    shown = (("plane: error", missed, "o"), ("highest step: angle", highest, "s"))
    for i, (name, y, marker) in enumerate((*shown, ("symmetric: angle", symmetric, "^"))):
        ax.loglog(lengths, y, marker, color=COLOURS[i + 1], label=f"{name}, power {power(y):.2f}")
    ax.loglog(lengths, bend * lengths**2, label="½|λ|h²", **stroke(0))
    ax.loglog(lengths, turn * lengths, label="h·u⊥ᵀHu/|g|", **stroke(5))
    ax.set(title="what is left at a finite h", xlabel="h", ylabel="error of f; angle in radians")

    count = 1000 if run.quick else 10_000
    scaled, cosines, d = random_directions(count, seed=0)
    n = np.arange(1, count + 1)
    ax, shown = panels["random"], np.unique(np.geomspace(1, count, 40).astype(int)) - 1
    ax.loglog(n, np.sqrt(n / (n + d + 1)), label="√(n/(n + d + 1))", **stroke(0))
    ax.loglog(n[shown], np.abs(cosines[shown]), "o", color=COLOURS[1], markersize=4, label="measured")
    ax.set(title=f"digits, d = {d:,}: gradients out of slopes", xlabel="directions n", ylabel="cosine")
    for name in names[1]:
        tidy(panels[name])

    # Scaled slopes are nearly N(0, 1): their mean square has the standard error √(2/n). Those of the estimate's
    # lengths along and across the gradient are √(2/n) and 1/√(2d) of them, and move its cosine c by c(1 − c²) times.
    expected = float(np.sqrt(count / (count + d + 1)))
    error = expected * (1 - expected**2) * (np.sqrt(2 / count) + 1 / np.sqrt(2 * d))
    headlines = {
        "largest |difference − g·v| over the grid / largest slope": common.within(field_error, high=1e-8),
        "steepest of 73 directions: slope / |g|": common.within(
            seen.max() / size, np.cos(np.pi / 72), 1 + 1e-8, 1.0
        ),
        "tangent plane: power of h in its error": common.near(power(missed), 2.0, by=0.05),
        "tangent plane: error at the smallest h / ½|λ|h²": common.near(
            missed[-1] / (bend * lengths[-1] ** 2), 1.0, by=0.02
        ),
        "highest step: power of h in its angle from the gradient": common.near(power(highest), 1.0, by=0.05),
        "highest step: angle at the smallest h / predicted": common.near(
            highest[-1] / (turn * lengths[-1]), 1.0, by=0.02
        ),
        "symmetric difference: power of h in the angle": common.near(power(symmetric), 2.0, by=0.05),
        "digits: mean square slope of a random direction × d / |g|²": common.near(
            (scaled**2).mean(), 1.0, by=4 * np.sqrt(2 / count)
        ),
        f"digits: cosine after {count} directions": common.near(cosines[-1], expected, by=4 * error),
    }
    return run.save(figure, headlines, lengths=lengths, plane=missed, highest=highest, symmetric=symmetric)
