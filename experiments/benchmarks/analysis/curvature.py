"""Figures of curvature, thresholds and central flows: accuracy, and what a central flow costs."""

import itertools
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from experiments.benchmarks.timing import medians
from jaxflow.dynamics.edge.semidefinite_complementarity import complementarity
from jaxflow.problems.losses import PredictionLosses, squared_error
from jaxflow.problems.models.networks import Network

ETA, RISE, PULL, TOP = 0.1, 0.05, 0.05, 27.2  # of the function of three parameters with a closed form


def digits(hidden: tuple[int, ...], examples: int, seed: int = 0) -> tuple[jf.Objective, Any]:
    """Squared error of a tanh network on the first digits, and where it starts."""
    problem = jf.problems.mlp("digits", hidden=hidden, loss="mse", key=jax.random.key(seed))
    data = jax.tree.map(lambda x: x[:examples], problem.objective.data)
    return jf.Objective(problem.objective.losses, data), problem.params


def top_eigenvalues(quick: bool) -> dict[str, float]:
    """The five largest of a digits network of 3,466 parameters, trained a while, against its dense Hessian."""
    objective, params = digits((8,) if quick else (32, 32), 500)
    params = jf.iterate(jf.optim.gd(0.3), objective, params, steps=200, every=None).params
    flat, unravel = ravel_pytree(params)
    product = jax.jit(lambda v: jax.jvp(jax.grad(lambda x: objective(unravel(x))), (flat,), (v,))[1])
    dense = jax.lax.map(product, jnp.eye(flat.size), batch_size=64)
    exact = np.linalg.eigvalsh(np.asarray(dense))[::-1][:5]
    found = jf.curvature.top_eigenpairs(objective, params, 5)
    return {
        "ratio": float(np.abs(np.asarray(found.values) / exact - 1).max()),
        "products": int(found.products),
        "largest residual / largest eigenvalue": float(found.residuals.max() / found.scale),
    }


def third_derivatives(quick: bool) -> float:
    """∇³L[u, v] against central differences of Hessian products, twice extrapolated; relative, float64."""
    objective, params = digits((16, 16, 16), 400)
    flat, unravel = ravel_pytree(params)
    u, v = (
        unravel(row / jnp.linalg.norm(row)) for row in jax.random.normal(jax.random.key(1), (2, flat.size))
    )
    hvp = lambda s: ravel_pytree(
        jf.curvature.hvp(objective, jax.tree.map(lambda p, x: p + s * x, params, v), u)
    )[0]
    first = [(hvp(h) - hvp(-h)) / (2 * h) for h in (4e-2, 2e-2, 1e-2)]
    second = [(4 * b - a) / 3 for a, b in itertools.pairwise(first)]
    limit = (16 * second[1] - second[0]) / 15
    exact = ravel_pytree(jf.curvature.third_derivative(objective, params, u, v))[0]
    return float(jnp.linalg.norm(exact - limit) / jnp.linalg.norm(exact))


