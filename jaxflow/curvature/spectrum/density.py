"""The spectrum of a Hessian as a whole, by stochastic Lanczos quadrature: the density of its eigenvalues."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._losses.models import Trainable
from jaxflow._norms import root
from jaxflow.curvature.differentiability import warn_unless_twice_differentiable
from jaxflow.curvature.products import (
    Loss,
    Operator,
    check_parts,
    check_preconditioner,
    open_real,
    operator,
)
from jaxflow.curvature.spectrum.estimate import Estimate, mean
from jaxflow.curvature.spectrum.lanczos_iteration import lanczos

PyTree = Any
ROUNDING = 50  # rounding errors of the largest eigenvalue that an eigenvalue may be off by


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpectralDensity:
    r"""The density $\varphi(\lambda) = \frac1P \sum_i \delta(\lambda - \lambda_i)$ of the P eigenvalues, estimated.

    Each random probe sees it as $\sum_k w_k\, \delta(\lambda - \theta_k)$, and the estimate is the mean over probes.

    - `nodes` θ (probes, depth): ascending, in units of the Hessian.
    - `weights` w (probes, depth): at least 0, with sum 1 for each probe.
    - `residuals` (probes, depth): the norms $|Mq_k - \theta_k q_k|$ of the nodes' Ritz vectors; M has an eigenvalue
      within this distance of $\theta_k$. Nodes at the ends of the spectrum converge first. A node whose residual is
      large stands for many eigenvalues around it.
    - `size` P: the number of eigenvalues (static).

    The errors of `density` and `moment` are standard errors over probes, infinite with one. It is a pytree; made
    under `vmap` its arrays have a leading axis, and its methods are for use under `vmap` too.
    """

    nodes: jax.Array
    weights: jax.Array
    residuals: jax.Array
    size: int = dataclasses.field(metadata={"static": True})

    @property
    def width(self) -> jax.Array:
        """The smoothing by default: 1 % of the range of the nodes; a scalar."""
        return _width(self.nodes)

    def density(self, grid: Any = None, width: Any = None) -> Estimate:
        r"""φ smoothed by a Gaussian of standard deviation `width`, at the points `grid` (G,); (G,), with integral 1.

        By default the points are those of `grid(width)`. Raises `ValueError` for a width that is not above 0.
        """
        grid = self.grid(width) if grid is None else jnp.asarray(grid, self.nodes.dtype)
        return _smooth(self, grid, self._width(width))

    def grid(self, width: Any = None) -> jax.Array:
        """1,000 points, evenly spaced from 5 widths below the lowest node to 5 above the highest; (1000,)."""
        return _grid(self, self._width(width))

    def _width(self, width: Any) -> jax.Array:
        if width is None:
            return self.width
        _check.require_positive(width=width)
        return jnp.asarray(width, self.nodes.dtype)

    def count_above(self, x: Any) -> Estimate:
        r"""How many of the P eigenvalues are above x, a number, by more than rounding.

        A count of k has the sampling error $\sqrt{2k(P-k)/((P+2) \cdot \text{probes})}$, which is known for probes
        drawn evenly from all directions, also for a single one. To it is added what the quadrature does not
        resolve: P times the larger weight of the two nodes next to x, which bounds its error, where their residuals
        reach x. That is nothing in a gap. It is much in a cluster of eigenvalues that are too close to one another
        to be told apart at this `depth`.
        """
        return _count(self, x, 1)

    def count_below(self, x: Any) -> Estimate:
        """How many of the P eigenvalues are below x, a number; with the error that `count_above` describes."""
        return _count(self, x, -1)

    def moment(self, power: int) -> Estimate:
        r"""$\frac1P \sum_i \lambda_i^p$ for an integer p at least 0, without quadrature error for p < 2·depth."""
        _check.require_integer("power", power, 0)
        return _moment(self, int(power))

    def __repr__(self):
        if isinstance(self.nodes, Tracer) or np.ndim(self.nodes) != 2:
            return f"SpectralDensity(nodes of shape {list(np.shape(self.nodes))})"
        probes, depth = self.nodes.shape
        low, high = float(self.nodes.min()), float(self.nodes.max())
        return f"SpectralDensity({self.size:,} eigenvalues, {low:.4g} … {high:.4g}; {probes} probes of depth {depth})"


@compiled
def _width(nodes: jax.Array) -> jax.Array:
    span, size = nodes.max() - nodes.min(), jnp.abs(nodes).max()
    span = jnp.where(span > 1e-6 * size, span, jnp.where(size > 0, size, 1.0))  # of equal eigenvalues
    return span / 100


@compiled
def _smooth(density: SpectralDensity, grid: jax.Array, width: jax.Array) -> Estimate:
    scaled = (grid[:, None, None] - density.nodes[None]) / width
    bumps = jnp.exp(-0.5 * scaled**2) / (width * (2 * math.pi) ** 0.5)
    return mean(jnp.sum(bumps * density.weights[None], axis=2).T)


@compiled(static=("power",))
def _moment(density: SpectralDensity, power: int) -> Estimate:
    return mean(jnp.sum(density.weights * density.nodes**power, axis=1))


@compiled
def _grid(density: SpectralDensity, width: jax.Array) -> jax.Array:
    nodes = density.nodes
    return jnp.linspace(nodes.min() - 5 * width, nodes.max() + 5 * width, 1000)


@compiled(static=("side",))
def _count(density: SpectralDensity, x: Any, side: int) -> Estimate:
    # An eigenvalue that is x, such as the 0 of a direction that nothing depends on, is found on either side.
    rounding = ROUNDING * jnp.finfo(density.nodes.dtype).eps * jnp.abs(density.nodes).max()
    x = jnp.asarray(x, density.nodes.dtype) + side * rounding
    chosen = side * (density.nodes - x) > 0
    per_probe = jnp.sum(jnp.where(chosen, density.weights, 0), axis=1)
    share = jnp.clip(per_probe.mean(), 0.0, 1.0)  # against rounding
    size = float(density.size)
    sampling = size * root(2 * share * (1 - share) / (1 + 2 / size) / (size * len(per_probe)))
    # The Chebyshev-Markov-Stieltjes inequalities: at x between two nodes it is off by the larger weight at most.
    before = jnp.sum(density.nodes <= x, axis=1)[:, None] - 1
    position = jnp.arange(density.nodes.shape[1])[None]
    near = (position == before) | (position == before + 1)
    reached = near & (density.residuals > jnp.abs(density.nodes - x))
    unresolved = jnp.max(jnp.where(reached, density.weights, 0), axis=1).mean()
    return Estimate(size * share, sampling + size * unresolved)


def spectral_density(
    objective: Loss,
    params: PyTree,
    key: jax.Array,
    *,
    probes: int = 10,
    depth: int = 80,
    preconditioner: PyTree = None,
    gauss_newton: bool = False,
    trainable: Trainable = None,
) -> SpectralDensity:
    r"""The density of the eigenvalues of the Hessian, by stochastic Lanczos quadrature.

    For a unit vector v drawn evenly from all directions $E\,v^T f(H) v = \frac1P \operatorname{tr} f(H)$, and
    m = `depth` steps of Lanczos iteration from v give the Gauss quadrature
    $v^T f(H) v \approx \sum_k w_k f(\theta_k)$, exact for polynomials of degree < 2m: the nodes are the Ritz values,
    the weights the squared first components of the eigenvectors of the tridiagonal matrix.

    **Arguments**

    - `objective`: an `Objective` or any twice differentiable function `loss(params) -> scalar`.
    - `params`: a pytree whose real arrays are trained, P numbers in all.
    - `key`: the random key of the probes, which are taken one after another, in the memory of one: a few more than
      `depth` vectors of P numbers.
    - `probes`: the number of probes (static). The sampling error of a count of k ≪ P eigenvalues is
      $\sqrt{2k / \text{probes}}$.
    - `depth`: the number of Lanczos steps, of which at most P are taken (static). Eigenvalues apart from the others
      are resolved first: see `residuals`.
    - `preconditioner` P: a positive number or a pytree of them like `params`, for the spectrum of $P^{-1/2} H
      P^{-1/2}$.
    - `gauss_newton`: whether to use the Gauss–Newton matrix (see `ggn_vp`) instead of the Hessian (static).
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** a `SpectralDensity`. It costs probes × depth Hessian products, about two gradients each, and probes
    × depth² P operations to keep the bases orthogonal. It is compiled when called plainly, and works under `jit`
    and `vmap`.

    **Raises** `TypeError` for an objective that is not a function (or with `gauss_newton` lacks the two parts),
    parameters that are not real floats, or a bare seed; `ValueError` for `probes` or `depth` below 1 or a
    preconditioner that is not positive.

    Source: Ghorbani, Krishnan & Xiao 2019, 1901.10159; Ubaru, Chen & Saad 2017.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 1.0, 1.0, 4.0]) * x**2)
    >>> jf.curvature.spectral_density(loss, jnp.ones(4), jax.random.key(0))
    SpectralDensity(4 eigenvalues, 1 … 4; 10 probes of depth 4)
    """
    _check.require_integer("probes", probes, 1)
    _check.require_integer("depth", depth, 1)
    objective, params, preconditioner = check_arguments(
        objective, params, preconditioner, gauss_newton, trainable
    )
    return _density(
        objective=objective,
        params=params,
        preconditioner=preconditioner,
        key=check_key(key),
        probes=int(probes),
        depth=int(depth),
        gauss_newton=bool(gauss_newton),
    )


@compiled(static=("probes", "depth", "gauss_newton"))
def _density(*, objective, params, preconditioner, key, probes, depth, gauss_newton):
    if not gauss_newton:
        warn_unless_twice_differentiable(objective, params)
    return quadrature(operator(objective, params, preconditioner, gauss_newton), key, probes, depth)


def quadrature(op: Operator, key: jax.Array, probes: int, depth: int) -> SpectralDensity:
    """The density of an operator, one probe at a time."""

    def probe(key):
        start = jax.random.normal(key, op.flat.shape, op.flat.dtype)
        krylov = lanczos(op.apply, start, min(depth, op.size))
        # Lanczos cannot iterate on nothing and adds some of its own.
        nothing = (op.apply(start) == 0).all()
        # Of no weight where the Krylov space was exhausted before; in the range of the others all the same.
        nodes = jnp.where(krylov.found, krylov.values, krylov.values[-1])
        nodes = jnp.where(nothing, 0, nodes)
        return (
            nodes,
            jnp.where(krylov.found, krylov.rotation[0] ** 2, 0),
            jnp.where(krylov.found & ~nothing, krylov.residuals, 0),
        )

    nodes, weights, residuals = lax.map(probe, jax.random.split(key, probes))
    return SpectralDensity(nodes, weights, residuals, op.size)


def check_arguments(
    objective: Any,
    params: PyTree,
    preconditioner: PyTree,
    gauss_newton: bool,
    trainable: Trainable,
) -> tuple[Loss, PyTree, PyTree]:
    """The objective, parameters and preconditioner; they are refused where they have no spectrum."""
    objective, params = open_real(objective, params, trainable)
    if gauss_newton:
        check_parts(objective)
    return objective, params, check_preconditioner(preconditioner, params)


def check_key(key: Any) -> jax.Array:
    """A random key; a bare seed is refused."""
    return jnp.asarray(_check.random_key(key))
