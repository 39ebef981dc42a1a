"""The linear semidefinite complementarity problem, which says how much a central flow oscillates, solved in JAX.

Newton's method on the natural map starts from the solution of the last problem, and in an integrator takes one or two
steps. Where it stalls, a primal-dual interior-point method, which needs no good start, comes closer and hands back.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve, lu_factor, lu_solve
from jax.typing import ArrayLike

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._norms import norm, norms
from jaxflow.dynamics.edge.symmetric_vectors import congruence, smat, svec, upper_triangle

REGULARISE = 1e-3  # of a Newton matrix, a unit of residual
STALLED = 0.5  # a Newton step must bring the residual to this part of itself, or the other method is called
LEVEL = 1e-3  # the interior-point method goes on until the gap is this, then this squared, …
BOUNDARY = 0.98  # of the way to where an iterate turns singular


class Complementarity(NamedTuple):
    """What `complementarity` found.

    - `X` (k, k): symmetric, positive semidefinite up to rounding.
    - `residual`: relative; below the tolerance where a solution was found.
    - `iterations` (int32): Newton and interior-point steps together; 0 where X = 0 is a solution.
    """

    X: jax.Array
    residual: jax.Array
    iterations: jax.Array


class _Point(NamedTuple):
    """A point x and its natural map F = x − Π₊(z), z = x − a − B x = Q diag(values) Qᵀ; all in svec.

    The `residual` is |F| with the `rounding` of x added, in whose neighbourhood nothing can be gained.
    """

    x: jax.Array
    map: jax.Array
    values: jax.Array
    vectors: jax.Array
    residual: jax.Array
    rounding: jax.Array


class _Interior(NamedTuple):
    """The interior-point method's X and S, positive definite, and whether it can still move."""

    X: jax.Array
    S: jax.Array
    alive: jax.Array


def complementarity(
    A: ArrayLike,
    B: ArrayLike,
    start: ArrayLike | None = None,
    *,
    tolerance: Any = None,
    max_iterations: Any = 100,
) -> Complementarity:
    r"""Find a symmetric X with $0 \preceq X \perp S(X) = A + B[X] \succeq 0$, that is, $\langle X, S(X)\rangle = 0$.

    These are the optimality conditions of $\min_{X \succeq 0} \frac12\langle X, B[X]\rangle + \langle A, X\rangle$;
    X is unique where B is positive definite.

    **Arguments**

    - `A` (k, k): symmetric (its upper triangle is read), float32 or float64; all is computed in its dtype.
    - `B` (n, n), n = k(k+1)/2: symmetric positive semidefinite, maybe singular; acts on `svec(X)`.
    - `start` (k, k): a guess, such as the solution of a problem nearby. 0 is tried first, and returned if it solves.
    - `tolerance` on `residual`: default 1e-10, in float32 1e-5.
    - `max_iterations` of both methods together. At most 20 were needed for B singular or of condition 1e6, 42 where
      the directions' scales differ by 1e3 and so B's by 1e12. Where B is singular and X and S have a zero in common,
      one problem in twenty ended at 1e-8, above the default tolerance.

    `residual` is that of the natural map, $\|F(Y)\|\, L/\|A\|$ with $F(Y) = Y - \Pi_+(Y - S(Y)/L)$ and L = ‖B‖
    (Frobenius norms; 1 in place of a norm that is 0), at the last point Y. It does not change when A or B is
    multiplied by c > 0. X is $\Pi_+(Y - S(Y)/L)$, whose own residual is not larger, as L ≥ the spectral norm.
    Rounding, ε‖Y‖L/‖A‖, is added, so that a Y beyond all digits cannot pass; a tolerance below that is not reached.
    Check the residual: where no solution exists (A ≺ 0 and B = 0, say) the iterates grow until nothing can be
    gained, or to `max_iterations`; the residual is of order 1, and X is finite, the best seen.

    It works under `jit` and `vmap`, and is compiled when called plainly. Raises `ValueError` for shapes that do not
    match or an A of another dtype; values are not checked.

    Sources: the problem, Cohen, Damian, Talwalkar, Kolter & Lee (2024, 2410.24206); Newton's method on the natural
    map, Pang, Sun & Sun (2003, Math. Oper. Res. 28:39); the other's scaling, Nesterov & Todd (1998, SIAM J. Optim.
    8:324), and for quadratic problems Toh (2008, Math. Program. 112:221).

    >>> import jax.numpy as jnp
    >>> complementarity(jnp.diag(jnp.array([-1.0, 2.0])), jnp.eye(3)).X
    Array([[1., 0.], [0., 0.]], ...)
    """
    A = jnp.asarray(A)
    _check_arguments(A, jnp.shape(B), None if start is None else jnp.shape(start))
    cast = lambda x: None if x is None else jnp.asarray(x, A.dtype)
    if tolerance is None:
        tolerance = 1e-10 if A.dtype == jnp.float64 else 1e-5
    return _complementarity(
        A, cast(B), start=cast(start), tolerance=cast(tolerance), max_iterations=max_iterations
    )


