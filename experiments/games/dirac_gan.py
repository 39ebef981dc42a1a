r"""Why descent in a game spirals out where its flow circles: what the length of the steps adds.

The Dirac-GAN: the data are a point at 0, the generator is a point θ, the discriminator ψ·x; the generator descends
f(ψθ), the discriminator −f(ψθ) + ½γψ², with f(u) = −log(1 + e^(−u)) and γ the gradient penalty R1. At γ = 0 the
flow circles the equilibrium (0, 0) for ever, as θ² + ψ² is conserved; γ > 0 makes it spiral in. The iterates

- of *simultaneous* descent spiral out;
- of *alternating* descent, θ first, stay by the circle, neither out nor in;
- of simultaneous descent *with the penalty* spiral in, but later than the flow does.

What the flow misses the modified equation has: from order 2 on the term −(h/2) V′V, V the field that is descended,
which Rosca et al. call discretization drift.

The bilinear game, f(u) = u, is solved in closed form. A simultaneous step multiplies the radius by √(1 + h²). The
terms of its modified equation turn and push outwards by turns, so at order 2 the radius, which is what makes a
spiral, is right up to O(h³), though the position is up to O(h²) only. Alternating steps keep θ² + ψ² − hθψ: from
(r, 0) the radius never passes r/√(1 − h/2). In the Dirac-GAN nothing bounds it so, and over very many steps it creeps
out, by a drift that is too small to be seen in the figure.

Claim: In a game whose flow circles, simultaneous descent spirals out, alternating stays, R1 converges; the modified
flow does so too.

Figure: Top: paths in the plane of generator and discriminator from the star, of simultaneous descent, alternating
descent, and simultaneous descent with the R1 penalty: iterates (dots), the flow of the game (grey band), and the
modified flows of order 2 (dashed) and 3 (blue); the plus sign is the equilibrium. Bottom left: the distances from the
equilibrium in time, of the same three cases (circles, squares, diamonds) with the same flows. Bottom right: in the
bilinear game the error at t = 2 against the step size: of the position at orders 1 (grey), 2 (filled squares) and 3
(triangles), and of the radius at order 2 (hollow squares), with fitted slopes.

Measured: Dirac-GAN, h = .4, radius from .7 to t = 18: simultaneous 1.52 (flow .70; orders 2, 3: 1.58, 1.52),
alternating .67 (.70; .66, .68), R1 .396 (.170; .387, .402). Bilinear game: factor a step √(1+h²) to 1e-12; error of
the radius at order 2 of slope 3.07, of the position 2.08; alternating: largest radius .78262 = .7/√(1−h/2). With the
logistic loss it creeps: .75 in 10⁵ steps, .89 in 10⁶.
Nothing here is random. The intervals are about values from theory, and their widths were set after a first run.

Sources: Mescheder, Geiger & Nowozin (2018, 1801.04406); Rosca, Wu, Dherin & Barrett (2021, 2105.13922).
"""

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import CLOCK, COLOURS, stroke, tidy

RADIUS, STEP, TIME, PENALTY = 0.7, 0.4, 18.0, 0.15
GAN, BILINEAR, R1 = "gan", "wgan", "r1"
# The game, and whether the players move in turn.
CASES = {
    "simultaneous": (GAN, False),
    "alternating": (GAN, True),
    f"simultaneous, with the R1 penalty γ = {PENALTY:g}": (R1, False),
}
FLOW = "the flow of the game"
SIZES = (0.2, 0.1, 0.05, 0.025)


def game(kind):
    """The game of one kind, as a vector field."""
    return jf.problems.dirac_gan(kind, gamma=PENALTY if kind == R1 else None).objective


def point(players):
    """Both players as a point of the plane (2,)."""
    return jnp.stack(players)


def radius(run):
    """Distances from the equilibrium (T,)."""
    return np.linalg.norm(run.values, axis=-1)


def start():
    return jnp.asarray(RADIUS), jnp.asarray(0.0)


def descent(h, alternating):
    return jf.optim.alternating(jf.optim.gd(h)) if alternating else jf.optim.gd(h)


def flow(dynamics, time):
    return jf.integrate(dynamics, start(), np.linspace(0.0, time, 301), rtol=1e-10, record=point)


def follow(kind, alternating, orders):
    """The iterates of one case, its flow and its modified flows by name."""
    played, optimizer = game(kind), descent(STEP, alternating)
    iterates = jf.iterate(optimizer, played, start(), steps=round(TIME / STEP), record=point)
    flows = {FLOW: flow(jf.dynamics.gradient_flow(played), TIME)}
    for order in orders:
        dynamics = jf.dynamics.modified(optimizer, played, order=order)
        flows[f"modified flow, order {order}"] = flow(dynamics, TIME)
    return iterates, flows


