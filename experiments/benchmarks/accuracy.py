"""Numbers that are not seconds: errors, counts and slopes, over the whole table of optimizers.

The table of cases and the NumPy recursions are those of the tests, written independently of the optimizers.
"""

import sys
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow as jf
from jaxflow._compiled import programs

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "optim"))
cases = import_module("cases")
compilations = lambda: programs()["solve.iteration.iterate"]
STEPS = 100


def recursions(quick: bool) -> float:
    """The largest deviation of any optimizer from its NumPy recursion over 100 steps, relative to the path."""
    worst = 0.0
    for case in cases.CASES:
        if case.recursion is None:
            continue
        run = jf.iterate(case.make(), cases.loss, cases.START, steps=STEPS, time_step=1.0)
        exact = case.recursion(cases.gradient, cases.START, STEPS, **case.settings)
        worst = max(worst, float(np.abs(run.values - exact).max() / np.abs(exact).max()))
    return worst


def _rates(case):
    """Twenty versions of an optimizer, or of gradient descent under a schedule, that differ in one number."""
    for i in range(20):
        made = case.make()
        if isinstance(made, jf.optim.Schedule):
            yield jf.optim.gd(jax.tree.map(lambda x, i=i: x * (1 + 0.01 * i), made))
        else:
            dynamic = jax.tree.map(lambda x, i=i: x * (1 - 0.01 * i) if isinstance(x, float) else x, made)
            yield dynamic


def compile_counts(quick: bool) -> int:
    """The largest number of compilations that any optimizer or schedule needs for twenty sets of numbers."""
    most = 0
    for case in (*cases.CASES, *cases.SCHEDULE_CASES):
        loss = lambda params: cases.loss(params)  # a new function, so that nothing is compiled for it yet
        before = compilations()
        for optimizer in _rates(case):
            jf.iterate(optimizer, loss, cases.START, steps=2, time_step=1.0)
        most = max(most, compilations() - before)
    return most


def vmapped_hyperparameters(quick: bool) -> float:
    """Largest float32 gap between `vmap(constructor)` and a loop, over every hyperparameter, relative to the path."""
    start = jnp.asarray(cases.START, jnp.float32)
    run = lambda optimizer: jf.iterate(optimizer, cases.loss, start, steps=20, time_step=1.0).params
    one, many = jax.jit(run), jax.jit(jax.vmap(run))
    worst = 0.0
    for case in cases.CASES:
        for name, value in case.make().hyperparameters.items():
            if not isinstance(value, float):
                continue
            values = value * np.array([1.0, 0.95, 0.9], np.float32)
            stack = jax.vmap(lambda v, case=case, name=name: case.make(**{name: v}))(jnp.asarray(values))
            stack = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == float else x, stack)
            loop = np.stack([one(case.make(**{name: float(v)})) for v in values])
            worst = max(
                worst, float(np.abs(np.asarray(many(stack)) - loop).max() / np.abs(cases.START).max())
            )
    return worst


def derivatives(quick: bool) -> int:
    """Differentiable optimizers whose gradient through 20 steps is not finite; one coordinate's slope is 0."""
    flat = lambda x: 0.5 * jnp.sum(jnp.asarray([1.0, 2.0, 3.0, 0.0]) * x**2)
    start = jnp.array([1.0, -1.0, 2.0, 1.0])
    end = lambda optimizer, x: flat(jf.iterate(optimizer, flat, x, steps=20, time_step=1.0).params)
    bad = 0
    for case in cases.CASES:
        if case.differentiable:
            slope = jax.grad(end, (0, 1), allow_int=True)(case.make(), start)
            numbers = [x for x in jax.tree.leaves(slope) if jnp.issubdtype(x.dtype, jnp.inexact)]
            bad += not all(np.isfinite(x).all() for x in numbers)
    return bad


def dtypes(quick: bool) -> int:
    """Optimizers and dtypes for which an update changes the dtype of the parameters or the state."""
    bad = 0
    for case in cases.CASES:
        for dtype in ("bfloat16", "float16", "float32", "float64", "complex64"):
            if dtype == "complex64" and not case.complex:
                continue
            params = jnp.asarray(cases.START, dtype)
            optimizer = case.make()
            state = optimizer.init(params)
            extra = {"grad_fn": lambda p: p, "value_fn": lambda p: jnp.sum(jnp.abs(p) ** 2)}
            updates, after = optimizer.update(params, state, params, **extra)
            same = jax.tree.map(lambda a, b: a.dtype == b.dtype and a.shape == b.shape, state, after)
            bad += updates.dtype != params.dtype or not all(jax.tree.leaves(same))
    return bad


def quadratic_flow(quick: bool) -> float:
    """Error of gradient flow with 50 eigenvalues over four decades against its closed form, over the norm."""
    eigenvalues = np.geomspace(1e-2, 1e2, 50)
    problem, times = jf.problems.quadratic(eigenvalues), jnp.linspace(0.0, 5.0, 21)
    flow = jf.dynamics.gradient_flow(problem.objective)
    path = jf.integrate(flow, problem.params, times, rtol=1e-10, atol=1e-12, max_steps=20_000)
    exact = np.exp(-np.outer(times, eigenvalues))
    return float((np.linalg.norm(path.values - exact, axis=1) / np.linalg.norm(exact, axis=1)).max())


def descent_slope(quick: bool) -> float:
    """The order at which gradient descent leaves gradient flow, on Rosenbrock's function."""
    problem = jf.problems.rosenbrock()

    def gap(h):
        steps = jnp.round(0.5 / h).astype(int)
        run = jf.iterate(jf.optim.gd(h), problem.objective, problem.params, steps=steps, every=None)
        flow = jf.integrate(
            jf.dynamics.gradient_flow(problem.objective), problem.params, run.times, rtol=1e-10
        )
        return jf.compare(run, flow).final

    return float(jf.order_of_accuracy(gap, 0.5 / 2.0 ** jnp.arange(13, 19)).slope)