def complementarity_problems(quick: bool) -> dict[str, float]:
    """Feasibilities and complementarity, in NumPy, of random problems of k = 1 … 8 with known solutions."""
    rng, worst, error = np.random.default_rng(0), 0.0, 0.0
    solve = jax.jit(complementarity)
    for k in range(1, 5 if quick else 9):
        i, j = np.triu_indices(k)
        scale = np.where(i == j, 1, np.sqrt(2))
        full = lambda x, i=i, j=j, s=scale, k=k: _symmetric(x / s, i, j, k)
        for trial in range(12):
            rank = trial % (k + 1)
            q = np.linalg.qr(rng.standard_normal((k, k)))[0]
            x = q[:, :rank] @ np.diag(rng.uniform(0.1, 1, rank)) @ q[:, :rank].T
            s = q[:, rank:] @ np.diag(rng.uniform(0.1, 1, k - rank)) @ q[:, rank:].T
            gram = rng.standard_normal((len(i), max(1, len(i) // 2) if trial % 3 == 2 else len(i)))
            b = gram @ gram.T  # every third one singular
            a = s - full(b @ (x[i, j] * scale))
            found = np.asarray(solve(jnp.asarray(a), jnp.asarray(b)).X)
            slack = a + full(b @ (found[i, j] * scale))
            size = np.abs(a).max()
            worst = max(worst, -np.linalg.eigvalsh(found).min(), -np.linalg.eigvalsh(slack).min() / size)
            worst = max(worst, abs(np.sum(found * slack)) / size)
            error = max(error, np.abs(found - x).max() if trial % 3 < 2 else 0.0)
    return {"ratio": worst, "error where the solution is unique": error}


def _symmetric(x: np.ndarray, i: np.ndarray, j: np.ndarray, k: int) -> np.ndarray:
    matrix = np.zeros((k, k))
    matrix[i, j] = matrix[j, i] = x
    return matrix


def toy(p):
    """x oscillates in the curvature y, which z draws up."""
    return 0.5 * p[1] * p[0] ** 2 + 0.5 * RISE * (p[1] - p[2]) ** 2 + 0.5 * PULL * (p[2] - TOP) ** 2


def _toy_paths(substeps: tuple[int, ...]):
    run = jf.iterate(jf.optim.gd(ETA), toy, jnp.array([0.6**0.5, 20.0, 26.0]), steps=200)
    flow = jf.dynamics.central_flow(jf.optim.gd(ETA), toy, modes=1)
    start = jnp.array([0.0, 20.0, 26.0])
    return run, [jf.integrate(flow, start, run.times, substeps=n) for n in substeps]


def toy_closed_form(quick: bool) -> float:
    """z, X and the average loss, extrapolated over substeps, against their closed form; largest relative error."""
    run, paths = _toy_paths((4, 8, 16, 32))
    end = (20 * RISE + PULL * TOP) / (RISE + PULL)
    z = end + (26 - end) * np.exp(-(RISE + PULL) * np.asarray(run.times))
    x = 2 * RISE * (z - 20)
    loss = 0.5 * RISE * (z - 20) ** 2 + 0.5 * PULL * (z - TOP) ** 2 + 10 * x
    tables = ([p.values[:, 2] for p in paths], [ETA * p.observed.covariance[:, 0, 0] for p in paths])
    tables += ([p.observed.loss for p in paths],)
    errors = []
    for table, exact in zip(tables, (z, x, loss), strict=True):
        values = [np.asarray(value) for value in table]
        for k in range(1, len(paths)):
            values = [(2**k * b - a) / (2**k - 1) for a, b in itertools.pairwise(values)]
        errors.append(np.abs(values[0] / exact - 1)[1:].max())
    return float(max(errors))


def toy_brute_force(quick: bool) -> float:
    """Mean x², loss and squared gradient of 200 iterates against the flow's; the largest relative gap."""
    run, (path,) = _toy_paths((64,))
    squares = jax.vmap(lambda p: jnp.sum(jax.grad(toy)(p) ** 2))(run.values)
    pairs = (
        (run.values[:, 0] ** 2, ETA * path.observed.covariance[:, 0, 0]),
        (jax.vmap(toy)(run.values), path.observed.loss),
        (squares, path.observed.squared_gradient),
    )
    return max(abs(float(np.mean(a[:200]) / np.mean(b[1:201]) - 1)) for a, b in map(_arrays, pairs))


def _arrays(pair):
    return tuple(np.asarray(x) for x in pair)


def thresholds(quick: bool) -> dict[str, float]:
    """`stability_threshold` against every closed form, β = 0, .5, .9, .99; largest relative error."""
    optim, eta, worst = jf.optim, 0.07, {}
    for beta in (0.0, 0.5, 0.9, 0.99):
        ema, nesterov = 2 * (1 + beta) / ((1 - beta) * eta), (2 + 2 * beta) / ((1 + 2 * beta) * eta)
        forms = {
            "gradient descent": (optim.gd(eta), 2 / eta),
            "heavy ball": (optim.momentum(eta, beta), 2 * (1 + beta) / eta),
            "EMA momentum": (optim.momentum(eta, beta, ema=True), ema),
            "Nesterov": (optim.nesterov(eta, beta), nesterov),
            "Nesterov, look-ahead": (optim.nesterov(eta, beta, lookahead=True), nesterov),
            "RMSProp": (optim.rmsprop(eta, beta), 2 / eta),
            "scalar RMSProp": (optim.scalar_rmsprop(eta, beta), 2 / eta),
            "Adam": (optim.adam(eta, beta), ema),
            "NAdam": (optim.nadam(eta, beta), nesterov / (1 - beta)),
            "RAdam": (optim.radam(eta, beta), ema),
            "AdamW": (optim.adamw(eta, beta, weight_decay=0.3), ema * (1 - eta * 0.3 / 2)),
            "AdaBound": (
                optim.adabound(eta, beta, final_learning_rate=0.2),
                ema * eta / 0.2,
            ),
        }
        for name, (optimizer, exact) in forms.items():
            error = abs(float(jf.curvature.stability_threshold(optimizer)) / exact - 1)
            worst[name] = max(worst.get(name, 0.0), error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        none = float(jf.curvature.stability_threshold(optim.sign(eta)))
    assert np.isnan(none), "sign descent has no threshold"
    return {"ratio": max(worst.values()), **worst}


def past_the_edge(name: str, quick: bool) -> dict[str, float]:
    """500 steps on digits (tanh 16-16-16, 400 examples) from an effective sharpness of 1.8, three modes.

    The gap of the predicted average loss over the last half, and the final distance of the central flow from the
    midpoints of the iterates over the stable flow's.
    """
    optimizer = {
        "gd": jf.optim.gd(0.35),
        "scalar_rmsprop": jf.optim.scalar_rmsprop(0.02, 0.99),
        "rmsprop": jf.optim.rmsprop(1e-3, 0.99, 1e-7),
    }[name]
    objective, params = digits((8, 8) if quick else (16, 16, 16), 400, seed=2)
    steps, level = (60, None) if quick else (500, 1.8)
    study = jf.edge_study(optimizer, objective, params, steps=steps, modes=3, level=level)
    return {
        "ratio": abs(float(study.loss_ratio) - 1),
        "stable flow": abs(float(study.stable_loss_ratio) - 1),
        "distance / the stable flow's": float(study.distance_ratio),
    }


def network(dtype: str):
    """A swish network of layers 8-16-16-1 on 128 examples of a smooth function."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((128, 8))
    y = np.sin(x @ rng.standard_normal((8, 1))) + x[:, :1] * x[:, 1:2]
    data = {"x": jnp.asarray(x, dtype), "y": jnp.asarray(y, dtype)}
    sizes = ((8, 16), (16, 16), (16, 1))
    params = tuple(
        {"w": jnp.asarray(rng.standard_normal(s) / s[0] ** 0.5, dtype), "b": jnp.zeros(s[1], dtype)}
        for s in sizes
    )
    return jf.Objective(PredictionLosses(Network("silu"), squared_error), data), params


def speed(quick: bool) -> dict[str, float]:
    """Seconds, compilation included, of 1,000 steps each of iterates, their midpoints' eigenvalues, both flows.

    In two threads: what takes the time is to compile programs that do not depend on each other.
    """
    objective, params = network("float32")
    optimizer, steps, parts = jf.optim.gd(0.1), 50 if quick else 1000, {}

    def time_part(name: str, part: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        out = jax.block_until_ready(part())
        parts[name] = time.perf_counter() - begin
        return out

    def everything(kind: str) -> Any:
        begin = time.perf_counter()
        times = 0.1 * jnp.arange(steps + 1)
        with ThreadPoolExecutor(2) as pool:
            flow = jf.dynamics.central_flow(optimizer, objective, modes=5)
            central = pool.submit(
                time_part, f"{kind}: central flow", lambda: jf.integrate(flow, params, times)
            )
            run = time_part(
                f"{kind}: iterates", lambda: jf.iterate(optimizer, objective, params, steps=steps)
            )
            middle = jf.midpoints(run).values
            time_part(
                f"{kind}: midpoints' eigenvalues", lambda: jf.curvature.sharpness_along(objective, middle, 5)
            )
            stable = jf.dynamics.stable_flow(optimizer, objective)
            time_part(f"{kind}: stable flow", lambda: jf.integrate(stable, params, times))
            out = central.result()
        parts[kind] = time.perf_counter() - begin
        return out

    jax.clear_caches()
    central = everything("compiled and run")
    everything("run")
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def products(flat, v):
        gradient = jax.grad(lambda x: objective(unravel(x)))
        next_one = lambda v, _: (lambda w: w / jnp.linalg.norm(w))(jax.jvp(gradient, (flat,), (v,))[1])
        return jax.lax.scan(lambda v, _: (next_one(v, _), None), v, None, length=1000)[0]

    one = medians({"products": lambda: products(flat, jnp.ones_like(flat))}, 5)["products"] / 1000
    return {
        "ratio": parts["compiled and run"],
        **parts,
        "substeps": int(central.observed.substeps[-1]),
        "Hessian products": int(central.observed.products[-1]),
        "third derivatives": int(central.observed.third_derivatives[-1]),
        "µs, one Hessian product": 1e6 * one,
        "central flow run / its products alone": parts["run: central flow"]
        / (one * int(central.observed.products[-1])),
    }


def eight_rates(quick: bool) -> dict[str, float]:
    """Eight learning rates, vmapped, against one: time, and the largest relative gap of the numbers."""
    objective, params = network("float64")
    steps = 20 if quick else 300
    start = jf.iterate(jf.optim.gd(0.1), objective, params, steps=600, every=None).params
    solve = jax.jit(
        lambda rate: jf.integrate(
            jf.dynamics.central_flow(jf.optim.gd(rate), objective, modes=3),
            start,
            rate * jnp.arange(steps + 1),
            record=objective,
        )
    )
    rates = jnp.linspace(0.08, 0.15, 8)
    together = jax.jit(jax.vmap(solve))
    seconds = medians({"one": lambda: solve(rates[3]), "eight": lambda: together(rates)}, 3)
    alone = [solve(rate) for rate in rates]
    lanes = together(rates)
    gap = max(float(jnp.abs(lanes.values[i] / run.values - 1).max()) for i, run in enumerate(alone))
    return {"ratio": seconds["eight"] / seconds["one"], "largest relative gap of the losses": gap}
