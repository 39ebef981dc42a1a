r"""Selling's decomposition: a matrix A as $\sum_k w_k e_k e_k^\top$ with integer vectors and weights at least 0."""

import jax
import jax.numpy as jnp
from jax import lax

REDUCTIONS = 40  # of a superbase; each at least halves how far it is from obtuse, and few need more than five


def decompose(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    r"""Three integer vectors and their weights.

    **Arguments**

    - `matrix`: a positive semidefinite matrix, (2, 2), in units of cells.

    **Returns** vectors (3, 2) of integers and weights (3,), so that the matrix is $\sum_k w_k e_k e_k^\top$. The
    vectors are longer the more anisotropic the matrix is.

    Source: Selling (1874); for finite differences Bonnans & Zidani (2003), Fehrenbach & Mirebeau (2014, 1301.3925).

    >>> import jax.numpy as jnp
    >>> vectors, weights = decompose(jnp.array([[1.0, 0.8], [0.8, 1.2]]))
    >>> print(jnp.einsum("k,ki,kj->ij", weights, vectors.astype(float), vectors.astype(float)).round(6))
    [[1.  0.8]
     [0.8 1.2]]
    """
    inner = lambda a, b: a.astype(matrix.dtype) @ matrix @ b.astype(matrix.dtype)
    pairs = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
    # A product that is 0 but for rounding does not turn the base.
    most = 1e-12 if matrix.dtype == jnp.float64 else 1e-6
    most = most * jnp.trace(matrix)

    def reduce(_, base):
        products = jnp.stack([inner(base[i], base[j]) for i, j, _ in pairs])
        worst = jnp.argmax(products)
        turned = jnp.stack([jnp.stack([-base[i], base[j], base[i] - base[j]]) for i, j, _ in pairs])[worst]
        return jnp.where(products[worst] > most, turned, base)

    first = jnp.array([[1, 0], [0, 1], [-1, -1]], jnp.int32)
    base = lax.fori_loop(0, REDUCTIONS, reduce, first)
    weights = jnp.stack([-inner(base[i], base[j]) for i, j, _ in pairs])
    across = jnp.stack([jnp.stack([-base[k, 1], base[k, 0]]) for _, _, k in pairs])
    return across, jnp.maximum(weights, 0)
