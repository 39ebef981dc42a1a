"""Minimising-movement steps of Gaussians in a quadratic potential: they stay Gaussian, and each has a closed form."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow.density.near_minimum.symmetric_matrices import (
    as_covariance,
    as_floats,
    as_square,
    root_of,
    symmetric,
)


class GaussianPath(NamedTuple):
    """Gaussians at times, as `gaussian_jko` returns them.

    - `times` (K + 1,): 0, τ, …, K τ, on the clock of gradient flow.
    - `means` (K + 1, d).
    - `covariances` (K + 1, d, d).
    """

    times: jax.Array
    means: jax.Array
    covariances: jax.Array


def gaussian_jko(
    hessian: Any, mean: Any, covariance: Any, *, temperature: Any, step_size: Any, steps: int
) -> GaussianPath:
    r"""Jordan–Kinderlehrer–Otto steps of a Gaussian in the potential $V = \frac12 x^\top H x$, in closed form.

    A step takes p to the minimiser q of $\frac{1}{2\tau} W_2^2(p, q) + \int V q + T \int q \log q$, which is Gaussian
    again. With $A = I + \tau H$ and $K = A^{-1/2} S A^{-1/2}$ it is

    $m' = A^{-1} m$ and $S' = A^{-1/2} Z A^{-1/2}$, with
    $Z = \frac12\big(K + 2\tau T I + (K^2 + 4\tau T K)^{1/2}\big)$.

    In one dimension this is $s' = [s + \sqrt{s^2 + 4\tau T(1 + \tau h)}] / (2(1 + \tau h))$. As τ → 0 the steps
    follow the Ornstein–Uhlenbeck law, at first order in τ. Their fixed point $S = T H^{-1}$ is its law at rest for
    every τ.

    **Arguments**

    - `hessian` H (d, d): symmetric. Negative eigenvalues are allowed above −1/τ, where a step has a minimiser.
    - `mean` m (d,): measured from the point where the slope of V is 0.
    - `covariance` S (d, d): symmetric and positive semidefinite. It need not commute with H.
    - `temperature` T: a number at least 0.
    - `step_size` τ: a number above 0, in the time of gradient flow.
    - `steps` K: an integer at least 1 (static).

    **Returns** a `GaussianPath`. It is compiled when called plainly, works under `jit` and `vmap`, and has
    derivatives in all numbers.

    **Raises** `ValueError` for shapes that do not fit, a matrix that is not symmetric, a covariance that is not
    positive semidefinite, H with an eigenvalue at most −1/τ, T < 0, τ ≤ 0 or `steps` < 1; `TypeError` for arguments
    that are not real numbers, or `steps` that are not an integer.

    **Derivation.** The slope in S' of the squared distance is $I - M$, where M is the optimal map from $N(0, S')$ to
    $N(0, S)$: $M S' M = S$. So $M = A - \tau T S'^{-1}$. In $Z = A^{1/2} S' A^{1/2}$ that is
    $Z + (\tau T)^2 Z^{-1} - 2 \tau T I = K$: Z and K have the same eigenvectors, and
    $\sqrt z - \tau T / \sqrt z = \sqrt k$. The steps are those of Jordan, Kinderlehrer & Otto
    1998; on Gaussians without a potential: Wibisono 2018, 1802.08089.

    >>> import jax.numpy as jnp
    >>> from jaxflow.density import gaussian_jko
    >>> path = gaussian_jko(jnp.eye(1), jnp.ones(1), jnp.eye(1), temperature=0.5, step_size=1.0, steps=50)
    >>> print(path.means[1], path.covariances[-1])
    [0.5] [[0.5]]
    """
    mean = as_floats("mean", mean)
    if mean.ndim != 1 or mean.size == 0:
        raise ValueError(f"mean must have shape (d,) with d at least 1, got {mean.shape}.")
    hessian = as_square("hessian", hessian, mean.size)
    covariance = as_covariance("covariance", covariance, mean.size)
    check_steps(temperature, step_size, steps)
    _check_convexity(hessian, step_size)
    return _gaussian_jko(hessian, mean, covariance, temperature, step_size, steps=int(steps))


def check_steps(temperature: Any, step_size: Any, steps: Any) -> None:
    """Refuse a bad temperature, step size or number of steps."""
    _check.require_nonnegative(temperature=temperature)
    _check.require_positive(step_size=step_size)
    _check.require_integer("steps", steps, 1)


def _check_convexity(hessian: jax.Array, step_size: Any) -> None:
    found, tau = _check.values(hessian), _check.values(step_size)
    if found is not None and tau is not None:
        lowest = np.linalg.eigvalsh(found)[0]
        if (1 + tau * lowest <= 0).any():
            raise ValueError(
                f"hessian must have eigenvalues above −1/step_size, {-1 / tau.max():.6g}, for a step to have a "
                f"minimiser, got {lowest:.6g}."
            )


@compiled(static=("steps",))
def _gaussian_jko(hessian, mean, covariance, temperature, step_size, steps: int) -> GaussianPath:
    dtype = jnp.result_type(hessian, mean, covariance)
    hessian, mean, covariance = (array.astype(dtype) for array in (hessian, mean, covariance))
    temperature, step_size = (jnp.asarray(x).astype(dtype) for x in (temperature, step_size))
    stretch = jnp.eye(mean.size, dtype=dtype) + step_size * hessian
    shrink = jnp.linalg.inv(root_of(stretch))
    spread = step_size * temperature

    def step(law, _):
        mean, covariance = law
        k = symmetric(shrink @ covariance @ shrink)
        z = 0.5 * (k + 2 * spread * jnp.eye(mean.size, dtype=dtype) + root_of(k @ k + 4 * spread * k))
        law = shrink @ shrink @ mean, symmetric(shrink @ z @ shrink)
        return law, law

    _, laws = lax.scan(step, (mean, covariance), length=steps)
    with_first = lambda first, rest: jnp.concatenate([first[None], rest])
    times = step_size * jnp.arange(steps + 1, dtype=dtype)
    return GaussianPath(times, with_first(mean, laws[0]), with_first(covariance, laws[1]))
