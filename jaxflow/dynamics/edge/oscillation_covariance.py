"""The oscillation past the edge of stability: its covariance, found from how the curvature of the loss changes.

Along the k critical directions U, generalised eigenvectors $HU = PU\\,\\mathrm{diag}(\\mathrm{eff})$ with
$U^TPU = 1$, the iterates oscillate about the central flow with covariance $UXU^T$. That costs the loss
$\\frac12\\langle H, UXU^T\\rangle$, whose gradient pushes the flow to where curvature falls, and X is just large
enough that the effective eigenvalues do not pass 2: $0 \\preceq X \\perp A + B[X] \\succeq 0$.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow.dynamics.edge.methods import Method
from jaxflow.dynamics.edge.semidefinite_complementarity import complementarity
from jaxflow.dynamics.edge.symmetric_vectors import smat

NEAR = 0.2  # a mode this far below 2 cannot get there in one substep


class Oscillation(NamedTuple):
    """The covariance X (k, k) of the oscillation, and what it does.

    - `push` (n,): $\\frac12\\nabla^3 L[UXU^T]$. `squares`: what it adds to the pooled squared gradient, as ν.
    - `residual`: of the complementarity problem, relative. `thirds`: third derivatives taken, an int32.
    """

    covariance: jax.Array
    push: jax.Array
    squares: jax.Array
    residual: jax.Array
    thirds: jax.Array


def pairs_of(k: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The pairs i ≤ j of k modes, those of the first m modes first."""
    pairs = [(i, j) for j in range(k) for i in range(j + 1)]
    return tuple(i for i, _ in pairs), tuple(j for _, j in pairs)


def oscillate(
    *,
    method: Method,
    loss: Callable[[jax.Array], jax.Array],
    flat: jax.Array,
    gradient: jax.Array,
    nu: jax.Array,
    rate: Any,
    room: jax.Array,
    modes: jax.Array,
    guess: jax.Array,
    h: jax.Array,
) -> Oscillation:
    """The oscillation over a substep of h steps at `flat` (n,), whose effective eigenvalues are `room` (k,) below 2.

    `modes` (k, n) are U's columns, `guess` (k, k) is an X to begin with, `rate` is η.
    """
    k, dtype = room.size, flat.dtype
    first, second = (jnp.array(x) for x in pairs_of(k))
    count = jnp.sum(room < NEAR)
    count = count * (count + 1) // 2
    weights = jnp.where(first == second, 1.0, jnp.sqrt(2.0)).astype(dtype)
    preconditioner = method.denominator(nu) / rate
    root = lax.rsqrt(preconditioner)
    product = lambda p, v: jax.jvp(jax.grad(loss), (p,), (v,))[1]
    # Of HΣH with HU = 2PU, which holds where X is not 0 and keeps B symmetric.
    pooled = lambda outer: method.pool(4 * preconditioner**2 * outer)
    rising = method.slope(nu) / rate
    constant = jnp.broadcast_to(rising * method.velocity(method.pool(gradient**2), nu), flat.shape)

    def pair(index, carry):
        """P^{-1/2}∇³L[u, v] of a pair, its entry of A, and what its own squares change of 2P, a row of B."""
        thirds, a, b = carry
        weight, u, v = weights[index], modes[first[index]], modes[second[index]]
        third = root * jax.jvp(lambda p: product(p, u), (flat,), (v,))[1]
        outer = u * v
        tightened = 2 * jnp.sum(outer * constant) + jnp.sum(third * root * gradient)
        grown = jnp.broadcast_to(rising * method.inflow * pooled(outer), flat.shape)
        row = weights * ((modes * grown[None]) @ modes.T)[first, second]
        return (
            thirds.at[index].set(weight * third),
            a.at[index].set(weight * tightened),
            b.at[index].set(2 * weight * row),
        )

    def solve():
        size = first.size
        empty = jnp.zeros((size, flat.size), dtype), jnp.zeros(size, dtype), jnp.zeros((size, size), dtype)
        thirds, a, b = lax.fori_loop(0, count, pair, empty)
        known = jnp.arange(size) < count
        b = h * (0.5 * (thirds @ thirds.T) + jnp.where(known[:, None] & known[None], b, 0.0))
        order = jnp.argsort(jnp.asarray(first) * k + second)  # rows of the upper triangle
        found = complementarity(jnp.diag(room) + h * smat(a[order]), b[order][:, order], guess)
        x = weights * found.X[first, second]
        return found.X, 0.5 * (x @ thirds) / root, found.residual

    def calm():
        return jnp.zeros((k, k), dtype), jnp.zeros_like(flat), jnp.zeros((), dtype)

    x, push, residual = lax.cond(count > 0, solve, calm)
    squares = pooled(jnp.sum((x @ modes) * modes, axis=0))
    return Oscillation(x, push, squares, residual, count.astype(jnp.int32))
