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
from jaxflow.dynamics.edge.semidefinite_complementarity import complementarity, smat

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
    weights = jnp.where(first == second, 1.0, jnp.sqrt(2.0)).astype(dtype)
    preconditioner = method.denominator(nu) / rate
    count = jnp.sum(room < NEAR)
    count = count * (count + 1) // 2
    product = lambda p, v: jax.jvp(jax.grad(loss), (p,), (v,))[1]

    def third(index, thirds):
        u, v = modes[first[index]], modes[second[index]]
        along = jax.jvp(lambda p: product(p, u), (flat,), (v,))[1]
        return thirds.at[index].set(weights[index] * along)

    thirds = lax.fori_loop(0, count, third, jnp.zeros((first.size, flat.size), dtype))
    outer = weights[:, None] * modes[first] * modes[second]
    # Of HΣH with HU = 2PU, which holds where X is not 0 and keeps B symmetric.
    squares = method.pool(4 * preconditioner[None] ** 2 * outer)
    rising = method.slope(nu) / rate
    constant = method.velocity(method.pool(gradient**2), nu)
    a = h * (
        2 * outer @ jnp.broadcast_to(rising * constant, flat.shape) + thirds @ (gradient / preconditioner)
    )
    b = h * 0.5 * (thirds / preconditioner[None]) @ thirds.T
    grown = jnp.broadcast_to(rising[None] * method.inflow * squares, outer.shape)
    b = b + 2 * h * (outer @ grown.T)
    order = jnp.argsort(jnp.asarray(first) * k + second)  # rows of the upper triangle
    a_matrix = jnp.diag(room) + smat(a[order])
    found = complementarity(a_matrix, b[order][:, order], guess)
    x = weights * found.X[first, second]
    return Oscillation(found.X, 0.5 * x @ thirds, x @ squares, found.residual, count.astype(jnp.int32))
