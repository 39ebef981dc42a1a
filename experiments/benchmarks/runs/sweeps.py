"""Sweeps: every cell against its trial alone, and seconds and memory against doing the same by hand."""

import functools
import itertools
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxflow as jf
from experiments.benchmarks.runs.speed import digits
from experiments.benchmarks.timing import medians
from jaxflow.sweeps.execution.compiled_batch import compilations as programs

RATES, SEEDS = 16, 4


STABLE = {
    "gd": (jf.optim.gd, [0.05, 0.2, 0.5]),
    "momentum": (lambda rate: jf.optim.momentum(rate, 0.9), [0.005, 0.02, 0.05]),
    "adam": (jf.optim.adam, [0.0005, 0.003, 0.01]),
}


def network_trial(optimizer, batch_size, steps: int, problem, hyperparameters, key):
    """Training of a digits network, on all data or in mini-batches; its end."""
    made = optimizer(hyperparameters["learning_rate"])
    run = jf.iterate(
        made, problem.objective, problem.params, steps=steps, batch_size=batch_size, key=key, every=None
    )
    return {"loss": problem.objective(run.params), "params": run.params}


def cells(dtype: str, quick: bool) -> dict[str, float]:
    """The largest gap between a sweep's cell and the same trial alone, relative: loss, and norm of the parameters.

    On all data, and by mini-batches of 32, whose noise near the edge of stability amplifies rounding.
    """
    with jax.enable_x64(dtype == "float64"):
        problem = digits(dtype, hidden=(16,))
        found = {}
        for what, batch_size in (("ratio", None), ("mini-batches", 32)):
            trials = {
                name: functools.partial(network_trial, optimizer, batch_size, 50 if quick else 500)
                for name, (optimizer, _) in STABLE.items()
            }
            gaps = [
                _gap(jax.tree_util.Partial(trial, problem), STABLE[name][1], dtype)
                for name, trial in trials.items()
            ]
            found[what] = max(gaps)
    return found


