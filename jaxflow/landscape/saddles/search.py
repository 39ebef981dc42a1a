"""The search for a zero of the gradient: damped Gauss–Newton steps on half its squared norm, in Krylov spaces.

A step p minimises |Hp + g|² + µ|p|² over a Krylov space of the Hessian H and the gradient g. A Lanczos iteration
projects H on this space once. In its singular vectors the step for each damping µ is a division, so that a µ that
is too small is mended without any more products.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow._norms import norm
from jaxflow.curvature.products import operator
from jaxflow.curvature.spectrum.lanczos_iteration import lanczos

# Status codes.
CONVERGED, MAX_STEPS, FLAT, ROUNDING, LOST = range(5)

DAMPING = 1e-3  # the first µ, in units of the largest eigenvalue squared
FACTOR = 8  # by which µ grows after a step that fails
TRIES = 40  # of one step: the last has a damping 8⁴⁰ = 10³⁶ times the first
POOR, GOOD = 0.25, 0.75  # of the predicted decrease: µ grows below the one, and falls above the other
ACCEPTED = 1e-4  # of the predicted decrease: less than that is a failure
LEVEL, SLOW = 1e-5, 1e-8  # the flatness, and the relative decrease in a step, at which a search is stuck
AT_REST = 1e-3  # the flatness at which a search is stuck that finds no step at all
NOISE = 1e3  # rounding errors of a gradient of the size |H|(1 + |θ|)


class Search(NamedTuple):
    """Where a search is: a flat point and what is known there, and what was spent.

    - `flatness`: |Hg|/(|H||g|), where |H| is `scale`, the largest |eigenvalue| met.
    - `decrease`: by how much the last step lowered the norm of the gradient, relative to it.
    """

    flat: jax.Array
    loss: jax.Array
    slope: jax.Array
    size: jax.Array
    damping: jax.Array
    scale: jax.Array
    flatness: jax.Array
    decrease: jax.Array
    steps: jax.Array
    evaluations: jax.Array
    status: jax.Array


class Model(NamedTuple):
    """The Hessian in a Krylov space of the gradient: `singular` values (d,), and the gradient's `shares` in them.

    `lift` makes a flat vector from one in the right singular vectors (d,).
    """

    singular: jax.Array
    shares: jax.Array
    lift: Callable[[jax.Array], jax.Array]


def search(
    objective: Any, flat: jax.Array, unravel: Callable[[jax.Array], Any], *, tolerance, max_steps, depth: int
) -> Search:
    """Go from `flat` (P,) until the gradient's norm is at most `tolerance`, by `depth` Hessian products a step."""
    dtype = flat.dtype
    value = lambda x: jnp.asarray(objective(unravel(x))).reshape(()).astype(dtype)
    value_and_slope = jax.value_and_grad(value)
    eps, zero = jnp.finfo(dtype).eps, jnp.zeros([], dtype)
    products = lambda x: operator(objective, unravel(x)).apply

    def unfinished(now: Search) -> jax.Array:
        return (now.size > tolerance) & (now.steps < max_steps) & (now.status == MAX_STEPS)

    def attempt(now: Search, model: Model, damping: jax.Array) -> Search:
        """One trial step; `decrease` is that of it, and its `damping` the next one, here or at the next point."""
        square = model.singular**2 + damping
        step = model.lift(-model.singular * model.shares / jnp.where(square > 0, square, 1))
        left = jnp.where(square > 0, damping / jnp.where(square > 0, square, 1), 1)
        predicted = jnp.sum(model.shares**2 * (1 - left) * (1 + left))
        flat = now.flat + step
        loss, slope = value_and_slope(flat)
        size = norm(slope).astype(dtype)
        ratio = (now.size - size) * (now.size + size) / jnp.where(predicted > 0, predicted, 1)
        accepted = (ratio > ACCEPTED) & (predicted > 0) & jnp.isfinite(loss)
        # Damping that falls as the squared gradient keeps convergence quadratic.
        change = jnp.where(ratio < POOR, 4.0, jnp.where(ratio > GOOD, 0.25, 1.0)) * (size / now.size) ** 2
        damping = damping * jnp.where(accepted, change, FACTOR).astype(dtype)
        decrease = jnp.where(accepted, 1 - size / now.size, 0)
        made = now._replace(flat=flat, loss=loss, slope=slope, size=size)
        kept = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), made, now)
        return kept._replace(damping=damping, decrease=decrease, evaluations=now.evaluations + 1)

    def advance(now: Search) -> Search:
        model = project(products(now.flat), now.slope, depth)
        largest = jnp.max(jnp.abs(model.singular))
        scale = jnp.maximum(now.scale, largest)
        flatness = _share(norm(model.singular * model.shares).astype(dtype), scale * now.size)
        stuck = (flatness <= LEVEL) & (now.decrease <= SLOW)
        damping = jnp.where(now.steps == 0, DAMPING * largest**2, now.damping)
        # Eigenvalues that are 0 but for rounding are no reason for long steps.
        damping = jnp.maximum(damping, (100 * eps * largest) ** 2)
        began = now._replace(scale=scale, flatness=flatness, damping=damping, decrease=zero)
        # Under vmap a search that has ended is stepped along with the others: it must not make them wait.
        tries = unfinished(now) & ~stuck
        failed = lambda carry: (carry[0].decrease <= 0) & (carry[1] < TRIES) & tries
        again = lambda carry: (attempt(carry[0], model, carry[0].damping), carry[1] + 1)
        then, _ = lax.while_loop(failed, again, (began, jnp.zeros([], jnp.int32)))
        status = jnp.where(stuck, FLAT, jnp.where(then.decrease <= 0, ROUNDING, now.status))
        status = jnp.where(jnp.isfinite(scale), status, LOST)
        return then._replace(steps=now.steps + 1, status=status.astype(jnp.int32))

    loss, slope = value_and_slope(flat)
    finite = jnp.isfinite(loss) & jnp.isfinite(slope).all()
    count = jnp.zeros([], jnp.int32)
    status = jnp.where(finite, MAX_STEPS, LOST).astype(jnp.int32)
    far = jnp.ones([], dtype)
    begun = Search(
        flat=flat,
        loss=loss,
        slope=slope,
        size=norm(slope).astype(dtype),
        damping=zero,
        scale=zero,
        flatness=far,
        decrease=far,
        steps=count,
        evaluations=count + 1,
        status=status,
    )
    end = lax.while_loop(unfinished, advance, begun)
    # The flatness where it ended, not where its last step began.
    image = norm(products(end.flat)(end.slope)).astype(dtype)
    scale = jnp.maximum(end.scale, _share(image, end.size))
    flatness = jnp.where(end.size > 0, _share(image, scale * end.size), 1)
    # Where no step lowered the gradient, it is at its least, or at its rounding.
    noise = NOISE * eps * scale * (1 + norm(end.flat).astype(dtype))
    at_rest = (end.status == ROUNDING) & (flatness <= AT_REST) & (end.size > noise)
    status = jnp.where(at_rest, FLAT, end.status)
    status = jnp.where((end.size <= tolerance) & finite, CONVERGED, status).astype(jnp.int32)
    return end._replace(flatness=flatness, scale=scale, status=status)


def project(apply: Callable[[jax.Array], jax.Array], slope: jax.Array, depth: int) -> Model:
    """The Hessian in a Krylov space of the gradient, which is not 0."""
    krylov = lanczos(apply, slope, depth)
    values = jnp.where(krylov.found, krylov.values, 0)
    shares = jnp.where(krylov.found, norm(slope).astype(slope.dtype) * krylov.rotation[0], 0)
    if depth == slope.size:  # nothing leads out of the space
        return Model(values, shares, lambda y: (krylov.rotation @ y) @ krylov.basis)
    out = jnp.where(krylov.found, krylov.residuals * jnp.sign(krylov.rotation[-1]), 0)
    left, singular, right = jnp.linalg.svd(
        jnp.concatenate([jnp.diag(values), out[None]]), full_matrices=False
    )
    return Model(singular, shares @ left[:-1], lambda y: (krylov.rotation @ (y @ right)) @ krylov.basis)


def _share(part: jax.Array, whole: jax.Array) -> jax.Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)
