"""What `discovery` measures of an optimizer: where it grows, how fast it creeps, its orders, and its pairs."""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from scipy.optimize import brentq
from scipy.special import eval_genlaguerre

import jaxflow as jf
from experiments.edge.new_optimizers.methods import (
    B1,
    LATE,
    MOMENTS,
    RAW,
    ROWS,
    STILL,
    averaged_sgd,
    lion,
    lion_threshold,
)

LANES = 64
ORDERS, LADDER = (1, 2, 3), np.array([80, 120, 160, 240])  # steps in the time of a study
SHOWN, LONG = 80, 1000  # steps past the edge that flows follow, and after which a pair has settled


def place(state: Any, values: dict[str, Any]) -> Any:
    """A state with some of its fields, by name, set to numbers."""
    put = lambda path, leaf: jnp.full_like(leaf, values.get(getattr(path[-1], "name", ""), leaf))
    return jax.tree_util.tree_map_with_path(put, state)


def held(row: Any) -> dict[str, Any]:
    """The fields of a state far on, whose second moment is that of the row's P."""
    return LATE | dict.fromkeys(MOMENTS, row.moment)


@partial(jax.jit, static_argnames=("make", "matrix", "steps"))
def paths(make, rates, start, b2, adapts, values, *, matrix, steps):
    """One entry of the parameters on ½|w|², step by step (rates, steps), from a multiple of 1 or of an identity."""

    def run(rate):
        optimizer = optax.with_extra_args_support(make(rate, b2, adapts))
        w = start * jnp.eye(matrix) if matrix else start * jnp.ones(1)
        loss = lambda w: 0.5 * jnp.sum(w**2)

        def step(carry, _):
            w, state = carry
            updates, state = optimizer.update(w, state, w, obj_fn=loss)
            return (w + updates, state), w.ravel()[0]

        return lax.scan(step, (w, place(optimizer.init(w), values)), None, length=steps)[1]

    return jax.vmap(run)(rates)


def still(row, rates, steps):
    """Paths of an optimizer whose second moment is held."""
    return np.asarray(
        paths(row.make, rates, row.start, STILL, 0.0, held(row), matrix=row.matrix, steps=steps)
    )


