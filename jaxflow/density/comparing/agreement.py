"""Whether the members of an ensemble have the density of a Fokker–Planck equation: a test at each time."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow import _check
from jaxflow.density.comparing.agreement_verdict import DensityComparison
from jaxflow.density.comparing.merged_cells import LEAST, merge_cells
from jaxflow.density.density_dynamics import DensityState
from jaxflow.density.grid import Grid
from jaxflow.solve import Trajectory
from jaxflow.solve.ensembles import share_clock

BOTH = 0.475  # the share of the rate of false alarms that the likelihood ratio and the surprise have each
STRAY = 0.05  # the share of the rate of false alarms that is spent on members where the density has nothing
NOTHING = 1e-3  # members expected in all the cells together that count as empty


def compare_density(
    ensemble: Trajectory,
    densities: Trajectory,
    grid: Grid | None = None,
    *,
    level: float = 0.95,
    cells: int = 12,
) -> DensityComparison:
    r"""Test whether the members of an ensemble have the law that a density states, at every time that both have.

    The cells of the grid are merged to boxes of about equal mass p, each of at least 5 expected members. With $n_i$
    of n members in box i the statistic is $G = 2\sum_i n_i \log\frac{n_i}{n\,p_i}$, divided by Williams' factor; its
    law is chi-square of one degree of freedom less than there are boxes. It detects any change, but a change of
    temperature with little power only. A second test detects that one. It compares the mean surprise $-\log p(x)$
    of the members with the entropy of the density: for a Gibbs law this is the score of the temperature. Its law is
    taken to be a gamma law of the same mean, variance and skewness, which is exact for Gaussian densities. Members
    outside the grid, and those that diverged or have ended, are a box of their own where 5 or more of them are
    expected. Elsewhere they, and members in cells that are practically empty, have an exact binomial test. The
    three tests share the false alarms: 47.5, 47.5 and 5 % of them.

    **Arguments**

    - `ensemble`: a trajectory made by `jf.ensemble` of n members, of which each record has as many real numbers as
      the grid has coordinates, in their order. A process with absorbing walls must end there, by an event.
    - `densities`: what `integrate` returned for `fokker_planck(dynamics, grid)`, values (T, *grid.shape). Times that
      only one of the two has are left out.
    - `grid`: the `Grid`. Default: that of the equation, which is known where its coefficients do not change with
      time.
    - `level`: between 0 and 1; 1 − level is the rate of false alarms of all times together, by Holm's procedure.
    - `cells`: the largest number of boxes, an integer at least 2. Few boxes detect changes of the whole law with
      more power; many boxes detect changes of its details.

    **Returns** a `DensityComparison`, whose `message` is a sentence. Everything is computed on the host.

    **Raises** `TypeError` for arguments that are not trajectories or not a grid, and for records that are not real;
    `ValueError` for a single run, fewer than 10 members, records or densities of another shape, no time in common,
    densities that are not finite, a level outside (0, 1), or traced values. It warns where only one of the two
    clocks counts steps.

    Source: Wilks (1938); Williams (1976), Biometrika 63; Kolmogorov (1933); Holm (1979).

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> grid, times = jf.density.Grid(-5.0, 5.0, 200), jnp.array([0.0, 0.5, 1.0])
    >>> langevin = jf.dynamics.langevin(lambda x: 0.5 * x**2, temperature=0.5)
    >>> equation = jf.density.fokker_planck(langevin, grid)
    >>> densities = jf.integrate(equation, jf.density.gaussian(grid, 1.0, 0.1), times)
    >>> def member(key):
    ...     first, path = jax.random.split(key)
    ...     start = 1.0 + jnp.sqrt(0.1) * jax.random.normal(first)
    ...     return jf.integrate(langevin, start, times, key=path, substeps=50)
    >>> ensemble = jf.ensemble(member, jax.random.split(jax.random.key(0), 1000))
    >>> jf.density.compare_density(ensemble, densities).differ
    False
    """
    grid = _check_arguments(ensemble, densities, grid, level, cells)
    if np.ndim(ensemble.times) == 2:
        ensemble = share_clock(ensemble)
    points = _points(ensemble, grid)
    laws = _masses(densities, grid)
    ours, theirs = _common_times(ensemble, densities)
    bounds = np.asarray(grid.low, float), np.asarray(grid.high, float)
    rounding = 100 * float(jnp.finfo(densities.values.dtype).eps)
    found = [
        _test(points[:, i], laws[j], *bounds, rounding, cells) for i, j in zip(ours, theirs, strict=True)
    ]
    return DensityComparison(
        times=np.asarray(densities.times, float)[theirs],
        **{name: np.array([one[name] for one in found]) for name in found[0]},
        members=points.shape[0],
        level=float(level),
        left_out=points.shape[1] + laws.shape[0] - 2 * len(ours),
    )


def _check_arguments(ensemble: Any, densities: Any, grid: Any, level: Any, cells: Any) -> Grid:
    for name, run in (("ensemble", ensemble), ("densities", densities)):
        if not isinstance(run, Trajectory):
            raise TypeError(f"{name} must be a Trajectory, got {type(run).__name__}.")
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((run.times, run.values))):
            raise ValueError(
                f"{name} must be concrete, got traced values: call this outside of jit and vmap."
            )
    if np.ndim(ensemble.status) != 1:
        got = "a single run" if not np.ndim(ensemble.status) else f"status of shape {ensemble.status.shape}"
        raise ValueError(
            f"ensemble must be made by jf.ensemble, whose status has one axis of members, got {got}."
        )
    if np.ndim(densities.status):
        raise ValueError(f"densities must be one solution, got several, of shape {densities.status.shape}.")
    if grid is None:
        state = [x for x in jax.tree.leaves(densities.state, is_leaf=_is_state) if _is_state(x)]
        if not state or state[0].chain is None:
            raise ValueError("grid must be given, as the densities do not hold that of their equation.")
        grid = state[0].chain.grid
    if not isinstance(grid, Grid):
        raise TypeError(f"grid must be a jaxflow.density.Grid, got {type(grid).__name__}.")
    if not (_check.is_concrete(level) and 0 < level < 1):
        raise ValueError(f"level must be a number between 0 and 1, such as 0.95, got {level!r}.")
    _check.require_integer("cells", cells, 2)
    if ensemble.counts_steps != densities.counts_steps:
        warnings.warn(
            "Only one of ensemble and densities is on the clock of a learning rate; the times of the other count "
            "steps: give time_step= (its learning rate) where it is made.",
            stacklevel=3,
        )
    return grid


def _is_state(x: Any) -> bool:
    return isinstance(x, DensityState)


def _points(ensemble: Trajectory, grid: Grid) -> np.ndarray:
    """The coordinates of all members at all times, (n, T, d)."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(ensemble.values)]
    shapes = ", ".join(str(leaf.shape[2:]) for leaf in leaves)
    wrong = [leaf.dtype for leaf in leaves if not np.issubdtype(leaf.dtype, np.number)]
    wrong += [leaf.dtype for leaf in leaves if np.iscomplexobj(leaf)]
    if wrong:
        raise TypeError(f"ensemble must hold records of real numbers, got dtype {wrong[0]}.")
    flat = [leaf.reshape(*leaf.shape[:2], -1).astype(float) for leaf in leaves]
    size = sum(leaf.shape[-1] for leaf in flat)
    if size != grid.dimensions:
        raise ValueError(
            f"ensemble must have records of as many numbers as the grid has coordinates, {grid.dimensions}, got "
            f"{size} in leaves of shape {shapes or 'none'}; record= chooses what is recorded."
        )
    points = np.concatenate(flat, -1)
    if points.shape[0] < 2 * LEAST:
        raise ValueError(
            f"ensemble must have at least {2 * LEAST} members for a test, got {points.shape[0]}."
        )
    return points


