r"""How far noise keeps the sharpness below the edge of stability: three numbers, and the gap that they make.

u is the top eigenvector of the Hessian, S its eigenvalue, x the displacement along u, and ξ the noise of a batch's
gradient along u, of variance $\sigma_u^2 / B$. Gradient descent with rate η moves x and S as

$x' = (1 - \eta S)\,x - \eta\,\xi, \qquad S' = S + \eta\,(\alpha - \tfrac12 \beta x^2).$

S rests on average where $\overline{x^2} = 2\alpha/\beta$, and the variance of x where
$\overline{x^2}\,(1 - (1 - \eta S)^2) = \eta^2 \sigma_u^2 / B$. With $S = 2/\eta - \Delta$ the two are
$\Delta\,(1 - \eta\Delta/2) = \eta\beta\sigma_u^2 / (4\alpha B)$: the published gap, and a correction where it is not
small compared with 2/η.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._losses.companions import warn_of_companions
from jaxflow._losses.models import Trainable
from jaxflow._traceable import traceable
from jaxflow.curvature.differentiability import warn_unless_twice_differentiable
from jaxflow.curvature.products import check_objective, open_real, operator
from jaxflow.curvature.spectrum.eigenpairs import find_pairs
from jaxflow.curvature.stability.sharpness_record import FRESH, follow_pairs
from jaxflow.objective import Objective, require_data
from jaxflow.recording import Recorder

PyTree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SelfStabilization:
    r"""What holds the sharpness at the edge of stability, and what noise adds: a pytree of arrays of one shape.

    - `sharpness` S: the largest eigenvalue of the Hessian, with the unit eigenvector u.
    - `residual`: the norm of $Hu - Su$, in the units of S.
    - `sharpening` α: $-\nabla S \cdot \nabla L$, the rate at which S rises in the time t = kη, without any motion
      along u.
    - `stabilization` β: $|\nabla S|^2$, at the same place. Half of it times x² is the rate at which a displacement
      lowers S.
    - `noise` σ_u²: $u^T \Sigma u$, the variance of a single example's gradient along u, over N examples.
    - `displacement` x: $u \cdot \nabla L / S$, the distance along u from where the slope along u is 0.
    """

    sharpness: jax.Array
    residual: jax.Array
    sharpening: jax.Array
    stabilization: jax.Array
    noise: jax.Array
    displacement: jax.Array

    def gap(self, learning_rate: Any, batch_size: Any) -> jax.Array:
        r"""How far below 2/η noise keeps the sharpness on average, $\Delta S = \eta\beta\sigma_u^2 / (4\alpha B)$.

        It is the leading order of the Δ with $\Delta\,(1 - \eta\Delta/2) = \Delta S$. Where ηΔS > ½, there is no
        such Δ, and the sharpness does not rest at the edge: noise alone moves x by more than S allows.

        **Arguments**

        - `learning_rate` η: a number above 0.
        - `batch_size` B: the number of independent examples in a batch, above 0. Without replacement it is
          $1/s_B$, which is 1 over `jaxflow.batch_factor`.

        **Returns** ΔS, in the units of the sharpness. It is negative where α is, as S then does not rise to the
        edge.

        **Raises** `ValueError` for numbers that are not above 0, or where no example's gradient differs from the
        others along u: without noise there is no gap.

        >>> import jax.numpy as jnp
        >>> one = jnp.array(1.0)
        >>> print(SelfStabilization(20 * one, 0 * one, 0.5 * one, one, 8 * one, 0 * one).gap(0.1, 16))
        0.025
        """
        _check.require_positive(learning_rate=learning_rate, batch_size=batch_size)
        if (found := _check.values(self.noise)) is not None:
            _check.require_each("noise", found, ~(found <= 0), "above 0, or there is no gap")
        return learning_rate * self.stabilization * self.noise / (4 * self.sharpening * batch_size)

    def __repr__(self):
        if isinstance(self.sharpness, Tracer) or np.ndim(self.sharpness):
            return f"SelfStabilization(sharpness of shape {np.shape(self.sharpness)})"
        return (
            f"SelfStabilization(sharpness {self.sharpness:.4g}, α {self.sharpening:.4g}, "
            f"β {self.stabilization:.4g}, σ² {self.noise:.4g})"
        )


def self_stabilization(
    objective: Objective, params: PyTree, *, trainable: Trainable = None
) -> SelfStabilization:
    r"""How fast the sharpness rises, how strongly oscillation lowers it, and the noise along its eigenvector.

    $\alpha = -\nabla S \cdot \nabla L, \quad \beta = |\nabla S|^2, \quad \sigma_u^2 = u^T \Sigma u.$

    With rate η and batches of B the sharpness rests about $\Delta S = \eta\beta\sigma_u^2/(4\alpha B)$ below 2/η: see
    `SelfStabilization.gap`. It follows, to leading order in ηΔS, from the averages of
    $x' = (1 - \eta S) x - \eta\xi$ and $S' = S + \eta(\alpha - \frac12\beta x^2)$, with these definitions:

    - α and β are those at x = 0. They are measured at θ − xu, as at θ itself $-\nabla S\cdot\nabla L$ holds
      $-\frac12\beta x^2$ too, and is 0 on average where S rests.
    - $\sigma_u^2$ is that at θ itself. There it holds the fluctuation of the batches' curvature along u, times x²,
      which belongs to the gap.
    - u is the only direction that moves. Noise in others makes $-\nabla S\cdot\nabla L$ at a single iterate of SGD
      much smaller, often negative, as it is far from the path about which SGD fluctuates. Along a run
      `record_self_stabilization` takes α and β at a mean of iterates. The others' oscillation lowers S as well, so
      that for small batches, and networks with several eigenvalues near 2/η, $\overline{x^2} < 2\alpha/\beta$ and
      the gap is larger than the formula says, by a factor of 2 and more. $\eta\sigma_u^2/(2B\overline{x^2})$, with
      the `displacement` as measured, is then right as well.

    **Arguments**

    - `objective`: an `Objective` with data, N ≥ 2 examples, three times differentiable, in its chunks.
    - `params` θ: a pytree whose real arrays are trained.
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** a `SelfStabilization`. It costs 28 Hessian products for u, a third derivative, and a `jvp` of all
    losses. It is compiled when called plainly, and works under `jit` and `vmap`.

    **Raises** `TypeError` for an objective without data or parameters that are not real floats; `ValueError` for a
    single example, whose gradient has no noise.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> def losses(p, shift):  # p[1] is the curvature in p[0], and it is pulled up to 27
    ...     return 0.5 * p[1] * p[0] ** 2 + 0.05 * (p[1] - 27) ** 2 + shift * p[0]
    >>> valley = jf.Objective(losses, jnp.array([-2.0, 2.0]))
    >>> found = jf.curvature.self_stabilization(valley, jnp.array([0.0, 20.0]))
    >>> print(found, found.gap(0.1, 4).round(5))
    SelfStabilization(sharpness 20, α 0.7, β 1, σ² 4) 0.03571

    Source: α and β: Damian, Nichani & Lee 2023, 2209.15594; the gap: Liao, Kolomvaki & Kyrillidis 2026, 2604.21016.
    """
    _check_noise(objective)
    objective, params = open_real(objective, params, trainable)
    warn_of_companions(objective, params)
    return _self_stabilization(objective, params)


@compiled
def _self_stabilization(objective, params):
    warn_unless_twice_differentiable(objective, params)
    hessian = operator(objective, params)
    found = find_pairs(hessian, 1)
    return _measure(objective, hessian, found.values[0], found.vectors[0], found.residuals[0], hessian.flat)


@traceable
def record_self_stabilization(objective: Objective, *, stride: Any = 50) -> Recorder:
    r"""A `record=` for `iterate`: α, β, $\sigma_u^2$ and S along a run with noise, at the mean of recent iterates.

    S, $\sigma_u^2$ and x are those of the iterate, as in `self_stabilization`. α and β are taken at the mean of the
    `stride` last records, without x: the noise in all directions, which hides α at an iterate, is largely gone from
    this mean. Average each over the time that the run is at the edge, and then take the gap of the averages.

    **Arguments**

    - `objective`: an `Objective` with data, N ≥ 2 examples: the loss whose Hessian is measured.
    - `stride`: the number of records from one measurement to the next, each of which is at the mean of these
      records. In between all values are NaN. The stride should be long compared with the time that noise lasts, and
      so short that training hardly moves. u is followed from one measurement to the next, and found anew at the
      first of every 20.

    **Returns** a `Recording`. The trajectory's `values` are then a `SelfStabilization` with leaves (T,).

    **Raises** `TypeError` for an objective without data; `ValueError` for a single example or `stride` < 1.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> valley = jf.Objective(lambda p, shift: 0.5 * p[1] * p[0] ** 2 + 0.05 * (p[1] - 27) ** 2 + shift * p[0],
    ...                       jnp.array([-0.2, 0.2]))
    >>> record = jf.curvature.record_self_stabilization(valley, stride=100)
    >>> run = jf.iterate(jf.optim.gd(0.1), valley, jnp.array([0.0, 19.0]), steps=1000, batch_size=1, record=record,
    ...                  key=jax.random.key(0))
    >>> late = jax.tree.map(lambda x: x[-301::100].mean(), run.values)
    >>> print(bool(abs(late.sharpness - 20) < 1), bool(abs(late.sharpening - 0.7) < 0.05))
    True True
    """
    _check_noise(objective)
    whole = isinstance(stride, float) and stride.is_integer()  # as which it is kept
    _check.require_count("stride", int(stride) if whole else stride, 1)

    def begin(params, state):
        del state
        loss, params = open_real(objective, params)
        warn_of_companions(loss, params)
        warn_unless_twice_differentiable(loss, params)
        zero = jnp.zeros_like(ravel_pytree(params)[0])
        return zero[None], zero, jnp.zeros([], jnp.int32)

    def look(memory, params, state):
        del state
        vectors, total, count = memory
        loss, params = open_real(objective, params)
        total = total + ravel_pytree(params)[0]
        every = jnp.asarray(stride).astype(count.dtype)

        def measure():
            hessian = operator(loss, params)
            found = follow_pairs(hessian, vectors, count % (every * FRESH) == 0)
            pair = found.values[0], found.vectors[0], found.residuals[0]
            middle = total / jnp.where(count == 0, 1, every).astype(total.dtype)
            return _measure(loss, hessian, *pair, middle), found.vectors, jnp.zeros_like(total)

        def pause():
            blank = jnp.full([], jnp.nan, total.dtype)
            return SelfStabilization(*[blank] * 6), vectors, total

        values, vectors, total = lax.cond(count % every == 0, measure, pause)
        return values, (vectors, total, count + 1)

    return Recorder(begin, look)


def _measure(objective, hessian, sharpness, u, residual, middle) -> SelfStabilization:
    """The noise along u at the Hessian's parameters; α and β at the flat `middle`, without its motion along u."""
    flat, loss = hessian.flat, lambda x: objective(hessian.unravel(x))
    # The losses, in chunks too, are the slope of their weighted sum in the weights.
    zeros = jnp.zeros(objective.size, flat.dtype)
    losses = lambda x: jax.grad(objective.weighted, 1)(hessian.unravel(x), zeros)
    along = lambda f, x: jax.jvp(f, (x,), (u,))
    distance = lambda slope: jnp.where(sharpness > 0, slope / jnp.where(sharpness > 0, sharpness, 1), 0)
    at_rest = middle - distance(along(loss, middle)[1]) * u
    (slope, _), (_, rise) = along(lambda x: along(jax.grad(loss), x), at_rest)
    slopes = along(losses, flat)[1]
    return SelfStabilization(
        sharpness=sharpness,
        residual=residual,
        sharpening=-rise @ slope,
        stabilization=rise @ rise,
        noise=slopes.var(),
        displacement=distance(slopes.mean()),
    )


def _check_noise(objective: Any) -> None:
    """Refuse an objective whose batches are all alike."""
    check_objective(objective)
    size = require_data(objective, "Noise along an eigenvector")
    _check.require(
        "objective", size, size >= 2, "one of at least 2 examples, without which there is no noise"
    )
