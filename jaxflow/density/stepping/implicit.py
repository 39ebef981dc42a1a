r"""Steps for stiff chains in one coordinate: Radau IIA of order 5, checked by that of order 3.

Both damp what is stiff, $R(-\infty) = 0$. With the poles $z_k$ of its stability function a step is $\sum_k c_k
(dt\,A - z_k)^{-1} p$: a tridiagonal solve for each real pole and for each pair of complex ones. The two differ by the
error of order 3, which chooses the length of the steps.

Neither is positive: from a spike a step leaves densities down to about −1e-8. They are set to 0, and what remains is
scaled to the mass that there was.

Source: Hairer & Wanner (1996), Solving Ordinary Differential Equations II, section IV.5.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow.density.jumps.rates import Chain

TOLERANCE = (
    1e-5  # of the L1 norm of the error of order 3, each step; that of order 5 is some 500 times smaller
)
LOOSEST = 1e-4  # in single precision
MOST = 10_000  # steps of one call


def _poles(above: list[float], below: list[float]) -> list[tuple[complex, complex]]:
    """The poles of a rational function with their residues, one of each complex pair; powers ascending."""
    roots = np.polynomial.polynomial.polyroots(below)
    slope = np.polynomial.polynomial.polyder(below)
    value = lambda powers, z: np.polynomial.polynomial.polyval(z, powers)
    found = [(complex(z), complex(value(above, z) / value(slope, z))) for z in roots]
    return [(z, c) for z, c in found if z.imag >= -1e-12]


THIRD = _poles([1, 1 / 3], [1, -2 / 3, 1 / 6])
FIFTH = _poles([1, 2 / 5, 1 / 20], [1, -3 / 5, 3 / 20, -1 / 60])


def _step(band: tuple, density: jax.Array, dt: jax.Array, poles) -> jax.Array:
    below, on, above = band
    total = jnp.zeros_like(density)
    for pole, residue in poles:
        real = abs(pole.imag) < 1e-12
        kind = density.dtype if real else jnp.dtype(f"complex{16 * density.dtype.itemsize}")
        z, c = (pole.real, residue.real) if real else (pole, 2 * residue)
        solved = lax.linalg.tridiagonal_solve(
            (dt * below).astype(kind),
            (dt * on).astype(kind) - jnp.asarray(z, kind),
            (dt * above).astype(kind),
            density.astype(kind)[:, None],
        )[:, 0]
        total = total + (jnp.asarray(c, kind) * solved).real
    return total


def radau(chain: Chain, density: jax.Array, dt: Any, tolerance: Any = None) -> jax.Array:
    """The density after a time `dt` at least 0, in one coordinate."""
    dtype = density.dtype
    if tolerance is None:
        tolerance = TOLERANCE if dtype == jnp.float64 else LOOSEST
    band, dt = chain.band(), jnp.asarray(dt, dtype)
    size = jnp.sum(jnp.abs(density))

    def is_unfinished(carry):
        _, left, _, count = carry
        return (left > 0) & (count < MOST)

    def advance(carry):
        density, left, length, count = carry
        length = jnp.minimum(length, left)
        new = _step(band, density, length, FIFTH)
        error = jnp.sum(jnp.abs(new - _step(band, density, length, THIRD))) / size
        good = error <= tolerance
        positive = jnp.maximum(new, 0)
        total = jnp.sum(positive)
        positive = positive * jnp.where(total > 0, jnp.sum(new) / jnp.where(total > 0, total, 1), 1)
        factor = 0.9 * (tolerance / jnp.maximum(error, 1e-30)) ** 0.25
        left = jnp.where(good, left - length, left)
        length = length * jnp.clip(factor, 0.1, 5.0)
        return jnp.where(good, positive, density), left, length, count + 1

    new, left, _, _ = lax.while_loop(is_unfinished, advance, (density, dt, dt, jnp.zeros((), jnp.int32)))
    return jnp.where(left > 0, jnp.nan, new)
