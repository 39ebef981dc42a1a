r"""Where a density comes to rest, how fast, and how long a process takes to reach a wall."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxflow._compiled import compiled
from jaxflow.density.equation import as_chain
from jaxflow.density.jumps.rates import Chain

TOLERANCE = 1e-13
MOST = 10_000  # iterations for the slowest mode
OCTAVES = 6  # of frequencies at which modes that swing are looked for


def stationary(equation: Any) -> jax.Array:
    r"""The law at rest, $p_t = 0$.

    In one coordinate it is a product of ratios of rates. In two it is the solution of a sparse linear system, by
    SciPy, which needs concrete numbers. In both it is right to rounding however small it is.

    **Arguments**

    - `equation`: what `fokker_planck` returned, with reflecting walls, or its `chain`.

    **Returns** a density, an array of the shape of the grid.

    **Raises** `TypeError` for another equation; `ValueError` for walls that absorb, noise that is too weak for the
    cells, or traced numbers in two coordinates: under `jit` integrate for long instead.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> grid = jf.density.Grid(-2.0, 2.0, 40)
    >>> equation = jf.density.fokker_planck(jf.dynamics.langevin(lambda x: (x**2 - 1) ** 2, 0.1), grid)
    >>> gibbs = jnp.exp(-((grid.centers(0) ** 2 - 1) ** 2) / 0.1)
    >>> print(abs(jf.density.stationary(equation) - gibbs / grid.mass(gibbs)).max() < 1e-5)
    True
    """
    chain = as_chain(equation)
    _refuse_absorbing(chain)
    if chain.grid.dimensions == 1:
        return _require_resolved(_solve_for_law(chain))
    import scipy.sparse.linalg

    matrix = _sparse_matrix(chain).tocsc()
    size = matrix.shape[0]
    # One equation is the sum of the others; in its place the density there is 1.
    place = size // 2 + chain.grid.shape[1] // 2
    others = np.arange(size) != place
    flows = np.asarray(matrix[others][:, [place]].todense()).ravel()
    # Pivots on the diagonal: then nothing is subtracted, and small densities keep their digits.
    diagonal: Any = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    factors = scipy.sparse.linalg.splu(-matrix[others][:, others], permc_spec="MMD_AT_PLUS_A", **diagonal)
    found = np.insert(factors.solve(flows), place, 1.0).reshape(chain.grid.shape)
    return _require_resolved(jnp.asarray(found / (found.sum() * float(chain.grid.volume))))


def _require_resolved(law: jax.Array) -> jax.Array:
    """A law, refused where rates of jumps that are too small for a number left it undefined."""
    if not isinstance(law, Tracer) and not np.isfinite(np.asarray(law)).all():
        raise ValueError(
            "equation must have noise that its cells resolve, got a drift against which a jump of one cell is too "
            "unlikely for a floating-point number: more cells, or a higher temperature, help."
        )
    return law


def _refuse_absorbing(chain: Chain) -> None:
    if not isinstance(chain.lost, Tracer) and np.asarray(chain.lost).any():
        raise ValueError("equation must have reflecting walls to have a law at rest, got walls that absorb.")


@compiled
def _solve_for_law(chain: Chain) -> jax.Array:
    ratios = jnp.log(chain.forward[0][:-1]) - jnp.log(chain.backward[0][1:])
    logarithm = jnp.concatenate([jnp.zeros(1, ratios.dtype), jnp.cumsum(ratios)])
    weights = jnp.exp(logarithm - jnp.max(logarithm))
    return weights / (jnp.sum(weights) * chain.grid.volume)


def _sparse_matrix(chain: Chain) -> Any:
    """The matrix of `chain.apply`, for SciPy."""
    import scipy.sparse

    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(chain)):
        raise ValueError(
            "equation must be concrete in two coordinates, got traced numbers: call this outside of jit and vmap."
        )
    shape = chain.grid.shape
    cells = np.arange(np.prod(shape)).reshape(shape)
    rows, columns, values = [], [], []
    for k, offset in enumerate(chain.offsets):
        for rate, sign in ((chain.forward[k], 1), (chain.backward[k], -1)):
            rate = np.asarray(rate).ravel()
            from_cell = cells.ravel()[rate > 0]
            step = int(np.dot([sign * e for e in offset], [*shape[1:], 1]))
            rows.append(from_cell + step)
            columns.append(from_cell)
            values.append(rate[rate > 0])
    # Jumps that are all oblique may leave a corner out. It is taken as emptied: nothing else depends on it.
    leaving = np.asarray(chain.leaving).ravel()
    alone = (leaving == 0) & (np.bincount(np.concatenate(rows), minlength=cells.size) == 0)
    rows.append(cells.ravel())
    columns.append(cells.ravel())
    values.append(-np.where(alone, leaving.max(), leaving))
    parts = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return scipy.sparse.csr_matrix(parts, shape=(cells.size, cells.size))


def spectral_gap(equation: Any) -> jax.Array:
    r"""The rate λ at which the slowest deviation from the law at rest decays, as $e^{-\lambda t}$.

    1/λ is the relaxation time. Between two wells it is exponentially small in the height of the barrier over the
    temperature (Kramers 1940: for one symmetric pair of wells $\lambda \to \frac{1}{\pi}\sqrt{|L''_b| L''_w}\,
    e^{-\Delta L/T}$ as T → 0). In one coordinate it is found to its last digits however small, by inverse iteration
    in sums of positive terms.

    **Arguments**

    - `equation`: what `fokker_planck` returned, with reflecting walls, or its `chain`.

    **Returns** a scalar, per unit of time. In two coordinates it is the least real part of minus an eigenvalue other
    than 0, by SciPy. Where the drift turns, that eigenvalue may be one of a pair, whose mode swings as it decays.

    **Raises** what `stationary` raises.

    >>> import jaxflow as jf
    >>> grid = jf.density.Grid(-6.0, 6.0, 400)
    >>> well = jf.dynamics.langevin(lambda x: x**2, 0.5)  # decays as e^{−2t}
    >>> print(jf.density.spectral_gap(jf.density.fokker_planck(well, grid)).round(3))
    2.0
    """
    chain = as_chain(equation)
    _refuse_absorbing(chain)
    if chain.grid.dimensions == 1:
        return _gap(chain)
    return jnp.asarray(_gap_in_the_plane(chain))


def _gap_in_the_plane(chain: Chain) -> float:
    """From the eigenvalues nearest to 0, and from those nearest to what turns at most as fast as the drift does.

    A pair that swings is far from 0 even if it decays slowly.
    """
    import scipy.sparse.linalg

    matrix, scale = _sparse_matrix(chain).tocsc(), float(np.asarray(chain.leaving).max())

    def nearest(place) -> Any:
        shifted = matrix if isinstance(place, float) else matrix.astype(complex)
        find: Any = scipy.sparse.linalg.eigs
        return find(shifted, k=3, sigma=place, which="LM", return_eigenvectors=False)

    rate = float(np.sort(-nearest(1e-9 * scale).real)[1])
    fastest, decay = _rates_of_turning(chain)
    frequency = 2 * fastest
    for _ in range(OCTAVES if decay < rate else 0):
        if frequency <= rate:
            break
        found = nearest(1j * frequency)
        swinging = -found.real[abs(found.imag) > frequency / 4]
        rate, frequency = min([rate, *map(float, swinging)]), frequency / 2
    return rate


def _rates_of_turning(chain: Chain) -> tuple[float, float]:
    """Of pairs of eigenvalues of the drift's Jacobian, away from the walls: the largest frequency, the least rate.

    Where that rate, of what decays as it swings, is above another mode's, no mode that swings is the slowest.
    """
    drift = sum(
        np.multiply.outer(offset, np.asarray(chain.forward[k] - chain.backward[k]))
        for k, offset in enumerate(chain.offsets)
    )
    (a, b), (c, d) = (np.gradient(part[2:-2, 2:-2]) for part in np.asarray(drift))
    square = -((a - d) ** 2 / 4 + b * c)
    swings = square > 1e-12 * np.max(a**2 + b**2 + c**2 + d**2)
    if not swings.any():
        return 0.0, np.inf
    return float(np.sqrt(square[swings].max())), float(-(a + d)[swings].max() / 2)


@compiled
def _gap(chain: Chain) -> jax.Array:
    law = _solve_for_law(chain) * chain.grid.volume
    passing = law[:-1] * chain.forward[0][:-1]  # the flow between neighbours at rest, in either direction
    below = jnp.cumsum(law)[:-1]

    def solve(right):
        """f with −(adjoint of the chain) f = right, of mean 0; both sums begin where little is added up."""
        right = right - jnp.sum(law * right)
        upward = jnp.cumsum(law * right)[:-1]
        downward = jnp.cumsum((law * right)[::-1])[::-1][1:]
        flow = jnp.where(below < 0.5, -upward, downward)
        # Where the law is 0 to rounding nothing is known of f, and nothing depends on it.
        slope = jnp.where(passing > 0, flow / jnp.where(passing > 0, passing, 1), 0)
        f = jnp.concatenate([jnp.zeros(1, slope.dtype), jnp.cumsum(slope)])
        return f - jnp.sum(law * f)

    def is_unfinished(carry):
        _, old, new, count = carry
        return (jnp.abs(new - old) > TOLERANCE * jnp.abs(new)) & (count < MOST)

    def iterate(carry):
        right, _, old, count = carry
        found = solve(right)
        rate = jnp.sum(law * right * right) / jnp.sum(law * right * found)
        return found / jnp.sqrt(jnp.sum(law * found**2)), old, rate, count + 1

    first = chain.grid.centers(0) - jnp.sum(law * chain.grid.centers(0))
    first = first / jnp.sqrt(jnp.sum(law * first**2))
    infinite = jnp.asarray(jnp.inf, law.dtype)
    return lax.while_loop(is_unfinished, iterate, (first, infinite, jnp.zeros_like(infinite), 0))[2]


def mean_first_passage_time(equation: Any) -> jax.Array:
    r"""The mean time to reach an absorbing wall, from every cell: $b\cdot\nabla\tau + A:\nabla\nabla\tau = -1$.

    The density of the times themselves is $-\frac{d}{dt}$ of the mass that `integrate` leaves (`observed`).

    **Arguments**

    - `equation`: what `fokker_planck` returned, with a wall that absorbs, or its `chain`.

    **Returns** an array of the shape of the grid, in units of time.

    **Raises** `TypeError` for another equation; `ValueError` for walls that all reflect; and what `stationary`
    raises.

    Source: Risken (1989), The Fokker–Planck Equation, chapter 8.

    >>> import jaxflow as jf
    >>> grid = jf.density.Grid(0.0, 1.0, 100)
    >>> free = jf.dynamics.langevin(lambda x: 0.0 * x, 0.5)  # τ = (1 − x²)/2T
    >>> exits = jf.density.fokker_planck(free, grid, walls=("reflecting", "absorbing"))
    >>> print(jf.density.mean_first_passage_time(exits)[0].round(3))
    1.0
    """
    chain = as_chain(equation)
    if not isinstance(chain.lost, Tracer) and not np.asarray(chain.lost).any():
        raise ValueError("equation must have a wall that absorbs to be reached, got walls that all reflect.")
    if chain.grid.dimensions == 1:
        return _passage(chain)
    import scipy.sparse.linalg

    matrix = _sparse_matrix(chain).tocsc()
    return jnp.asarray(
        scipy.sparse.linalg.spsolve(-matrix.T, np.ones(matrix.shape[0])).reshape(chain.grid.shape)
    )


@compiled
def _passage(chain: Chain) -> jax.Array:
    below, on, above = chain.band()
    # The adjoint: what lies below the diagonal of one column lies in that row.
    low = jnp.concatenate([jnp.zeros(1, on.dtype), above[:-1]])
    high = jnp.concatenate([below[1:], jnp.zeros(1, on.dtype)])
    return lax.linalg.tridiagonal_solve(low, on, high, -jnp.ones_like(on)[:, None])[:, 0]
