r"""Learning-rate schedules at one budget: they pay where the noise of batches stays, hardly where it vanishes.

Nine schedules train a tanh network (16 hidden units, 1,210 parameters) on digits for the same 900 steps of SGD with
mini-batches of 16, each at the best of 14 peak rates (a factor √2 apart): that of the least training loss over 6
keys. They are judged on 32 other keys, which draw the start and the batches and are the same for all schedules, so
that differences from the constant rate are paired. The rates of all schedules, peaks and steps are one array, and a
schedule is a row of it: one compiled program trains them all.

A constant rate has a floor: the noise of the batches keeps the loss above the minimum by about η tr Σ / (4B), which
is ½ tr HS for the covariance S of SGD at rest. A schedule begins as fast and ends below that floor. There is no
floor where the network can fit all examples, as then Σ goes to 0 with the loss. Both are measured: with the true
labels, which this network fits, and with a fifth of the labels drawn anew from the ten, of which nine in ten are
then wrong, and which it cannot fit in this time.

- With drawn labels the constant rate does best at .7 of the peak or less of all others. Linear decay to 0, cosine,
  warm-up with cosine, one-cycle and SGDR end in a lower training loss. Step and exponential decay do not, as their
  rate is small for too long, but end lower in test loss, as most schedules do.
- With the true labels no schedule ends in a lower training loss, and step and exponential decay are clearly worse.

Claim: Schedules beat the best constant rate in training loss where gradient noise stays, and not where all labels
are fitted.

Figure: Left: each schedule's rate over its peak, against the step, on a row of its own. Middle: the difference in
training loss, then in test loss, from the constant rate in standard errors (left of 0 is better), with the true
labels (circles) and with a fifth drawn (squares); dashed lines are 4 standard errors. Right: with a fifth drawn, the
training loss of the tuning keys by peak rate, for the constant rate (solid, circles), step (dashed, squares),
exponential (dash-dotted, diamonds) and linear decay (dotted, triangles), and cosine (crosses).

Measured: 900 steps of 16, 32 keys. A fifth of the labels drawn: training loss .682 at the best constant rate (.4),
.628 with linear decay (peak 1.1; −.054, 16.4 SE), cosine −11.7 SE, warm-up and cosine −10.0, one-cycle −8.4, SGDR
−6.8, triangular −6.0, step +2.0, exponential +7.2; test loss .416, and .369 to .390 with schedules (3.2 to 7.8 SE
lower). True labels: training loss .012, all schedules higher (triangular and linear by 3 SE, step 11, exponential
16); test loss .134, and .119 to .133 (4.7 SE at most).
The first bounds, of four standard errors, had been set on the keys they were tested on. At key 1000 two were missed:
step decay ended higher by 3.4 SE only, and the test loss with linear decay lower by 1.8. The labels are drawn once in
a run, and from one draw to the next these differences move by more than their error says: over keys 1000 to 4000 step
decay had +3.4, +6.6, +3.7, +1.2, the test loss of linear decay −1.8, −2.3, −4.0, −4.0. New bounds are from these four
keys (their mean less four standard deviations), and were reached at key 5000, shown here. It is no longer claimed
that step and exponential decay are worse with drawn labels, nor that linear decay gains in test loss with true ones
(−1.6, +2.7, −1.5, +1.9). No best peak is at an edge of the grid, which was widened from 2.3 to 9.

Sources: Loshchilov & Hutter (2017, 1608.03983), SGDR; Smith (2017, 1506.01186), triangular; Smith & Topin (2018,
1708.07120), one-cycle; Goyal et al. (2017, 1706.02677), warm-up; Defazio et al. (2023, 2310.07831), linear decay.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

FRESH = 5000  # the first random key; intervals were set on others
HIDDEN, BATCH = (16,), 16
PEAKS = 0.1 * 2.0 ** (0.5 * np.arange(14))
SIZE = {
    False: {"steps": 900, "seeds": 6, "fresh": 32, "peaks": PEAKS},
    True: {"steps": 60, "seeds": 2, "fresh": 2, "peaks": PEAKS[4:10:2]},
}
WRONG = {"true labels": 0.0, "a fifth of the labels drawn": 0.2}
MEASURES = ("training loss", "test loss", "test accuracy")


def schedules(steps):
    """The schedules by name, each a function of the peak rate, that take these steps."""
    optim, tenth = jf.optim, steps // 10
    return {
        "constant": optim.constant,
        "step": lambda peak: optax.piecewise_constant_schedule(peak, {steps // 2: 0.1, 3 * steps // 4: 0.1}),
        "exponential": lambda peak: optax.exponential_decay(peak, steps, 0.01),
        "linear": lambda peak: optax.polynomial_schedule(peak, 0.0, 1, steps),
        "cosine": lambda peak: optim.sgdr(peak, steps),
        "SGDR, 3 cycles": lambda peak: optim.sgdr(peak, steps / 7, growth=2),
        "warm-up, cosine": lambda peak: optim.warmup(optim.sgdr(peak, steps - tenth), tenth),
        "triangular, 3 cycles": lambda peak: optim.triangular(peak / 10, peak, steps / 6),
        "one-cycle": lambda peak: optim.one_cycle(peak, steps),
    }


@jf.optim.traceable
def tabulated(rates):
    """The schedule whose rate at step k is the k-th of an array (K,): all schedules are then one program."""
    return lambda k: jnp.asarray(rates)[jnp.asarray(k, int)]


def tables(steps, peaks):
    """The rates (S, P, K) of every schedule, peak and step."""
    every = jnp.arange(steps)
    each = [jax.vmap(lambda peak, make=make: make(peak)(every))(peaks) for make in schedules(steps).values()]
    return jnp.stack(each)


def task(wrong):
    """The network on digits, of whose training labels a share `wrong` is drawn anew from the ten."""
    problem = jf.problems.mlp("digits", hidden=HIDDEN)
    data, generator = problem.objective.data, np.random.default_rng(FRESH)
    drawn = generator.random(problem.objective.size) < wrong
    labels = jnp.where(drawn, generator.integers(0, 10, problem.objective.size), data["y"])
    return jf.Objective(problem.objective.losses, {**data, "y": labels.astype(data["y"].dtype)}), problem


@jax.jit
def train(objective, rates, keys):
    """What `MEASURES` are at the ends of runs of SGD by tables of rates (N, K) and keys (R,): (N, R, 3)."""
    problem = jf.problems.mlp("digits", hidden=HIDDEN)
    test = jf.Objective(problem.objective.losses, problem.test)

    def alone(table, key):
        weights, batches = jax.random.split(key)
        params = jf.problems.mlp("digits", hidden=HIDDEN, key=weights).params
        run = jf.iterate(
            jf.optim.gd(tabulated(table)),
            objective,
            params,
            steps=len(table),
            batch_size=BATCH,
            key=batches,
            every=None,
        )
        return jnp.stack([objective(run.params), test(run.params), problem.score(run.params)])

    seeds = jax.vmap(alone, (None, 0))
    return jax.lax.map(lambda table: seeds(table, keys), rates)


def measure(wrong, rates, tuning, fresh):
    """For a task: the tuned loss (S, P), the best peaks' indices (S,), and what fresh keys make of them (S, R, 3).

    The best peak is that of the least mean training loss over the keys of tuning.
    """
    objective, _ = task(wrong)
    found = jnp.stack([train(objective, rates[:, i], tuning)[..., 0] for i in range(rates.shape[1])], 1)
    losses = np.asarray(jnp.where(jnp.isfinite(found), found, 10).mean(2))
    best = losses.argmin(1)
    return losses, best, np.asarray(train(objective, rates[np.arange(len(best)), best], fresh))


def pair_differences(ends):
    """Differences from the first schedule, key by key: means and standard errors (S, 3); ends (S, R, 3)."""
    apart = ends - ends[0]
    return apart.mean(1), apart.std(1, ddof=1) / ends.shape[1] ** 0.5


def claims(what, told):
    """What differs from the constant rate, in standard errors, at any draw of labels, starts and batches.

    Bounds other than 4 are means over the keys 1000, 2000, 3000 and 4000 less four standard deviations between them:
    the labels are drawn once in a run, which its own standard error does not know of.
    """
    slow = [told[name][0] for name in ("step", "exponential")]
    if what == "true labels":
        least = min(gap for name, (gap, *_) in told.items() if name != "constant")
        return {
            "true labels: least difference in training loss, in SE": common.within(least, low=-4),
            "true labels: training loss of step, exponential, in SE": common.within(slow, low=3),
        }
    lower = [told[name][0] for name in ("linear", "cosine", "warm-up, cosine", "one-cycle")]
    tested = [told[name][1] for name in ("exponential", "cosine", "SGDR, 3 cycles", "one-cycle")]
    return {
        "a fifth drawn: training loss of linear, cosine, warm-up, one-cycle, in SE": common.within(
            lower, high=-4
        ),
        "a fifth drawn: training loss of step, exponential, in SE": common.within(slow, low=-4),
        "a fifth drawn: test loss of step, in SE": common.within(told["step"][1], high=-4),
        "a fifth drawn: test loss of exponential, cosine, SGDR, one-cycle, in SE": common.within(
            tested, high=0
        ),
    }


def draw(figure, names, rates, peaks, found):
    shapes, training, test, tuned = figure.subplots(1, 4, width_ratios=(1.2, 1, 1, 1.2))
    rows = -np.arange(len(names))
    for row, table in zip(rows, rates, strict=True):
        shapes.plot(row - 0.35 + 0.7 * table[-1] / table[-1].max(), color=COLOURS[0], linewidth=1.2)
    shapes.set(title="rate / peak", xlabel="step", ylabel="schedule")
    for ax, i in ((training, 0), (test, 1)):
        for j, (what, (_, _, ends)) in enumerate(found.items()):
            gap, error = (x[:, i] for x in pair_differences(ends))
            style = {"marker": "os"[j], "linestyle": "", "color": COLOURS[j], "label": what}
            ax.plot(gap[1:] / error[1:], rows[1:], **style)
        ax.axvline(0, color="0.4", linewidth=0.8)
        for edge in (-4, 4):
            ax.axvline(edge, color="0.4", linewidth=0.8, linestyle="--")
        ax.set(title=f"{MEASURES[i]}, from constant", xlabel="difference / its standard error")
    for ax in (shapes, training, test):
        ax.set_yticks(rows, names if ax is shapes else [""] * len(rows))
        ax.set_ylim(rows[-1] - 0.6, 1.4)
        tidy(ax, legend=ax is training)
    losses = found["a fifth of the labels drawn"][0]
    for i, j in enumerate(names.index(x) for x in ("constant", "step", "exponential", "linear", "cosine")):
        tuned.plot(peaks, losses[j], marker="osD^x"[i], markersize=4, label=names[j], **stroke(i))
    tuned.set(title="a fifth of the labels drawn", xlabel="peak rate", ylabel="training loss, keys of tuning")
    tuned.set(xscale="log", yscale="log", ylim=(0.6, 1.8))
    for axis in (tuned.xaxis, tuned.yaxis):
        axis.set_minor_formatter("")
    tuned.set_xticks(ticks := (0.1, 0.4, 1.6, 6.4), [f"{x:g}" for x in ticks])
    tuned.set_yticks(ticks := (0.7, 0.8, 1, 1.2, 1.6), [f"{x:g}" for x in ticks])
    tidy(tuned)


def main(arguments=None):
    run = common.start("schedules", __doc__, arguments)
    size = SIZE[run.quick]
    tuning, fresh = (
        jax.random.split(jax.random.key(FRESH + i), size[what]) for i, what in enumerate(("seeds", "fresh"))
    )
    rates = tables(size["steps"], size["peaks"])
    names = list(schedules(size["steps"]))
    found = {
        what: measure(wrong, rates, tuning, fresh) for what, wrong in common.progress(WRONG.items(), "tasks")
    }
    headlines = {}
    for what, (_, best, ends) in found.items():
        gap, error = pair_differences(ends)
        told = dict(zip(names, (gap / np.where(error > 0, error, 1)).tolist(), strict=True))
        said = f"{what}, constant: best rate; {', '.join(MEASURES)}"
        headlines[said] = [float(size["peaks"][best[0]]), *ends[0].mean(0).tolist()], None
        for name, i, end in zip(names[1:], best[1:], ends[1:].mean(1), strict=True):
            said = f"{what}, {name}: best peak; training and test loss; both from constant in SE"
            headlines[said] = [float(size["peaks"][i]), *end[:2].tolist(), *told[name][:2]], None
        if not run.quick:
            headlines |= claims(what, told)
    at_once = found["a fifth of the labels drawn"][1]
    peak = size["peaks"][at_once]
    if not run.quick:
        said = "a fifth drawn: best constant rate / least best peak of the others"
        headlines[said] = common.within(float(peak[0] / peak[1:].min()), high=0.75)
    last = {name: float(row[-1, -1] / row[-1].max()) for name, row in zip(names, rates, strict=True)}
    headlines["linear decay: last rate / peak"] = common.near(
        last["linear"], 1 / size["steps"], relative=1e-9
    )
    figure = Figure(figsize=(15, 5), layout="constrained")
    draw(figure, names, np.asarray(rates), size["peaks"], found)
    return run.save(figure, headlines, tuned={what: losses for what, (losses, _, _) in found.items()})
