"""Mean and covariance without sampling: of an SDE by an ODE, of SGD by a recursion.

Both are exact where the drift is affine and the noise covariance quadratic in the state, as for linear regression
under squared loss. Elsewhere they close the hierarchy of moments at the second (Gaussian to first order). Weak orders
are measured with them, because sampling would need 10⁴ runs to see 5 % of a variance.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._completion import open_model
from jaxflow._gradients import gradient
from jaxflow._programs.half import widen
from jaxflow._traceable import traceable
from jaxflow.dynamics import Dynamics, Field, gradient_covariance
from jaxflow.dynamics.noise.batch_temperature import batch_factor, check_batch
from jaxflow.objective import Objective, require_data
from jaxflow.solve.sde.brownian import is_bits
from jaxflow.solve.trajectories.trajectory import as_parameters

PyTree = Any


class Moments(NamedTuple):
    """The first two moments of a law.

    - `mean`: a pytree like the state.
    - `covariance` (d, d): in the order of `ravel_pytree`, float32 at least.
    """

    mean: PyTree
    covariance: jax.Array

    @property
    def second(self) -> jax.Array:
        r"""The second moment $E\,z z^\top$, (d, d)."""
        flat = widen(ravel_pytree(self.mean)[0])
        return self.covariance + jnp.outer(flat, flat)


def _flatten(tree: PyTree) -> tuple[jax.Array, Callable[[jax.Array], PyTree]]:
    """A pytree as one vector (half precision becomes float32), and the way back, in its own dtypes."""
    narrow, back = ravel_pytree(tree)
    return widen(narrow), lambda x: back(x.astype(narrow.dtype))


def expectation(
    function: Callable[[jax.Array], jax.Array], mean: jax.Array, covariance: jax.Array
) -> jax.Array:
    r"""$E f(z) = f(m) + \frac12 \sum_{ij} S_{ij} \partial_i \partial_j f(m)$, exact for quadratic f."""
    return function(mean) + 0.5 * jnp.einsum("...ij,ij->...", jax.hessian(function)(mean), covariance)


@traceable
def moment_flow(dynamics: Dynamics) -> Field:
    r"""The ODE of mean m and covariance S of $dz = f\,dt + \sigma\,dW$: a dynamics without noise.

    $\dot m = E f,\quad \dot S = J S + S J^\top + E\,\sigma\sigma^\top,\quad J = \nabla f(m)$,

    with expectations to second order about m, which are exact for affine f and quadratic σσᵀ.

    **Arguments**

    - `dynamics`: a `Dynamics` with Gaussian noise.

    **Returns** a `Dynamics` on the same clock, without noise. Integrated from parameters (S = 0 there) it records
    `Moments`; pass `record=` to keep less. It is dense, so it is for small states.

    **Raises** `ValueError` for a dynamics without noise, or whose noise picks examples.

    Source: Särkkä & Solin (2019), Applied Stochastic Differential Equations, section 5.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> flow = jf.comparison.moment_flow(jf.dynamics.sgd(objective, 0.1, 1))
    >>> end = jf.integrate(flow, jnp.array(1.0), [0.0, 1.0]).params
    >>> print(end.mean.round(4), end.covariance.round(4))
    0.3679 [[0.0432]]
    """
    field = dynamics.build()
    diffusion, brownian = field.diffusion, field.brownian
    if diffusion is None or brownian is None:
        raise ValueError(f"dynamics must have noise, got {dynamics!r}.")

    def init(params):
        state = field.init(params)
        flat = _flatten(state)[0]
        return Moments(state, jnp.zeros((flat.size, flat.size), flat.dtype))

    def drift(t, z):
        mean, unravel = _flatten(z.mean)
        shape = brownian(z.mean)
        if any(is_bits(leaf) for leaf in jax.tree.leaves(shape)):
            raise ValueError(
                f"dynamics must have Gaussian noise, not one that picks examples, got {dynamics!r}."
            )
        xi, unravel_xi = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape))
        velocity = lambda x: _flatten(field.drift(t, unravel(x)))[0]

        def diffusivity(x):
            column = lambda e: _flatten(diffusion(t, unravel(x), unravel_xi(e)))[0]
            columns = jax.vmap(column)(jnp.eye(xi.size, dtype=xi.dtype))
            return columns.T @ columns

        spread = jax.jacfwd(velocity)(mean) @ z.covariance
        covariance = spread + spread.T + expectation(diffusivity, mean, z.covariance)
        return Moments(unravel(expectation(velocity, mean, z.covariance)), covariance)

    return Field(drift=drift, init=init, time_step=field.time_step)


def moment_descent(
    objective: Objective,
    params: PyTree,
    *,
    learning_rate: Any,
    batch_size: Any,
    steps: Any,
    replacement: bool = True,
) -> Moments:
    r"""Mean and covariance of SGD's iterate after a number of independent mini-batch steps.

    $m \leftarrow m - \eta E\nabla L,\quad S \leftarrow (I - \eta H) S (I - \eta H) + \eta^2 s_B E\,\Sigma$

    with expectations to second order about m, which are exact for linear regression.

    **Arguments**

    - `objective`: an `Objective` with data.
    - `params`: the start, where S = 0, a pytree of float arrays.
    - `learning_rate` η: a number at least 0.
    - `batch_size` B: the number of examples per gradient, a number above 0.
    - `steps`: the number of steps, which may be traced.
    - `replacement`: whether the batches are independent draws, $s_B = \frac1B$, or fresh ones without
      replacement at each step, $s_B = \frac1B\frac{N-B}{N-1}$ (static).

    **Returns** `Moments`. The computation is dense, so it is for small problems.

    **Raises** `TypeError` for an objective without data; `ValueError` for a negative rate or number of steps,
    `batch_size` ≤ 0 or (without replacement) > N.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> end = jf.comparison.moment_descent(
    ...     objective, jnp.array(1.0), learning_rate=0.1, batch_size=1, steps=10
    ... )
    >>> print(end.mean.round(4), end.covariance.round(4))
    0.3487 [[0.0462]]
    """
    size = require_data(objective, "Mini-batches")
    check_batch(batch_size, size, replacement)
    _check.require_nonnegative(learning_rate=learning_rate)
    _check.require_count("steps", steps, 0)
    factor = batch_factor(batch_size, size, replacement=replacement)
    objective, params = open_model(objective, params)
    return _moment_descent(
        objective=objective, params=as_parameters(params), rate=learning_rate, factor=factor, steps=steps
    )


@compiled
def _moment_descent(*, objective, params, rate, factor, steps) -> Moments:
    mean, unravel = _flatten(params)
    slope = lambda x: _flatten(gradient(objective)(unravel(x)))[0]
    variance = lambda x: gradient_covariance(objective, unravel(x))
    eta, s = jnp.asarray(rate, mean.dtype), jnp.asarray(factor, mean.dtype)

    def step(_, moments):
        m, S = moments
        contraction = jnp.eye(m.size, dtype=m.dtype) - eta * jax.jacfwd(slope)(m)
        noise = eta**2 * s * expectation(variance, m, S)
        return m - eta * expectation(slope, m, S), contraction @ S @ contraction.T + noise

    mean, covariance = lax.fori_loop(
        0, jnp.asarray(steps, jnp.int32), step, (mean, jnp.zeros((mean.size, mean.size), mean.dtype))
    )
    return Moments(unravel(mean), covariance)