def _gap(trial, rates: list[float], dtype: str) -> float:
    table = jf.sweep(trial, {"learning_rate": rates}, seeds=3)
    alone, gaps = jax.jit(lambda trial, rate, key: trial({"learning_rate": rate}, key)), []
    for rate, seed in itertools.product(rates, range(3)):
        key = jax.random.fold_in(jax.random.key(0), seed)
        result = alone(trial, jnp.asarray(rate, dtype), key)
        cell = table.sel(learning_rate=rate, seed=seed)
        paths = jax.tree.leaves_with_path(result["params"])
        names = ["params." + jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
        difference = [cell[n].values - np.asarray(leaf) for n, (_, leaf) in zip(names, paths, strict=True)]
        gaps.append(optax.tree.norm(difference) / optax.tree.norm(result["params"]))
        gaps.append(abs(cell["loss"].item() / result["loss"] - 1))
    return float(max(gaps))


class Case(NamedTuple):
    """Trials to be timed: an optimizer by its learning rate, here and in optax, and what it minimises from where."""

    ours: Any
    optax: Any
    objective: Any
    start: Any
    batch_size: int | None
    steps: int


def case(what: str) -> Case:
    """Adam and SGD on functions of two parameters, SGD on the digits network."""
    if what == "network":
        problem = digits("float32", hidden=(16,))
        return Case(jf.optim.gd, optax.sgd, problem.objective, problem.params, 32, 500)
    start = jnp.array([-0.5, 0.5], jnp.float32)
    if what == "Rosenbrock, Adam":
        rosenbrock = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        return Case(jf.optim.adam, optax.adam, rosenbrock, start, None, 2000)
    centres = jax.random.normal(jax.random.key(1), (128, 2), jnp.float32)
    losses = lambda x, c: 0.5 * ((x[0] - c[:, 0]) ** 2 + 10 * (x[1] - c[:, 1]) ** 2)
    return Case(jf.optim.gd, optax.sgd, jf.Objective(losses, centres), start, 1, 2000)


@functools.cache
def seconds(what: str, quick: bool) -> dict[str, float]:
    """64 trials: as a sweep, by a bare vmap, one after another, and by a Python loop (timed for four)."""
    with jax.enable_x64(False):
        chosen = case(what)
        chosen = chosen._replace(steps=chosen.steps // 10) if quick else chosen

        def trial(hyperparameters, key):
            made, size = chosen.ours(hyperparameters["learning_rate"]), chosen.batch_size
            settings = {"steps": chosen.steps, "batch_size": size, "key": key, "every": None}
            return jf.iterate(made, chosen.objective, chosen.start, **settings).params

        rates = np.geomspace(0.001, 0.1, RATES)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(SEEDS))
        pairs = [(jnp.float32(rate), key) for rate in rates for key in keys]
        stacked = jnp.stack([rate for rate, _ in pairs]), jnp.stack([key for _, key in pairs])
        one = jax.jit(lambda rate, key: trial({"learning_rate": rate}, key))
        every, loop = jax.jit(jax.vmap(one)), _loop(chosen)
        contestants = {
            "sweep": lambda: jf.sweep(trial, {"learning_rate": rates}, seeds=SEEDS),
            "vmap": lambda: every(*stacked),
            "one after another": lambda: [one(*pair) for pair in pairs],
        }
        taken = medians(contestants, 3 if quick else 15)
        few = medians({"loop": lambda: [loop(*pair) for pair in pairs[:4]]}, 1 if quick else 3)
    return taken | {"Python loop": few["loop"] * len(pairs) / 4}


def _loop(chosen: Case):
    """What one writes first: a Python loop over a compiled optax step."""

    @jax.jit
    def step(params, state, rate, key, k):
        loss = chosen.objective
        if chosen.batch_size is not None:
            drawn = jax.random.fold_in(key, k), (chosen.batch_size,), 0, chosen.objective.size
            indices = jax.random.randint(*drawn)
            loss = lambda p: chosen.objective.minibatch(p, indices)
        updates, state = chosen.optax(rate).update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    def run(rate, key):
        params, state = chosen.start, chosen.optax(0.1).init(chosen.start)
        for k in range(chosen.steps):
            params, state = step(params, state, rate, key, k)
        return params

    return run


def measure_excess(quick: bool) -> dict[str, float]:
    """Milliseconds by which a sweep exceeds 1.05 × a bare vmap with a key for each lane, the worst case."""
    taken = {what: seconds(what, quick) for what in ("Rosenbrock, Adam", "quadratic, SGD", "network")}
    excess = {what: 1e3 * (t["sweep"] - 1.05 * t["vmap"]) for what, t in taken.items()}
    return {"ratio": max(excess.values()), **excess}


def measure_speedup(what: str, than: str, quick: bool) -> dict[str, Any]:
    """How many times faster a sweep is than another way of running its 64 trials."""
    taken = seconds(what, quick)
    return {"ratio": taken[than] / taken["sweep"], **{f"seconds, {name}": t for name, t in taken.items()}}


def compilations(quick: bool) -> int:
    """Programs compiled by a sweep over four axes whose last batch is ragged."""
    axes = {"learning_rate": [0.1, 0.2, 0.3], "b1": [0.8, 0.9], "b2": [0.9, 0.99], "eps": [1e-8, 1e-4]}

    def trial(hyperparameters, key):
        start = jax.random.normal(key, (2,))
        adam, loss = jf.optim.adam(**hyperparameters), lambda x: jnp.sum(x**4)
        return jf.iterate(adam, loss, start, steps=5, every=None).params

    before = programs()
    jf.sweep(trial, axes, batch=7)
    return programs() - before


MEMORY = """
import sys, jax, jax.numpy as jnp, numpy as np, jaxflow as jf
def trial(h, key):
    walk = lambda x, _: (0.9 * x + h["a"] * jnp.sin(x), None)
    return jax.lax.scan(walk, jax.random.normal(key, (10,)), None, length=20)[0]
count, folder = int(sys.argv[1]), sys.argv[2]
jf.sweep(trial, {"a": np.linspace(0, 1, count)}, directory=folder)
# Linux's own count: getrusage has that of the process that started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def memory(quick: bool) -> dict[str, float]:
    """Peak memory of a process that streams 100,000 trials of ten numbers over that of 10,000."""
    peaks = {}
    for count in (1_000, 10_000) if quick else (10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", MEMORY, str(count), folder]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[f"MiB, {count} trials"] = int(out) / 1024
    few, many = peaks.values()
    return {"ratio": many / few, **peaks}
