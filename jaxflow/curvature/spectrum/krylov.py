"""Following the leading eigenpairs of an operator that changes: a block Krylov space begun from the last ones.

A cold Lanczos iteration spends its products on finding the eigenvectors. Where those of a moment ago are known, one
or two blocks of products are enough, and the residual tells when.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow._norms import norms
from jaxflow.curvature.spectrum.lanczos_iteration import lanczos, random_start, scatter_rows

SWEEPS = 3  # of making new rows orthogonal to the basis and to one another: twice is enough for either
EXHAUSTED = 8  # blocks of products allowed to find what an exhausted Krylov space has not


class Block(NamedTuple):
    r"""Leading eigenpairs of an operator.

    - `values` (k,): largest first. `vectors` (k, n): orthonormal; `images` (k, n): their images under the operator.
    - `residuals` (k,): the norms of $Mv - \\lambda v$.
    - `scale`: the largest |Ritz value| seen, an estimate of the operator's norm.
    - `products`: the number of products spent, an int32.
    """

    values: jax.Array
    vectors: jax.Array
    images: jax.Array
    residuals: jax.Array
    scale: jax.Array
    products: jax.Array


def follow(
    apply: Callable[[jax.Array], jax.Array],
    vectors: jax.Array,
    *,
    tolerance: jax.Array | float,
    blocks: int,
    needed: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Block:
    """The k leading eigenpairs of a symmetric operator (n,) -> (n,) from `vectors` (k, n) near them.

    Rayleigh–Ritz in the span of the vectors and of their residuals, one block after another until the residuals are
    below `tolerance` times the `scale`: a block Krylov space, of at least one and at most `blocks` more blocks, k
    products each. Where a residual is 0, on exactly invariant directions, a scattered direction takes its place, or
    an eigenvalue that rises elsewhere would not be seen. `needed(values, residuals) -> (k,)` tells which pairs must
    reach the tolerance; by default all.
    """
    k, n = vectors.shape
    blocks = min(blocks, -(-n // k) - 1)
    width = (blocks + 1) * k
    strewn = scatter_rows(range(1, k + 1), n, vectors.dtype)
    usable = jnp.isfinite(vectors).all(1) & (vectors != 0).any(1)
    vectors = jnp.where(usable[:, None], vectors, strewn)

    def is_rough(pairs: Block) -> jax.Array:
        late = pairs.residuals > tolerance * pairs.scale
        return (late if needed is None else late & needed(pairs.values, pairs.residuals)).any()

    def go_on(carry):
        pairs, _, _, count = carry
        return (count <= min(1, blocks)) | ((count <= blocks) & is_rough(pairs))

    def remainder(pairs: Block) -> jax.Array:
        left = pairs.images - pairs.values[:, None] * pairs.vectors
        rounding = 10 * jnp.finfo(left.dtype).eps * pairs.scale
        return jnp.where((pairs.residuals <= rounding)[:, None], strewn, left)

    def enlarge(carry):
        pairs, basis, images, count = carry
        # The vectors given are the first block: one copy of the operator in the program, not two.
        block = jnp.where(count == 0, vectors, remainder(pairs))
        block = lax.fori_loop(
            0, SWEEPS, lambda _, rows: orthonormalise(rows - (rows @ basis.T) @ basis), block
        )
        basis = lax.dynamic_update_slice_in_dim(basis, block, count * k, 0)
        images = lax.dynamic_update_slice_in_dim(images, jax.vmap(apply)(block), count * k, 0)
        return _ritz(basis, images, k), basis, images, count + 1

    none, zero = jnp.zeros((width, n), vectors.dtype), jnp.zeros((), jnp.int32)
    blank = jnp.zeros(k, vectors.dtype)
    empty = Block(blank, none[:k], none[:k], blank, blank[0], zero)
    pairs, _, _, count = lax.while_loop(go_on, enlarge, (empty, none, none, zero))
    return pairs._replace(products=count * k)


def leading_pairs(apply: Callable[[jax.Array], jax.Array], size: int, dtype, k: int, products: int) -> Block:
    """The k leading eigenpairs of a symmetric operator on (size,): Lanczos, and two blocks of products for safety.

    Where the Krylov space was exhausted with fewer pairs than that, more blocks look for the others.
    """
    depth = min(size, products - 2 * k)
    if depth < k:
        return follow(apply, jnp.zeros((k, size), dtype), tolerance=0.0, blocks=products // k - 1)
    _, start, largest, exhausted = guess(apply, size, dtype, k, depth)
    more = lambda values, residuals: jnp.broadcast_to(exhausted, values.shape)
    tolerance = jnp.sqrt(jnp.finfo(dtype).eps)
    block = follow(apply, start, tolerance=tolerance, blocks=EXHAUSTED, needed=more)
    return block._replace(scale=jnp.maximum(block.scale, largest), products=block.products + depth)


def guess(apply: Callable[[jax.Array], jax.Array], size: int, dtype, k: int, depth: int):
    """k leading values and vectors by `depth` Lanczos products, with which `follow` begins.

    Vectors that an exhausted Krylov space lacks are 0. It also returns the largest |Ritz value|, and whether the
    space was exhausted.
    """
    krylov = lanczos(apply, random_start(size, dtype), depth)
    last = slice(None, -k - 1, -1)
    vectors = jnp.where(krylov.found[last][:, None], krylov.rotation[:, last].T @ krylov.basis, 0.0)
    largest = jnp.max(jnp.abs(krylov.values), where=krylov.found, initial=0.0)
    return krylov.values[last], vectors, largest, ~krylov.found.all()


def orthonormalise(rows: jax.Array) -> jax.Array:
    """Rows of the same span, orthonormal up to the condition of the given ones; rows lost in rounding become 0."""
    lengths = norms(rows)[:, None]
    rows = rows / jnp.where(lengths > jnp.finfo(rows.dtype).tiny, lengths, 1.0)
    values, rotation = jnp.linalg.eigh(rows @ rows.T)
    kept = values > 100 * jnp.finfo(rows.dtype).eps * rows.shape[0]
    return (rotation * jnp.where(kept, lax.rsqrt(jnp.where(kept, values, 1.0)), 0.0)[None]).T @ rows


def _ritz(basis: jax.Array, images: jax.Array, k: int) -> Block:
    """The k leading Ritz pairs of an orthonormal basis, some rows of which may be 0."""
    projected = basis @ images.T
    projected = 0.5 * (projected + projected.T)
    missing = jnp.sum(basis**2, axis=1) < 0.5
    lowest = -2 * jnp.abs(projected).sum(1).max() - 1
    values, rotation = jnp.linalg.eigh(projected + jnp.diag(jnp.where(missing, lowest, 0.0)))
    scale = jnp.max(jnp.abs(values), where=values > 0.5 * lowest, initial=0.0)
    leading = rotation[:, ::-1][:, :k].T
    values = values[::-1][:k]
    vectors, images = leading @ basis, leading @ images
    residuals = norms(images - values[:, None] * vectors)
    return Block(values, vectors, images, residuals, scale, jnp.zeros((), jnp.int32))
