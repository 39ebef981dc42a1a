"""SGD as a diffusion: its noise against every mini-batch there is, weak orders, the panel test, and speed."""

import itertools
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from experiments.benchmarks.runs.speed import digits, gradients_in_a_scan
from experiments.benchmarks.timing import medians

PATHS, STEPS, DT, HEAT = 10_000, 1_000, 0.01, 0.25


def noise_covariance(quick: bool) -> float:
    """Draw operator of a network on 6 examples against all batches of 2: the largest error over both ways to draw."""
    network = jf.problems.mlp("iris", hidden=(3,))
    data = jax.tree.map(lambda x: x[::20], network.objective.data)
    objective = jf.Objective(network.objective.losses, data)
    rows = jax.vmap(lambda i: ravel_pytree(jax.grad(objective.minibatch)(network.params, i[None]))[0])
    gradients = np.asarray(rows(jnp.arange(objective.size)))
    errors = []
    for replacement, batches in (
        (True, itertools.product(range(objective.size), repeat=2)),
        (False, itertools.combinations(range(objective.size), 2)),
    ):
        means = np.stack([gradients[list(batch)].mean(0) for batch in batches])
        exact = np.cov(means.T, bias=True)
        draw = partial(jf.dynamics.minibatch_noise, batch_size=2, replacement=replacement)
        operator = np.asarray(
            jax.vmap(lambda xi, draw=draw: ravel_pytree(draw(objective, network.params, xi))[0])(
                jnp.eye(objective.size)
            )
        )
        errors.append(np.abs(operator.T @ operator - exact).max() / np.abs(exact).max())
    return max(errors)


def regression_slope(order, pick, scale: float = 1.0, replacement: bool = False) -> float:
    """Slope of a moment's gap between SGD (B = 2 of N = 5, without replacement) and an SDE, by exact moments."""
    x = jnp.array([[1.0, 0.3], [-0.4, 0.9], [0.5, -1.1], [0.2, 0.7], [-0.9, -0.2]])
    y = jnp.array([0.5, -1.0, 0.8, 1.5, -0.3])
    objective = jf.Objective(lambda w, b: 0.5 * (b["x"] @ w - b["y"]) ** 2, {"x": x, "y": y})
    start = jnp.array([1.0, -1.0])

    def discrete(rate):
        settings = {"learning_rate": rate, "batch_size": 2, "replacement": False}
        steps = jnp.asarray(round(1 / rate))
        return pick(jf.comparison.moment_descent(objective, start, steps=steps, **settings))

    def continuous(rate):
        sde = jf.dynamics.sgd(objective, rate, 2 / scale, order, replacement=replacement)
        flow = jf.comparison.moment_flow(sde)
        return pick(jf.integrate(flow, start, [0.0, 1.0], rtol=1e-11).params)

    return float(jf.weak_order(discrete, continuous, [0.04, 0.02, 0.01, 0.005]).slope)


def covariance_slope(quick: bool) -> float:
    return regression_slope(1, lambda moments: moments.covariance)


def second_moment_slope(quick: bool) -> float:
    return regression_slope(2, lambda moments: jnp.trace(moments.second))


def wrong_population_slope(quick: bool) -> float:
    return regression_slope(2, lambda moments: jnp.trace(moments.second), replacement=True)


def rejections(quick: bool, spread: float) -> float:
    """The share of comparisons of 256 against 256 normal samples in 4 dimensions that the panel test rejects."""
    repetitions = 20 if quick else 200

    def verdict(key):
        first, second, test = jax.random.split(key, 3)
        a = jax.random.normal(first, (256, 4))
        b = spread * jax.random.normal(second, (256, 4))
        return jf.compare_ensembles(a, b, key=test).p_value

    keys = jax.random.split(jax.random.key(1), repetitions)
    return float(np.mean(np.asarray(jax.jit(partial(lax.map, verdict))(keys)) <= 0.05))


def false_alarms(quick: bool) -> float:
    return rejections(quick, 1.0)


def power(quick: bool) -> float:
    return rejections(quick, 1.3**0.5)


