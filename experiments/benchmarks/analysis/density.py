"""The Fokker–Planck equation: errors and orders, speed next to other libraries, growth with the number of cells."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import poisson

import jaxflow as jf
from experiments.benchmarks.analysis.density_peers import END, INSTALLED, TEMPERATURE, reference, start, well
from experiments.benchmarks.timing import medians

CELLS = 400
COARSE = 50  # cells, where our error is still below that of central differences on 400
JUMPS = 400.0  # what `uniformize` takes in one part
AT_REST = np.array([[0.5, 0.2], [0.2, 0.2]])


def line(cells: int) -> jf.density.Grid:
    return jf.density.Grid(-END, END, cells)


def equation(temperature=TEMPERATURE, cells: int = CELLS):
    return jf.density.fokker_planck(jf.dynamics.langevin(well, temperature), line(cells), walls="reflecting")


def ours(cells: int = CELLS):
    """The double well from t = 0 to 1: a plain call of `integrate`, and one under `jit`."""
    moving, begun, times = equation(cells=cells), jnp.asarray(start(cells)), jnp.array([0.0, 1.0])
    plain = lambda density: jf.integrate(moving, density, times).params
    return partial(plain, begun), partial(jax.jit(plain), begun)


def distance(p, q, cells: int = CELLS) -> float:
    return float(jf.density.l1_distance(p, q, line(cells)))


def double_well(quick: bool) -> dict[str, float]:
    """The error of values at the middles of cells; their averages over cells differ from these by 2.5e-4."""
    found, (values, averages) = ours()[0](), reference(CELLS)
    return {"ratio": distance(found, values), "taken as averages over cells": distance(found, averages)}


def order(errors: list[float]) -> float:
    """In the size of a cell, by errors at numbers of cells that double."""
    return float(np.mean(np.log2(np.array(errors[:-1]) / errors[1:])))


def double_well_order(quick: bool) -> float:
    counts = (100, 200) if quick else (100, 200, 400)
    return order([distance(ours(cells)[0](), reference(cells)[0], cells) for cells in counts])


def measure_speedup(peer: str, quick: bool, cells: int = CELLS) -> dict[str, float]:
    """Seconds of a peer over ours on `cells`, a plain call and one under `jit`, with the errors of both."""
    _, make, its_cells = INSTALLED[peer]
    solve, (plain, jitted) = make(its_cells), ours(cells)
    contestants = {"peer": solve, "plain": plain, "jit": jitted}
    seconds = medians(contestants, 1 if quick else 15)
    return {
        "ratio": seconds["peer"] / seconds["plain"],
        "under jit": seconds["peer"] / seconds["jit"],
        "its error": distance(solve(), reference(its_cells)[0], its_cells),
        "ours": distance(plain(), reference(cells)[0], cells),
        "its ms": 1e3 * seconds["peer"],
        "our ms": 1e3 * seconds["plain"],
        "under jit ms": 1e3 * seconds["jit"],
    }


def temperatures(quick: bool) -> dict[str, float]:
    """16 temperatures in one `vmap` over one, the mean of the 16 in turn; the largest gap between the densities."""
    heats, begun = jnp.linspace(0.1, 0.25, 16), jnp.asarray(start(CELLS))
    one = jax.jit(lambda heat: jf.integrate(equation(heat), begun, [0.0, 1.0]).params)
    many, each = jax.jit(jax.vmap(one)), lambda: [one(heat) for heat in heats]
    gap = max(distance(p, q) for p, q in zip(many(heats), each(), strict=True))
    contestants = {"many": lambda: many(heats), "each": each, "coldest": lambda: one(heats[0])}
    seconds = medians(contestants, 3 if quick else 15)
    slowest = seconds["many"] / seconds["coldest"]
    return {"ratio": 16 * seconds["many"] / seconds["each"], "over the slowest": slowest, "gap": gap}


def gibbs(quick: bool) -> float:
    """|A p| of Gibbs' law over the largest flow out of a cell: the worst of a line and, twisted, a plane."""
    twisted = lambda x: well(x[0]) + 0.5 * x[1] ** 2 + 0.3 * x[0] * x[1]
    plane = jf.density.Grid((-END, -2.5), (END, 2.5), (64, 48) if quick else (128, 96))
    worst = []
    for loss, grid in ((well, line(CELLS)), (twisted, plane)):
        chain = jf.density.chain(jf.density.fokker_planck(jf.dynamics.langevin(loss, TEMPERATURE), grid))
        points = jnp.squeeze(grid.points.reshape(-1, grid.dimensions))
        law = jnp.exp(-jax.vmap(loss)(points) / TEMPERATURE).reshape(grid.shape)
        worst.append(float(jnp.abs(chain.apply(law)).max() / (chain.leaving * law).max()))
    return max(worst)


