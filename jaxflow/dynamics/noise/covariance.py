"""The covariance of per-example gradients: the matrix itself, its trace, and its largest eigenpairs without it."""

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
from jaxflow._completion import open_model
from jaxflow._gradients import gradient
from jaxflow._losses.companions import warn_of_companions
from jaxflow._losses.models import Trainable
from jaxflow._programs.half import widen
from jaxflow.curvature.spectrum.krylov import leading_pairs
from jaxflow.dynamics.noise.coordinatewise import NUMBERS, gradient_variance
from jaxflow.dynamics.noise.minibatch import weighted_gradient
from jaxflow.objective import Objective, require_data

PyTree = Any
MOST = 20_000  # parameters of a dense matrix: 3.2 GB in float64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoiseScale:
    """How large the noise of a mini-batch gradient is compared with the gradient: a pytree of arrays.

    - `trace`: tr Σ, the variance of a per-example gradient. That of a batch of B is $s_B$ tr Σ.
    - `squared_gradient`: |∇L|².
    - `eigenvalues` (k,): the leading eigenvalues of Σ, largest first.
    - `eigenvectors`: a pytree like the parameters with a leading axis k, orthonormal over all of its leaves.
    """

    trace: jax.Array
    squared_gradient: jax.Array
    eigenvalues: jax.Array
    eigenvectors: PyTree

    @property
    def simple(self) -> jax.Array:
        """tr Σ / |∇L|², the batch size whose noise is as large as the gradient; infinite where ∇L is 0."""
        return self.trace / self.squared_gradient

    def __repr__(self):
        if isinstance(self.trace, Tracer) or np.ndim(self.trace):
            return f"NoiseScale(trace of shape {np.shape(self.trace)})"
        values = ", ".join(f"{value:.4g}" for value in np.asarray(self.eigenvalues))
        return (
            f"NoiseScale(simple {self.simple:.4g}: trace {self.trace:.4g} over squared gradient "
            f"{self.squared_gradient:.4g}{'; eigenvalues ' + values if values else ''})"
        )


def _prepare(objective: Any, params: PyTree, trainable: Trainable) -> tuple[Any, PyTree, int]:
    """The objective and what is trained of the parameters as real arrays, and how many numbers they hold."""
    require_data(objective, "Per-example gradients")
    objective, params = open_model(objective, params, trainable)
    params = jax.tree.map(jnp.asarray, params)
    for leaf in jax.tree.leaves(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"params must be real floats to have a covariance, got dtype {leaf.dtype}.")
    warn_of_companions(objective, params)
    return objective, params, sum(leaf.size for leaf in jax.tree.leaves(params))


def gradient_covariance(objective: Objective, params: PyTree, *, trainable: Trainable = None) -> jax.Array:
    r"""The per-sample gradient covariance $\Sigma = \frac1N \sum_i (g_i - \bar g)(g_i - \bar g)^\top$.

    A mini-batch gradient has the covariance $s_B \Sigma$, `batch_factor` times it. Σ is biased (1/N), as the data
    are all there is, and its rank is below N. It is the D of Chaudhari & Soatto (2018, 1710.11029).

    **Arguments**

    - `objective`: an `Objective` with data. Examples are taken `objective.chunk` at a time, or the number whose
      gradients take 64 MiB.
    - `params`: a pytree whose real arrays are trained, P numbers in all, at most 20,000.
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** Σ, shape (P, P). Rows and columns are in the order of `jax.flatten_util.ravel_pytree(params)`. In half
    precision it is float32.

    **Raises** `TypeError` for an objective without data or parameters that are not real; `ValueError` for P > 20,000
    (`noise_scale` finds the leading eigenpairs of larger ones).

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 3.0]))
    >>> print(jf.gradient_covariance(objective, 0.0))
    [[4.]]
    """
    objective, params, count = _prepare(objective, params, trainable)
    if count > MOST:
        raise ValueError(
            f"params must hold at most {MOST:,} numbers for a dense covariance, got {count:,}; "
            "noise_scale finds its leading eigenpairs without it."
        )
    return _covariance(objective, params)


