r"""Momentum is a heavy ball with friction, and Nesterov's method one whose friction fades: iterates and their ODEs.

*Heavy ball*, v ← βv + g, θ ← θ − ηv, on the clock t = kη: mθ¨ + (1−β)θ˙ + ∇L = 0. Textbooks have the mass m = η.
But θ_{k+1} − θ_k − β(θ_k − θ_{k−1}) = −ηg is, in central differences, ½(1+β)δ²θ + (1−β)δθ = −ηg: the mass is
**½(1+β)η**. And v₀ = 0 has the ball at rest between the steps −1 and 0: the ODE starts from rest at −η/2. With both
the distance is of second order as η = h², β = exp(−h) (a fixed landscape in ever smaller steps of time √η), of first
order with either left out. At a fixed β, where the velocity forgets in 1/(1−β) steps, the same: slope 2, or 1.

*Nesterov's method at a fixed β* feels the slope ahead of it, which brakes: it settles as a ball of the same friction
and the mass ½(1 − β + 2β²)η. Both can be read off the iterates: a coordinate of curvature λ decays at the rate
λ/f + mλ²/f³ + …, so decays at four small λ give friction f and mass m.

*Nesterov's method with β = (k−1)/(k+2)* has friction 3/t, on the clock t = k√η: θ¨ + (3/t)θ˙ + ∇L = 0, to first
order in √η. Its loss stays below 2|θ₀ − θ*|²/t² where L is convex, as here: cosh(x₁) − 1 + 5 (x₂ − x₁/2)².

Claim: Momentum is a heavy ball of mass ½(1+β)η, at rest half a step before the start; Nesterov's friction is 3/t.

Figure: Top left: heavy-ball iterates (dots), their ODE with the mass ½(1+β)η (orange) and gradient flow (grey), on
the contours of the loss. Top middle: distance in time of three ODEs from these iterates: with the mass η (solid), at
rest at time 0 (dash-dotted), and with mass and start right (dashed). Top right: loss of Nesterov's method (dots), of
its ODE with friction 3/t (blue) and the bound 2|θ₀ − θ*|²/t² (grey). Bottom left: the distance at k√η = 3 against √η,
for the three ODEs of the heavy ball and for Nesterov's, with slopes in the legend. Bottom middle: at β = .8 the
distance at kη = 1 against η, with the mass η and with the right one, for both methods. Bottom right: the mass over η
against β, read off the iterates of the heavy ball (dots) and of Nesterov's method (squares), by the two formulas
(lines), and in textbooks (grey).

Measured: Read off the iterates at β = .9: mass .9500 η and .8600 η (Nesterov), by the formulas .95 and .86; at nine β
within 7e-7. Slopes of the distance: 2.03 with mass and start right, 1.02 with m = η, 1.03 from rest at 0; Nesterov
with 3/t .96 in √η. At β = .8, kη = 1: 1.96 and 1.88 (Nesterov), with m = η .99 and 1.00.

Sources: Polyak (1964); Su, Boyd & Candès (2016, 1503.01243); Kovachki & Stuart (2021, 1906.04285).
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import CLOCK, COLOURS, stroke, tidy

START = np.array([2.0, -1.0])
RATE, BETA, STEPS, FINE, FIXED = 0.008, 0.9, 160, 8, 0.8
DOTS = {"linestyle": "", "marker": "o", "color": "black", "markersize": 3.5}
POINTS, DRAWN = FINE * (STEPS + 1), 400
valley = lambda x: jnp.cosh(x[0]) - 1 + 5 * (x[1] - x[0] / 2) ** 2
mass = lambda rate, beta, nesterov=False: rate * (1 - beta + 2 * beta**2 if nesterov else 1 + beta) / 2


def fading(k):
    """Nesterov's β at the step from the k-th iterate."""
    return jnp.maximum(k - 1, 0) / (k + 2)


def ball(friction, mass, times):
    """The heavy ball's ODE from rest at `times[0]`, always at the same number of times: one compiled program."""
    dynamics = jf.dynamics.heavy_ball(valley, friction, mass)
    return np.asarray(jf.integrate(dynamics, START, times, rtol=1e-11, max_steps=30_000).values)


def fades(time):
    """Nesterov's ODE, at the times of `DRAWN` steps."""
    times = np.linspace(0.0, time, DRAWN + 1)
    return np.asarray(jf.integrate(jf.dynamics.nesterov(valley), START, times, rtol=1e-11).values)


def gap(optimizer, steps, flow):
    """How far the last of a number of iterates is from the end of a flow."""
    run = jf.iterate(optimizer, valley, START, steps=jnp.asarray(steps), every=None)
    return float(jnp.linalg.norm(run.values[-1] - flow[-1]))


