"""Minimising-movement steps of a law on a line, in its quantiles: steepest descent of the free energy, step by step.

Gaussians, in any dimension, are in `gaussian_steps`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._norms import root
from jaxflow.density.near_minimum.symmetric_matrices import as_floats
from jaxflow.density.transport.gaussian_steps import check_steps

HALVINGS, NEWTON = 60, 200  # at most: of one step of Newton's method, and steps of it
CONVEX = 0.1  # of 1/τ: a potential that is more concave than the other nine tenths is taken as less so


class QuantilePath(NamedTuple):
    """A law on a line at times, by n of its quantiles, as `jko` returns it.

    - `times` (K + 1,): 0, τ, …, K τ, on the clock of gradient flow.
    - `quantiles` (K + 1, n, …): increasing along their axis.
    - `free_energy` (K + 1,): F, without the constant that a finer n adds.
    - `moved` (K,): the distances $W_2$ of each law from the one before.
    - `error` (K,): the last step of Newton's method, as a part of the width of the law. It is above `tolerance` only
      where rounding or the largest number of steps, 200, ended the search.
    """

    times: jax.Array
    quantiles: jax.Array
    free_energy: jax.Array
    moved: jax.Array
    error: jax.Array


def jko(
    potential: Callable[[jax.Array], jax.Array],
    quantiles: Any,
    *,
    temperature: Any,
    step_size: Any,
    steps: int,
    tolerance: Any = None,
) -> QuantilePath:
    r"""Jordan–Kinderlehrer–Otto steps of the free energy $F(p) = \int V p + T \int p \log p$, on a line.

    A step takes p to the minimiser q of $\frac{1}{2\tau} W_2^2(p, q) + F(q)$. As τ → 0 the steps follow the
    Fokker–Planck equation $p_t = (V' p)_x + T p_{xx}$, at first order in τ. Whatever τ is, F never rises:
    $F(q) + \frac{1}{2\tau} W_2^2(p, q) \le F(p)$.

    The law is kept by n quantiles $X_1 < \dots < X_n$, those at the levels $(i - \frac12)/n$, with
    $W_2^2 = \frac1n \sum (X_i - Y_i)^2$ and
    $F = \frac1n \sum_i V(X_i) - \frac{T}{n-1} \sum_i \log\big((n - 1)(X_{i+1} - X_i)\big)$. The n − 1 gaps carry
    all of the entropy, with the weight 1/(n − 1): so $\frac{d}{dt} E x^2 = 2T - 2 E[x V'(x)]$ holds exactly, and in
    a quadratic V mean and variance are exact for every n. The shape of the law errs by about 1/n, in its tails.

    Each step is solved by Newton's method, on a tridiagonal system. It is damped so that the quantiles stay in
    order and the value falls.

    **Arguments**

    - `potential` V: an `Objective` of one parameter or any twice differentiable function `V(x) -> scalar`.
    - `quantiles` (n,) or (n, 1): the first law, with n ≥ 2, increasing; `norm.ppf((arange(n) + .5) / n)` are those of
      N(0, 1). The shape of one x is () or (1,), accordingly.
    - `temperature` T: a number at least 0. At 0 nothing keeps quantiles in order but V.
    - `step_size` τ: a number above 0, in the time of gradient flow. A step has one minimiser where
      $V'' > -1/\tau$; elsewhere it is a local one.
    - `steps` K: an integer at least 1 (static).
    - `tolerance`: the largest last step of Newton's method, as a part of $X_n - X_1$, a number above 0. As the method
      converges quadratically, the error is about its square. Default: 1e-10 in float64, 1e-5 in float32.

    **Returns** a `QuantilePath`. It is compiled when called plainly, works under `jit` and `vmap`, and has
    derivatives (by the implicit function theorem) in all numbers, in both modes.

    **Raises** `TypeError` for a potential that is not callable; `ValueError` for quantiles of another shape or that
    do not increase, T < 0, τ ≤ 0, `steps` < 1 or a tolerance that is not positive.

    Source: Jordan, Kinderlehrer & Otto 1998; in quantiles: Blanchet, Calvez & Carrillo 2008.

    >>> import jax.numpy as jnp
    >>> from jaxflow.density import jko
    >>> path = jko(lambda x: 0.5 * x**2, jnp.linspace(-3, 3, 50), temperature=0.5, step_size=1.0, steps=30)
    >>> print(path.quantiles[-1].var())
    0.5
    """
    if not callable(potential):
        raise TypeError(f"potential must be an Objective or a function of one number, got {potential!r}.")
    quantiles = as_floats("quantiles", quantiles)
    if quantiles.shape[1:] not in ((), (1,)) or quantiles.ndim == 0 or len(quantiles) < 2:
        raise ValueError(
            f"quantiles must have shape (n,) or (n, 1) with n at least 2, got {quantiles.shape}."
        )
    if (found := _check.values(quantiles)) is not None:
        _check.require_each("quantiles", found, np.isfinite(found), "finite")
        gaps = np.diff(found.reshape(-1))
        if (gaps <= 0).any():
            raise ValueError(
                f"quantiles must increase, got {found.reshape(-1)[1:][gaps <= 0][0]:.6g} after a number that is "
                "not smaller."
            )
    check_steps(temperature, step_size, steps)
    if tolerance is None:
        tolerance = 1e-10 if quantiles.dtype == jnp.float64 else 1e-5
    _check.require_positive(tolerance=tolerance)
    return _jko(potential, quantiles, temperature, step_size, tolerance, steps=int(steps))


@compiled(static=("steps",))
def _jko(potential, quantiles, temperature, step_size, tolerance, steps: int) -> QuantilePath:
    shape, dtype, n = quantiles.shape[1:], quantiles.dtype, len(quantiles)
    temperature, step_size, tolerance = (
        jnp.asarray(x).astype(dtype) for x in (temperature, step_size, tolerance)
    )
    at_one = lambda x: jnp.asarray(potential(x.reshape(shape))).reshape(()).astype(dtype)
    values = jax.vmap(at_one)
    push = temperature * n / (n - 1)  # of a gap, where every quantile has the mass 1

    def free_energy(x):
        gaps = jnp.log((n - 1) * jnp.diff(x))
        return values(x).mean() - jnp.where(temperature > 0, temperature * gaps.mean(), 0)

    def step(x, _):
        new, error = _minimise(values, x, push, step_size, tolerance)
        return new, (new, free_energy(new), root(jnp.mean((new - x) ** 2)), error)

    first = quantiles.reshape(-1)
    _, (path, energies, moved, error) = lax.scan(step, first, length=steps)
    return QuantilePath(
        times=step_size * jnp.arange(steps + 1, dtype=dtype),
        quantiles=jnp.concatenate([first[None], path]).reshape(-1, *quantiles.shape),
        free_energy=jnp.concatenate([free_energy(first)[None], energies]),
        moved=moved,
        error=error,
    )


def _minimise(values, last, push, tau, tolerance) -> tuple[jax.Array, jax.Array]:
    r"""The minimiser of $\frac{1}{2\tau}|x - y|^2 + \sum V(x_i) - c \sum \log(x_{i+1} - x_i)$ for the `last` y."""

    def value(x):
        gaps = jnp.diff(x)
        logs = jnp.where(gaps > 0, jnp.log(jnp.where(gaps > 0, gaps, 1)), -jnp.inf)
        barrier = jnp.where(push > 0, -push * logs.sum(), 0)
        return jnp.sum((x - last) ** 2) / (2 * tau) + values(x).sum() + barrier

    def slope(x):
        pulls = push / jnp.diff(x)
        between = jnp.zeros(1, x.dtype)
        pulls = jnp.concatenate([between, pulls, between])
        return (x - last) / tau + jax.grad(lambda x: values(x).sum())(x) + pulls[1:] - pulls[:-1]

    def curvature(x):
        gradient = jax.grad(lambda x: values(x).sum())
        bend = jax.jvp(gradient, (x,), (jnp.ones_like(x),))[1]  # each V'' alone, as each x has its own term
        return jnp.maximum(1 / tau + bend, CONVEX / tau), -push / jnp.diff(x) ** 2

    def search(f, start):
        return _newton(value, f, curvature, lax.stop_gradient(start), tolerance)

    # The derivative is that of the equation "slope = 0", whatever the search did.
    return lax.custom_root(slope, last, search, _solve_linear, has_aux=True)


class _Search(NamedTuple):
    x: jax.Array
    value: jax.Array
    error: jax.Array
    count: jax.Array


def _newton(value, slope, curvature, start, tolerance) -> tuple[jax.Array, jax.Array]:
    """Newton's method, damped; the point and its last step, as a part of the width."""

    def advance(now: _Search) -> _Search:
        gradient = slope(now.x)
        diagonal, off = curvature(now.x)
        move = -_solve_tridiagonal(diagonal, off, gradient)
        # No further than nine tenths of the way to where two quantiles meet.
        gaps, closing = jnp.diff(now.x), -jnp.diff(move)
        allowed = jnp.where(closing > 0, 0.9 * gaps / jnp.where(closing > 0, closing, 1), 1).min(initial=1)
        promised = -jnp.sum(gradient * move)
        rounding = 8 * jnp.finfo(now.x.dtype).eps * jnp.abs(now.value)
        enough = lambda part: value(now.x + part * move) <= now.value - 1e-4 * part * promised + rounding
        part = lax.while_loop(
            lambda part: ~enough(part) & (part > allowed * 2.0**-HALVINGS), lambda part: part / 2, allowed
        )
        new = now.x + part * move
        error = jnp.abs(move).max() / (now.x[-1] - now.x[0])
        return _Search(new, value(new), error, now.count + 1)

    # A step that is not finite ends the search as well: comparisons with NaN are false.
    go_on = lambda now: (now.error > tolerance) & (now.count < NEWTON)
    first = _Search(start, value(start), jnp.full((), jnp.inf, start.dtype), jnp.zeros((), int))
    last = lax.while_loop(go_on, advance, first)
    return last.x, last.error


def _solve_tridiagonal(diagonal, off, right) -> jax.Array:
    """Solve a symmetric tridiagonal system: `off` next to the diagonal, which is `diagonal` less its neighbours."""
    zero = jnp.zeros(1, diagonal.dtype)
    lower, upper = jnp.concatenate([zero, off]), jnp.concatenate([off, zero])
    return lax.linalg.tridiagonal_solve(lower, diagonal - lower - upper, upper, right[:, None])[:, 0]


def _solve_linear(product, right) -> jax.Array:
    """Solve a linear equation whose matrix, known by its products, is symmetric and tridiagonal."""
    n = right.shape[0]
    places = jnp.arange(n)
    # Three products tell three diagonals: columns that are three apart share no row.
    columns = [product((places % 3 == i).astype(right.dtype)) for i in range(3)]
    pick = lambda column, place: jnp.stack(columns)[column % 3, place]
    diagonal = pick(places, places)
    upper = jnp.where(places < n - 1, pick(places + 1, places), 0)
    lower = jnp.where(places > 0, pick(places - 1, places), 0)
    solve = lambda _, b: lax.linalg.tridiagonal_solve(lower, diagonal, upper, b[:, None])[:, 0]
    return lax.custom_linear_solve(product, right, solve, symmetric=True)
