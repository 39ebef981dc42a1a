"""The Fokker–Planck equation of a noisy dynamics over one or two coordinates."""

from typing import Any

import numpy as np

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow.density.density_dynamics import chain_of, density_equation
from jaxflow.density.grid import Grid
from jaxflow.density.jumps.coefficients import coefficients_of
from jaxflow.density.jumps.rates import AROUND, Chain, Offset, used_offsets
from jaxflow.dynamics import Dynamics

PyTree = Any
WALLS = ("reflecting", "absorbing")
METHODS = ("auto", "uniformization", "radau")
FARTHEST = 12  # cells that a jump may span


def fokker_planck(
    dynamics: Dynamics, grid: Grid, *, params: PyTree = None, walls: Any = None, method: str = "auto"
) -> Dynamics:
    r"""The law of $dx = b\,dt + \sigma\,dW$: $p_t = -\nabla\cdot(b\,p) + \sum_{ij}\partial_i\partial_j(A_{ij}\,p)$.

    $A = \frac12\sigma\sigma^\top$, in the sense of Itô; for SGD it is TΣ. The result is a dynamics whose state is the
    density, so that `integrate(fokker_planck(dynamics, grid), density, times)` moves it at the times of a discrete
    run. What is solved is a chain of jumps between cells, exponentially fitted: densities stay at least 0, mass is
    kept to rounding, and errors are of second order in the size of a cell. In one coordinate, and for isotropic
    noise, the law at rest is Gibbs' to rounding on any grid. In directions without noise, such as that of a position
    in phase space, the error is of first order.

    **Arguments**

    - `dynamics`: a `Dynamics` with Gaussian noise, over states of one or two numbers: `langevin`, `sgd`,
      `momentum_sgd`, `underdamped_langevin`, sums and multiples, or the user's own. The coordinates of a state with a
      velocity are its parameter and its velocity. Coefficients may change with time: a step takes them at the
      middle of the time between two records (`substeps` makes shorter steps).
    - `grid`: a `Grid` of as many coordinates.
    - `params`: parameters of the structure that `dynamics` expects, of which the numbers do not matter. The default
      tries a number, then an array of as many numbers as the grid has coordinates.
    - `walls`: what the ends of the grid do (static): "reflecting", "absorbing", which takes the mass that
      arrives, or a pair of these for the low and the high end of one coordinate; of two, a pair of such pairs.
      Default: they reflect, but are not meant to be reached, and `integrate` warns where more than 1e-7 of the mass
      (1e-5 in float32) is in the outermost cells.
    - `method`: how time is stepped (static). "uniformization" is exact and positive from any start; it costs Λ·dt
      products, where Λ is the largest rate of leaving a cell. "radau" is for one coordinate and of order 5. Its
      steps are so short that an estimate of order 3 of their error is below 1e-5 in L1 (1e-4 in float32); the error
      itself is some 500 times smaller. Negative values, which a spike may leave, are set to 0, and the mass is
      restored. "auto" takes the first, or in one coordinate the second where there are more than 2,000 jumps.

    **Returns** a `Dynamics`. The `observed` of a solution holds the mass, and that in the outermost cells, at each
    time.

    `integrate` refuses a start that is not a density: negative, not finite, or of a mass above 1.

    **Raises** `TypeError` when `dynamics` is not a dynamics or `grid` not a grid; `ValueError` for a dynamics
    without noise, a state of another number of coordinates, a drift or noise that is not finite at a cell (which is
    named), noise that is too anisotropic for the grid, or another wall or method.

    Under `jit` and `vmap` the noise is not known when the stencil is chosen: there its matrix, in units of cells,
    must have eigenvalues that differ by a factor up to 14, or the density is NaN.

    Source: Scharfetter & Gummel (1969); Chang & Cooper (1970); Bonnans & Zidani (2003).

    >>> import jaxflow as jf
    >>> grid = jf.density.Grid(-6.0, 6.0, 240)
    >>> langevin = jf.dynamics.langevin(lambda x: 0.5 * x**2, temperature=0.5)
    >>> start = jf.density.gaussian(grid, 2.0, 0.1)
    >>> path = jf.integrate(jf.density.fokker_planck(langevin, grid), start, [0.0, 1.0])
    >>> print(grid.mean(path.params).round(3), grid.covariance(path.params).round(3))  # 2/e, .5 − .4/e²
    [0.736] [[0.446]]
    """
    if not isinstance(dynamics, Dynamics):
        raise TypeError(f"dynamics must be a Dynamics such as langevin(objective, 0.1), got {dynamics!r}.")
    if not isinstance(grid, Grid):
        raise TypeError(f"grid must be a jaxflow.density.Grid, got {grid!r}.")
    _check.require_choice("method", method, METHODS)
    if method == "radau" and grid.dimensions == 2:
        raise ValueError('method must be "uniformization" for two coordinates, got "radau".')
    ends = _walls("reflecting" if walls is None else walls, grid.dimensions)
    offsets = _choose_offsets(dynamics, grid, params)
    equation = density_equation(dynamics, grid, params, offsets, ends, method, walls is None)
    _check_chain(dynamics, grid, params, offsets, ends)
    return equation


