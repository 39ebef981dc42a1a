"""Seconds: each verb against its floor, the same work written by hand, side by side in one run."""

import statistics
import subprocess
import sys
import time
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import optax
from jax import lax

import jaxflow as jf
from experiments.benchmarks.timing import medians


def digits(dtype: str, **settings: Any) -> jf.problems.Problem:
    """A digits network with everything in one dtype."""
    problem = jf.problems.mlp("digits", **settings)
    cast = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
    return jax.tree.map(cast, problem)


def hand_written(loss, steps: int, every: int):
    """What a user would write with optax: a scan of scans that keeps every `every`-th parameters."""
    optimizer = optax.sgd(0.01)

    @jax.jit
    def run(params, data):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, data), state, params)
            return (optax.apply_updates(params, updates), state), None

        def interval(carry, _):
            carry, _ = lax.scan(step, carry, None, length=every)
            return carry, carry[0]

        return lax.scan(interval, (params, optimizer.init(params)), None, length=steps // every)

    return run


def iterate_network(quick: bool) -> float:
    """`iterate` on the digits network, full batch, against the hand-written scan."""
    problem, steps = digits("float32"), 50 if quick else 500
    objective = problem.objective
    run = hand_written(lambda p, data: objective.losses(p, data).mean(), steps, 10)
    contestants = {
        "ours": lambda: (
            jf.iterate(jf.optim.gd(0.01), objective, problem.params, steps=steps, every=10).values
        ),
        "hand": lambda: run(problem.params, objective.data),
    }
    seconds = medians(contestants, 3 if quick else 11)
    return seconds["ours"] / seconds["hand"]


def iterate_plane(quick: bool) -> float:
    """`iterate` on Rosenbrock's function, a million steps, every = 10, against the hand-written scan.

    They take ten milliseconds, next to which what a plain call adds, a figure of its own, is small.
    """
    rosenbrock = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    start, steps = jnp.array([-0.5, 0.5], jnp.float32), 10_000 if quick else 1_000_000
    run = hand_written(lambda p, data: rosenbrock(p), steps, 10)
    optimizer = jf.optim.gd(1e-4)
    contestants = {
        "ours": lambda: jf.iterate(optimizer, rosenbrock, start, steps=steps, every=10).values,
        "hand": lambda: run(start, None),
    }
    seconds = medians(contestants, 5 if quick else 21)
    return seconds["ours"] / seconds["hand"]


def plain_call(quick: bool) -> float:
    """Microseconds that a plain call of `iterate` adds to the call of a jitted function of the same arrays."""
    loss = lambda x: jnp.sum(x**2)
    start, optimizer = jnp.ones(2), jf.optim.adam(0.01)
    hand = jax.jit(lambda x, rates: x - rates[0] * jax.grad(loss)(x))
    rates = tuple(jax.tree.leaves(optimizer))
    contestants = {
        "ours": lambda: jf.iterate(optimizer, loss, start, steps=1),
        "hand": lambda: hand(start, rates),
    }
    seconds = medians(contestants, 200 if quick else 2000)
    return 1e6 * (seconds["ours"] - seconds["hand"])


def gradients_in_a_scan(objective, params, number: int):
    """The floor: the same number of gradients of the objective one after another in one compiled scan."""

    @jax.jit
    def run(objective, params):
        step = lambda p, _: (jax.tree.map(lambda a, g: a - 1e-6 * g, p, jax.grad(objective)(p)), None)
        return lax.scan(step, params, None, length=number)[0]

    return lambda: run(objective, params)


def integrate_network(quick: bool) -> float:
    """`integrate` by Tsit5 on the digits network against the same number of gradients in a scan."""
    problem = digits("float32")
    flow = jf.dynamics.gradient_flow(problem.objective)
    times = jnp.linspace(0.0, 2.0 if quick else 20.0, 11, dtype=jnp.float32)
    solve = lambda: jf.integrate(flow, problem.params, times)
    evaluations = int(solve().evaluations)
    floor = gradients_in_a_scan(problem.objective, problem.params, evaluations)
    seconds = medians({"ours": solve, "floor": floor}, 3 if quick else 11)
    return seconds["ours"] / seconds["floor"]


def nan_lane(quick: bool) -> float:
    """A vmapped solve of 16 lanes of which one is NaN, against 16 good ones."""
    problem = jf.problems.rosenbrock()
    flow, times = jf.dynamics.gradient_flow(problem.objective), jnp.linspace(0.0, 2.0, 11)
    starts = problem.params[None] + 0.1 * jax.random.normal(jax.random.key(0), (16, 2))
    solve = jax.jit(jax.vmap(lambda x: jf.integrate(flow, x, times)))
    torn = starts.at[5].set(jnp.nan)
    seconds = medians({"torn": lambda: solve(torn), "good": lambda: solve(starts)}, 5 if quick else 31)
    return seconds["torn"] / seconds["good"]


def import_time(quick: bool) -> float:
    """`import jaxflow` in a new process against importing jax, optax and diffrax."""
    seconds: dict[str, list[float]] = {"jaxflow": [], "jax, optax, diffrax": []}
    for _ in range(3 if quick else 11):
        for names, values in seconds.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {names}"], check=True)
            values.append(time.perf_counter() - begin)
    ours, theirs = (statistics.median(values) for values in seconds.values())
    return ours / theirs


def stiff_network(quick: bool) -> dict[str, float]:
    """`RKC2` against Tsit5 on a digits network late in training, float64, rtol 1e-4, over Δt = 20.

    Standardised digits keep small networks flat (sharpness below 10 at any time), so the output is multiplied
    by 6: 4,000 steps of gradient descent at rate .01 then end at a sharpness of about 95.
    """
    problem = digits("float64", hidden=(32, 32), loss="mse")

    def losses(params, batch):
        targets = jax.nn.one_hot(batch["y"], 10, dtype=float)
        return 0.5 * jnp.sum((6 * problem.predict(params, batch["x"]) - targets) ** 2, -1)

    objective, steps = jf.Objective(losses, problem.objective.data), 500 if quick else 4000
    late = jf.iterate(jf.optim.gd(0.01), objective, problem.params, steps=steps, every=None).params
    flow, times = jf.dynamics.gradient_flow(objective), jnp.linspace(0.0, 2.0 if quick else 20.0, 6)
    solve = lambda solver, rtol: jf.integrate(flow, late, times, solver=solver, rtol=rtol, max_steps=100_000)
    contestants = {"RKC2": lambda: solve(jf.RKC2(), 1e-4), "Tsit5": lambda: solve(None, 1e-4)}
    seconds = medians(contestants, 1 if quick else 3)
    runs = {name: contestant() for name, contestant in contestants.items()}
    reference = solve(diffrax.Dopri8(), 1e-9)
    return {
        "ratio": seconds["Tsit5"] / seconds["RKC2"],
        "sharpness": float(jf.curvature.sharpness(objective, late)),
        **{f"evaluations {name}": int(run.evaluations) for name, run in runs.items()},
        **{f"error {name}": float(jf.compare(reference, run).final) for name, run in runs.items()},
    }