def _masses(densities: Trajectory, grid: Grid) -> np.ndarray:
    """The mass in every cell at all times, (T, *shape)."""
    leaves = jax.tree.leaves(densities.values)
    shapes = [np.shape(leaf) for leaf in leaves]
    if len(leaves) != 1 or shapes[0][1:] != grid.shape:
        raise ValueError(
            f"densities must have values of shape (T, {', '.join(map(str, grid.shape))}), those of the grid, got "
            f"{', '.join(map(str, shapes)) or 'none'}."
        )
    masses = np.asarray(leaves[0], float) * float(grid.volume)
    bad = ~(np.isfinite(masses) & (masses >= 0)).all(tuple(range(1, masses.ndim)))
    if bad.any():
        first = float(np.asarray(densities.times)[np.argmax(bad)])
        raise ValueError(
            f"densities must be finite and at least 0, but they are not at {bad.sum()} of {bad.size} times, first "
            f"at t = {first:.6g}."
        )
    return masses


def _common_times(ensemble: Trajectory, densities: Trajectory) -> tuple[list[int], list[int]]:
    """The indices in both of the times that both have, up to rounding."""
    x, y = (np.asarray(run.times, float) for run in (ensemble, densities))
    eps = max(float(jnp.finfo(run.times.dtype).eps) for run in (ensemble, densities))
    # As in `compare`: sums of k steps round by about eps·√k of the span.
    near = 4 * eps * max(x.size**0.5, 8) * max(np.abs(x).max(), np.abs(y).max())
    near = min(near, *(np.diff(t)[np.diff(t) > 0].min(initial=np.inf) / 4 for t in (x, y)))
    closest = np.abs(x[None] - y[:, None]).argmin(1)
    theirs = np.flatnonzero(np.abs(x[closest] - y) <= near)
    if not theirs.size:
        raise ValueError(
            f"densities must have a time in common with the ensemble, got {y.size} times from {y[0]:.6g} to "
            f"{y[-1]:.6g} against {x.size} from {x[0]:.6g} to {x[-1]:.6g}; integrate at the ensemble's times."
        )
    return [int(i) for i in closest[theirs]], [int(j) for j in theirs]


