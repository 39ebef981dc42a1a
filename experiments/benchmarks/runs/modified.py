"""Modified equations: what a field costs to evaluate and to compile, what rounding leaves of it, what it gains."""

import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from experiments.benchmarks.runs.speed import digits
from experiments.benchmarks.timing import medians

ORDERS = (1, 2, 3, 4)


def field_cost(quick: bool, flow=jf.dynamics.modified, gradients_an_order: int = 1) -> dict[str, float]:
    """Evaluations of the field of gradient descent on digits over p gradients each in a scan; the worst order p."""
    problem, evaluations = digits("float32"), 5 if quick else 50
    objective, params = problem.objective, problem.params

    def fields(order):
        # Each evaluation begins where the one before it points, so that none can be left out or moved.
        def walk(dynamics, state):
            step = lambda z, _: (jax.tree.map(lambda a, v: a + 1e-6 * v, z, dynamics.drift(0.0, z)), None)
            return dynamics.params(lax.scan(step, state, None, length=evaluations)[0])

        dynamics = flow(jf.optim.gd(1e-2), objective, order=order)
        return jax.jit(walk), dynamics, dynamics.init(params)

    @jax.jit
    def gradients(objective, params, count):
        step = lambda _, p: jax.tree.map(lambda a, g: a - 1e-6 * g, p, jax.grad(objective)(p))
        return lax.fori_loop(0, count, step, params)

    ratios = {}
    for order in ORDERS:
        walk, dynamics, state = fields(order)
        contestants = {
            "field": lambda walk=walk, dynamics=dynamics, state=state: walk(dynamics, state),
            "floor": lambda order=order: gradients(
                objective, params, gradients_an_order * order * evaluations
            ),
        }
        seconds = medians(contestants, 3 if quick else 15)
        ratios[f"order {order}"] = seconds["field"] / seconds["floor"]
    return {"ratio": max(ratios.values())} | ratios


def pairs_cost(quick: bool) -> dict[str, float]:
    """The same of the flow of pairs, over 2p gradients."""
    return field_cost(quick, jf.dynamics.pair_flow, 2)


def compile_time(quick: bool) -> float:
    """Seconds to compile a solve of the order-4 equation on digits over those of order 1, taken in turns."""
    problem = digits("float32")
    times = jnp.linspace(0.0, 1.0, 5)
    seconds: dict[int, list[float]] = {1: [], 4: []}
    for _ in range(1 if quick else 5):
        for order, taken in seconds.items():
            dynamics = jf.dynamics.modified(jf.optim.gd(1e-2), problem.objective, order=order)
            # A new function, so that nothing is compiled for it yet.
            solve = lambda dynamics, params: jf.integrate(dynamics, params, times).params
            lowered = jax.jit(solve).lower(dynamics, problem.params)
            jax.clear_caches()
            begin = time.perf_counter()
            lowered.compile()
            taken.append(time.perf_counter() - begin)
    return statistics.median(seconds[4]) / statistics.median(seconds[1])


def rounding(quick: bool) -> float:
    """The field of descent on digits, single against double precision, relative; worst of orders and rates."""
    single, double = digits("float32"), digits("float64")
    params = jax.tree.map(lambda x: x.astype(float), single.params)

    @partial(jax.jit, static_argnames="order")
    def field(order, rate, objective, params):
        dynamics = jf.dynamics.modified(jf.optim.gd(rate), objective, order=order)
        return ravel_pytree(dynamics.drift(0.0, dynamics.init(params)).params)[0]

    worst = 0.0
    for order in ORDERS:
        for rate in (1e-1, 1e-2, 1e-3, 1e-4):
            narrow = np.asarray(field(order, jnp.float32(rate), single.objective, single.params))
            exact = np.asarray(field(order, float(np.float32(rate)), double.objective, params))
            worst = max(worst, float(np.linalg.norm(narrow - exact) / np.linalg.norm(exact)))
    return worst


def gain_of_order_four(quick: bool) -> dict[str, float]:
    """Error of order 1 over that of order 4, 100 steps after the warm-up, on digits; the lesser of two optimizers."""
    problem = digits("float64")
    gains = {}
    for name, optimizer in (
        ("adam(1e-3)", jf.optim.adam(1e-3)),
        ("momentum(.05, .9)", jf.optim.momentum(0.05)),
    ):
        run = jf.iterate(optimizer, problem.objective, problem.params, steps=120, every=None)

        def gap(order, optimizer=optimizer, run=run):
            dynamics = jf.dynamics.modified(optimizer, problem.objective, order=order)
            return float(jf.compare(run, jf.integrate(dynamics, problem.params, run.times, rtol=1e-11)).final)

        gains[name] = gap(1) / gap(4)
    return {"ratio": min(gains.values())} | gains
