"""The Ornstein–Uhlenbeck law of SGD about a minimum: where it spreads, what that costs, and what circulates."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._gradients import gradient
from jaxflow._losses.models import Trainable
from jaxflow.curvature.differentiability import warn_unless_twice_differentiable
from jaxflow.curvature.products import open_real, operator
from jaxflow.curvature.spectrum.eigenpairs import Eigenpairs, find_pairs, top_eigenpairs
from jaxflow.curvature.spectrum.traces import DENSE, matrix
from jaxflow.density.near_minimum.ornstein_uhlenbeck import OULaw, law_of
from jaxflow.dynamics import batch_factor, gradient_covariance, noise_scale
from jaxflow.objective import Objective, require_data

PyTree = Any
LEADING = 20  # eigenvectors of a Hessian that is not formed


def ou_limit(
    objective: Objective,
    params: PyTree,
    learning_rate: Any,
    batch_size: Any,
    *,
    replacement: bool = True,
    k: int | None = None,
    tolerance: Any = None,
    trainable: Trainable = None,
) -> OULaw:
    r"""The law at rest of SGD about a minimum: $d\theta = -H(\theta - \theta^*)\,dt + \sqrt{2TD}\,dW$, t = kη.

    H is the Hessian and D the covariance of per-example gradients, both at `params`, and $T = \eta s_B / 2$ the
    temperature. The law is Gaussian with the covariance S of $HS + SH = 2TD$. It has a density $\propto
    e^{-\Phi/T}$ with $\Phi = \frac T2 x^\top S^{-1} x$, which is the loss only where D is a multiple of the identity;
    where H and D do not commute, probability circulates in it for ever: $W = TD - HS \ne 0$.

    **Arguments**

    - `objective`: an `Objective` with data.
    - `params` $\theta^*$: a pytree whose real arrays are trained, at a minimum.
    - `learning_rate` η: a number at least 0. The law is the limit of small ηH; iterates at a finite η have, to
      leading order, the covariance of $HS + SH - \eta HSH = 2TD$.
    - `batch_size` B: the number of examples per gradient, a number above 0.
    - `replacement`: whether batches are independent draws, $s_B = \frac1B$, or fresh ones without replacement,
      $s_B = \frac1B\frac{N-B}{N-1}$ (static).
    - `k`: the number of leading eigenvectors of H in whose span the law is computed (static). Default: for at most
      2,000 parameters all of them, and the answer is in the coordinates of the parameters; beyond that 20, and
      it is in those of the `directions`. In the span nothing is approximated: $S_{ij} = 2TD_{ij}/(h_i + h_j)$.
      `left_out` tells how much is outside of it.
    - `tolerance`: the size of an eigenvalue, as a part of the largest, below which its direction counts as flat; a
      number at least 0. Default: 1e-6 in float64, 1e-4 in float32. A trained network has small negative eigenvalues;
      a larger tolerance counts these as flat too.
    - `trainable`: what of `params` is trained, as in `iterate`.

    **Returns** an `OULaw`. It is compiled when called plainly, and works under `jit` and `vmap`. Along flat
    directions the equation has no law at rest, as their variance grows by 2TD for ever, so they are left out, and
    counted.

    **Raises** `ValueError` where the Hessian has an eigenvalue below −`tolerance` × the largest, as then `params` are
    not at a minimum (in a traced call all numbers are NaN instead), for η < 0, B ≤ 0 or > N without replacement, or
    k out of range; `TypeError` for an objective without data or parameters that are not real.

    Source: Mandt, Hoffman & Blei 2017, 1704.04289; the current: Chaudhari & Soatto 2018, 1710.11029, whose D this is,
    and whose β is 1/T.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> from jaxflow.density import ou_limit
    >>> data = jf.Objective(lambda w, c: (w - c) ** 2, jnp.array([-1.0, 1.0]))  # H = 2, D = 4
    >>> law = ou_limit(data, jnp.zeros(1), learning_rate=0.1, batch_size=1)  # T = 0.05
    >>> print(law.covariance, law.excess_loss)
    [[0.1]] 0.1
    """
    size = require_data(objective, "Per-example gradients")
    objective, params = open_real(objective, params, trainable)
    _check.require_nonnegative(learning_rate=learning_rate)
    factor = batch_factor(batch_size, size, replacement=replacement)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    if k is not None:
        _check.require_integer("k", k, 1)
        _check.require("k", k, k <= count, f"at most {count}, the number of parameters")
    if tolerance is None:
        tolerance = 1e-6 if jnp.result_type(*jax.tree.leaves(params)) == jnp.float64 else 1e-4
    _check.require_nonnegative(tolerance=tolerance)
    warn_unless_twice_differentiable(objective, params)
    if k is None and count <= DENSE:
        found = _solve_densely(objective, params, learning_rate, factor, tolerance)
    else:
        pairs = top_eigenpairs(objective, params, min(k or LEADING, count))
        found = _solve_in_span(objective, params, learning_rate, factor, tolerance, pairs)
    return _require_minimum(found, tolerance)


def _require_minimum(found: tuple[OULaw, jax.Array], tolerance: Any) -> OULaw:
    """The law, refused where there is none; where that cannot be told yet its numbers become NaN."""
    law, scale = found  # the scale is the largest |eigenvalue|
    lowest, largest, allowed = (_check.values(x) for x in (law.lowest, scale, tolerance))
    if lowest is not None and largest is not None and allowed is not None:
        if lowest < -allowed * largest:
            raise ValueError(
                f"params must be at a minimum, but the Hessian there has the eigenvalue {float(lowest):.6g}, below "
                f"−tolerance × the largest, {-float(allowed * largest):.3g}: SGD leaves, and has no law at rest."
            )
        return law
    there = law.lowest >= -tolerance * scale
    blank = lambda x: jnp.where(there, x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x
    return jax.tree.map(blank, law)


def _numbers(params: PyTree, *values: Any) -> tuple[jax.Array, ...]:
    """Numbers in the dtype of the parameters."""
    dtype = jnp.result_type(*jax.tree.leaves(params))
    return tuple(jnp.asarray(x).astype(dtype) for x in values)


@compiled
def _solve_densely(objective, params, learning_rate, factor, tolerance) -> tuple[OULaw, jax.Array]:
    rate, factor, tolerance = _numbers(params, learning_rate, factor, tolerance)
    hessian = matrix(operator(objective, params))
    noise = gradient_covariance(objective, params).astype(hessian.dtype)
    slope = ravel_pytree(gradient(objective)(params))[0]
    return law_of(
        hessian,
        noise,
        slope,
        temperature=rate * factor / 2,
        learning_rate=rate,
        tolerance=tolerance,
        trace=jnp.trace(noise),
        trace_of_square=jnp.sum(noise**2),
        largest_rank=min(objective.size - 1, slope.size),
    )


@compiled
def _solve_in_span(
    objective, params, learning_rate, factor, tolerance, pairs: Eigenpairs
) -> tuple[OULaw, jax.Array]:
    rate, factor, tolerance = _numbers(params, learning_rate, factor, tolerance)
    op = operator(objective, params)
    lowest = -find_pairs(op._replace(apply=lambda v: -op.apply(v)), 1).values[0]
    hessian = jnp.diag(pairs.values)
    # The losses, in chunks too, are the slope of their weighted sum in the weights.
    weights = jnp.zeros(objective.size, hessian.dtype)
    losses = lambda p: jax.grad(objective.weighted, 1)(p, weights)
    along = jax.lax.map(lambda v: jax.jvp(losses, (params,), (v,))[1], pairs.vectors)
    along = along - along.mean(1, keepdims=True)
    noise = along @ along.T / objective.size
    slope = ravel_pytree(gradient(objective)(params))[0]
    flat_vectors = jax.vmap(lambda v: ravel_pytree(v)[0])(pairs.vectors)
    spread = noise_scale(objective, params, eigenpairs=min(len(noise), objective.size, slope.size))
    return law_of(
        hessian,
        noise,
        flat_vectors @ slope,
        temperature=rate * factor / 2,
        learning_rate=rate,
        tolerance=tolerance,
        trace=spread.trace,
        trace_of_square=jnp.sum(spread.eigenvalues**2),
        largest_rank=min(objective.size - 1, slope.size),
        directions=pairs.vectors,
        lowest=lowest,
    )
