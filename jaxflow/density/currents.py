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

    It is the sum over edges of (flow there − flow back) log(flow there / flow back), by Schnakenberg (1976): never
    below 0, and 0 at rest only where every flow is balanced by its opposite.

    **Arguments**

    - `density`: p, on the grid.
    - `equation`: what `fokker_planck` returned, or its `chain`.

    **Returns** a scalar, in nats per unit of time; infinite where something flows one way only, as in phase space.

    **Raises** `TypeError` for another equation; `ValueError` for an array of another shape than the grid's.

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
    tiny = jnp.finfo(density.dtype).tiny
    total = jnp.zeros((), density.dtype)
    for k, offset in enumerate(chain.offsets):
        there = chain.forward[k] * density
        back = shift(chain.backward[k] * density, tuple(-e for e in offset))
        both = (there > tiny) & (back > tiny)
        ratio = jnp.log(jnp.where(both, there, 1)) - jnp.log(jnp.where(both, back, 1))
        one_way = (jnp.maximum(there, back) > 1e-12 * jnp.max(there)) & ~both
        total = total + jnp.sum(jnp.where(one_way, jnp.inf, (there - back) * ratio))
    return total * chain.grid.volume


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
