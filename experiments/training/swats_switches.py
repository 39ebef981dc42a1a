"""When SWATS turns from Adam into SGD, to which rate, and what becomes of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow as jf
from experiments import common

ALPHAS, TOLERANCE, MOMENTUM_RATES = np.array([1e-3, 3e-3, 1e-2]), 1e-2, np.geomspace(0.02, 10, 12)


def watch(optimizer, objective, start, key, steps, metrics):
    """A run on batches of 32 that keeps its metrics alone."""
    return jf.iterate(
        optimizer,
        objective,
        start,
        steps=steps,
        batch_size=32,
        key=key,
        record=lambda p: 0.0,
        metrics=metrics,
    )


@partial(jax.jit, static_argnames=("make", "steps"))
def train(make, numbers, objective, starts, keys, steps):
    """Losses at the end (lanes, keys), by lane of the optimizers' numbers; and of SWATS the steps before its switch,
    and the rate to which it switched."""

    def alone(numbers, start, key):
        metrics = {}
        if make in (switching, as_published):
            metrics = {"switched": lambda s: s.state.switched, "rate": lambda s: s.state.rate}
        run = watch(make(*numbers), objective, start, key, steps, metrics)
        loss = objective(run.params)
        if not metrics:
            return loss
        since = jnp.sum(~(run.metrics["switched"][1:] > 0.5))
        return loss, since, run.metrics["rate"][-1]

    seeds = jax.vmap(alone, (None, 0, 0))
    return jax.vmap(lambda numbers: seeds(numbers, starts, keys))(numbers)


def switching(rate, tolerance):
    """SWATS as in public codes, with a relative tolerance; where that is 0 it never switches, and is Adam."""
    return jf.optim.swats(rate, tolerance=tolerance, relative=True)


def as_published(rate):
    """SWATS with the tolerance of the paper."""
    return jf.optim.swats(rate)


def ema_momentum(rate):
    """What SWATS switches to."""
    return jf.optim.momentum(rate, 0.9, ema=True)


def switches(objective, starts, keys, *, steps, quick):
    """Losses of SWATS, steps before its switch and rates after it; losses of Adam; those of EMA momentum, and how
    many runs have switched at the paper's tolerance. The last two are `None` in the quick version."""
    go = lambda make, *numbers: train(make, numbers, objective, starts, keys, steps)
    tolerances = np.repeat([TOLERANCE, 0.0], len(ALPHAS))
    both = jax.tree.map(np.asarray, go(switching, np.tile(ALPHAS, 2), tolerances))
    swats, adam = tuple(x[: len(ALPHAS)] for x in both), both[0][len(ALPHAS) :]
    if quick:
        return swats, adam, None, None
    still = np.asarray(go(as_published, ALPHAS)[1])
    return swats, adam, np.asarray(go(ema_momentum, MOMENTUM_RATES)), (still < steps).sum()


def swats_headlines(swats, adam, momentum, switched):
    """When and to which rate SWATS switches; and, where it was measured, what becomes of it."""
    loss, since, found = swats
    power = np.polyfit(np.log(ALPHAS), np.log(np.median(found, 1)), 1)[0]
    headlines = {
        "SWATS: last switch, in steps, against 1/(1 − β₂) = 1,000": common.within(since.max(), high=1000),
        "SWATS: power of α in Λ": common.near(power, 1.0, by=0.25),
        "SWATS: median step of the switch, by α": (np.median(since, 1), None),
        "SWATS: median Λ, by α": (np.median(found, 1), None),
        "losses of SWATS, of Adam, by α": ([*loss.mean(1), *adam.mean(1)], None),
    }
    if momentum is None:
        return headlines
    best = MOMENTUM_RATES[momentum.mean(1).argmin()]
    worse = np.log(loss / adam)
    errors = worse.mean(1) / worse.std(1, ddof=1) * np.sqrt(worse.shape[1])
    return headlines | {
        "EMA momentum: best rate, its loss": ([best, momentum.mean(1).min()], None),
        "SWATS, the paper's tolerance: runs switched within the steps": common.near(switched, 0),
        "SWATS: largest Λ / best rate of EMA momentum": common.within(found.max() / best, high=0.5),
        "SWATS: log loss over Adam's, least in standard errors": common.within(errors.min(), low=3),
    }
