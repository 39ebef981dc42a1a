r"""What is read off a density: entropy, relative entropy, free energy, and the potential of a law at rest."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow.density.grid import Grid


def _logarithm(p: jax.Array) -> jax.Array:
    """log p, 0 where p is 0, as p log p is 0 there."""
    return jnp.log(jnp.where(p > 0, p, 1))


def entropy(density: Any, grid: Grid) -> jax.Array:
    r"""The entropy $-\int p \log p$, in nats.

    **Arguments**

    - `density`: p, on the grid.
    - `grid`: its `Grid`.

    **Returns** a scalar.

    **Raises** `ValueError` for an array of another shape than the grid's; `TypeError` for densities that are not
    numbers.

    >>> import jaxflow as jf
    >>> grid = jf.density.Grid(-9.0, 9.0, 400)
    >>> print(jf.density.entropy(jf.density.gaussian(grid, 0.0, 1.0), grid).round(4))  # ½ log 2πe
    1.4189
    """
    return _entropy(grid.as_density(density), grid)


@compiled
def _entropy(p: jax.Array, grid: Grid) -> jax.Array:
    return -jnp.sum(p * _logarithm(p)) * grid.volume


def kl(density: Any, other: Any, grid: Grid) -> jax.Array:
    r"""The relative entropy (Kullback & Leibler 1951) $\int p \log\frac pq$, in nats.

    **Arguments**

    - `density`, `other`: p and q, on the grid.
    - `grid`: their `Grid`.

    **Returns** a scalar at least 0 for densities of mass 1; infinite where q is 0 and p is not. Masses of a cell
    below the square of rounding, 5e-32 in float64, count as 0 there, as q may be too small for a number.

    **Raises** `ValueError` for an array of another shape than the grid's; `TypeError` for densities that are not
    numbers.

    >>> import jaxflow as jf
    >>> grid = jf.density.Grid(-9.0, 9.0, 400)
    >>> p, q = jf.density.gaussian(grid, 0.0, 1.0), jf.density.gaussian(grid, 1.0, 1.0)
    >>> print(jf.density.kl(p, q, grid).round(4))
    0.5
    """
    return _kl(grid.as_density(density), grid.as_density(other), grid)


@compiled
def _kl(p: jax.Array, q: jax.Array, grid: Grid) -> jax.Array:
    terms = p * (_logarithm(p) - _logarithm(q))
    alone = jnp.where(p * grid.volume > jnp.finfo(p.dtype).eps ** 2, jnp.inf, 0)
    return jnp.sum(jnp.where(q > 0, terms, alone)) * grid.volume


def potential(stationary: Any, temperature: Any, grid: Grid) -> jax.Array:
    r"""The potential Φ = −T log p of a law at rest, with its least value set to 0.

    The law of a dynamics descends $\int \Phi p + T\int p\log p$ with this Φ, which is the loss only where the noise
    is isotropic (Chaudhari & Soatto 2018, 1710.11029).

    **Arguments**

    - `stationary`: the law at rest, on the grid.
    - `temperature` T: a number above 0, in units of the loss.
    - `grid`: its `Grid`.

    **Returns** an array of the shape of the grid, in units of T; infinite where the law is 0.

    **Raises** `ValueError` for a temperature that is not positive, or an array of another shape than the grid's;
    `TypeError` for a temperature or densities that are not numbers.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> grid = jf.density.Grid(-3.0, 3.0, 61)
    >>> well = jf.density.potential(jf.density.gaussian(grid, 0.0, 0.5), 0.5, grid)
    >>> print(jnp.abs(well - 0.5 * grid.centers(0) ** 2).max() < 1e-12)
    True
    """
    _check.require_positive(temperature=temperature)
    return _potential(grid.as_density(stationary), temperature)


@compiled
def _potential(p: jax.Array, temperature: Any) -> jax.Array:
    well = jnp.where(p > 0, -temperature * _logarithm(p), jnp.inf)
    return well - jnp.min(well)


def free_energy(density: Any, energy: Any, temperature: Any, grid: Grid) -> jax.Array:
    r"""The free energy $F = \int \Phi p + T\int p \log p$.

    With the `potential` Φ of the law at rest it is T·KL(p‖p at rest) and a constant, and never rises along the
    Fokker–Planck equation, whatever the drift and the noise. With the loss in its place, that is so where the noise
    is isotropic, and may fail where it is not.

    **Arguments**

    - `density`: p, on the grid.
    - `energy`: Φ, or a loss: an array of the shape of the grid.
    - `temperature` T: a number at least 0, in the units of the energy.
    - `grid`: the `Grid`.

    **Returns** a scalar.

    **Raises** `ValueError` for a negative temperature, or an array of another shape than the grid's; `TypeError`
    for a temperature or densities that are not numbers.

    Source: Jordan, Kinderlehrer & Otto 1998; for noise that is not isotropic: Chaudhari & Soatto 2018, 1710.11029.

    >>> import jaxflow as jf
    >>> grid = jf.density.Grid(-9.0, 9.0, 400)
    >>> loss = 0.5 * grid.centers(0) ** 2
    >>> F = lambda variance: jf.density.free_energy(jf.density.gaussian(grid, 0.0, variance), loss, 0.5, grid)
    >>> print(F(0.4) > F(0.5) < F(0.6))  # the law at rest has variance T
    True
    """
    _check.require_nonnegative(temperature=temperature)
    return _free_energy(grid.as_density(density), grid.as_density(energy), temperature, grid)


@compiled
def _free_energy(p: jax.Array, energy: jax.Array, temperature: Any, grid: Grid) -> jax.Array:
    held = jnp.where(p > 0, p * jnp.where(jnp.isfinite(energy) | (p > 0), energy, 0), 0)
    return jnp.sum(held) * grid.volume - temperature * entropy(p, grid)
