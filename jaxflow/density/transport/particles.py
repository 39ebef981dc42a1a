"""The Fokker–Planck equation as a flow of particles without noise, each carried by an estimate of their density."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._gradients import gradient
from jaxflow._norms import root
from jaxflow._traceable import traceable
from jaxflow.dynamics import Field
from jaxflow.optim.schedules import check_rate, value_at

PyTree = Any
BLOCK = 256  # particles whose distances to all others are held at a time


@traceable
def particle_flow(objective: Callable[[PyTree], jax.Array], temperature: Any, bandwidth: Any = None) -> Field:
    r"""Particles that move along $\dot x_i = -\nabla V(x_i) - T \nabla \log \hat p(x_i)$, with no noise.

    $\hat p(x) = \frac1n \sum_j N(x; x_j, b^2 I)$ is the kernel estimate of their density. The Fokker–Planck equation
    of `langevin` is the continuity equation of the velocity $-\nabla(V + T \log p)$, so with many particles and a
    small b the two have one law at every time, although no path is alike. The clock is that of gradient flow.

    **Arguments**

    - `objective` V: an `Objective` or any function `loss(params) -> scalar` of one particle.
    - `temperature` T: a number at least 0, in units of the loss, or a function of the time t (annealing).
    - `bandwidth` b: a number above 0, in units of the parameters. Default: Silverman's rule at every moment,
      $b = s\,(\frac{4}{(d + 2) n})^{1/(d + 4)}$, where s² is the mean of the variances of the d coordinates.

    **Returns** a `Dynamics` whose state is all particles: an array (n, d), or (n,), or a pytree whose leaves have a
    leading axis n. Give `integrate` such a stack as its `params`. A drift costs n gradients and n²d operations.

    **Raises** `TypeError` when `objective` is not callable or particles are complex; `ValueError` for a negative
    temperature, a bandwidth that is not positive, or particles without a common leading axis.

    The estimate is the density widened by b, which makes its slope too small, so that particles end too close: with
    $V = \frac h2 x^2$ a Gaussian of many particles stays Gaussian, its mean is exact, and
    $\frac{d}{dt} s^2 = -2 h s^2 + 2 T \frac{s^2}{s^2 + b^2}$, which ends in $s^2 = T/h - b^2$. With n
    particles on a line s² is too small by a part of about s/(n b) more. The rule's b falls as $n^{-1/(d+4)}$: it
    needs many particles beyond a few dimensions, as all kernel estimates do.

    Source: Degond & Mustieles 1990; Maoutsa, Reich & Opper 2020, 2006.00702; the rule: Silverman 1986.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> from jaxflow.density import particle_flow
    >>> flow = particle_flow(lambda x: 0.5 * jnp.sum(x**2), temperature=1.0, bandwidth=0.2)
    >>> start = 2 + 0.1 * jax.random.normal(jax.random.key(0), (300, 1))
    >>> end = jf.integrate(flow, start, jnp.array([0.0, 8.0])).params
    >>> print(end.var().round(1), (1 - 0.2**2))
    0.9 0.96
    """
    if not callable(objective):
        raise TypeError(f"objective must be an Objective or a function of the parameters, got {objective!r}.")
    check_rate(temperature, "temperature")
    if bandwidth is not None:
        _check.require_positive(bandwidth=bandwidth)
    slope = gradient(objective)

    def drift(t, particles):
        points, unravel = _as_points(particles)
        rule = _silverman(points) if bandwidth is None else jnp.asarray(bandwidth).astype(points.dtype)
        push = unravel(
            jnp.asarray(value_at(temperature, t)).astype(points.dtype) * slope_of_log_density(points, rule)
        )
        return jax.tree.map(lambda g, s: -g - s, jax.vmap(slope)(particles), push)

    return Field(drift=drift)


def _as_points(particles: PyTree) -> tuple[jax.Array, Callable[[jax.Array], PyTree]]:
    """A stack of particles as an array (n, d), and the way back."""
    leaves = jax.tree.leaves(particles)
    for leaf in leaves:
        if jnp.iscomplexobj(leaf):
            raise TypeError(f"particles must be real, got dtype {leaf.dtype}.")
    if any(jnp.ndim(leaf) == 0 for leaf in leaves) or len({len(leaf) for leaf in leaves}) != 1:
        shapes = ", ".join(map(str, _check.leaf_shapes(particles)))
        raise ValueError(f"particles must be arrays that share a leading axis n, got the shapes {shapes}.")
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], particles))
    return jax.vmap(lambda one: ravel_pytree(one)[0])(particles), jax.vmap(unravel)


def _silverman(points: jax.Array) -> jax.Array:
    n, d = points.shape
    spread = root(points.var(0).mean())
    # Particles that are all at one point have no estimate, and with this none pushes another.
    spread = jnp.where(spread > 0, spread, 1)
    return spread * (4 / ((d + 2) * n)) ** (1 / (d + 4))


def slope_of_log_density(points: jax.Array, bandwidth: jax.Array) -> jax.Array:
    r"""$\nabla \log \hat p$ of the kernel estimate, at the points (n, d) that make it."""
    points = points - points.mean(0, keepdims=True)  # which keeps the digits of distances
    squares = jnp.sum(points**2, 1)

    def at(point):
        distances = squares - 2 * points @ point  # less |point|², which the softmax does not see
        weights = jax.nn.softmax(-distances / (2 * bandwidth**2))
        return (weights @ points - point) / bandwidth**2

    return lax.map(at, points, batch_size=min(BLOCK, len(points)))