@jf.dynamics.traceable
def linear(hessian, noise):
    """dx = −Hx dt + σ dW with ½σσᵀ = `noise`."""
    root = jnp.linalg.cholesky(2 * noise)
    return jf.dynamics.Field(
        drift=lambda t, x: -hessian @ x,
        diffusion=lambda t, x, xi: root @ xi,
        brownian=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
        additive=True,
    )


def plane(cells: int):
    """The Ornstein–Uhlenbeck equation with the law `AT_REST`, whose flow circles."""
    hessian, noise = jnp.diag(jnp.array([1.0, 3.0])), 0.5 * jnp.array([[1.0, 0.8], [0.8, 1.2]])
    grid = jf.density.Grid((-5.0, -3.2), (5.0, 3.2), (cells, cells))
    return jf.density.fokker_planck(linear(hessian, noise), grid), grid


def covariance(quick: bool, cells: int = 128) -> float:
    moving, grid = plane(cells)
    return float(np.abs(np.asarray(grid.covariance(jf.density.stationary(moving))) - AT_REST).max())


def covariance_order(quick: bool) -> float:
    return order([covariance(quick, cells) for cells in ((16, 32) if quick else (32, 64, 128))])


def production(quick: bool) -> float:
    moving, _ = plane(32 if quick else 128)
    found = jf.density.entropy_production(jf.density.stationary(moving), moving)
    return abs(float(found) / (8 / 7) - 1)


def solves(quick: bool) -> dict[int, tuple]:
    """By the number of cells: a compiled solve of 400 jumps, which is as many products on every grid, with arguments.

    The time that it takes is 400 over the largest rate, which grows as the number of cells does.
    """
    run = jax.jit(lambda moving, density, times: jf.integrate(moving, density, times).params)
    found = {}
    for side in (32, 64) if quick else (64, 128, 256):
        moving, grid = plane(side)
        times = jnp.array([0.0, JUMPS]) / jf.density.chain(moving).leaving.max()
        arguments = (moving, jf.density.gaussian(grid, 0.0, AT_REST), times)
        found[side**2] = run.lower(*arguments).compile(), arguments
    return found


def spread(by_cells: dict[int, float], unit: str) -> dict[str, float]:
    named = {f"{unit}, {cells:,} cells": value for cells, value in by_cells.items()}
    return {"ratio": max(named.values()) / min(named.values()), **named}


def seconds_a_cell(quick: bool) -> dict[str, float]:
    counts = np.arange(int(JUMPS), 2 * int(JUMPS))
    products = counts[poisson.pmf(counts, JUMPS) <= np.finfo(float).eps / 8][0]
    contestants = {n: partial(run, *arguments) for n, (run, arguments) in solves(quick).items()}
    seconds = medians(contestants, 3 if quick else 15)
    return spread({n: 1e9 * s / (n * products) for n, s in seconds.items()}, "ns a product")


def memory_a_cell(quick: bool) -> dict[str, float]:
    bytes_of = {}
    for cells, (run, _) in solves(quick).items():
        use = run.memory_analysis()
        parts = (use.temp_size_in_bytes, use.argument_size_in_bytes, use.output_size_in_bytes)
        bytes_of[cells] = sum(parts) / cells
    return spread(bytes_of, "bytes")