def bilinear(orders, time=2.0):
    """What a step multiplies the radius by, and by how much the flows miss radius and position at `time`."""
    played, growth, errors = game(BILINEAR), [], {}
    for h in SIZES:
        optimizer, steps = descent(h, False), round(time / h)
        end = jf.iterate(optimizer, played, start(), steps=jnp.asarray(steps), every=None, record=point)
        growth.append((radius(end)[-1] / RADIUS) ** (1 / steps))
        for order in (1, *orders):
            # For descent order 1 is the flow itself.
            dynamics = jf.dynamics.modified(optimizer, played, order=order) if order > 1 else None
            there = flow(dynamics or jf.dynamics.gradient_flow(played), time)
            for what, miss in (
                ("radius", abs(radius(end)[-1] - radius(there)[-1])),
                ("position", np.linalg.norm(end.values[-1] - there.values[-1])),
            ):
                errors.setdefault(f"{what}, order {order}", []).append(float(miss))
    slopes = {name: np.polyfit(np.log(SIZES), np.log(e), 1)[0] for name, e in errors.items()}
    return growth, errors, slopes


def largest_radius(kind, steps):
    """The largest radius of very many alternating steps."""
    return float(
        radius(jf.iterate(descent(STEP, True), game(kind), start(), steps=steps, record=point)).max()
    )


def strokes(i):
    """The flow broad and grey, the modified ones over it."""
    return (
        {"color": "0.75", "linewidth": 5}
        if i == 0
        else stroke(1)
        if i == 1
        else stroke(5) | {"linestyle": "-"}
    )


def draw(plane, radii, case, marker, iterates, flows):
    """One case in the plane, and its radius in time."""
    for i, (name, path) in enumerate(flows.items()):
        plane.plot(*np.asarray(path.values).T, label=name, **strokes(i))
        radii.plot(path.times, radius(path), **strokes(i))
    dots = {"linestyle": "", "markersize": 3.5, "color": "black"}
    plane.plot(*np.asarray(iterates.values).T, marker="o", label=f"iterates, h = {STEP:g}", **dots)
    star = {"marker": "*", "markersize": 14, "color": COLOURS[4], "markeredgecolor": "black", "linestyle": ""}
    plane.plot(RADIUS, 0, label="start", zorder=5, **star)
    plane.plot(0, 0, "+", markersize=10, color="0.3", label="equilibrium")
    plane.set(title=case, xlabel="generator θ", ylabel="discriminator ψ", aspect="equal")
    plane.set(xlim=(-1.65, 1.65), ylim=(-1.65, 1.65))
    tidy(plane, legend=False)
    radii.plot(iterates.times, radius(iterates), marker=marker, label=case, **dots)


def main(arguments=None):
    run = common.start("dirac_gan", __doc__, arguments)
    orders, steps = ((2,), 100_000) if run.quick else ((2, 3), 1_000_000)
    figure = Figure(figsize=(14, 8.8), layout="constrained")
    panels = figure.subplot_mosaic("abc;rro", height_ratios=(1.2, 1))
    headlines = {}
    for i, (case, settings) in enumerate(CASES.items()):
        iterates, flows = follow(*settings, orders)
        draw(panels["abc"[i]], panels["r"], case, "osD"[i], iterates, flows)
        for name, path in flows.items():
            about = f"Dirac-GAN, {case}: radius at t = {TIME:g} of {name}, against the iterates"
            headlines[about] = (radius(path)[-1], radius(iterates)[-1])
    figure.legend(
        *panels["a"].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False
    )
    panels["r"].set(title="distance from the equilibrium", xlabel=CLOCK, ylabel="√(θ² + ψ²)")
    tidy(panels["r"])

    growth, errors, slopes = bilinear(orders)
    for name, slope in slopes.items():
        order = int(name[-1])
        expected = order if name.startswith("position") else 2 * (order // 2) + 1
        headlines[f"bilinear game: slope of the error of the {name}"] = common.near(slope, expected, by=0.2)
        if name.startswith("position"):
            style = strokes(order - 1) | {"marker": "os^"[order - 1], "markersize": 6}
        elif order == 2:
            style = strokes(1) | {"marker": "s", "markersize": 9, "markerfacecolor": "none", "linestyle": ":"}
        else:  # drawn already: radius and position of order 1 are one, radii of orders 2 and 3 too
            continue
        panels["o"].loglog(SIZES, errors[name], label=f"{name}: slope {slope:.2f}", **style)
    headlines[f"bilinear game: factor of the radius a step, h = {SIZES[0]:g}, against √(1 + h²)"] = (
        common.near(growth[0], np.sqrt(1 + SIZES[0] ** 2), relative=1e-12)
    )
    panels["o"].set(
        title="bilinear game: error at t = 2", xlabel="step size h", ylabel="distance from the iterates"
    )
    panels["o"].set_xticks(SIZES, [f"{h:g}" for h in SIZES])
    panels["o"].set_xticks([], minor=True)
    tidy(panels["o"])
    about = f"alternating, h = {STEP:g}: largest radius in {steps:,} steps"
    headlines[f"bilinear game, {about}, against r/√(1 − h/2)"] = common.near(
        largest_radius(BILINEAR, steps), RADIUS / np.sqrt(1 - STEP / 2), relative=1e-4
    )
    headlines[f"Dirac-GAN, {about}"] = (largest_radius(GAN, steps), None)
    return run.save(figure, headlines, step_sizes=SIZES, errors=errors, growth=growth)
