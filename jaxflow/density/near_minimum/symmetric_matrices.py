"""Roots of symmetric matrices and Lyapunov equations, with derivatives where eigenvalues repeat.

The derivative of `jnp.linalg.eigh` is not a number where two eigenvalues are equal, although that of the root of a
matrix is. Both functions here differentiate their equation instead, so derivatives of every order are right.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow import _check


def symmetric(matrix: jax.Array) -> jax.Array:
    """The symmetric part of a matrix."""
    return 0.5 * (matrix + matrix.T)


@jax.custom_jvp
def root_of(matrix: jax.Array) -> jax.Array:
    r"""The symmetric root $R$, $R R = M$, of a positive semidefinite matrix; rounding below 0 counts as 0."""
    values, vectors = jnp.linalg.eigh(matrix)
    rounding = values.size * jnp.finfo(values.dtype).eps * jnp.abs(values).max(initial=0)
    return (vectors * jnp.sqrt(jnp.where(values > rounding, values, 0))[None]) @ vectors.T


@root_of.defjvp
def _root_jvp(primals, tangents):
    root = root_of(*primals)
    return root, solve_lyapunov(root, symmetric(tangents[0]))


def solve_lyapunov(a: jax.Array, c: jax.Array, pairs: tuple | None = None) -> jax.Array:
    r"""The X with $A X + X A = C$, for A symmetric and positive semidefinite.

    Where two eigenvalues of A add to 0, up to rounding, that entry of X is 0 in their basis: the equation says
    nothing there, or has no solution. `pairs` are the eigenvalues and eigenvectors of A, where they are known.
    """
    values, vectors = lax.stop_gradient(pairs or jnp.linalg.eigh(lax.stop_gradient(a)))
    sums = values[:, None] + values[None]
    rounding = values.size * jnp.finfo(values.dtype).eps * jnp.abs(values).max(initial=0)
    inverse = jnp.where(sums > rounding, 1 / jnp.where(sums > rounding, sums, 1), 0)
    return lax.custom_linear_solve(
        lambda x: a @ x + x @ a,
        c,
        lambda _, c: vectors @ (inverse * (vectors.T @ c @ vectors)) @ vectors.T,
        symmetric=True,
    )


def as_square(name: str, matrix, size: int | None = None) -> jax.Array:
    """A real symmetric matrix (d, d), checked where it is concrete."""
    matrix = as_floats(name, matrix)
    shape = "(d, d)" if size is None else f"({size}, {size})"
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or size not in (None, matrix.shape[0]):
        raise ValueError(f"{name} must have shape {shape}, got {matrix.shape}.")
    found = _check.values(matrix)
    if found is not None:
        _check.require_each(name, found, np.isfinite(found), "finite")
        largest = np.abs(found).max(initial=0)
        wrong = np.abs(found - found.T).max(initial=0)
        if wrong > _rounding(matrix) * largest:
            raise ValueError(f"{name} must be symmetric, but {name} − {name}ᵀ has an entry of {wrong:.6g}.")
    return symmetric(matrix)


def as_covariance(name: str, matrix, size: int | None = None) -> jax.Array:
    """A covariance (d, d), checked where it is concrete: symmetric and positive semidefinite."""
    matrix = as_square(name, matrix, size)
    found = _check.values(matrix)
    if found is not None and found.size:
        values = np.linalg.eigvalsh(found)
        if values[0] < -_rounding(matrix) * np.abs(values).max():
            raise ValueError(f"{name} must be positive semidefinite, got the eigenvalue {values[0]:.6g}.")
    return matrix


def as_floats(name: str, x) -> jax.Array:
    """A real array of floats; complex numbers, and anything but an array of numbers, are refused."""
    try:
        array = jnp.asarray(x)
    except TypeError:
        raise TypeError(f"{name} must be an array of real numbers, got {x!r}.") from None
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array
    if jnp.iscomplexobj(array) or array.dtype == bool:
        raise TypeError(f"{name} must be an array of real numbers, got dtype {array.dtype}.")
    return array.astype(float)


def _rounding(matrix: jax.Array) -> float:
    return 100 * matrix.shape[0] * float(jnp.finfo(matrix.dtype).eps)
