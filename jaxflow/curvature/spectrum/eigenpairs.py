"""The largest eigenvalues of a Hessian and their eigenvectors, found cold or followed warm, with their residuals."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._losses.models import Trainable
from jaxflow.curvature.differentiability import warn_unless_twice_differentiable
from jaxflow.curvature.products import (
    Operator,
    check_parts,
    check_preconditioner,
    check_real,
    open_real,
    operator,
)
from jaxflow.curvature.spectrum.estimate import Estimate
from jaxflow.curvature.spectrum.krylov import Block, follow, leading_pairs

PyTree = Any
TOLERANCE = 1e-4  # of the residuals, relative; the eigenvalues are then good to about its square
COLD, EACH = 20, 8  # products of a cold start: these, and more for each pair
BLOCKS = 4  # of a warm one, beyond the first
ALARM = 1e-2  # a relative residual that says an eigenpair was not found


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Eigenpairs:
    r"""Leading eigenpairs $H u = \lambda P u$ of a Hessian; P is 1 where no preconditioner is given.

    - `values` (k,): the eigenvalues, largest first.
    - `vectors`: a pytree like the parameters with a leading axis k; $u_i^T P u_j = \delta_{ij}$.
    - `residuals` (k,): the norms $|P^{-1/2}(Hu - \lambda Pu)|$, in the units of the eigenvalues. There is an
      eigenvalue of $P^{-1/2}HP^{-1/2}$ within each of them; where it is apart from the others by a gap g the error
      is about residual²/g.
    - `scale`: the largest |eigenvalue| estimate met on the way, of either sign, with which to compare the residuals.
    - `products`: the number of Hessian products spent.

    It is a pytree; under `vmap` every leaf has a leading axis.
    """

    values: jax.Array
    vectors: PyTree
    residuals: jax.Array
    scale: jax.Array
    products: jax.Array

    def __repr__(self):
        if isinstance(self.values, Tracer) or np.ndim(self.values) != 1:
            return f"Eigenpairs(values of shape {np.shape(self.values)})"
        shown = ", ".join(f"{value:.6g}" for value in np.asarray(self.values))
        worst = float(np.asarray(self.residuals).max(initial=0))
        return f"Eigenpairs({shown}; residuals ≤ {worst:.1g}, {int(self.products)} products)"


class Settings(NamedTuple):
    """What is static about a search."""

    k: int
    products: int | None
    gauss_newton: bool


def top_eigenpairs(
    objective: Callable[[PyTree], jax.Array],
    params: PyTree,
    k: int = 1,
    *,
    preconditioner: PyTree = None,
    gauss_newton: bool = False,
    start: Any = None,
    tolerance: Any = TOLERANCE,
    products: int | None = None,
    trainable: Trainable = None,
) -> Eigenpairs:
    r"""The k algebraically largest eigenvalues of the Hessian $\nabla^2 L(\theta)$, and their eigenvectors.

    - *Cold*: Lanczos iteration with full reorthogonalisation from a random direction (always the same), then
      Rayleigh–Ritz on what it found and its residuals. On networks the default number of products gives five
      eigenvalues to 1e-8 and better. Of an exactly repeated eigenvalue it may find only one copy.
    - *Warm*, given `start`: Rayleigh–Ritz in the span of those vectors and of their residuals, one block of k
      products after another until the residuals are small. An eigenvalue that rises in an invariant subspace of its
      own is not seen.

    **Arguments**

    - `objective`: an `Objective` (in its chunks) or any twice differentiable function `loss(params) -> scalar`.
    - `params` θ: a pytree whose real arrays are trained.
    - `k`: the number of eigenpairs, at most the number of parameters (static).
    - `preconditioner` P: positive numbers like `params`, or one number, such as `preconditioner_of(optimizer,
      state)`. Eigenvalues are then those of $P^{-1/2} H P^{-1/2}$, to compare with
      `stability_threshold(optimizer)`.
    - `gauss_newton`: whether to use the Gauss–Newton matrix (see `ggn_vp`) instead of the Hessian (static).
    - `start`: the `Eigenpairs` (or their `vectors`) found at parameters nearby, for a warm start.
    - `tolerance`: when warm, the residuals relative to `scale` at which to stop.
    - `products`: the number of Hessian products allowed (static); default 20 + 8k cold, 5k warm. (Cold up to 7k
      more are taken where the Krylov space is exhausted early, as with few distinct eigenvalues.)
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** `Eigenpairs` with the residual norms. It is compiled when called plainly, and works under `jit` and
    `vmap`. Where a plain call leaves a residual above .01 of `scale` it warns.

    **Raises** `TypeError` for an objective that is not a function (or with `gauss_newton` lacks the two parts),
    parameters that are not real floats, or a `start` of another structure; `ValueError` for k < 1 or above the
    number of parameters, products < k, or a preconditioner that is not positive.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 23.0, 4.0]) * x**2)
    >>> found = jf.curvature.top_eigenpairs(loss, jnp.ones(3), 2)
    >>> print(found.values.round(6), abs(found.vectors[0]).round(6))
    [23.  4.] [0. 1. 0.]

    Source: Lanczos 1950; block Krylov spaces, Saad 2011; matfree (Krämer) does the cold iteration.
    """
    objective, params = open_real(objective, params, trainable)
    if gauss_newton:
        check_parts(objective)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    _check.require_integer("k", k, 1)
    _check.require("k", k, k <= size, f"at most {size}, the number of parameters")
    if products is not None:
        _check.require_integer("products", products, k)
    _check.require_positive(tolerance=tolerance)
    preconditioner = check_preconditioner(preconditioner, params)
    vectors = None if start is None else _start(start, params, k)
    if not gauss_newton:
        warn_unless_twice_differentiable(objective, params)
    settings = Settings(int(k), None if products is None else int(products), bool(gauss_newton))
    found = _top_eigenpairs(
        settings=settings,
        objective=objective,
        params=params,
        preconditioner=preconditioner,
        vectors=vectors,
        tolerance=tolerance,
    )
    _warn_if_rough(found)
    return found


def sharpness(
    objective: Callable[[PyTree], jax.Array],
    params: PyTree,
    *,
    preconditioner: PyTree = None,
    gauss_newton: bool = False,
    products: int | None = None,
    trainable: Trainable = None,
) -> Estimate:
    """The largest eigenvalue of the Hessian, or of $P^{-1/2} H P^{-1/2}$, and the norm of its residual.

    There is an eigenvalue within the residual of the value, whose error is of the order of residual². Gradient
    descent is stable where it is below 2/η, see `stability_threshold`. `top_eigenpairs` can also follow it from a
    warm start.

    **Arguments**

    - `objective`: an `Objective` (in its chunks) or any twice differentiable function `loss(params) -> scalar`.
    - `params`: a pytree whose real arrays are trained.
    - `preconditioner` P: positive numbers like `params`, or one number, such as `preconditioner_of(optimizer,
      state)`.
    - `gauss_newton`: whether to use the Gauss–Newton matrix (see `ggn_vp`) instead of the Hessian (static).
    - `products`: the number of Hessian products allowed, by default 28 (static).
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** an `Estimate`, whose error is the residual.

    **Raises** `TypeError` for an objective that is not a function (or with `gauss_newton` lacks the two parts) or
    parameters that are not real floats; `ValueError` for products < 1 or a preconditioner that is not positive.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 23.0]) * x**2)
    >>> float(jf.curvature.sharpness(loss, jnp.ones(2)).value.round(6))
    23.0
    """
    found = top_eigenpairs(
        objective,
        params,
        preconditioner=preconditioner,
        gauss_newton=gauss_newton,
        products=products,
        trainable=trainable,
    )
    return Estimate(found.values[..., 0], found.residuals[..., 0])


@compiled(static=("settings",))
def _top_eigenpairs(*, settings, objective, params, preconditioner, vectors, tolerance):
    hessian = operator(objective, params, preconditioner, settings.gauss_newton)
    k, allowed = settings.k, settings.products
    if vectors is None:
        block = find_pairs(hessian, k, allowed)
    else:
        blocks = BLOCKS if allowed is None else allowed // k - 1
        flat = jax.vmap(lambda v: ravel_pytree(v)[0] / hessian.root)(vectors)
        block = follow(hessian.apply, flat.astype(hessian.flat.dtype), tolerance=tolerance, blocks=blocks)
    return pairs_of(hessian, block)


def find_pairs(hessian: Operator, k: int, products: int | None = None) -> Block:
    """The k leading eigenpairs without a start."""
    allowed = COLD + EACH * k if products is None else products
    return leading_pairs(hessian.apply, hessian.size, hessian.flat.dtype, k, allowed)


def pairs_of(hessian: Operator, block: Block) -> Eigenpairs:
    """Eigenpairs as pytrees, P-orthonormal, of a block of flat orthonormal vectors."""
    vectors = jax.vmap(lambda v: hessian.unravel(hessian.root * v))(block.vectors)
    return Eigenpairs(block.values, vectors, block.residuals, block.scale, block.products)


def _start(start: Any, params: PyTree, k: int) -> PyTree:
    vectors = start.vectors if isinstance(start, Eigenpairs) else start
    stack = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((k, *leaf.shape), leaf.dtype), params)
    _check.require_like(
        "start",
        vectors,
        stack,
        "be Eigenpairs or a pytree like params",
        f"hold {k} vectors",
        structures=TypeError,
    )
    check_real("start", vectors)
    return vectors


def _warn_if_rough(found: Eigenpairs) -> None:
    if isinstance(found.values, Tracer) or np.ndim(found.values) != 1:
        return
    values, residuals = np.asarray(found.values), np.asarray(found.residuals)
    late = ~(residuals <= ALARM * float(found.scale))
    if late.any():
        warnings.warn(
            f"{late.sum()} of {values.size} eigenpairs did not converge: residual {residuals[late].max():.3g} at "
            f"a largest eigenvalue {values[0]:.6g}; give more products than {int(found.products)}.",
            stacklevel=3,
        )
