r"""Where probability flows though the density stands still: currents, and the entropy they produce."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow._compiled import compiled
from jaxflow.density.equation import as_chain
from jaxflow.density.jumps.rates import Chain, shift


def current(density: Any, equation: Any) -> jax.Array:
    r"""The probability current $j = b\,p - \nabla\cdot(A p)$, as flows through the edges between cells.

    $p_t = -\nabla\cdot j$. It is taken from the flows along the chain's edges, each shared out between its two ends,
    not from differences of p. At rest it is 0 where the noise is isotropic; elsewhere it circulates.

    **Arguments**

    - `density`: p, on the grid.
    - `equation`: what `fokker_planck` returned, or its `chain`, which saves finding the rates again.

    **Returns** an array of the shape of the grid with a last axis of d coordinates.

    **Raises** `TypeError` for another equation; `ValueError` for an array of another shape than the grid's.

    Source: Risken (1989), The Fokker–Planck Equation, chapters 4 and 6.

    >>> import jaxflow as jf
    >>> grid = jf.density.Grid(-6.0, 6.0, 120)
    >>> equation = jf.density.fokker_planck(jf.dynamics.langevin(lambda x: 0.5 * x**2, 0.5), grid)
    >>> p = jf.density.gaussian(grid, 1.0, 0.5)  # moves to the left as a whole: j = −p
    >>> print(abs(jf.density.current(p, equation)[..., 0] + p).max() < 0.01)
    True
    """
    chain = as_chain(equation)
    return _current(chain.grid.as_density(density), chain)


@compiled
def _current(density: jax.Array, chain: Chain) -> jax.Array:
    spacing, total = chain.grid.spacing, 0.0
    for flux, offset in zip(chain.fluxes(density), chain.offsets, strict=True):
        shared = 0.5 * (flux + shift(flux, offset))
        total = total + shared[..., None] * chain.grid.as_points(jnp.asarray(offset, spacing.dtype) * spacing)
    return jnp.asarray(total)


def entropy_production(density: Any, equation: Any) -> jax.Array:
    r"""The entropy produced in a unit of time, $\int j^\top A^{-1} j / p$.

    It is never below 0, and 0 at rest only where nothing flows. It is taken from the flows along the chain's edges,
    each over the density in its middle.

    **Arguments**

    - `density`: p, on the grid.
    - `equation`: what `fokker_planck` returned, or its `chain`.

    **Returns** a scalar, in nats per unit of time; infinite where something flows in a direction without noise, as in
    phase space.

    **Raises** `TypeError` for another equation; `ValueError` for an array of another shape than the grid's.

    Source: Seifert (2012), 1205.4176.

    >>> import jaxflow as jf
    >>> grid = jf.density.Grid(-6.0, 6.0, 120)
    >>> equation = jf.density.fokker_planck(jf.dynamics.langevin(lambda x: 0.5 * x**2, 0.5), grid)
    >>> p = jf.density.gaussian(grid, 1.0, 0.5)
    >>> print(jf.density.entropy_production(p, equation).round(2))  # j = −p: ∫ p/T
    2.0
    """
    chain = as_chain(equation)
    return _entropy_production(chain.grid.as_density(density), chain)


@compiled
def _entropy_production(density: jax.Array, chain: Chain) -> jax.Array:
    """Schnakenberg's sum over edges would count, too, what noise that turns from place to place exchanges there."""
    tiny, size = jnp.finfo(density.dtype).tiny, chain.grid.dimensions
    velocity = jnp.zeros((*chain.grid.shape, size), density.dtype)
    matrix = jnp.zeros((*velocity.shape, size), density.dtype)
    for k, flux in enumerate(chain.fluxes(density)):
        offset = chain.offsets[k]
        middle = jnp.sqrt(density) * jnp.sqrt(shift(density, tuple(-e for e in offset)))
        flow, mass = flux + shift(flux, offset), middle + shift(middle, offset)
        speed = jnp.where(mass > tiny, flow / jnp.where(mass > tiny, mass, 1), 0)
        step = jnp.asarray(offset, density.dtype)
        velocity = velocity + speed[..., None] * chain.grid.as_points(step)
        square = jnp.outer(step, step).reshape((1,) * size + (size, size))
        matrix = matrix + _weight_of_noise(chain, k)[..., None, None] * square
    rates = density * _square_over(matrix, velocity)
    # A corner may have lost all its edges along one direction of the noise to the walls.
    inner = jnp.pad(jnp.ones([n - 2 for n in chain.grid.shape], bool), 1)
    counted = (density > tiny) & (inner | jnp.isfinite(rates))
    return jnp.sum(jnp.where(counted, rates, 0)) * chain.grid.volume