def _test(points: np.ndarray, masses: np.ndarray, low, high, rounding: float, cells: int) -> dict[str, Any]:
    """All that is said about one time."""
    import scipy.stats  # here, as it is slow to import

    n = len(points)
    inside = (np.isfinite(points) & (points >= low) & (points <= high)).all(1)
    places = (points[inside] - low) / (high - low) * masses.shape
    index = tuple(np.minimum(places.astype(int), np.array(masses.shape) - 1).T)
    counts = np.zeros(masses.shape, int)
    np.add.at(counts, index, 1)
    lost, gone = n - int(inside.sum()), max(1 - masses.sum(), 0.0)
    own = bool(n * gone >= LEAST)
    held = masses / masses.sum()
    expected = n * masses if own else inside.sum() * held
    boxes = merge_cells(expected, cells)
    seen = np.array([counts[box].sum() for box in boxes] + [lost] * own, float)
    hoped = np.array([expected[box].sum() for box in boxes] + [n * gone] * own)
    g, p = _likelihood_ratio(seen, hoped)
    # What is beyond a wall that reflects is not known; it is taken to be as much as touches the wall.
    touching = masses.sum() - masses[(slice(1, -1),) * masses.ndim].sum()
    beyond = 0.0 if own else (gone if gone > rounding else touching)
    empty, chance = _empty_cells(masses, n)
    strays = int(counts[empty].sum()) + (0 if own else lost)
    p_stray = float(scipy.stats.binom.sf(strays - 1, n, min(beyond + chance, 1.0)))
    smallest = np.where(empty, np.inf, held).min()
    surprise, surprise_p = _surprise(counts, held, max(smallest, np.finfo(float).tiny))
    ks, ks_p = _kolmogorov(places[:, 0], held) if masses.ndim == 1 else (np.nan, np.nan)
    shares = np.array([*(masses[box].sum() for box in boxes), gone])
    found = np.array([*(counts[box].sum() for box in boxes), lost]) / n
    return {
        "statistic": g,
        "boxes": len(hoped),
        "p_value": min(1.0, p / BOTH, surprise_p / BOTH, p_stray / STRAY),
        "statistic_p_value": p,
        "surprise": surprise,
        "surprise_p_value": surprise_p,
        "kolmogorov": ks,
        "kolmogorov_p_value": ks_p,
        "l1": np.abs(found - shares).sum(),
        "l1_by_chance": np.sqrt(2 * shares * np.maximum(1 - shares, 0) / (np.pi * n)).sum(),
        "outside": lost,
        "expected_outside": n * (gone if own else beyond),
        "strays": strays,
    }


def _likelihood_ratio(seen: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """G with Williams' factor, and its p-value: 1 where there is one box, which tells nothing."""
    import scipy.stats  # here, as it is slow to import

    k, n = len(expected), expected.sum()
    if k < 2:
        return 0.0, 1.0
    g = 2 * np.sum(scipy.stats.entropy(seen, expected) * n)
    g /= 1 + (np.sum(n / expected) - 1) / (6 * n * (k - 1))
    return float(g), float(scipy.stats.chi2.sf(g, k - 1))


def _surprise(counts: np.ndarray, held: np.ndarray, least: float) -> tuple[float, float]:
    """The mean −log p of the members less the entropy, and its p-value; 1 where p is constant."""
    import scipy.stats  # here, as it is slow to import

    n, values = counts.sum(), -np.log(np.maximum(held, least))
    away = values - np.sum(held * values)
    variance = np.sum(held * away**2)
    if not n or variance < 1e-20:
        return 0.0, 1.0
    gap = np.sum(counts * away) / n
    # Pearson's law of type III is a gamma law, shifted.
    skewness = np.sum(held * away**3) / variance**1.5 / np.sqrt(n)
    law, z = scipy.stats.pearson3(skewness), gap * np.sqrt(n / variance)
    return float(gap), float(min(1.0, 2 * min(law.cdf(z), law.sf(z))))


def _empty_cells(masses: np.ndarray, n: int) -> tuple[np.ndarray, float]:
    """The cells with the least mass, in which together practically no member is expected, and that mass."""
    order = np.argsort(masses, axis=None)
    upto = np.cumsum(masses.ravel()[order])
    some = upto * n <= NOTHING
    empty = np.zeros(masses.size, bool)
    empty[order[some]] = True
    return empty.reshape(masses.shape), float(upto[some].max(initial=0.0))


def _kolmogorov(places: np.ndarray, held: np.ndarray) -> tuple[float, float]:
    """The Kolmogorov–Smirnov distance of the members on the grid, with the density constant in each cell."""
    import scipy.stats  # here, as it is slow to import

    if not len(places):
        return np.nan, np.nan
    edges = np.append(0.0, np.cumsum(held))
    u = np.sort(np.interp(places, np.arange(edges.size), edges))
    steps = np.arange(len(u) + 1) / len(u)
    distance = max((steps[1:] - u).max(), (u - steps[:-1]).max())
    return float(distance), float(scipy.stats.kstwo.sf(distance, len(u)))