def fused_step(quick: bool) -> float:
    """A step of SGD's SDE with the full noise against a plain full gradient, digits network."""
    problem, steps = digits("float32"), 40 if quick else 400
    dynamics = jf.dynamics.sgd(problem.objective, 0.1, 32)
    times = jnp.array([0.0, 1.0], jnp.float32)
    key = jax.random.key(0)
    solve = lambda: jf.integrate(dynamics, problem.params, times, key=key, substeps=steps).params
    floor = gradients_in_a_scan(problem.objective, problem.params, steps)
    seconds = medians({"ours": solve, "floor": floor}, 3 if quick else 15)
    return seconds["ours"] / seconds["floor"]


def well(x: jax.Array) -> jax.Array:
    return jnp.sum(0.25 * (x**2 - 1) ** 2)


def by_hand(steps: int):
    """What a user would write: a scan over steps that splits one key stream and draws noise step by step."""
    size = jnp.sqrt(2 * HEAT * DT).astype(jnp.float32)

    @jax.jit
    def run(x, key):
        def step(carry, _):
            x, key = carry
            key, draw = jax.random.split(key)
            noise = jax.random.normal(draw, x.shape, x.dtype)
            return (x - DT * jax.grad(well)(x) + size * noise, key), None

        return lax.scan(step, (x, key), None, length=steps)[0][0]

    return lambda: run(jnp.zeros(PATHS, jnp.float32), jax.random.key(0))


def ensemble(quick: bool, over_keys: bool) -> float:
    """10,000 paths × 1,000 steps in the double well, as one state or over keys, against the scan written by hand."""
    steps = 100 if quick else STEPS
    dynamics, key = jf.dynamics.langevin(well, HEAT), jax.random.key(0)
    times = jnp.array([0.0, DT * steps], jnp.float32)
    run = lambda x, key: jf.integrate(dynamics, x, times, key=key, substeps=steps).params
    if over_keys:
        keys = jax.random.split(key, PATHS)
        ours = lambda: jf.ensemble(lambda key: run(jnp.zeros((), jnp.float32), key), keys)
    else:
        ours = lambda: run(jnp.zeros(PATHS, jnp.float32), key)
    seconds = medians({"ours": ours, "hand": by_hand(steps)}, 3 if quick else 15)
    return seconds["ours"] / seconds["hand"]


def as_one_state(quick: bool) -> float:
    return ensemble(quick, over_keys=False)


def over_keys(quick: bool) -> float:
    return ensemble(quick, over_keys=True)


def against_diffrax(quick: bool) -> dict[str, float]:
    """diffrax's Euler over its Brownian tree, over ours: a key for every path, and all paths as one state."""
    steps = 20 if quick else STEPS
    heat = jnp.sqrt(2 * HEAT).astype(jnp.float32)
    drift = diffrax.ODETerm(lambda t, x, args: -jax.grad(well)(x))

    def tree(x, key):
        path = diffrax.VirtualBrownianTree(
            0.0, DT * steps, DT / 2, jax.ShapeDtypeStruct(x.shape, x.dtype), key
        )
        spread = lambda t, x, args: lineax.DiagonalLinearOperator(jnp.full(x.shape, heat, x.dtype))
        terms = diffrax.MultiTerm(drift, diffrax.ControlTerm(spread, path))
        settings = {"max_steps": 2 * steps, "adjoint": diffrax.DirectAdjoint()}
        return diffrax.diffeqsolve(terms, diffrax.Euler(), 0.0, DT * steps, DT, x, **settings).ys

    dynamics, key = jf.dynamics.langevin(well, HEAT), jax.random.key(0)
    times = jnp.array([0.0, DT * steps], jnp.float32)
    starts, keys = jnp.zeros((PATHS, 1), jnp.float32), jax.random.split(key, PATHS)
    ours = lambda x, key: jf.integrate(dynamics, x, times, key=key, substeps=steps).params
    one, many = jax.jit(tree), jax.jit(jax.vmap(tree))
    contestants = {
        "ours, one state": lambda: ours(starts[:, 0], key),
        "tree, one state": lambda: one(starts[:, 0], key),
        "ours": lambda: jf.ensemble(lambda member: ours(*member), (starts, keys)),
        "tree": lambda: many(starts, keys),
    }
    seconds = medians(contestants, 1 if quick else 3)
    together = seconds["tree, one state"] / seconds["ours, one state"]
    return {"ratio": seconds["tree"] / seconds["ours"], "as one state": together}
