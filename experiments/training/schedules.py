r"""Learning-rate schedules at one budget: they pay where the noise of batches stays, hardly where it vanishes.

Nine schedules train a tanh network (16 hidden units, 1,210 parameters) on digits for the same 900 steps of SGD with
mini-batches of 16, each at the best of ten peak rates (a factor √2 apart): that of the least training loss over 6
keys. They are judged on 32 other keys, which draw the start and the batches and are the same for all schedules, so
that differences from the constant rate are paired. The rates of all schedules, peaks and steps are one array, and a
schedule is a row of it: one compiled program trains them all.

A constant rate has a floor: the noise of the batches keeps the loss above the minimum by about η tr Σ / (4B), which
is ½ tr HS for the covariance S of SGD at rest. A schedule begins as fast and ends below that floor. There is no
floor where the network can fit all examples, as then Σ goes to 0 with the loss. Both are measured: with the true
labels, which this network fits, and with a fifth of the labels drawn anew from the ten, of which nine in ten are
then wrong, and which it cannot fit in this time.

- With drawn labels the constant rate does best at half the peak or less of all others. Linear decay to 0, cosine,
  warm-up with cosine, one-cycle and SGDR end in a lower training loss. Step and exponential decay end higher, as
  their rate is small for too long, but still lower in test loss.
- With the true labels no schedule ends in a lower training loss by 4 standard errors, and exponential decay is
  worse. In test loss linear decay alone gains as much.

Claim: Schedules beat the best constant rate in training loss where gradient noise stays, and not where all labels
are fitted.

Figure: Left: each schedule's rate over its peak, against the step, on a row of its own. Middle: the difference in
training loss, then in test loss, from the constant rate in standard errors (left of 0 is better), with the true
labels (circles) and with a fifth drawn (squares); dashed lines are 4 standard errors. Right: with a fifth drawn, the
training loss of the tuning keys by peak rate, for the constant rate (solid, circles), step (dashed, squares),
exponential (dash-dotted, diamonds) and linear decay (dotted, triangles), and cosine (crosses).

Measured: 900 steps of 16, 32 keys. A fifth of the labels drawn: training loss .725 at the best constant rate (.4),
.685 with linear decay (peak .8; −.041 ± .003, 13.5 SE), cosine −.027 (8.5 SE), warm-up and cosine −.033 (11.3),
one-cycle −.022 (6.7), SGDR −.016 (5.3), triangular −.010 (3.7), step +.017 (5.4), exponential +.023 (6.2); test loss
.457, and .409 to .431 with schedules (all lower by 4.1 to 6.2 SE). True labels: training loss .016, no schedule
lower by more than .7 SE, exponential +.013 (4.1 SE); test loss .139, linear decay .117 (4.5 SE), cosine, SGDR and
one-cycle .120 (3.6 to 3.9 SE).
The bounds of four standard errors were set after a first run with the same keys. With true labels the exponential
decay takes the largest peak of the grid, so what is said of it may be the grid's.

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

HIDDEN, BATCH = (16,), 16
PEAKS = 0.1 * 2.0 ** (0.5 * np.arange(10))
SIZE = {
    False: {"steps": 900, "seeds": 6, "fresh": 32, "peaks": PEAKS},
    True: {"steps": 60, "seeds": 2, "fresh": 2, "peaks": PEAKS[4::2]},
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
    data, generator = problem.objective.data, np.random.default_rng(0)
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


def paired(ends):
    """Differences from the first schedule, key by key: means and standard errors (S, 3); ends (S, R, 3)."""
    apart = ends - ends[0]
    return apart.mean(1), apart.std(1, ddof=1) / ends.shape[1] ** 0.5


def claims(what, told):
    """Which schedules differ from the constant rate by more than 4 standard errors."""
    if what == "true labels":
        least = min(told[name][0] for name in told)
        return {"true labels: least difference in training loss, in SE": common.within(least, low=-4)}
    lower = [told[name][0] for name in ("linear", "cosine", "warm-up, cosine", "one-cycle")]
    higher = [told[name][0] for name in ("step", "exponential")]
    tested = [told[name][1] for name in ("step", "exponential", "linear", "cosine", "SGDR, 3 cycles")]
    return {
        "a fifth drawn: training loss of linear, cosine, warm-up, one-cycle, in SE": common.within(
            lower, high=-4
        ),
        "a fifth drawn: training loss of step, exponential, in SE": common.within(higher, low=4),
        "a fifth drawn: test loss of step, exponential, linear, cosine, SGDR, in SE": common.within(
            tested, high=-4
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
            gap, error = (x[:, i] for x in paired(ends))
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
    tuned.set(xscale="log", yscale="log")
    for axis in (tuned.xaxis, tuned.yaxis):
        axis.set_minor_formatter("")
    tuned.set_xticks(ticks := (0.1, 0.2, 0.4, 0.8, 1.6), [f"{x:g}" for x in ticks])
    tuned.set_yticks(ticks := (0.7, 0.8, 1, 1.2), [f"{x:g}" for x in ticks])
    tidy(tuned)


def main(arguments=None):
    run = common.start("schedules", __doc__, arguments)
    size = SIZE[run.quick]
    tuning, fresh = (
        jax.random.split(jax.random.key(i), size[what]) for i, what in enumerate(("seeds", "fresh"))
    )
    rates = tables(size["steps"], size["peaks"])
    names = list(schedules(size["steps"]))
    found = {
        what: measure(wrong, rates, tuning, fresh) for what, wrong in common.progress(WRONG.items(), "tasks")
    }
    headlines = {}
    for what, (_, best, ends) in found.items():
        gap, error = paired(ends)
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
