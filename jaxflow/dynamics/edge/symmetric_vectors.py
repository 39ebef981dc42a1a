"""Symmetric matrices as vectors with the same inner product, for equations whose unknown is such a matrix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def upper_triangle(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of the upper triangle, 1 or √2 for each, and where each entry of a matrix is in it."""
    rows, columns = np.triu_indices(k)
    position = np.zeros((k, k), int)
    position[rows, columns] = position[columns, rows] = np.arange(rows.size)
    return rows, columns, np.where(rows == columns, 1.0, np.sqrt(2.0)), position


def svec(X: jax.Array) -> jax.Array:
    r"""The upper triangle of a symmetric (k, k) matrix row by row, pairs i < j times √2; shape (k(k+1)/2,).

    An isometry: svec(X)·svec(Y) = tr XY. Only the upper triangle is read.

    >>> import jax.numpy as jnp
    >>> print(svec(jnp.array([[1.0, 2.0], [2.0, 3.0]])) ** 2)
    [1. 8. 9.]
    """
    rows, columns, weights, _ = upper_triangle(X.shape[0])
    return X[rows, columns] * jnp.asarray(weights, X.dtype)


def smat(x: jax.Array) -> jax.Array:
    """The symmetric (k, k) matrix whose `svec` is x, of shape (k(k+1)/2,).

    >>> import jax.numpy as jnp
    >>> print(smat(svec(jnp.array([[1.0, 2.0], [2.0, 3.0]]))))
    [[1. 2.] [2. 3.]]
    """
    _, _, weights, position = upper_triangle(int(np.sqrt(2 * x.shape[0])))
    return (x / jnp.asarray(weights, x.dtype))[position]


def congruence(G: jax.Array) -> jax.Array:
    """The matrix T with T svec(V) = svec(G V Gᵀ); orthogonal where G is."""
    i, j, weights, _ = upper_triangle(G.shape[0])
    half = jnp.asarray(np.outer(weights, weights) / 2, G.dtype)
    mixed = G[np.ix_(i, i)] * G[np.ix_(j, j)] + G[np.ix_(i, j)] * G[np.ix_(j, i)]
    return mixed * half
