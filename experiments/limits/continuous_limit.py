r"""Where gradient descent has a continuous limit: up to hλ = 1, in pairs of steps up to 1 + √2, and how to notice.

λ is the sharpness, the largest curvature, h the step. The modified equation is a series, log Φ = Σ −(1 − Φ)^k/k for
the map Φ of a step; along the sharpest direction Φ is 1 − hλ and the series Σ −(hλ)^k/k.

- For hλ < 1 it converges: every order is nearer to the iterates than the one before.
- For 1 < hλ < 2 descent still converges, but turns the sign of that coordinate at every step. No real flow does, and
  every order is off by as much as the coordinate is large. Every second iterate turns nothing: the series of log(Φ²)
  (`stride=2`) is one in 1 − (1 − hλ)² and converges up to hλ = 1 + √2 = 2.414, past the edge of stability 2.
- The principal flow, complex between the iterates, goes through every one of them on a quadratic, at any hλ.

`jaxflow.dynamics.convergence` tells beforehand, from the map of a step alone: the radius it measures passes 1, and
its verdict goes from "converges" over "marginal" to "no continuous limit here", at those hλ. The errors are those
after 4 steps, relative to the distance travelled. On a quadratic of curvatures 1 and .1, and on a network on 200
digits (tanh, 16 hidden units, squared error) that has been trained for a while and is then pushed off its path by .01
along the sharpest direction, as the noise of a mini-batch would; λ is there the largest eigenvalue of the Hessian,
formed for the purpose. Just above hλ = 1 a step all but erases that coordinate, so little is at stake there. For
the same reason the verdict on pairs of steps of the network is "marginal" all the way: among many curvatures there is
always one with hλ ≈ 1, where a step cannot be undone.

Claim: Gradient descent has a continuous limit up to hλ = 1, its pairs of steps up to 1 + √2, past the edge of
stability; the gauge says so.

Figure: Top left: the radius of the map of one step (solid) and of two steps (dashed) on the quadratic against hλ, and
on digits (dots and squares). Where it passes 1 (grey line) there is no continuous limit; the vertical lines are 1 and
1 + √2. Top middle and right: the sharp coordinate in time at hλ = 1.6 and 2.2: iterates (black dots, every second one
hollow), gradient flow (grey band), the modified flow of order 4 for single steps (dash-dotted) and for pairs
(dashed), and the real part of the principal flow (solid), which goes through all iterates. Bottom: error after 4
steps, over the distance travelled, of orders 1 to 4 (circles, squares, diamonds, triangles) against hλ, on the
quadratic and on digits, for single steps and pairs (stride 2). The grey ground is where theory has no continuous
limit, the dotted line the edge of stability hλ = 2.

Measured: The gauge passes 1 at hλ = 1.000 and 2.414; on digits at 1.000 and 2.415. Quadratic, hλ = 2.15: single steps
1.80 off at every order 1 to 4; pairs .18, .039, .0099, .0028; the principal flow 2e-9 at every hλ. Digits, hλ = 1.85:
.11 at every order; pairs .019, .0022, .00050, .00019.

Sources: Rosca, Wu, Qin & Dherin (2023, 2302.01952) for the principal flow; Cohen et al. (2021, 2103.00065) for the
edge; the radii are those of the series of the logarithm.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import CLOCK, COLOURS, stroke, tidy

STEPS, EXAMPLES, SETTLED, PUSH = 4, 200, 400, 0.01
SHOWN = (1.6, 2.2)
EDGES = {1: 1.0, 2: 1 + np.sqrt(2)}
flat = lambda tree: ravel_pytree(tree)[0]


def quadratic():
    problem = jf.problems.quadratic(jnp.array([1.0, 0.1]))
    return problem.objective, problem.params, 1.0


def digits():
    """A network some way into its training, pushed along its sharpest direction, and its sharpness."""
    problem = jf.problems.mlp("digits", hidden=(16,), loss="mse")
    data = jax.tree.map(lambda x: x[:EXAMPLES], problem.objective.data)
    objective = jf.Objective(problem.objective.losses, data)
    params = jf.iterate(jf.optim.gd(0.05), objective, problem.params, steps=SETTLED, every=None).params
    vector, unravel = ravel_pytree(params)
    slope = lambda x: flat(jax.grad(objective)(unravel(x)))
    hessian = jax.jit(jax.jacfwd(slope))
    pushed = vector + PUSH * np.linalg.eigh(hessian(vector))[1][:, -1]
    return objective, unravel(pushed), float(np.linalg.eigvalsh(hessian(pushed))[-1])


def gauge(objective, params, sharpness, ratios, stride):
    """The radius and the verdict of `convergence` for step sizes `ratios` / sharpness."""

    def measure(x):
        found = jf.dynamics.convergence(jf.optim.gd(x / sharpness), objective, params, stride=stride)
        return found.radius[0], found.code[0]

    return tuple(map(np.asarray, jax.vmap(measure)(jnp.asarray(ratios))))


def edges(ratios, radius, code):
    """hλ where the radius passes 1, the last of verdict `converges`, and the first of `no continuous limit`."""
    # At hλ = 1 a step is not invertible and the radius touches 1 with stride 2: that is not the edge.
    inside = int(np.flatnonzero(radius < 0.999).max())
    share = (1 - radius[inside]) / (radius[inside + 1] - radius[inside])
    passed = ratios[inside] + share * (ratios[inside + 1] - ratios[inside])
    return passed, ratios[np.flatnonzero(code == 0).max()], ratios[np.flatnonzero(code < 2).max() + 1]


def flow(params, dynamics, time):
    """A flow at equally spaced times, always the same number, so that it is one compiled program."""
    times = np.linspace(0.0, time, 121)
    return jf.integrate(dynamics, params, times, rtol=1e-9, max_steps=20_000, record=flat)


def descend(objective, params, h, steps):
    return jf.iterate(jf.optim.gd(h), objective, params, steps=steps, record=flat)


def errors(objective, params, sharpness, ratios, make):
    """Of the flow of `make(optimizer, h)`: the distance from the last iterate / the distance travelled."""
    found = []
    for h in ratios / sharpness:
        path = descend(objective, params, h, STEPS).values
        end = flow(params, make(jf.optim.gd(h), h), STEPS * h).values[-1]
        found.append(float(jnp.linalg.norm(end - path[-1]) / jnp.linalg.norm(path[-1] - path[0])))
    return np.array(found)


def draw_paths(ax, hλ):
    """The sharp coordinate of the quadratic: iterates and flows."""
    objective, params, _ = quadratic()
    run, modified = (
        descend(objective, params, hλ, 8),
        partial(jf.dynamics.modified, jf.optim.gd(hλ), objective),
    )
    flows = {
        "gradient flow": (jf.dynamics.gradient_flow(objective), {"color": "0.7", "linewidth": 4}),
        "order 4": (modified(order=4), stroke(2)),
        "order 4, stride 2": (modified(order=4, stride=2), stroke(1)),
        "principal flow": (jf.dynamics.principal_flow(objective, hλ), stroke(3) | {"linestyle": "-"}),
    }
    for name, (dynamics, style) in flows.items():
        path = flow(params, dynamics, 8 * hλ)
        ax.plot(path.times, path.values[:, 0], label=name, **style)
    ring = {"linestyle": "", "marker": "o", "color": "black", "zorder": 5}
    ax.plot(run.times, run.values[:, 0], label="iterates", **ring)
    ax.plot(
        run.times[::2], run.values[::2, 0], label="every second one", **ring | {"markerfacecolor": "white"}
    )
    ax.set(title=f"quadratic, hλ = {hλ:g}: the sharp coordinate", xlabel=CLOCK, ylabel="θ₁")
    tidy(ax, legend=False)


def draw_errors(ax, ratios, found, stride, name):
    for i, (order, values) in enumerate(found.items()):
        style = stroke((0, 1, 2, 5)[order - 1])
        ax.semilogy(ratios, values, marker="osD^"[i], markersize=4, label=f"order {order}", **style)
    ax.axvspan(EDGES[stride], 2.55, color="0.9", zorder=0, label="no continuous limit")
    ax.axvline(2, color="0.5", linewidth=1, linestyle=":", label="edge of stability")
    ax.set(title=f"{name}, stride {stride}", xlabel="hλ", xlim=(0.15, 2.55), ylim=(5e-5, 4))
    tidy(ax, legend=False)


def expect(errors, hλ, stride):
    """The claim on errors of the quadratic: past hλ = 1 single steps lose the sharp coordinate, pairs do not."""
    if hλ < 1:
        return errors, None
    sharp, weak = (1 - hλ) ** STEPS, (1 - 0.1 * hλ) ** STEPS
    lost = sharp / np.hypot(1 - sharp, 1 - weak)
    if stride == 1:
        return common.near(errors, lost, relative=0.01)
    return common.within(errors, high=lost / 5)


def main(arguments=None):
    run = common.start("continuous_limit", __doc__, arguments)
    orders = (4,) if run.quick else (1, 2, 3, 4)
    problems = {"quadratic": quadratic()} if run.quick else {"quadratic": quadratic(), "digits": digits()}
    ratios = np.array([0.2, 0.35, 0.5, 0.8, 1.1, 1.4, 1.6, 1.85, 2.0, 2.15, 2.3, 2.5])
    figure = Figure(figsize=(15, 8.6), layout="constrained")
    panels = figure.subplot_mosaic("ggggaaaabbbb;" + ("qqqqqqrrrrrr" if run.quick else "qqqrrrdddeee"))
    headlines, everything = {}, {}
    for letters, (name, problem) in zip(("qr", "de"), problems.items(), strict=False):
        fine = np.linspace(0.2, 2.5, 231 if name == "quadratic" else 47)
        for stride, letter in zip((1, 2), letters, strict=True):
            about, colour = f"{name}, stride {stride}", COLOURS[stride - 1]
            radius, code = gauge(*problem, fine, stride)
            passed, converges, none = edges(fine, radius, code)
            headlines[f"{about}: the gauge passes 1 at hλ"] = common.near(passed, EDGES[stride], by=0.01)
            headlines[f"{about}: it says converges up to, no limit from hλ"] = (
                common.near([converges, none], EDGES[stride], by=0.15)
                if name == "quadratic"
                else ([converges, none], None)
            )
            dots = {"linestyle": "", "marker": "os"[stride - 1], "markersize": 3.5, "color": colour}
            panels["g"].plot(fine, radius, label=about, **stroke(stride - 1) if name == "quadratic" else dots)
            found = {}
            for order in common.progress(orders, about):
                make = partial(jf.dynamics.modified, objective=problem[0], order=order, stride=stride)
                found[order] = errors(*problem, ratios, lambda optimizer, h, make=make: make(optimizer))
            for x in (0.5, 1.85, 2.15):
                at = [found[order][np.argmax(ratios == x)] for order in orders]
                headlines[f"{about}: error at hλ = {x:g}, order {', '.join(map(str, orders))}"] = (
                    expect(at, x, stride) if name == "quadratic" else (at, None)
                )
            everything[about] = {str(order): e for order, e in found.items()}
            draw_errors(panels[letter], ratios, found, stride, name)
    loss = problems["quadratic"][0]
    principal = errors(*problems["quadratic"], ratios, lambda _, h: jf.dynamics.principal_flow(loss, h)).max()
    headlines["quadratic, principal flow: largest error at any hλ"] = common.within(
        principal, high=1e-7, expected=0.0
    )
    for stride, edge in EDGES.items():
        panels["g"].axvline(edge, color=COLOURS[stride - 1], linewidth=0.8, linestyle=":")
    panels["g"].axhline(1, color="0.5", linewidth=1)
    panels["g"].set(title="the gauge: no continuous limit above 1", xlabel="hλ", ylabel="radius of DΦᵐ − 1")
    tidy(panels["g"])
    for letter, hλ in zip("ab", SHOWN, strict=True):
        draw_paths(panels[letter], hλ)
    panels["a"].legend(fontsize="small", frameon=False)
    panels["b"].set_ylim(-5, 5)
    panels["q"].set_ylabel(f"error after {STEPS} steps / distance travelled")
    panels["q"].text(1.25, 7e-5, f"principal flow: at most {principal:.0e}", fontsize="small")
    panels["r"].legend(fontsize="small", frameon=False, loc="lower left")
    return run.save(figure, headlines, ratios=ratios, errors=everything)
