"""What the learning rate decides: where gradient descent ends, and whether it ends at all.

From 2.5, in three landscapes of one variable, against gradient flow:

- x sin x. Rate .1 converges to 4.913; .01 does so in about ten times the steps and the same time t. Rate 1 leaps
  into the shallow well at 0, whose curvature is exactly 2 = 2/rate: the pair ±.043 it shows after 400 steps is no
  cycle but shrinks as √(3/4k), for ever.
- x + sin x, as some texts print that function, has no minimum: every rate creeps to the inflection at −π, as 2/t.
- 25 sin x − x², climbed. A peak holds gradient ascent only where its curvature is below 2/rate: .01 finds the
  maximum at 1.454, .1 is caught in a two-cycle around it (here truly one: the multiplier is below 1). From
  everywhere else too, .01 and the flow find a local maximum; .1 finds only one of the four, the lowest.

Claim: The learning rate decides where descent ends and whether it ends at all: small rates share the path of gradient
flow, 2/curvature creeps without a cycle, larger rates cycle around what small ones find.

Figure: Top left: descent of x sin x from 2.5 by step, at the rates 1 (dashed), .1 (dash-dotted) and .01 (dotted). Top
middle: the same against the time t = kη, over gradient flow (grey band), with which the two small rates coincide. Top
right: |x| at rate 1 (dashed) comes down to the law √(3/4k) (line). Bottom left: descent of x + sin x at the three
rates and gradient flow (grey band), as the distance x + π from the inflection. Bottom middle: the function 25 sin x −
x² (grey) and the ascent on it from 2.5; the points of rate .1 (circles) alternate between two places, those of rate
.01 (triangles) climb to the top. Bottom right: the last 16 iterates of ascent by where it started. Flow (grey
squares) and rate .01 (green dots) end on a maximum; rate .1 (black dots) on two-cycles around three of the maxima and
at rest on the lowest only.

Measured: Minimum 4.91318, within .001 after 16 and 187 steps; .0433 = √(3/1600) after 400 steps, power −.49997.
Distance from −π × t/2 at t = 1000: .997, 1.002, 1.003. Two-cycle −.0018, 2.4985 (multiplier .56) around 1.4542. From
481 starts rate .01 and the flow end on a maximum always, rate .1 for 10 %, and only on the lowest.

Sources: the examples of introductory texts on gradient descent; the stability limit 2/curvature is classical (Polyak
1964).
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

START = 2.5


def first(x):
    """The variable itself, out of parameters of shape (1,)."""
    return x[0]


def descend(problem, rate, steps, start=START):
    """Gradient descent, recording the variable; stacked starts are an ensemble."""
    return jf.iterate(jf.optim.gd(rate), problem.objective, jnp.atleast_1d(start), steps=steps, record=first)


def flow(problem, times, start=START):
    """Gradient flow at the same times."""
    dynamics = jf.dynamics.gradient_flow(problem.objective)
    return jf.integrate(dynamics, jnp.atleast_1d(start), times, record=first)


def multiplier(problem, rate, points):
    """By what factor a small deviation from a cycle through `points` grows in one turn of it."""
    curvature = jax.vmap(jax.hessian(lambda x: problem.objective(x)))(points)
    return jnp.prod(1 - rate * curvature)


def broaden(ax):
    """Draw the flow as a broad grey line, so that what lies on it can be seen."""
    ax.lines[0].set(linewidth=5, color="0.75")
    tidy(ax)


def sine(axes, problem, steps):
    """x sin x, in steps, on the clock, and the rate whose well has curvature 2/rate."""
    runs = {f"rate {rate:g}": descend(problem, rate, steps) for rate in (1.0, 0.1, 0.01)}
    leaping, good, slow = (np.asarray(run.values) for run in runs.values())
    well = float(problem.minima[1, 0])
    for i, (name, run) in enumerate(runs.items()):
        axes[0].plot(np.asarray(run.values)[:201], label=name, **stroke(i + 1) | {"linewidth": 1.1})
    axes[0].set(title="x sin x from 2.5, in steps", xlabel="step k", ylabel="x", ylim=(-1.5, 8.5))
    tidy(axes[0])
    smooth = flow(problem, np.linspace(0.0, 6.0, 201))
    jf.plot.trajectories({"gradient flow": smooth, **runs}, axes[1], log=False, label="x")
    broaden(axes[1])
    axes[1].set(title="the same on one clock", xlim=(0, 6), ylim=(-1.5, 8.5))
    k = np.arange(1, steps + 1)
    axes[2].loglog(k, np.abs(leaping[1:]), label="|x|, rate 1", **stroke(1))
    axes[2].loglog(k, np.sqrt(0.75 / k), label="√(3/4k)", **stroke(0) | {"linewidth": 1.0})
    axes[2].set(title="x sin x at rate 1 = 2/curvature: no cycle", xlabel="step k", ylabel="|x|")
    tidy(axes[2])
    within = [int(np.argmax(np.abs(x - well) < 1e-3)) for x in (good, slow)]
    half = slice(steps // 2, None)
    slope = np.polyfit(np.log(k[half]), np.log(np.abs(leaping[1:])[half]), 1)[0]
    return {
        "x sin x, rate 1: |x| after 400 steps": common.near(
            abs(leaping[400]), np.sqrt(0.75 / 400), relative=2e-3
        ),
        "x sin x, rate 1: power of k by which |x| shrinks": common.near(slope, -0.5, by=2e-3),
        "x sin x, rate 0.1: where it ends": common.near(good[-1], well, by=1e-6),
        "x sin x, rate 0.1: steps until within .001": (within[0], None),
        "x sin x, rate 0.01: where it ends": common.near(slow[-1], well, by=1e-6),
        "x sin x, rate 0.01: steps until within .001": (within[1], None),
    }


def staircase(ax, problem, time):
    """x + sin x: the distance from the inflection, times t/2."""
    numbers = {}
    times = np.geomspace(0.01, time, 80)
    exact = jax.jit(jax.vmap(lambda t: problem.flow(t, jnp.asarray(START))))(times)
    ax.loglog(times, np.asarray(exact) + np.pi, label="gradient flow", **stroke(0))
    for i, rate in enumerate((1.0, 0.1, 0.01), 1):
        run = descend(problem, rate, round(time / rate))
        ax.loglog(run.times[1:], np.asarray(run.values)[1:] + np.pi, label=f"rate {rate:g}", **stroke(i))
        numbers[f"x + sin x, rate {rate:g}: distance from −π at t = {time:g}, × t/2"] = common.near(
            float((run.values[-1] + np.pi) * time / 2), 1.0, by=0.05
        )
    broaden(ax)
    ax.set(title="x + sin x: no minimum, a creep to −π as 2/t", xlabel=jf.plot.style.CLOCK, ylabel="x + π")
    return numbers


def climb(ax, problem, steps):
    """25 sin x − x² by ascent, from 2.5."""
    top = float(problem.minima[0, 0])
    caught, found = (descend(problem, rate, steps) for rate in (0.1, 0.01))
    x = np.linspace(-2.5, 4.5, 300)
    ax.plot(x, 25 * np.sin(x) - x**2, color="0.7", linewidth=3, label="25 sin x − x²")
    for i, (name, run) in enumerate({"rate 0.1": caught, "rate 0.01": found}.items(), 2):
        path = np.asarray(run.values)[:40]
        ax.plot(path, 25 * np.sin(path) - path**2, marker="ov"[i - 2], markersize=5, label=name, **stroke(i))
    ax.set(title="25 sin x − x² climbed from 2.5", xlabel="x", ylabel="height")
    tidy(ax)
    cycle = np.sort(np.asarray(caught.values)[-2:])
    return {
        "25 sin x − x², rate 0.1: the two-cycle": (cycle.tolist(), [-0.002, 2.499]),
        "25 sin x − x², rate 0.1: its multiplier, stable below 1": common.within(
            abs(float(multiplier(problem, 0.1, jnp.asarray(cycle)))), high=1
        ),
        "25 sin x − x², rate 0.01: where it ends": common.near(float(found.values[-1]), top, by=1e-6),
        "25 sin x − x²: curvature of the peak × 0.1, stable below 2": common.within(
            0.1 * float(problem.curvature[0]), low=2
        ),
    }


def basins(ax, problem, steps, number):
    """25 sin x − x² from many starts: the last iterates against the start."""
    starts, tail = jnp.linspace(-12.0, 12.0, number), 16
    peaks = np.sort(np.asarray(problem.minima)[:, 0])
    ends, numbers = {}, {}
    for rate in (0.1, 0.01):
        runs = jf.ensemble(lambda start, rate=rate: descend(problem, rate, steps, start), starts)
        ends[f"rate {rate:g}"] = np.asarray(runs.values)[:, -tail:]
    times = jnp.asarray([0.0, 0.01 * steps])
    flows = jf.ensemble(lambda start: flow(problem, times, start), starts)
    ends["gradient flow"] = np.asarray(flows.values)[:, -1:]
    styles = {
        "gradient flow": {"marker": "s", "markersize": 9, "color": "0.7"},
        "rate 0.01": {"marker": "o", "markersize": 4, "color": COLOURS[3]},
        "rate 0.1": {"marker": ".", "markersize": 2, "color": COLOURS[0]},
    }
    for name, style in styles.items():
        last = ends[name]
        x = np.repeat(np.asarray(starts)[:, None], last.shape[1], 1)
        ax.plot(x.ravel(), last.ravel(), linestyle="", label=name, **style)
        settled = np.abs(last[:, :, None] - peaks).max(1) < 1e-3
        about = f"25 sin x − x², {name}"
        share = settled.any(1).mean()
        # The flow, and steps that are stable at every maximum, end on one from everywhere.
        everywhere = name != "rate 0.1"
        numbers[f"{about}: share of starts that end on a maximum"] = (
            common.near(share, 1) if everywhere else (share, None)
        )
        numbers[f"{about}: maxima reached"] = (peaks[settled.any(0)].round(3).tolist(), None)
    ax.set(title="where ascent ends (all points of a cycle)", xlabel="start", ylabel="last 16 iterates")
    tidy(ax, legend=False)
    ax.legend(fontsize="small", loc="upper left", framealpha=1.0)
    return numbers


def main(arguments=None):
    run = common.start("learning_rates", __doc__, arguments)
    figure = Figure(figsize=(13, 7.4), layout="constrained")
    axes = figure.subplots(2, 3)
    well, stairs, hill = jf.problems.x_sin_x(), jf.problems.x_plus_sin_x(), jf.problems.sines_minus_parabola()
    headlines = sine(axes[0], well, 2000 if run.quick else 100_000)
    headlines |= staircase(axes[1, 0], stairs, 100.0 if run.quick else 1000.0)
    headlines |= climb(axes[1, 1], hill, 1000)
    headlines |= basins(axes[1, 2], hill, 1000 if run.quick else 3000, 97 if run.quick else 481)
    return run.save(figure, headlines)