def least_unstable(row, steps):
    """The smallest a = ηh/P at which the optimizer grows: 64 rates at once, three times."""
    low, high = 1e-4, 1e4
    for _ in range(3):
        found = np.geomspace(low, high, LANES)
        with np.errstate(all="ignore"):
            moves = np.abs(np.diff(still(row, row.unit * found, steps), axis=1))
            early, late = moves[:, steps // 4 : steps // 2].max(1), moves[:, -steps // 4 :].max(1)
            grows = ~(late < early) & (late > 1e-9 * row.start) | ~(moves.max(1) < 1e6 * row.start)
        first = grows.argmax()
        low, high = found[first - 1], found[first]
    return float(np.sqrt(low * high))


def slow_rate(row, steps):
    """The rate in η/P at which a coordinate of a = 1e-6 falls."""
    x = still(row, row.unit * np.full(LANES, 1e-6), steps)[0]
    return float(np.log(x[steps // 2] / x[-1]) / (1e-6 * (steps - 1 - steps // 2)))


def by_library(row):
    """`stability_threshold` over P, and what it says where there is none."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = float(jf.curvature.stability_threshold(row.make(1.0, STILL, 0.0)))
    # Where a state has a second moment the library is in units of it.
    hidden = (
        1.0 if row.adaptive else row.moment / row.unit if row.make is ROWS["Sophia"].make else 1 / row.unit
    )
    return found * hidden, " ".join(str(warning.message) for warning in said)


def measure_widest(row, steps):
    """Run as it is at rates from .001 to 1000: the largest late |x| over η of all."""
    rates = np.geomspace(1e-3, 1e3, LANES)
    x = np.asarray(paths(row.make, rates, 0.1, RAW, 1.0, {}, matrix=row.matrix, steps=steps))
    return float((np.abs(x[:, -steps // 2 :]).max(1) / rates).max())


def lengths(b1, b2, longest=60):
    """The n for which n steps up and n down are a cycle of the sign of (1 − β₁)g + β₁m."""
    found = []
    for n in range(1, longest):
        x = n / 2 - np.arange(n)
        m = -(1 - b2) / (1 + b2**n) * np.sum(b2 ** np.arange(n)[::-1] * x)
        signs = []
        for g in x:
            signs.append((1 - b1) * g + b1 * m)
            m = b2 * m + (1 - b2) * g
        if min(signs) > 0:
            found.append(n)
    return found


def half_widths(make, rates, matrix=0, steps=2000):
    """Half the width of the motion at the end, from 1 at each of 64 rates."""
    x = np.asarray(paths(make, rates, 1.0, RAW, 1.0, {}, matrix=matrix, steps=steps))
    return np.ptp(x[:, -400:], axis=1) / 2


def chord(row):
    """The half-width of the pair on log cosh at a = a*(1 + over): ηg(A) = a*·P·A, through what squashes it."""
    a = row.threshold * (1 + row.over)
    gap = lambda x: 2 * x - a * row.unit * row.squash(2 / row.threshold / row.unit * np.tanh(x))
    return brentq(gap, 1e-4, 5.0)


def past_the_edge(row):
    """Iterates past the edge, and the largest distance of order 1 and of the flow of pairs from every second one."""
    width, rate = chord(row), row.threshold * (1 + row.over) * row.unit
    slow = 0.01 / (rate / row.unit * row.slow)
    loss = lambda w: jnp.log(jnp.cosh(w[0])) + 0.5 * slow * w[1] ** 2
    optimizer, start = row.make(rate, STILL, 0.0), width * jnp.array([0.3, 1.0])
    begin = jf.iterate(optimizer, loss, start, steps=1, time_step=1.0).state
    begin = begin._replace(optimizer=place(optimizer.init(start), held(row)), step=jnp.zeros_like(begin.step))
    begin = begin._replace(time=jnp.zeros_like(begin.time))
    warm = jf.iterate(optimizer, loss, start, steps=20, time_step=1.0, state=begin)
    run = jf.iterate(optimizer, loss, warm.params, steps=LONG, time_step=1.0, state=warm.state)
    times, iterates, found = run.times[: SHOWN + 1 : 2], np.asarray(run.values)[: SHOWN + 1], {}
    # A flow of pairs that is made for this past the edge would be one entry more.
    for name, settings in {"order 1": (1, 1), "pairs": (3, 2)}.items():
        flow = jf.dynamics.modified(
            optimizer, loss, order=settings[0], stride=settings[1], time_step=1.0, warmup=0
        )
        found[name] = np.asarray(
            jf.integrate(flow, warm.params, times, state=jf.dynamics.modified_state(warm)).values
        )
    distances = [float(np.linalg.norm(path - iterates[::2], axis=1).max() / width) for path in found.values()]
    return {"iterates": iterates, **found}, (np.ptp(run.values[-2:, 0]) / 2, width), distances


def surface(x):
    """Of a vector or a 2×2 matrix; its gradients keep their signs along the studies."""
    a, b = x if x.ndim == 1 else (x[0], x[1])
    return jnp.sum(jnp.cosh(a) + 1.5 * b**2 + 0.3 * a * b + 0.1 * b**4)


def slopes(row):
    """Slopes of the orders, and what the library says of an update that is not smooth."""
    start = jnp.array([[2.0, 0.3], [-0.5, 1.5]]) if row.matrix else jnp.array([2.0, -1.5])
    time = 40 * row.time
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        study = jf.order_study(
            row.family, surface, start, orders=ORDERS, time=time, warmup=time, step_sizes=time / LADDER
        )
    return [float(study.slopes[order]) for order in ORDERS], " ".join(
        str(warning.message) for warning in said
    )


def errors_of_sign(second):
    """The largest error of Lion's modified equations of orders 1 to 3, from a second coordinate; NaN: no solution."""
    family, time = jf.family_of(lion(0.01, B1, 0.98)), 0.4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = jf.order_study(
            family,
            surface,
            jnp.array([2.0, second]),
            orders=ORDERS,
            time=time,
            warmup=time,
            step_sizes=time / LADDER,
        )
    return float(np.max([study.fits[order].errors for order in ORDERS]))


def averaged_motion(b, t):
    """y = (1 − β)z + βx of the average x = M(n, 2, −w) and of z = M(n, 1, −w), for a whole n = 1/(1 − β)."""
    n, w = round(1 / (1 - b)), (1 - b) * t
    x = eval_genlaguerre(n - 2, 1, w) / (n - 1)
    return np.exp(-w) * ((1 - b) * eval_genlaguerre(n - 1, 0, w) + b * x)


def averages(rate=0.02, steps=2000):
    """Schedule-free SGD on ½x² from 1 at β = .5 and .9: its iterates y, and theirs by Laguerre's polynomials."""
    betas, t = np.array([0.5, 0.9]), rate * np.arange(steps + 1)
    stack = jax.vmap(lambda b: averaged_sgd(rate, b1=b))(betas)
    run = jax.vmap(lambda o: jf.iterate(o, lambda x: 0.5 * jnp.sum(x**2), jnp.ones(1), steps=steps))(stack)
    return t, np.asarray(run.values)[..., 0], np.array([averaged_motion(b, t) for b in betas])


def tanh_cycle(rate):
    """The half-width of the pair of Lion with tanh(10u) on ½x²: A = ½η tanh(20A/a*)."""
    gap = lambda x: 2 * x - rate * np.tanh(20 / lion_threshold(B1, 0.99) * x)
    return brentq(gap, 1e-9, rate) if gap(1e-9) < 0 else 0.0
