"""The directions in which a run moves most."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow.landscape.slices.directions import Directions, with_margin
from jaxflow.landscape.slices.records import from_rows, records_of, rows


def principal_directions(trajectory: Any, count: int = 2) -> Directions:
    r"""The principal directions of a run: the eigenvectors of the covariance of its parameters.

    Such a plane flatters a path. A random walk in many dimensions has the shares $6/(\pi k)^2$ of its variance in
    its principal directions, .61 in the first and .76 in two, and looks like a curve in them. `message` says
    what shares a random walk of as many records would have.

    **Arguments**

    - `trajectory`: a `Trajectory` that records parameters, also one with members, whose records are taken together; a
      `Path`; or a pytree of parameters, leaves (T, …). Records that are not finite are left out.
    - `count` k: the number of directions, at most the number of records less one and that of parameters (static).

    **Returns** `Directions` of norm 1, the first with the largest variance. `values` are the shares of the variance.
    A direction along which nothing moves is 0. The `span` covers the records, seen from the last. It is compiled when
    called plainly, and works under `jit` and `vmap`.

    **Raises** `TypeError` for records that are not real; `ValueError` for records that are not parameters, or a
    `count` that is below 1 or too large.

    Source: Li, Xu, Taylor, Studer & Goldstein 2018, 1712.09913; the random walk: Antognini & Sohl-Dickstein 2018,
    1806.08805.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: x[0] ** 2 + 10 * x[1] ** 2
    >>> run = jf.iterate(jf.optim.gd(0.02), loss, jnp.ones(2), steps=100)
    >>> directions = jf.landscape.principal_directions(run)
    >>> print(directions.values.round(2), abs(directions.vectors[0]).round(2))
    [0.88 0.12] [0.96 0.29]
    """
    _check.require_integer("count", count, 1)
    values = records_of(trajectory)
    leaves = jax.tree.leaves(values)
    records = leaves[0].shape[0]
    most = min(records - 1, sum(leaf.size for leaf in leaves) // max(records, 1))
    if count > most:
        raise ValueError(
            f"count must be at most {most} for {records} records of these parameters, got {count}."
        )
    vectors, shares, span, finite = _decompose(values, int(count))
    return Directions(vectors, "principal", shares, span=span, records=finite)


@compiled(static=("count",))
def _decompose(values, count: int):
    matrix = rows(values)
    finite = jnp.isfinite(matrix).all(1, keepdims=True)
    number = jnp.maximum(finite.sum(), 1).astype(matrix.dtype)
    matrix = jnp.where(finite, matrix, 0)
    centred = jnp.where(finite, matrix - matrix.sum(0, keepdims=True) / number, 0)
    # The eigenvectors of whichever of the two products is smaller.
    few = matrix.shape[0] <= matrix.shape[1]
    squares, vectors = jnp.linalg.eigh(centred @ centred.T if few else centred.T @ centred)
    squares, vectors = squares[::-1][:count], vectors[:, ::-1][:, :count].T
    total = jnp.sum(centred**2)
    moves = squares > matrix.shape[0] * jnp.finfo(matrix.dtype).eps * total
    squares = jnp.where(moves, squares, 0)
    if few:
        vectors = (vectors @ centred) / jnp.sqrt(jnp.where(moves, squares, 1))[:, None]
    vectors = jnp.where(moves[:, None], vectors, 0)
    shares = squares / jnp.where(total > 0, total, 1)
    last = matrix[jnp.max(jnp.where(finite[:, 0], jnp.arange(matrix.shape[0]), 0))]
    seen = jnp.where(finite, (matrix - last[None]) @ vectors.T, jnp.nan)
    return from_rows(vectors, values), shares, with_margin(seen), finite.sum()