def gaps(sizes, time):
    """Distances at time k√η = `time` for √η in `sizes`, as β → 1 with η → 0."""
    found = {}
    for h in sizes:
        steps, rate, beta = round(time / h), h**2, np.exp(-h)
        begin = lambda back, end=steps * rate, rate=rate: np.linspace(-back * rate, end, POINTS)
        flows = {
            "heavy ball, m = η": ball(1 - beta, rate, begin(0.5)),
            "heavy ball, m = ½(1+β)η": ball(1 - beta, mass(rate, beta), begin(0.5)),
            "the same, at rest at 0": ball(1 - beta, mass(rate, beta), begin(0.0)),
        }
        for name, flow in flows.items():
            found.setdefault(name, []).append(gap(jf.optim.momentum(rate, beta), steps, flow))
        fast = jf.optim.nesterov(rate, fading, lookahead=True)
        found.setdefault("Nesterov, friction 3/t", []).append(gap(fast, steps, fades(steps * h)))
    return found


def settled_gaps(rates, time):
    """Distances at time kη = `time` at β = `FIXED`, where η → 0 alone."""
    found = {}
    for rate in rates:
        steps = round(time / rate)
        times = np.linspace(-rate / 2, steps * rate, POINTS)
        for name, optimizer in (("heavy ball", jf.optim.momentum), ("Nesterov", jf.optim.nesterov)):
            settled = mass(rate, FIXED, name == "Nesterov")
            for m in (rate, settled):
                error = gap(optimizer(rate, FIXED), steps, ball(1 - FIXED, m, times))
                found.setdefault(f"{name}, m = {m / rate:g}η", []).append(error)
    return found


def measure(betas, nesterov):
    """Mass / η and friction / (1−β), read off the decay of four coordinates of a quadratic."""
    x = np.array([1.0, 2.0, 3.0, 4.0]) * 1e-3  # ηλ/(1−β)², on which alone the settled decay depends
    make = jf.optim.nesterov if nesterov else jf.optim.momentum

    def decay(beta):
        problem = jf.problems.quadratic(x * (1 - beta) ** 2)
        return jf.iterate(make(1.0, beta), problem.objective, problem.params, steps=1200, every=100).values

    values = np.asarray(jax.vmap(decay)(jnp.asarray(betas)))
    rates = np.log(values[:, -2] / values[:, -1]) / 100
    # rate · f / λ = 1 + (m/η) x + …, so that a cubic in x through four points has both.
    found = [np.polyfit(x, r / (x * (1 - b)), 3) for r, b in zip(rates, betas, strict=True)]
    friction = np.array([1 / fit[-1] for fit in found])
    return np.array([fit[-2] for fit in found]) * friction**3, friction


