"""What is read off the three levels: losses, entropies and free energies over time, verdicts, currents."""

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow as jf
from jaxflow.commands.density.noisy_problem import NoisyProblem
from jaxflow.commands.shared.programs import jit_once

SHOWN = 5


@dataclass(frozen=True)
class Levels:
    """The runs of SGD and the paths of the SDE, of n members each, and the density, all at the same times."""

    sgd: jf.Trajectory
    sde: jf.Trajectory
    density: jf.Trajectory

    @property
    def shown(self) -> list[int]:
        """The records that are shown: the last one, that at a third of its time, at a third of that, …"""
        last = np.size(self.density.times) - 1
        return sorted({max(1, round(last / 3**k)) for k in range(SHOWN)})

    def at(self, level: str, records: list[int]) -> jf.Trajectory:
        """Some records of a level."""
        run = getattr(self, level)
        pick = lambda x, axis: np.take(np.asarray(x), records, axis)
        members = np.ndim(run.status)
        return dataclasses.replace(
            run,
            times=pick(run.times, np.ndim(run.times) - 1),
            values=pick(run.values, members),
            observed=jax.tree.map(lambda x: pick(x, members), run.observed),
        )


class OverTime(NamedTuple):
    """Functionals of the density at every record, each (T,).

    - `loss`: its mean. `entropy`. `free_energy`: T·KL, by the potential of the law at rest.
    - `naive`: the mean loss less T times the entropy. `production`: of entropy. `circulation`: 0 on a line.
    """

    loss: jax.Array
    entropy: jax.Array
    kl: jax.Array
    free_energy: jax.Array
    naive: jax.Array
    production: jax.Array
    circulation: jax.Array


@dataclass(frozen=True)
class Measures:
    """Everything that is said of the levels.

    - `losses`: the mean loss of the members at every record and its standard error, by level.
    - `verdicts`: whether the members have the density, by level.
    - `rest`: the law at rest; `potential`: Φ of it; `loss`: L on the grid.
    - `at_rest`: the functionals of that law. `currents` (K, *shape, d): at the times shown, and `rest_current`.
    - `relaxation`: the time after which the slowest deviation has fallen to 1/e.
    - `rises`: by how much the free energy and the naive one rise between two records at most.
    """

    over_time: OverTime
    at_rest: OverTime
    losses: dict[str, tuple[np.ndarray, np.ndarray]]
    verdicts: dict[str, jf.density.DensityComparison]
    loss: np.ndarray
    rest: np.ndarray
    potential: np.ndarray
    currents: np.ndarray
    rest_current: np.ndarray
    relaxation: float
    rises: dict[str, float]
    at_walls: float


def measure(problem: NoisyProblem, equation: Any, rest: jax.Array, levels: Levels) -> Measures:
    """Measure what the levels are, also against the law at rest."""
    grid, shown = problem.grid, levels.shown
    chain = jf.density.chain(equation)
    loss = jit_once(lambda points: jax.vmap(problem.loss)(points))(grid.points.reshape(-1, grid.dimensions))
    loss = loss.reshape(grid.shape)
    functionals = jax.jit(_functionals)
    read = lambda p: functionals(p, loss, rest, problem.temperature, chain)
    over_time = read(levels.density.values)
    currents = jnp.stack([jf.density.current(levels.density.values[i], chain) for i in shown])
    rises = {name: _largest_rise(getattr(over_time, name)) for name in ("free_energy", "naive")}
    observed: Any = levels.density.observed
    return Measures(
        over_time=over_time,
        at_rest=jax.tree.map(lambda x: x[0], read(rest[None])),
        losses={name: _mean_loss(problem, getattr(levels, name)) for name in ("sgd", "sde")},
        verdicts={
            name: jf.density.compare_density(levels.at(name, shown), levels.at("density", shown), grid)
            for name in ("sgd", "sde")
        },
        loss=np.asarray(loss),
        rest=np.asarray(rest),
        potential=np.asarray(jf.density.potential(rest, problem.temperature, grid)),
        currents=np.asarray(currents),
        rest_current=np.asarray(jf.density.current(rest, chain)),
        relaxation=1 / float(jf.density.spectral_gap(chain)),
        rises=rises,
        at_walls=float(np.max(observed.at_walls)),
    )


def _largest_rise(values: Any) -> float:
    """By how much a curve rises between two records at most; 0 where it never does, or is infinite."""
    values = np.asarray(values)
    return float(np.diff(values[np.isfinite(values)]).max(initial=0.0))


def _functionals(densities, loss, rest, temperature, chain) -> OverTime:
    grid = chain.grid

    def one(p):
        mean, entropy = grid.mean(p, loss), jf.density.entropy(p, grid)
        apart = jf.density.kl(p, rest, grid)
        turning = jf.density.circulation(p, chain) if grid.dimensions == 2 else jnp.zeros_like(mean)
        return OverTime(
            loss=mean,
            entropy=entropy,
            kl=apart,
            free_energy=temperature * apart,
            naive=mean - temperature * entropy,
            production=jf.density.entropy_production(p, chain),
            circulation=turning,
        )

    return jax.lax.map(one, densities)


def _mean_loss(problem: NoisyProblem, run: jf.Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """The mean loss of the members at every record, of those that are finite, and its standard error."""
    points = jnp.asarray(run.values)
    found = np.asarray(jit_once(jax.vmap(jax.vmap(problem.loss)))(points))
    found = np.where(np.isfinite(found), found, np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice|Degrees of freedom", RuntimeWarning)
        return np.nanmean(found, 0), np.nanstd(found, 0) / np.sqrt(len(found))