def _check_arguments(A, operator: tuple, start: tuple | None) -> None:
    k = A.shape[0] if A.ndim else 0
    if A.shape != (k, k) or not k or A.dtype not in (jnp.float32, jnp.float64):
        shown = f"{A.dtype.name}{list(A.shape)}"
        raise ValueError(f"A must be a square matrix of float32 or float64, got {shown}.")
    n = k * (k + 1) // 2
    _check.require("B", operator, operator == (n, n), f"of shape {(n, n)} for A of shape {A.shape}")
    _check.require("start", start, start in (None, A.shape), f"of A's shape {A.shape}")


@compiled
def _complementarity(A, B, *, start, tolerance, max_iterations) -> Complementarity:
    size, stiffness = _norm(A), _norm(B)
    scale = jnp.clip(size / stiffness, jnp.finfo(A.dtype).tiny, jnp.finfo(A.dtype).max)
    a, B = svec(A) / size, B / stiffness
    zero = _evaluate(jnp.zeros_like(a), a, B)
    first = zero.x if start is None else svec(start) / scale
    solved = lambda p: p.residual <= jnp.maximum(tolerance, 4 * p.rounding)

    def is_unfinished(carry):
        best, interior, level, count = carry
        return ~solved(best) & interior.alive & (level >= jnp.finfo(a.dtype).eps) & (count < max_iterations)

    def improve_both(carry):
        best, interior, level, count = carry
        begin = level >= 1
        # Under vmap a lane that is done comes here too, and must not keep the loops going.
        todo = is_unfinished(carry)

        def is_far(inner):
            state, count = inner
            return todo & ~begin & state.alive & (_gap(state, a, B) > level) & (count < max_iterations)

        step = lambda inner: (_interior_step(inner[0], a, B), inner[1] + 1)
        interior, count = lax.while_loop(is_far, step, (interior, count))
        given = jnp.where(begin, first, svec(interior.X))

        def goes_on(inner):
            point, falls, _, count = inner
            return falls & ~solved(point) & (count < max_iterations)

        def newton(inner):
            # The first round tries the point given, so that the program holds one evaluation for all.
            point, _, fresh, count = inner
            x = lax.cond(fresh, lambda: given, lambda: point.x + _newton_step(point, B))
            new = _evaluate(x, a, B)
            falls = new.residual <= STALLED * point.residual
            kept = jnp.where(fresh, ~begin | (new.residual < point.residual), falls)
            return (
                _choose(kept, new, point),
                fresh | falls,
                jnp.array(False),
                count + (~fresh).astype(jnp.int32),
            )

        point, _, _, count = lax.while_loop(goes_on, newton, (zero, todo, jnp.array(True), count))
        return _choose(point.residual < best.residual, point, best), interior, level * LEVEL, count

    eye = jnp.eye(A.shape[0], dtype=A.dtype)
    carry = zero, _Interior(eye, eye, jnp.array(True)), jnp.ones([], a.dtype), jnp.int32(0)
    best, _, _, count = lax.while_loop(is_unfinished, improve_both, carry)
    x = jnp.where(solved(zero), 0, best.x - best.map)
    return Complementarity(scale * smat(x), best.residual, count)


def _choose(first, one, other):
    return jax.tree.map(functools.partial(jnp.where, first), one, other)


def _norm(x) -> jax.Array:
    """The Frobenius norm; 1 for 0."""
    size = norm(x)
    return jnp.where(size == 0, 1, size)


def _evaluate(x, a, B) -> _Point:
    values, vectors = jnp.linalg.eigh(smat(x - a - B @ x), symmetrize_input=False)
    projection = (vectors * jnp.maximum(values, 0)[None]) @ vectors.T
    natural = x - svec(projection)
    size, rounding = norms(jnp.stack([natural, jnp.finfo(x.dtype).eps * x]))
    return _Point(x, natural, values, vectors, size + rounding, rounding)


