"""The Ornstein–Uhlenbeck law at rest, from the matrices of curvature and noise."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow.density.near_minimum.symmetric_matrices import (
    as_covariance,
    as_square,
    solve_lyapunov,
    symmetric,
)

PyTree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OULaw:
    r"""The law at rest of $dx = -Hx\,dt + \sqrt{2TD}\,dW$, a Gaussian of mean 0, and the current that circulates.

    Matrices are (k, k), in the coordinates of the parameters (in the order of `jax.flatten_util.ravel_pytree`) or,
    where `directions` are given, in the coordinates along these.

    - `covariance` S: it solves $HS + SH = 2TD$ in the curved directions and is 0 along flat ones.
    - `current` W = TD − HS, antisymmetric: the probability current is $j(x) = W S^{-1} x\,p(x)$. It is 0 exactly
      where H and D commute.
    - `hessian` H.
    - `noise` D, the covariance of per-example gradients, as in `gradient_covariance`.
    - `directions`: orthonormal eigenvectors of H, largest eigenvalue first, a pytree like the parameters with a
      leading axis k; `None` where the coordinates are the parameters themselves.
    - `temperature` T; `learning_rate` η, which is NaN where none was given.
    - `entropy` of the law, $\frac12 \sum \log(2\pi e\,s)$ over its variances s > 0, in nats: within its support,
      where that is not everything.
    - `excess_loss` $\frac12 \mathrm{tr}(HS)$: the mean loss less the minimum, which is $\frac T2 \mathrm{tr} D$ over
      the curved directions.
    - `effective_rank` $(\mathrm{tr} D)^2 / \mathrm{tr}(D^2)$ of the whole D, from 1 to its rank. (The rank itself
      depends on the precision.) Where `directions` are given, it is found from the k leading eigenvalues of D, and
      is a little too large.
    - `flat`: the number of flat directions, along which nothing holds the parameters and there is no law at rest;
      they are left out of everything else.
    - `left_out`: the share of tr D that lies outside the directions kept or in flat ones. Where all that is left out
      is curved, it is the share of the excess loss that is missing as well.
    - `lowest`: the smallest eigenvalue of the Hessian that was found.
    - `above_minimum`: $\frac12 g^\top H^{-1} g$ in the curved directions, how far the loss at the parameters is above
      the minimum of its quadratic model. The law is centred at the parameters only where this is small compared
      with `excess_loss`.
    - `largest_rank`: D has at most this rank, N − 1 of N examples or the number of parameters (static).

    It is a pytree; under `vmap` every leaf has a leading axis.
    """

    covariance: jax.Array
    current: jax.Array
    hessian: jax.Array
    noise: jax.Array
    directions: PyTree
    temperature: jax.Array
    learning_rate: jax.Array
    entropy: jax.Array
    excess_loss: jax.Array
    effective_rank: jax.Array
    flat: jax.Array
    left_out: jax.Array
    lowest: jax.Array
    above_minimum: jax.Array
    largest_rank: int = field(metadata={"static": True})

    @property
    def area_per_step(self) -> jax.Array:
        r"""$\eta(HS - SH) = -2\eta W$, the area that a step sweeps: what `area_rate` measures; (k, k)."""
        return -2 * self.learning_rate[..., None, None] * self.current

    @property
    def entropy_production(self) -> jax.Array:
        r"""$\mathrm{tr}(W^\top (TD)^{-1} W S^{-1})$ per unit of time: 0 where nothing circulates.

        It is infinite where the current leaves the directions that have noise, or the noise vanishes.
        """
        return _entropy_production(self.covariance, self.current, self.noise, self.temperature)

    def __repr__(self):
        k = np.shape(self.covariance)[-1]
        if isinstance(self.entropy, Tracer) or np.ndim(self.entropy):
            return f"OULaw(covariance of shape {np.shape(self.covariance)})"
        return (
            f"OULaw({k} directions, {int(self.flat)} of them flat; entropy {self.entropy:.4g}, excess loss "
            f"{self.excess_loss:.4g}, effective rank {self.effective_rank:.4g} of at most {self.largest_rank}, "
            f"{100 * self.left_out:.2g} % left out)"
        )


@compiled
def _entropy_production(covariance, current, noise, temperature):
    """For one law, or a stack of them."""
    if covariance.ndim > 2:
        return jax.vmap(_entropy_production)(covariance, current, noise, temperature)
    spread, axes = _support(temperature * noise)
    inverse = jnp.where(spread > 0, 1 / jnp.where(spread > 0, spread, 1), 0)
    variance, across = _support(covariance)
    unit = across * jnp.where(variance > 0, jax.lax.rsqrt(jnp.where(variance > 0, variance, 1)), 0)[None]
    flow = axes.T @ (
        current @ unit
    )  # rows: directions of the noise; its squares over the noise are the answer
    outside = jnp.sum(jnp.where(spread[:, None] > 0, 0, flow**2))
    rounding = flow.size * jnp.finfo(flow.dtype).eps * jnp.sum(flow**2)
    return jnp.where(outside > rounding, jnp.inf, jnp.sum(inverse[:, None] * flow**2))


def _support(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The eigenvalues of a positive semidefinite matrix, those that are rounding as 0, and its eigenvectors."""
    values, vectors = jnp.linalg.eigh(matrix)
    rounding = values.size * jnp.finfo(values.dtype).eps * jnp.abs(values).max(initial=0)
    return jnp.where(values > rounding, values, 0), vectors