@compiled
def _covariance(objective, params):
    flat = lambda tree: widen(ravel_pytree(tree)[0])
    mean = flat(gradient(objective)(params))
    size = objective.size
    block = min(size, objective.chunk or max(NUMBERS // max(mean.size, 1), 1))
    # Centring before squaring keeps the digits that E gg' - (E g)(E g)' loses where the noise is small.
    alone = lambda example: jax.tree.map(lambda x: x[None], example)
    one = lambda example: flat(gradient(lambda p: objective.over(p, alone(example)))(params)) - mean

    def body(total, start):
        examples = start + jnp.arange(block)
        rows = jax.vmap(one)(objective.take(jnp.minimum(examples, size - 1)))
        rows = jnp.where((examples < size)[:, None], rows, 0)
        return total + rows.T @ rows, None

    zero = jnp.zeros((mean.size, mean.size), mean.dtype)
    return lax.scan(body, zero, jnp.arange(0, size, block))[0] / size


def noise_scale(
    objective: Objective, params: PyTree, *, eigenpairs: int = 0, trainable: Trainable = None
) -> NoiseScale:
    r"""tr Σ, |∇L|², the simple noise scale tr Σ/|∇L|² and leading eigenpairs of Σ, which is never formed.

    At batch size B, with replacement, a mini-batch gradient has $E|g_B - \nabla L|^2 = \mathrm{tr}\,\Sigma / B$, so
    the simple noise scale is the B where noise and gradient are equally large. It estimates the critical batch
    size: below it, a step of B examples gets about as far as B steps of one example; above it, more examples are
    wasted (McCandlish et al. 2018, 1812.06162, who weigh both by the Hessian for the exact one). Σ is over the
    given data, 1/N; nothing is sampled.

    **Arguments**

    - `objective`: an `Objective` with data.
    - `params`: a pytree whose real arrays are trained, P numbers in all.
    - `eigenpairs` k: the number of eigenpairs, at most min(P, N) (static). They are found by Lanczos iteration with
      full reorthogonalisation, of 20 + 4k products with Σ (at most min(P, N)) and 2k more for safety; each product
      is a `jvp` and a `vjp` through the losses.
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** a `NoiseScale`. It costs a backward pass for each example, in blocks of `objective.chunk` or of 64
    MiB of gradients. It is compiled when called plainly, and works under `jit` and `vmap`.

    **Raises** `TypeError` for an objective without data or parameters that are not real; `ValueError` for
    `eigenpairs` < 0 or > min(P, N).

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 3.0]))
    >>> jf.noise_scale(objective, 0.0, eigenpairs=1)
    NoiseScale(simple 4: trace 4 over squared gradient 1; eigenvalues 4)
    """
    objective, params, count = _prepare(objective, params, trainable)
    _check.require_integer("eigenpairs", eigenpairs, 0)
    most = min(count, objective.size)
    rule = f"at most {most}, the smaller of the numbers of parameters and of examples"
    _check.require("eigenpairs", eigenpairs, eigenpairs <= most, rule)
    return _noise_scale(objective, params, eigenpairs=int(eigenpairs))


@compiled(static=("eigenpairs",))
def _noise_scale(objective, params, eigenpairs):
    mean = jax.tree.map(widen, gradient(objective)(params))
    total = lambda tree: jnp.stack([jnp.sum(leaf) for leaf in jax.tree.leaves(tree)]).sum()
    trace = total(gradient_variance(objective, params, mean))
    values, vectors = _leading_eigenpairs(objective, params, trace, eigenpairs)
    return NoiseScale(trace, total(jax.tree.map(jnp.square, mean)), values, vectors)


def _leading_eigenpairs(objective, params, trace, count: int) -> tuple[jax.Array, PyTree]:
    """The `count` largest eigenvalues of Σ and their eigenvectors."""
    narrow, back = ravel_pytree(params)
    flat, unravel = widen(narrow), lambda v: back(v.astype(narrow.dtype))
    depth = min(flat.size, objective.size, 20 + 4 * count) if count else 0
    if not depth:
        return jnp.zeros(0, flat.dtype), jax.tree.map(lambda x: jnp.zeros((0, *x.shape), x.dtype), params)
    # The losses, in chunks too, are the slope of their weighted sum in the weights.
    losses = lambda p: jax.grad(objective.weighted, 1)(p, jnp.zeros(objective.size, flat.dtype))

    def product(v):
        along = jax.jvp(losses, (params,), (unravel(v),))[1]
        pulled = weighted_gradient(objective, params, (along - along.mean()) / objective.size)
        return widen(ravel_pytree(pulled)[0])

    found = leading_pairs(product, flat.size, flat.dtype, count, depth + 2 * count)
    return jnp.where(trace == 0, 0, found.values), jax.vmap(unravel)(found.vectors)