def draw_heavy_ball(plane, apart):
    """Iterates and ODE in the plane, and the distance of three ODEs from them."""
    run, right = jf.iterate(jf.optim.momentum(RATE, BETA), valley, START, steps=STEPS), mass(RATE, BETA)
    fine = RATE * np.arange(POINTS) / FINE
    ode = ball(1 - BETA, right, fine - RATE / 2)
    at = slice(FINE // 2, None, FINE)  # the iterates' times, where a run begins half a step before them
    odes = {
        "m = η, at rest at −η/2": ball(1 - BETA, RATE, fine - RATE / 2)[at],
        "m = ½(1+β)η, at rest at 0": ball(1 - BETA, right, fine)[::FINE],
        "m = ½(1+β)η, at rest at −η/2": ode[at],
    }
    flow = jf.integrate(jf.dynamics.gradient_flow(valley), START, np.linspace(0.0, 6.0, 200))
    jf.plot.plane(valley, {"gradient flow": flow}, plane, extent=(-1.6, 2.2, -1.6, 2.0))
    plane.lines[0].set(color="0.45", linewidth=4)
    plane.plot(*ode.T, label="its ODE, m = ½(1+β)η", **stroke(1) | {"linestyle": "-"})
    plane.plot(*run.values.T, label=f"heavy ball, η = {RATE:g}, β = {BETA:g}", **DOTS)
    plane.set_title("heavy ball: iterates on their ODE")
    plane.legend(frameon=False, fontsize="small")
    found = {}
    for i, (name, values) in enumerate(odes.items()):
        distance = np.linalg.norm(values - run.values, axis=1)
        distance[distance == 0] = np.nan
        apart.semilogy(run.times, distance, label=name, **stroke((0, 2, 1)[i]))
        found[name] = np.nanmax(distance)
    apart.set(title="distance of three ODEs from the iterates", xlabel=CLOCK, ylabel="distance")
    tidy(apart)
    return found


def draw_nesterov(ax, rate):
    """The loss of Nesterov's method, of its ODE, and the bound."""
    fast = jf.optim.nesterov(rate, fading, lookahead=True)
    run = jf.iterate(fast, valley, START, steps=DRAWN, record=valley)
    times = np.sqrt(rate) * np.arange(DRAWN + 1)
    bound = 2 * np.sum(np.square(START)) / times[1:] ** 2
    ax.semilogy(times[1:], bound, label="the bound 2|θ₀ − θ*|²/t²", color="0.6", linewidth=4)
    ax.semilogy(
        times, jax.vmap(valley)(fades(times[-1])), label="its ODE, θ¨ + (3/t)θ˙ + ∇L = 0", color=COLOURS[5]
    )
    ax.semilogy(times, run.values, label=f"Nesterov, η = {rate:g}", **DOTS)
    ax.set(title="Nesterov, β = (k−1)/(k+2)", xlabel="time t = k√η", ylabel="loss", ylim=(1e-6, 1e3))
    tidy(ax)
    return float(2 * np.max(np.asarray(run.values)[1:] / bound))


def main(arguments=None):
    run = common.start("momentum_is_an_ode", __doc__, arguments)
    figure = Figure(figsize=(15, 8.8), layout="constrained")
    axes = figure.subplots(2, 3)
    headlines = {}
    for name, value in draw_heavy_ball(axes[0, 0], axes[0, 1]).items():
        headlines[f"heavy ball, η = {RATE:g}, β = {BETA:g}: largest distance, {name}"] = (value, None)
    bound = draw_nesterov(axes[0, 2], 0.0005)
    headlines["Nesterov: largest loss × t² / |θ₀ − θ*|², at most 2"] = common.within(bound, high=2)
    sizes = 0.02 / 2.0 ** np.arange(3 if run.quick else 5)
    rates = 0.001 / 2.0 ** np.arange(3 if run.quick else 5)
    panels = {
        axes[1, 0]: (sizes, gaps(sizes, 3.0), (1, 2, 1, 1)),
        axes[1, 1]: (rates, settled_gaps(rates, 1.0), (1, 2, 1, 2)),
    }
    for ax, (steps, found, expected) in panels.items():
        for i, (name, errors) in enumerate(found.items()):
            fitted = np.polyfit(np.log(steps), np.log(errors), 1)[0]
            about = f"β = {FIXED:g}: " if ax is axes[1, 1] else "β = exp(−√η): " * ("3/t" not in name)
            headlines[f"{about}slope of the distance, {name}"] = common.near(
                fitted, expected[i], by=0.1 if expected[i] == 1 else 0.25
            )
            ax.loglog(steps, errors, marker="osD^"[i], label=f"{name}: slope {fitted:.2f}", **stroke(i))
        ax.set_xticks(steps, [f"{step:.2g}" for step in steps])
        ax.set_xticks([], minor=True)
    axes[1, 0].set(title="β → 1 as η → 0: distance at k√η = 3", xlabel="√η", ylabel="distance")
    axes[1, 1].set(title=f"β = {FIXED:g}: distance at kη = 1", xlabel="η", ylabel="distance")
    betas = np.array([0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    fine = np.linspace(0, 1, 101)
    axes[1, 2].axhline(1, color="0.6", linewidth=3, label="textbook, m = η")
    masses = {}
    for i, (name, nesterov) in enumerate((("heavy ball", False), ("Nesterov", True)), 1):
        found, friction = measure(betas, nesterov)
        formula = "½(1 − β + 2β²)" if nesterov else "½(1 + β)"
        axes[1, 2].plot(fine, mass(1, fine, nesterov), label=f"{name}: {formula}", **stroke(i))
        axes[1, 2].plot(betas, found, "os"[i - 1], color=COLOURS[i], label=f"{name}, read off its iterates")
        masses[name] = found
        headlines[f"{name}, β = {BETA:g}: mass / η"] = common.near(
            found[betas == BETA][0], mass(1, BETA, nesterov), by=1e-5
        )
        off = np.abs(found - mass(1, betas, nesterov)).max(), np.abs(friction - 1).max()
        headlines[f"{name}, all β: largest error of mass / η, of friction / (1−β)"] = common.within(
            list(off), high=1e-5, expected=[0, 0]
        )
    axes[1, 2].set(title="effective mass, measured", xlabel="β", ylabel="mass / η", ylim=(0.4, 1.25))
    for ax in axes[1]:
        tidy(ax)
    distances = [{"steps": steps, "errors": found} for steps, found, _ in panels.values()]
    return run.save(figure, headlines, distances=distances, betas=betas, masses=masses)
