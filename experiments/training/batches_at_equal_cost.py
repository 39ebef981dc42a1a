r"""Steps against examples: what a larger batch buys, by a law of two numbers, and the noise scale that predicts one.

A tanh network (16 hidden units, 1,210 parameters) learns digits from one example at a step (online), from
mini-batches and from all data, each at the best of seven learning rates, √2 apart. The steps S and the examples E =
BS, which are the gradients paid for, are counted until the training loss (the geometric mean over 12 keys, each with
its own start and batches) is down to .5 and to .3.

A step of the best length along a gradient with noise tr Σ/B lowers a quadratic loss by a share 1/(1 + ℬ/B) of what
the true gradient would, and its best rate is the same share of that of all data. Summed over a run,

$\left(\frac{S}{S_{min}} - 1\right)\left(\frac{E}{E_{min}} - 1\right) = 1$, or $S = S_{min}(1 + \mathcal B/B)$,

with ℬ = E_min/S_min the critical batch size, at which a run takes twice the fewest steps and twice the fewest
examples. It is fitted by least squares of relative errors to two numbers, without the run on all data, which then
has to take S_min steps. ℬ should be about the simple noise scale tr Σ/|g|², measured by `jf.noise_scale` at networks
that a batch of 16 has just brought to the same loss; as the exact one weighs both by the Hessian, and a run passes
through lower noise scales before it gets there, this is a matter of magnitude. Errors of ℬ are by the jackknife over
keys.

Claim: Steps and examples to a loss lie on one hyperbola, whose critical batch size is about the simple noise scale.

Figure: Left: training loss against gradients computed, for batches of 1 (solid), 32 (dashed) and all data
(dash-dotted), each at its best rate to reach .5; the dotted line is that loss. Middle: steps against examples to a
loss of .5 (circles) and .3 (squares), a marker for each batch size, the crosses all data; the lines are the fitted
hyperbola, the thin ones its asymptotes at .5. Right: the best learning rate by batch size, with the markers of the
middle panel, and the rate of all data times 1/(1 + ℬ/B) (lines).

Measured: Digits, 12 keys, batches of 1 to 512. Loss .5: 192 steps at B = 1, 3.5 at 512, within 4 % of a hyperbola
with S_min 3.0; all data take .99 S_min; ℬ = 63 ± 4 (SE), simple noise scale 172 ± 7, ratio .37. Loss .3: 486 to 5.9
steps, within 7 %; S_min 4.6, all data 1.14 S_min; ℬ = 99 ± 4, simple noise scale 281 ± 11, ratio .35. Both grow as
the loss falls, together. To reach .5 all data compute 23 times as many gradients as a batch of 1, which takes 64
times as many steps. Best rates of small batches are 1.5 to 2 times as large as those of all data times 1/(1 + ℬ/B).
The intervals were set on key 0 and reached at the first run with these keys. They say that the magnitude agrees, and
the ratio is many standard errors below 1. The quick version has three keys and a wider interval for all data.

Sources: McCandlish, Kaplan, Amodei et al. (2018, 1812.06162), the law and the noise scale; Shallue et al. (2019,
1811.03600), steps against batch size on many tasks.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from experiments import common
from jaxflow.plot.style import COLOURS, stroke, tidy

FRESH = 1000  # the first random key; intervals were set on others
HIDDEN = (16,)
TARGETS = (0.5, 0.3)
STEPS = {
    1: 1400,
    4: 420,
    16: 120,
    32: 70,
    64: 50,
    128: 40,
    256: 40,
    512: 40,
    None: 40,
}  # by batch size; all data


def digits(key=None):
    return jf.problems.mlp("digits", hidden=HIDDEN, key=key)


def rates_for(size, count):
    """Learning rates, √2 apart, around a rule of thumb."""
    return min(3.0, 0.05 * (size or 1437)) * 2.0 ** (0.5 * (np.arange(count) - count // 2 + 1))


def curves(size, rates, keys, steps):
    """Steps at the records (T,), and the log training loss there by rate and key (R, M, T): one program."""
    objective, every = digits().objective, max(1, steps // 100)

    def alone(rate, key):
        weights, batches = jax.random.split(key)
        run = jf.iterate(
            jf.optim.gd(rate),
            objective,
            digits(weights).params,
            steps=steps,
            batch_size=size,
            key=batches,
            every=every,
            record=objective,
        )
        return jnp.log(run.values)

    seeds = jax.vmap(alone, (None, 0))
    found = jax.jit(lambda rates: jax.lax.map(lambda rate: seeds(rate, keys), rates))(jnp.asarray(rates))
    records = np.minimum(np.arange(found.shape[-1]) * every, steps)
    return records, np.nan_to_num(np.asarray(found), nan=10.0, posinf=10.0)


def steps_to(target, records, line):
    """Where a line of log losses (T,) first falls to a loss, linear between records; infinite where it never does."""
    below = np.flatnonzero(line <= np.log(target))
    if not below.size or below[0] == 0:
        return np.inf
    i = below[0]
    share = (line[i - 1] - np.log(target)) / (line[i - 1] - line[i])
    return float(records[i - 1] + share * (records[i] - records[i - 1]))


def fewest_steps(target, records, logs):
    """The fewest steps to a loss over rates, of the mean over keys, and the index of that rate."""
    each = [steps_to(target, records, line) for line in logs.mean(1)]
    return min(each), int(np.argmin(each))


def hyperbola(sizes, steps):
    """S_min and ℬ of S = S_min (1 + ℬ/B), by least squares of relative errors."""
    sizes, steps = np.asarray(sizes, float), np.asarray(steps)
    parts = np.stack([1 / steps, 1 / (sizes * steps)], 1)
    least, slope = np.linalg.lstsq(parts, np.ones(len(steps)), rcond=None)[0]
    return float(least), float(slope / least)


def noise_at(targets, keys, rate=0.4, size=16):
    """The simple noise scale of networks that a batch of 16 has just brought to each loss (T, M)."""
    objective = digits().objective

    def alone(key):
        weights, batches = jax.random.split(key)
        run = jf.iterate(
            jf.optim.gd(rate), objective, digits(weights).params, steps=150, batch_size=size, key=batches
        )
        losses = jax.lax.map(objective, run.values)
        reached = [jax.tree.map(lambda x, t=t: x[jnp.argmax(losses <= t)], run.values) for t in targets]
        return jnp.stack([jf.noise_scale(objective, params).simple for params in reached])

    return np.asarray(jax.jit(lambda keys: jax.lax.map(alone, keys))(keys)).T


def jackknife(function, count):
    """The standard error of a function of the indices of keys, by leaving out one after the other."""
    left = np.array([function(np.delete(np.arange(count), i)) for i in range(count)])
    return float(np.sqrt((count - 1) * np.mean((left - left.mean()) ** 2)))


def draw(figure, found, rates, results, all_data):
    along, trade, best = figure.subplots(1, 3)
    for i, size in enumerate((next(iter(found)), 32, None)):
        records, logs = found[size]
        line = logs[fewest_steps(TARGETS[0], records, logs)[1]].mean(0)
        label = "all data" if size is None else f"batch of {size}"
        along.loglog(records[1:] * (size or all_data), np.exp(line[1:]), label=label, **stroke(i))
    along.axhline(TARGETS[0], color="0.4", linewidth=0.8, linestyle=":")
    along.set(
        xlabel="gradients computed (examples)", ylabel="training loss", title="at equal cost", ylim=(0.1, 3)
    )
    along.set_yticks(ticks := (0.1, 0.3, 0.5, 1, 2), [f"{x:g}" for x in ticks])
    along.set_yticks([], minor=True)
    sizes = np.array([size for size in found if size])
    fine = np.geomspace(sizes[0], 4 * sizes[-1], 100)
    for i, (target, (steps, chosen, full, least, critical)) in enumerate(results.items()):
        style = {"color": COLOURS[i], "linestyle": "", "marker": "os"[i], "label": f"to a loss of {target:g}"}
        trade.loglog(sizes * steps, steps, **style)
        trade.loglog(fine * least * (1 + critical / fine), least * (1 + critical / fine), **stroke(i))
        trade.loglog(all_data * full, full, "x", color=COLOURS[i], markersize=8)
        best.loglog(sizes, [rates[size][j] for size, j in zip(sizes, chosen, strict=False)], **style)
        best.loglog(fine, rates[None][chosen[-1]] / (1 + critical / fine), **stroke(i))
        best.loglog(all_data, rates[None][chosen[-1]], "x", color=COLOURS[i], markersize=8)
        if i == 0:
            trade.axhline(least, color="0.6", linewidth=0.6)
            trade.axvline(least * critical, color="0.6", linewidth=0.6)
    trade.set(xlabel="examples E", ylabel="steps S", title="steps against examples (×: all data)")
    best.set(xlabel="batch size B", ylabel="best learning rate", title="the best rate (×: all data)")
    for ax in (along, trade, best):
        tidy(ax)


def main(arguments=None):
    run = common.start("batches_at_equal_cost", __doc__, arguments)
    keys = jax.random.split(jax.random.key(FRESH), 3 if run.quick else 12)
    chosen_sizes = (4, 32, 256, None) if run.quick else tuple(STEPS)
    rates = {size: rates_for(size, 4 if run.quick else 7) for size in chosen_sizes}
    found = {
        size: curves(size, rates[size], keys, STEPS[size])
        for size in common.progress(chosen_sizes, "batch sizes")
    }
    sizes, results, headlines = [size for size in chosen_sizes if size], {}, {}
    for target, noise in zip(TARGETS, noise_at(TARGETS, keys), strict=True):
        ways = {size: fewest_steps(target, *found[size]) for size in chosen_sizes}
        steps, full = np.array([ways[size][0] for size in sizes]), ways[None][0]
        least, critical = hyperbola(sizes, steps)
        results[target] = steps, [way[1] for way in ways.values()], full, least, critical
        told = f"loss {target:g}: "
        product = (steps / least - 1) * (sizes * steps / (least * critical) - 1)
        ratio = steps / (least * (1 + critical / np.array(sizes)))
        headlines[told + "steps by batch size"] = steps.tolist(), None
        headlines[told + "steps / the hyperbola's"] = common.near(ratio.tolist(), 1, by=0.2)
        headlines[told + "(S/S_min − 1)(E/E_min − 1)"] = product.tolist(), 1
        headlines[told + "S_min"] = least, None
        by = 0.6 if run.quick else 0.3  # three keys and rates a factor √2 apart
        headlines[told + "steps with all data / S_min"] = common.near(full / least, 1, by=by)

        def again(index, target=target):
            return hyperbola(
                sizes, [fewest_steps(target, found[b][0], found[b][1][:, index])[0] for b in sizes]
            )[1]

        headlines[told + "ℬ of the fit, its SE"] = (critical, jackknife(again, len(keys))), None
        headlines[told + "simple noise scale, its SE"] = (
            (float(noise.mean()), float(noise.std(ddof=1) / len(noise) ** 0.5)),
            None,
        )
        headlines[told + "ℬ / simple noise scale"] = common.within(
            critical / noise.mean(), 0.2, 5, expected=1
        )
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    draw(figure, found, rates, results, digits().objective.size)
    return run.save(figure, headlines, sizes=sizes, steps={str(t): r[0] for t, r in results.items()})