def _newton_step(point: _Point, B) -> jax.Array:
    r"""The d with (I − M(I − B)) d = −F, M a generalised derivative of Π₊ at z.

    In the eigenvectors of z, M is diagonal: ω in [0, 1]. With d = −F + √ω e the matrix of e,
    I − ω + √ω B √ω, is symmetric and positive semidefinite. It is regularised, and less so nearer the solution. Where
    the regularisation dominates, d = −F, a projected gradient step.
    """
    rows, columns, _, _ = upper_triangle(point.values.size)
    magnitude, positive = jnp.abs(point.values), jnp.maximum(point.values, 0)
    pair = magnitude[rows] + magnitude[columns]
    omega = jnp.where(pair == 0, 0.5, (positive[rows] + positive[columns]) / jnp.where(pair == 0, 1, pair))
    root = jnp.sqrt(omega)
    T = congruence(point.vectors)
    B, natural = T.T @ B @ T, T.T @ point.map
    ridge = REGULARISE * jnp.minimum(point.residual, 1) + 50 * jnp.finfo(root.dtype).eps
    matrix = jnp.diag(1 - omega + ridge) + root[:, None] * B * root[None]
    e = _factor(matrix)(root * (B @ natural - natural))
    return T @ (root * e - natural)


def _factor(matrix):
    """The function b -> matrix⁻¹ b, for a positive definite matrix.

    From 128 rows on LAPACK's Cholesky is threaded, and on a busy machine tens of times slower for it than LU.
    """
    if matrix.shape[0] > 100:
        factors = lu_factor(matrix, check_finite=False)
        return lambda b: lu_solve(factors, b, check_finite=False)
    lower = jnp.linalg.cholesky(matrix, symmetrize_input=False)
    return lambda b: cho_solve((lower, True), b, check_finite=False)


def _gap(state: _Interior, a, B) -> jax.Array:
    """How far from a solution: ⟨X, S⟩/k, or the distance of S from A + B[X]."""
    distance = norm(a + B @ svec(state.X) - svec(state.S))
    return jnp.maximum(jnp.sum(state.X * state.S) / state.X.shape[0], distance)


def _interior_step(state: _Interior, a, B) -> _Interior:
    r"""A predictor-corrector step in the scaling G of Nesterov & Todd, in which both X and S are diag(d).

    Linearised there, X S = σμ and S = A + B[X] become dX + GᵀB[G dX Gᵀ]G = a right-hand side.
    """
    lower = jnp.linalg.cholesky(state.X, symmetrize_input=False)
    square, vectors = jnp.linalg.eigh(lower.T @ state.S @ lower)
    d = jnp.sqrt(square)
    G = (lower @ vectors) / jnp.sqrt(d)[None]
    T = congruence(G)
    wrong = a + B @ svec(state.X) - svec(state.S)
    scaled, wrong_scaled = T.T @ B @ T, T.T @ wrong
    solve = _factor(jnp.eye(a.size, dtype=a.dtype) + scaled)

    def step_towards(_, carry):
        """A step for a target of (d dX + dX d + d dS + dS d)/2d, and how much of it stays inside, at most 1.

        From no step the target is −d, the predictor's; from the predictor's it is the corrector's.
        """
        _, (dX, dS), length = carry
        centre = (1 - length) ** 3 * jnp.mean(square)
        corrector = (dX @ dS + dS @ dX) / (d[:, None] + d[None])
        x = solve(svec(jnp.diag(centre / d - d) - corrector) - wrong_scaled)
        steps = jnp.stack([smat(x), smat(wrong_scaled + scaled @ x)])
        weight = 1 / jnp.sqrt(d)
        relative = steps * (weight[:, None] * weight[None])[None]
        least = jnp.linalg.eigvalsh(relative, symmetrize_input=False).min()
        return x, steps, 1 / jnp.maximum(1, -least)

    still = jnp.zeros_like(a), jnp.zeros((2, *state.X.shape), a.dtype), jnp.ones((), a.dtype)
    x, _, length = lax.fori_loop(0, 2, step_towards, still)
    length = jnp.minimum(1, BOUNDARY * length)
    x = T @ x
    X = state.X + length * smat(x)
    S = state.S + length * smat(wrong + B @ x)
    # Without a solution X grows for ever; at the end of the digits a Cholesky factor is NaN.
    fine = jnp.isfinite(S).all() & (jnp.abs(X).max() < 1 / jnp.finfo(a.dtype).eps)
    return _choose(fine, _Interior(X, S, fine), state._replace(alive=fine))
