r"""Why warm-up works: a rate that rises slowly presses the sharpness down before it.

A network that starts with weights too large is too sharp for the rates that it could be trained with later: with
ηλ > 2, λ being the sharpness, gradient descent is unstable, and beyond some ηλ₀ at the start it diverges (a
little beyond 4 in wide networks; see the catapult). Under warm-up the rate passes 2/λ slowly. As soon as it does,
the oscillation along the top eigenvector grows and lowers λ until the steps are just stable again. So as long as
the rate rises λ should follow 2/η down: of slope −1 in η, and a network that is warmed up for longer should bear
a larger peak, of whichever λ₀.

A tanh network 64-32-32-10 (squared error, 200 digits) whose random weights are doubled, gradient descent on all
data, 400 steps, the rate rising from 0 to its peak over the first W steps and then constant. For each W and three
starts the largest stable peak is found by bisection of the logarithm, a run being stable whose loss in the end is
below that at the start.

The sharpness is followed for warm-ups to .4 and .8 of the largest stable peak of W = 300, over 300 and 1,200
steps. It lies above 2/η, the more the faster the rate rises: only a large oscillation lowers it as fast, and on a
large one the slope of the loss along the eigenvector grows less than in proportion (tanh saturates), so that
steps are stable at a larger curvature of its middle. Several eigenvalues are at the edge at once.

Claim: With warm-up a network that starts too sharp bears a peak rate several times the largest without, the more
the longer it is, as its sharpness follows 2/η down.

Figure: Left, the largest stable peak rate times λ₀ by the length of the warm-up, three starts and their geometric
mean, and 2. In the middle, the sharpness against the rate during three warm-ups, and 2/η. Right, ηλ along the
same runs, and along a run without warm-up at .8 of the largest rate that is stable then.

Measured: the largest stable rate is 7.7/λ₀ to 9.1/λ₀ without warm-up, with λ₀ from 19.0 to 25.4, and 3.6 to 4.7
times this with W = 300. During the second half of a warm-up the mean of ηλ is 2.40 (300 steps, .8 of the peak),
2.16 (300, .4) and 2.10 (1,200, .4); in the last the slope of λ in η is −.968. The intervals were set on key 0 and
reached at the first run with these keys.

Sources: Gilmer et al. (2022, 2110.04369); Kalra & Barkeshli (2024, 2406.09405).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

FRESH = 1000  # the first random key; intervals were set on others
WARM_UPS = {True: (0, 100), False: (0, 10, 30, 100, 300)}  # W, in steps
STARTS = {True: 1, False: 3}
HALVINGS = {True: 5, False: 8}
STEPS = {True: 150, False: 400}
HIDDEN = {True: (16,), False: (32, 32)}
EXAMPLES, SCALE, MEASURED = 200, 2.0, 100  # measurements of the sharpness in a run
LOWEST, HIGHEST = 1.0, 128.0  # of the peaks, times 1/λ₀
# W and share of the largest stable peak of the longest of `WARM_UPS`, of runs whose sharpness is followed.
FOLLOWED = {True: ((400, 0.4),), False: ((1200, 0.4), (300, 0.4), (300, 0.8))}


def network(hidden, key):
    """An objective on some digits, and weights that are too large."""
    problem = jf.problems.mlp("digits", hidden, loss="mse", key=key)
    data = jax.tree.map(lambda x: x[:EXAMPLES], problem.objective.data)
    params = jax.tree.map(lambda w: SCALE * w, problem.params)
    return jf.Objective(problem.objective.losses, data), params


def schedule(peak, length):
    """From 0 to the peak over `length` steps; at length 0 constant. The first step has a rate too."""
    return jf.optim.warmup(peak, jnp.maximum(length, 1e-6), peak / jnp.maximum(length, 1.0))


@partial(jax.jit, static_argnames="steps")
@partial(jax.vmap, in_axes=(None, 0, 0, 0, None))
def is_stable(objective, params, peak, length, steps):
    """Whether the loss in the end is below that at the start, for stacked starts, peaks and lengths."""
    run = jf.iterate(
        jf.optim.gd(schedule(peak, length)), objective, params, steps=steps, every=None, record=objective
    )
    return run.values[-1] < run.values[0]


def largest_peaks(objective, params, levels, lengths, steps, halvings):
    """The largest stable peaks times λ₀, by start and length (S, W)."""
    count, size = len(levels), len(lengths)
    lanes = jax.tree.map(lambda w: jnp.repeat(w, size, axis=0), params)
    level, length = np.repeat(levels, size), jnp.tile(jnp.asarray(lengths, float), count)
    low, high = np.full(count * size, np.log(LOWEST)), np.full(count * size, np.log(HIGHEST))
    for _ in common.progress(range(halvings), "bisection"):
        middle = (low + high) / 2
        stable = np.asarray(is_stable(objective, lanes, jnp.asarray(np.exp(middle) / level), length, steps))
        low, high = np.where(stable, middle, low), np.where(stable, high, middle)
    return np.exp((low + high) / 2).reshape(count, size)


def follow(objective, params, peak, length, steps):
    """Steps, rates and sharpness along a run."""
    rate = schedule(peak, length)
    stride = max(1, steps // MEASURED)
    record = jf.curvature.record_sharpness(objective, stride=stride)
    run = jf.iterate(jf.optim.gd(rate), objective, params, steps=steps, record=record)
    at = np.arange(0, steps + 1, stride)
    # A measurement at step k is compared with the rate of the step that follows.
    rates = np.asarray(jax.vmap(rate)(jnp.asarray(at, float)))
    return at, rates, np.asarray(run.values.sharpness)[::stride]


def slope(path, length):
    """That of log λ in log η over the second half of the warm-up, and the mean of ηλ there."""
    at, rates, levels = path
    kept = (at >= length / 2) & (at < length)
    fitted = np.polyfit(np.log(rates[kept]), np.log(levels[kept]), 1)[0]
    return float(fitted), float((rates * levels)[kept].mean())


def draw(figure, lengths, peaks, paths):
    largest, sharp, edge = figure.subplots(1, 3)
    place = np.arange(len(lengths))
    for i, each in enumerate(peaks):
        largest.plot(
            place, each, "osD"[i], color=COLOURS[2], markersize=5, label="a start" if i == 0 else None
        )
    largest.plot(place, np.exp(np.log(peaks).mean(0)), label="geometric mean", **stroke(0))
    largest.axhline(2, color="0.5", linewidth=0.9)
    largest.text(place[-1], 2, "2", va="bottom", ha="right")
    largest.set_xticks(place, [str(each) for each in lengths])
    largest.set(yscale="log", xlabel="length of the warm-up W, steps", ylabel="largest stable peak rate × λ₀")
    largest.set(title="what is borne")
    for i, ((length, _), (at, rates, levels)) in enumerate(paths.items()):
        name = (
            f"W = {length}, peak {rates[-1] * levels[0]:.0f}/λ₀"
            if length
            else f"W = 0, rate {rates[0] * levels[0]:.1f}/λ₀"
        )
        if length:
            sharp.loglog(rates[1:], levels[1:], label=name, **stroke(i))
        edge.plot(at / (length or at[-1]), rates * levels, label=name, **stroke(i))
    ends = np.array(sharp.get_xlim())
    sharp.loglog(ends, 2 / ends, color="0.5", linewidth=0.9, label="2/η")
    sharp.set(xlabel="rate η as it rises", ylabel="sharpness λ", title="sharpness during warm-up")
    edge.axhline(2, color="0.5", linewidth=0.9)
    edge.set(
        xlabel="steps / W (of the run without: / all steps)",
        ylabel="ηλ",
        title="rate × sharpness",
        ylim=(0, 6),
    )
    for ax in (largest, sharp, edge):
        tidy(ax)


def main(arguments=None):
    run = common.start("warm_up", __doc__, arguments)
    quick, lengths = run.quick, WARM_UPS[run.quick]
    keys = jax.random.split(jax.random.key(FRESH), STARTS[quick])
    objective, _ = network(HIDDEN[quick], keys[0])
    params = jax.vmap(lambda key: network(HIDDEN[quick], key)[1])(keys)
    levels = np.asarray(jax.vmap(lambda p: jf.curvature.sharpness(objective, p).value)(params))
    steps, length = STEPS[quick], lengths[-1]
    peaks = largest_peaks(objective, params, levels, lengths, steps, HALVINGS[quick])
    first, peak = jax.tree.map(lambda w: w[0], params), peaks[0, -1] / levels[0]
    paths = {
        (each, share): follow(objective, first, share * peak, float(each), each + each // 3)
        for each, share in common.progress(FOLLOWED[quick], "sharpness")
    }
    slow = next(iter(paths))
    fitted, mean = slope(paths[slow], slow[0])
    others = {f"{each}, {share:g}": slope(paths[each, share], each)[1] for each, share in paths}
    each = FOLLOWED[quick][-1][0]
    paths[0, 0.8] = follow(objective, first, 0.8 * peaks[0, 0] / levels[0], 0.0, each + each // 3)
    told = f"W = {slow[0]}, {slow[1]:g} of the peak, second half"
    # The quick warm-up is of a third of the steps and of a smaller network, which follows 2/η less closely.
    headlines = {
        "without warm-up: largest stable rate × λ₀": common.within(peaks[:, 0].tolist(), low=2),
        f"W = {length}: largest stable peak / without": common.within(
            (peaks[:, -1] / peaks[:, 0]).tolist(), low=2
        ),
        f"{told}: slope of the sharpness in η": common.near(fitted, -1, by=0.4 if quick else 0.1),
        f"{told}: mean of η × sharpness": common.near(mean, 2, relative=0.2 if quick else 0.1),
        f"mean of η × sharpness, second half, by W and share: {'; '.join(others)}": (
            list(others.values()),
            2,
        ),
        "sharpness at the start": (levels.tolist(), None),
        "by W: largest stable peak × λ₀, geometric mean": (np.exp(np.log(peaks).mean(0)).tolist(), None),
    }
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    draw(figure, lengths, peaks, paths)
    at, rates, along = paths[slow]
    return run.save(figure, headlines, lengths=lengths, peaks=peaks, steps=at, rates=rates, sharpness=along)