def _weight_of_noise(chain: Chain, k: int) -> jax.Array:
    """The weight w of an edge at each cell, by its rates w·B(ζ), w·B(−ζ), up to ζ⁴; 0 where only a drift jumps."""
    forward, backward, offset = chain.forward[k], chain.backward[k], chain.offsets[k]
    weight = (2 * jnp.sqrt(forward * backward) + 0.5 * (forward + backward)) / 3
    inside = jnp.ones_like(forward)
    at_wall = (shift(inside, offset) + shift(inside, tuple(-e for e in offset))) < 2
    return jnp.where(at_wall, forward + backward, jnp.where((forward > 0) & (backward > 0), weight, 0))


def _square_over(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """vᵀA⁻¹v of one or two coordinates; infinite where v has a part in a direction in which A is 0."""
    if vector.shape[-1] == 1:
        square, scale = vector[..., 0] ** 2, matrix[..., 0, 0]
        return jnp.where(square > 0, square / scale, 0)
    a, b, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    x, y = vector[..., 0], vector[..., 1]
    trace, determinant, tiny = a + d, a * d - b * b, 8 * jnp.finfo(a.dtype).eps
    full = determinant > tiny * trace**2
    scale = jnp.where(trace > 0, trace, 1)
    # Of rank 1, A is its trace times a projection, across which nothing may flow.
    along_x, along_y = (a * x + b * y) / scale, (b * x + d * y) / scale
    across = (x - along_x) ** 2 + (y - along_y) ** 2
    single = jnp.where(across > tiny * (x**2 + y**2), jnp.inf, (along_x**2 + along_y**2) / scale)
    return jnp.where(full, (d * x**2 - 2 * b * x * y + a * y**2) / jnp.where(full, determinant, 1), single)


def circulation(density: Any, equation: Any) -> jax.Array:
    r"""The area swept in a unit of time in a plane, $\int (x_1 j_2 - x_2 j_1)\,dx$.

    It is $\frac{d}{dt}$ of the antisymmetric part of $E[x(0)\,x(t)^\top]$, in entry (1, 2), what `area_rate` measures
    in paths: for an Ornstein–Uhlenbeck law at rest −2W₁₂ with W = TD − HS. It has the sign of a turn from the first
    axis to the second.

    **Arguments**

    - `density`: p, on a grid of two coordinates.
    - `equation`: what `fokker_planck` returned, or its `chain`.

    **Returns** a scalar, in squared coordinates per unit of time.

    **Raises** `TypeError` for another equation; `ValueError` for a grid of one coordinate, where nothing circulates.

    Source: Ghanta, Neu & Teitsworth 2017, who measure it in paths.

    >>> import jaxflow as jf
    >>> grid = jf.density.Grid((-3.0, -3.0), (3.0, 3.0), (20, 20))
    >>> round_well = jf.dynamics.langevin(lambda x: 0.5 * x @ x, 0.5)
    >>> equation = jf.density.fokker_planck(round_well, grid)
    >>> print(abs(jf.density.circulation(jf.density.stationary(equation), equation)) < 1e-9)
    True
    """
    chain = as_chain(equation)
    if chain.grid.dimensions != 2:
        raise ValueError("equation must have two coordinates to circulate in, got one.")
    return _circulation(chain.grid.as_density(density), chain)


@compiled
def _circulation(density: jax.Array, chain: Chain) -> jax.Array:
    away = chain.grid.points - chain.grid.as_points(chain.grid.mean(density))
    flow = current(density, chain)
    return jnp.sum(away[..., 0] * flow[..., 1] - away[..., 1] * flow[..., 0]) * chain.grid.volume
