"""Landscapes: saddles to all digits and the price of finding them, slices, symmetries, paths between networks."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow as jf
from experiments.benchmarks.analysis.landscape_peers import BANDS, IMAGES, MINIMA, SADDLES, Saddle
from experiments.benchmarks.timing import medians
from jaxflow import landscape
from jaxflow.dynamics.penalty import penalized
from jaxflow.problems.models.networks import compute_by_columns

LOOSE, TIGHT = 1e-2, 1e-5  # forces: saddles are within 1e-6 and 1e-12 then
POINTS = 101
SURFACE = jf.problems.muller_brown().objective


def band(saddle: Saddle, tolerance: float | None = None) -> jf.landscape.Path:
    ends = (jnp.asarray(MINIMA[name]) for name in saddle.between)
    return landscape.neb(SURFACE, *ends, points=IMAGES, tolerance=tolerance)


def saddles(quick: bool) -> dict[str, float]:
    del quick
    heights, places = [], []
    for saddle in SADDLES:
        path = band(saddle)
        heights.append(abs(float(path.saddle) - saddle.height))
        places.append(np.abs(np.asarray(path.top) - saddle.place).max())
    return {"ratio": max(heights + places), "height": max(heights), "place": max(places)}


def evaluations_an_image(quick: bool) -> float:
    del quick
    paths = [band(saddle, LOOSE) for saddle in SADDLES]
    for path, saddle in zip(paths, SADDLES, strict=True):
        assert abs(float(path.saddle) - saddle.height) < 1e-6
    return max(int(path.evaluations) for path in paths) / (IMAGES - 2)


@functools.cache
def race(peer: str, quick: bool) -> dict[str, dict[str, float]]:
    """Evaluations and seconds, ours and a peer's, to the same largest force; the worse of both saddles for us."""
    found = {}
    for saddle in SADDLES:
        ours, theirs = band(saddle, TIGHT), BANDS[peer](saddle, TIGHT)
        seconds = medians(
            {"ours": lambda s=saddle: band(s, TIGHT), "theirs": lambda s=saddle: BANDS[peer](s, TIGHT)},
            1 if quick else 5,
        )
        found["–".join(saddle.between)] = {
            "evaluations": int(ours.evaluations) / theirs.evaluations,
            "time": seconds["theirs"] / seconds["ours"],
            "error": abs(theirs.height - saddle.height),
            "ours": int(ours.evaluations),
            "theirs": theirs.evaluations,
            "ms": 1e3 * seconds["ours"],
        }
    return found


def evaluations(peer: str, quick: bool) -> dict[str, float]:
    found = race(peer, quick)
    details = {f"{name}, {whose}": row[whose] for name, row in found.items() for whose in ("ours", "theirs")}
    return {"ratio": max(row["evaluations"] for row in found.values()), **details}


def measure_speedup(peer: str, quick: bool) -> dict[str, float]:
    found = race(peer, quick)
    details = {f"{name}, {what}": row[what] for name, row in found.items() for what in ("ms", "error")}
    return {"ratio": min(row["time"] for row in found.values()), **details}


def rescale(params: Any, factors: tuple[float, float]) -> Any:
    """A ReLU network with the same function, whose first two layers are scaled as wholes."""
    first, second, third = params
    one, two = factors
    return (
        {"w": first["w"] * one, "b": first["b"] * one},
        {"w": second["w"] * two / one, "b": second["b"] * two},
        {"w": third["w"] / two, "b": third["b"]},
    )


def filter_normalisation(quick: bool) -> float:
    """The largest relative change of a filter-normalised slice under a rescaling of whole layers."""
    problem = jf.problems.mlp("digits", (16, 16), "relu")
    rng = np.random.default_rng(0)
    params = tuple(
        {"w": layer["w"], "b": jnp.asarray(0.1 * rng.normal(size=layer["b"].shape))}
        for layer in problem.params
    )
    key, points = jax.random.key(0), 5 if quick else 21
    draw = lambda p: (
        landscape.slice(problem.objective, p, landscape.random_directions(p, key), points=points).losses
    )
    whole = draw(params)
    changes = [jnp.max(jnp.abs(draw(rescale(params, f)) / whole - 1)) for f in ((10.0, 0.1), (0.01, 100.0))]
    return float(max(changes))


def random_walk(quick: bool) -> float:
    """The largest relative deviation of the first four shares of the variance from 6/(πk)², over several walks."""
    steps, dimensions, seeds = (300, 20_000, 1) if quick else (1000, 100_000, 3)
    worst = 0.0
    for seed in range(seeds):
        walk = jnp.cumsum(jax.random.normal(jax.random.key(seed), (steps, dimensions), jnp.float32), 0)
        shares = landscape.principal_directions(walk, 4).values
        worst = max(worst, float(jnp.max(jnp.abs(shares * (jnp.pi * jnp.arange(1, 5)) ** 2 / 6 - 1))))
    return worst