def law_of(
    hessian,
    noise,
    gradient,
    *,
    temperature,
    tolerance,
    trace,
    trace_of_square,
    largest_rank: int,
    learning_rate: Any = jnp.nan,
    directions: PyTree = None,
    lowest=None,
) -> tuple[OULaw, jax.Array]:
    """The law at rest of given matrices, in the curved directions, and the largest |eigenvalue| of the Hessian.

    Flat is an eigenvalue within `tolerance` of 0, as a part of the largest |eigenvalue|. `trace` and
    `trace_of_square` are those of all of the noise, `noise` may be a part of it.
    """
    values, vectors = lax.stop_gradient(jnp.linalg.eigh(lax.stop_gradient(hessian)))
    scale = jnp.abs(values).max()
    curved = values > tolerance * scale
    kept = jnp.where(curved[None], vectors, 0)
    project = lambda matrix: symmetric(kept @ (kept.T @ matrix @ kept) @ kept.T)
    inside, bent = project(noise), project(hessian)
    covariance = symmetric(
        solve_lyapunov(bent, 2 * temperature * inside, (jnp.where(curved, values, 0), vectors))
    )
    drift = bent @ covariance
    current = temperature * inside - drift
    left = jnp.where(trace > 0, 1 - jnp.trace(inside) / jnp.where(trace > 0, trace, 1), 0)
    downhill = kept.T @ gradient
    law = OULaw(
        covariance=covariance,
        current=0.5 * (current - current.T),
        hessian=hessian,
        noise=noise,
        directions=directions,
        temperature=temperature,
        learning_rate=jnp.asarray(learning_rate, hessian.dtype),
        entropy=_entropy(covariance),
        excess_loss=0.5 * jnp.trace(drift),
        effective_rank=jnp.where(trace > 0, trace**2 / jnp.where(trace > 0, trace_of_square, 1), 0),
        flat=jnp.sum(~curved),
        left_out=jnp.maximum(left, 0),
        lowest=values[0] if lowest is None else lowest,
        above_minimum=0.5 * jnp.sum(downhill**2 / jnp.where(curved, values, 1)),
        largest_rank=largest_rank,
    )
    return law, scale


def _entropy(covariance: jax.Array) -> jax.Array:
    variances = jnp.linalg.eigvalsh(covariance)
    seen = variances > variances.size * jnp.finfo(variances.dtype).eps * jnp.abs(variances).max()
    return 0.5 * jnp.sum(jnp.where(seen, jnp.log(2 * jnp.pi * jnp.e * jnp.where(seen, variances, 1)), 0))


def ou_law(hessian: Any, noise: Any, temperature: Any) -> OULaw:
    r"""The law at rest of $dx = -Hx\,dt + \sqrt{2TD}\,dW$: $HS + SH = 2TD$, and its current $W = TD - HS$.

    In the eigenvectors of H, $S_{ij} = 2 T D_{ij} / (h_i + h_j)$.

    **Arguments**

    - `hessian` H (d, d): symmetric and positive semidefinite.
    - `noise` D (d, d): symmetric and positive semidefinite.
    - `temperature` T: a number at least 0. For SGD it is $\eta s_B / 2$, see `dynamics.temperature`.

    **Returns** an `OULaw`; its `learning_rate` is NaN. Eigenvalues of H below 1e-12 (in float32: 1e-6) of the largest
    count as flat. It is compiled when called plainly, works under `jit` and `vmap`, and has derivatives.

    **Raises** `ValueError` for matrices that are not symmetric and positive semidefinite, or T < 0; `TypeError` for
    arguments that are not real numbers.

    Source: Chaudhari & Soatto 2018, 1710.11029; Mandt, Hoffman & Blei 2017, 1704.04289.

    >>> import jax.numpy as jnp
    >>> from jaxflow.density import ou_law
    >>> law = ou_law(jnp.diag(jnp.array([1.0, 3.0])), jnp.array([[1.0, 0.8], [0.8, 1.2]]), 0.5)
    >>> print(law.covariance, law.current[0, 1], law.entropy_production)
    [[0.5 0.2] [0.2 0.2]] 0.2 1.142857
    """
    hessian = as_square("hessian", hessian)
    noise = as_covariance("noise", noise, len(hessian))
    as_covariance("hessian", hessian)
    _check.require_nonnegative(temperature=temperature)
    return _ou_law(hessian, noise, temperature)


@compiled
def _ou_law(hessian, noise, temperature) -> OULaw:
    dtype = jnp.result_type(hessian, noise)
    hessian, noise, temperature = (jnp.asarray(x).astype(dtype) for x in (hessian, noise, temperature))
    law, _ = law_of(
        hessian,
        noise,
        jnp.zeros(len(hessian), dtype),
        temperature=temperature,
        tolerance=1e-12 if dtype == jnp.float64 else 1e-6,
        trace=jnp.trace(noise),
        trace_of_square=jnp.sum(noise**2),
        largest_rank=len(hessian),
    )
    return law