def chain(equation: Dynamics, t: Any = 0.0) -> Chain:
    """The chain of jumps between cells that moves a density: what `fokker_planck` solves, at a time.

    **Arguments**

    - `equation`: what `fokker_planck` returned.
    - `t`: the time, where the coefficients depend on it.

    **Returns** a `Chain`: its `forward` and `backward` rates along the edges of the grid, and `apply(density)`, the
    velocity of a density.

    **Raises** `TypeError` for another dynamics.

    >>> import jaxflow as jf
    >>> grid = jf.density.Grid(-1.0, 1.0, 2)
    >>> still = jf.dynamics.langevin(lambda x: 0.0 * x, temperature=0.5)
    >>> jumps = jf.density.chain(jf.density.fokker_planck(still, grid))
    >>> print(jumps.forward[0], jumps.backward[0])
    [0.5 0. ] [0.  0.5]
    """
    if not isinstance(equation, Dynamics) or equation.constructor is not density_equation:
        raise TypeError(f"equation must be what fokker_planck returned, got {equation!r}.")
    asked = equation.hyperparameters
    del asked["method"], asked["watched"]
    return chain_of(**asked, t=t)


def as_chain(given: Any) -> Chain:
    """A chain, or that of an equation at time 0."""
    return given if isinstance(given, Chain) else chain(given)


def _walls(walls: Any, dimensions: int) -> tuple[tuple[bool, bool], ...]:
    """For each axis, whether its low and its high end absorb."""
    if isinstance(walls, str):
        _check.require_choice("walls", walls, WALLS)
        walls = ((walls, walls),) * dimensions
    elif dimensions == 1 and len(walls) == 2 and all(isinstance(end, str) for end in walls):
        walls = (walls,)
    if len(walls) != dimensions or any(len(pair) != 2 for pair in walls):
        raise ValueError(f"walls must be a name, or a pair of names for each axis, got {walls!r}.")
    for name in (name for pair in walls for name in pair):
        _check.require_choice("walls", name, WALLS)
    return tuple((low == "absorbing", high == "absorbing") for low, high in walls)


@compiled
def _vectors(dynamics, grid, params):
    coefficients = coefficients_of(dynamics, grid.dimensions, grid.low.dtype, params)
    return used_offsets(coefficients, grid, 0.0)


def _choose_offsets(dynamics, grid: Grid, params) -> tuple[Offset, ...]:
    """The vectors along which the chain jumps; the axes are among them."""
    if grid.dimensions == 1:
        return ((1,),)
    seen = _check.found_now(lambda: _vectors(dynamics, grid, params))
    if seen is None:
        return AROUND
    vectors, used = map(np.asarray, seen)
    found = np.unique(vectors[used], axis=0)
    # A vector and its opposite are one edge.
    upward = {tuple(map(int, v if tuple(v) > (0, 0) else -v)) for v in found}
    farthest = max((abs(step) for offset in upward for step in offset), default=0)
    if farthest > FARTHEST:
        raise ValueError(
            f"dynamics must have noise that jumps of {FARTHEST} cells can follow on this grid, got noise that needs "
            f"jumps of {farthest}; more cells along the axis with less noise help."
        )
    axes = ((0, 1), (1, 0))
    return (*axes, *sorted(upward - set(axes)))


def _check_chain(dynamics, grid: Grid, params, offsets, walls) -> None:
    def jumps():
        chain = chain_of(dynamics=dynamics, grid=grid, params=params, t=0.0, offsets=offsets, walls=walls)
        return chain.leaving, chain.has_noise

    found = _check.found_now(jumps)
    if found is None:
        return
    leaving, has_noise = map(np.asarray, found)
    bad = ~np.isfinite(leaving)
    if bad.any():
        place = np.asarray(_check.found_now(lambda: grid.points))[tuple(np.argwhere(bad)[0])]
        raise ValueError(
            f"dynamics must have a finite drift and noise on the grid, but they are not finite at {bad.sum()} of "
            f"{bad.size} cells, the first around {place.tolist()}."
        )
    if not has_noise:
        raise ValueError(
            f"dynamics must have noise on the grid, got {dynamics!r} with none (temperature 0): integrate a gradient "
            "flow instead."
        )