def slice_speed(how: str, quick: bool) -> dict[str, float]:
    """Losses one by one / a slice, float32, digits network.

    `how` is "outside", a compiled loss of parameters that are made for each point, as scripts do it, or
    "inside", where each call makes them in its one program.
    """
    single = functools.partial(jax.tree.map, lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x)
    problem = single(jf.problems.mlp("digits"))
    objective, params = problem.objective, problem.params
    directions = landscape.random_directions(params, jax.random.key(0))
    side = 11 if quick else POINTS
    # Some of the points, as all of them one by one would take longer than they tell.
    few = [
        (x, y)
        for x in np.linspace(-1, 1, side, dtype=np.float32)
        for y in np.linspace(-1, 1, 10, dtype=np.float32)
    ]
    outside, inside = jax.jit(lambda o, p: o(p)), jax.jit(lambda o, p, d, x, y: o(_at(p, d, x, y)))
    first, second = directions[0], directions[1]

    def one_by_one():
        if how == "inside":
            return [float(inside(objective, params, (first, second), x, y)) for x, y in few]
        point = lambda x, y: jax.tree.map(lambda p, a, b: p + x * a + y * b, params, first, second)
        return [float(outside(objective, point(x, y))) for x, y in few]

    whole = lambda: landscape.slice(objective, params, directions, points=side).losses
    seconds = medians({"one by one": one_by_one, "slice": whole}, 1 if quick else 7)
    alone, together = seconds["one by one"] / len(few), seconds["slice"] / side**2
    return {"ratio": alone / together, "µs alone": 1e6 * alone, "µs in the slice": 1e6 * together}


def _at(params: Any, directions: Any, x: Any, y: Any) -> Any:
    return jax.tree.map(lambda p, a, b: p + x * a + y * b, params, *directions)


def slice_memory(quick: bool) -> dict[str, float]:
    """Temporary memory of a slice of many points / of few, without its losses."""
    del quick
    problem = jf.problems.mlp("digits")
    directions = landscape.random_directions(problem.params, jax.random.key(0))
    use = {}
    for side in (11, 101):
        run = lambda p, d, n=side: landscape.slice(problem.objective, p, d, 1.0, n).losses
        use[side] = (
            jax.jit(run).lower(problem.params, directions).compile().memory_analysis().temp_size_in_bytes
        )
    return {"ratio": use[101] / use[11], "MB": use[101] / 1e6}


@functools.cache
def networks(hidden: int, activation: str) -> tuple[Any, Any, list[Any]]:
    """Two networks on digits at minima of cross-entropy + 5e-4|θ|², in float32: the problem, its loss, their ends."""
    with jax.enable_x64(False):
        make = lambda seed: jf.problems.mlp("digits", (hidden,), activation, key=jax.random.key(seed))
        problem = make(0)
        objective = penalized(compute_by_columns(problem.objective), 1e-3)
        train = lambda seed: jf.iterate(
            jf.optim.momentum(0.1, 0.9), objective, make(seed).params, steps=1500, every=None
        )
        return problem, objective, [train(seed).params for seed in (0, 1)]


def digits(kind: str, quick: bool) -> dict[str, float]:
    """The barrier of a bent path between two networks, evaluated densely, and what accuracy it costs."""
    with jax.enable_x64(False):
        problem, objective, (a, b) = networks(32, "tanh")
        began = time.perf_counter()
        if kind == "bezier":
            adam = jf.optim.adam(3e-3)
            path = landscape.curve(
                objective,
                a,
                b,
                key=jax.random.key(0),
                optimizer=adam,
                steps=500 if quick else 3000,
                points=301,
            )
        else:
            images = 9 if quick else 33
            path = landscape.neb(objective, a, b, points=images, max_steps=100 if quick else 400)
            path = landscape.refine(objective, path)
        score = jax.jit(jax.vmap(problem.score))(path.params)
        drop = float(jnp.minimum(score[0], score[-1]) - score.min())
        straight = float(landscape.interpolate(objective, a, b).barrier)
        seconds = time.perf_counter() - began
    return {"ratio": float(path.barrier), "straight": straight, "points lost": 100 * drop, "seconds": seconds}


def measure_alignment(activation: str, quick: bool) -> dict[str, float]:
    """The linear barrier of two networks of width 128 after alignment / before."""
    del quick
    with jax.enable_x64(False):
        _, objective, (a, b) = networks(128, activation)
        found = landscape.align(a, b, signs=activation == "tanh")
        before, after = (float(landscape.interpolate(objective, a, end).barrier) for end in (b, found.params))
    return {"ratio": after / before, "before": before, "after": after}
