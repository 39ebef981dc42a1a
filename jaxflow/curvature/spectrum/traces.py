"""Two numbers of a whole spectrum: the trace of the Hessian, and how many of its eigenvalues are negative."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._losses.models import Trainable
from jaxflow.curvature.differentiability import warn_unless_twice_differentiable
from jaxflow.curvature.products import Loss, Operator, operator
from jaxflow.curvature.spectrum.density import check_arguments, check_key, quadrature
from jaxflow.curvature.spectrum.estimate import Estimate, mean

PyTree = Any
DENSE = (
    2_000  # parameters up to which the Hessian is formed: 32 MB in float64, and seconds for its eigenvalues
)
BLOCK = 32  # columns of it at a time
PROBES, DEPTH = 10, 80  # of the quadrature beyond


def trace(
    objective: Loss,
    params: PyTree,
    key: jax.Array,
    *,
    probes: int = 32,
    preconditioner: PyTree = None,
    gauss_newton: bool = False,
    trainable: Trainable = None,
) -> Estimate:
    r"""The trace of the Hessian, as the mean of $v^T H v$ over vectors v of random signs, with its standard error.

    The variance of one probe is $2 \sum_{i \ne j} H_{ij}^2$, so a diagonal Hessian is exact.

    **Arguments**

    - `objective`: an `Objective` or any twice differentiable function `loss(params) -> scalar`.
    - `params`: a pytree whose real arrays are trained.
    - `key`: the random key of the probes.
    - `probes`: the number of probes (static), which are taken one after another, in the memory of one: a Hessian
      product each.
    - `preconditioner` P: a positive number or a pytree of them like `params`, for the trace of $P^{-1} H$.
    - `gauss_newton`: whether to use the Gauss–Newton matrix (see `ggn_vp`) instead of the Hessian (static).
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** an `Estimate`. It is compiled when called plainly, and works under `jit` and `vmap`.

    **Raises** `TypeError` for an objective that is not a function (or with `gauss_newton` lacks the two parts),
    parameters that are not real floats, or a bare seed; `ValueError` for `probes` below 1 or a preconditioner that
    is not positive.

    Deflation was measured and is not used: on networks of 310 and 910 parameters XTrace is less accurate than this
    at up to 32 products, and twice as accurate or better only from about 100 on. Its own error estimate is 1.2 to 2
    times too small, and it holds all probes in memory.

    Source: Hutchinson 1989; XTrace: Epperly, Tropp & Webber 2024, 2301.07825.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> jf.curvature.trace(lambda x: x[0] ** 2 + 3 * x[1] ** 2, jnp.ones(2), jax.random.key(0))
    8 ± 0
    """
    _check.require_integer("probes", probes, 1)
    objective, params, preconditioner = check_arguments(
        objective, params, preconditioner, gauss_newton, trainable
    )
    return _trace(
        objective=objective,
        params=params,
        preconditioner=preconditioner,
        key=check_key(key),
        probes=int(probes),
        gauss_newton=bool(gauss_newton),
    )


@compiled(static=("probes", "gauss_newton"))
def _trace(*, objective, params, preconditioner, key, probes, gauss_newton):
    if not gauss_newton:
        warn_unless_twice_differentiable(objective, params)
    op = operator(objective, params, preconditioner, gauss_newton)

    def probe(key):
        signs = jax.random.rademacher(key, op.flat.shape, op.flat.dtype)
        return signs @ op.apply(signs)

    return mean(lax.map(probe, jax.random.split(key, probes)))


def saddle_index(
    objective: Loss,
    params: PyTree,
    *,
    key: jax.Array | None = None,
    tolerance: Any = None,
    dense: bool | None = None,
    trainable: Trainable = None,
) -> Estimate:
    """The number of negative eigenvalues of the Hessian, those below −`tolerance` × the largest |eigenvalue|.

    At a stationary point it is 0 for a minimum and positive for a saddle: the number of directions of escape.

    **Arguments**

    - `objective`: an `Objective` or any twice differentiable function `loss(params) -> scalar`.
    - `params`: a pytree whose real arrays are trained, P numbers in all.
    - `key`: the random key of the quadrature; it is needed where the Hessian is not formed.
    - `tolerance`: a number at least 0; default 1e-6 in float64, 1e-4 in float32, above the rounding of the products.
    - `dense`: `True` forms the Hessian, by P products and P³ operations, and is exact, with `error` 0; `False`
      estimates by stochastic Lanczos quadrature, with 10 probes of depth 80 (static). By default it is dense for at
      most 2,000 parameters.
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** an `Estimate`. It is compiled when called plainly, and works under `jit` and `vmap`.

    **Raises** `TypeError` for an objective that is not a function, parameters that are not real floats, or a bare
    seed; `ValueError` for a tolerance below 0 or a quadrature without `key`.

    The estimate is good where the negative eigenvalues stand apart from 0. Most negative eigenvalues of a trained
    network are nearer to 0 than any quadrature resolves, and then the `error`, which `count_above` describes, is as
    large as the estimate (910 parameters, 95 negative eigenvalues: 270 ± 270). `spectral_density(…).count_below(x)`
    counts what is below an x of your choice, which may well be resolved.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> jf.curvature.saddle_index(lambda x: x[0] ** 2 - x[1] ** 2, jnp.zeros(2))
    1 ± 0
    """
    objective, params, _ = check_arguments(objective, params, None, False, trainable)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    dense = size <= DENSE if dense is None else bool(dense)
    if tolerance is None:
        tolerance = 1e-6 if jnp.result_type(*jax.tree.leaves(params)) == jnp.float64 else 1e-4
    _check.require_nonnegative(tolerance=tolerance)
    if dense:
        return _count_dense(objective, params, tolerance)
    if key is None:
        raise ValueError(
            f"key must be given to estimate the index of a Hessian of {size:,} parameters, got None."
        )
    return _estimate_index(objective, params, tolerance=tolerance, key=check_key(key))


@compiled
def _count_dense(objective, params, tolerance):
    warn_unless_twice_differentiable(objective, params)
    values = jnp.linalg.eigvalsh(matrix(operator(objective, params)))
    # Rounding of what is 0 is no direction of escape, however small the tolerance.
    tolerance = jnp.maximum(tolerance, values.size * jnp.finfo(values.dtype).eps)
    index = jnp.sum(values < -tolerance * jnp.abs(values).max()).astype(values.dtype)
    return Estimate(index, jnp.zeros_like(index))


@compiled
def _estimate_index(objective, params, tolerance, key):
    warn_unless_twice_differentiable(objective, params)
    density = quadrature(operator(objective, params), key, PROBES, DEPTH)
    return density.count_below(-tolerance * jnp.abs(density.nodes).max())


def matrix(op: Operator) -> jax.Array:
    """The symmetric matrix of an operator, one block of columns at a time; (P, P)."""
    column = lambda i: op.apply(jnp.zeros_like(op.flat).at[i].set(1.0))
    columns = lax.map(column, jnp.arange(op.size), batch_size=BLOCK)
    return 0.5 * (columns + columns.T)
