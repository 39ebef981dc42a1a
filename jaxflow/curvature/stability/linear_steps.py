"""An optimizer's step on one parameter, from which its stability is read, and its state late in a run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxflow._traceable import traceable
from jaxflow.optim.updates import advance

PyTree = Any

WALK = 2_000  # steps of gradient 0 that lead up to the one linearised
HELD = 1e12  # a second moment in whose root any ε is lost
SECOND_MOMENTS = ("nu", "nu_max", "sum_of_squares", "exp_avg_sq", "grad_sum_sq", "n")
DIVISORS = ("grad_sum",)  # by whose size Prodigy and D-Adaptation divide, to find the length of a step
COUNTS = ("count", "count_m2", "step", "step_count", "gradient_step", "t")
SUMS = ("weight_sum",)  # of the weights of all steps, in their averages


def fields(state: PyTree, names: tuple[str, ...], kind: Any) -> list[bool]:
    """For each leaf of a state, whether it is of this kind, in a field of one of these names."""

    def is_chosen(path, leaf):
        fields = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
        return bool(fields) and fields[-1] in names and jnp.issubdtype(leaf.dtype, kind)

    return [is_chosen(*pair) for pair in jax.tree_util.tree_leaves_with_path(state)]


def replace_leaves(state: PyTree, chosen: list[bool], values: Any) -> PyTree:
    """The state with the chosen leaves replaced, by a number or by those of another state."""
    leaves, structure = jax.tree.flatten(state)
    values = jax.tree.leaves(values) if jax.tree.structure(values) == structure else [values] * len(leaves)
    put = lambda c, leaf, value: jnp.full_like(leaf, value) if c else leaf
    return structure.unflatten(map(put, chosen, leaves, values))


def linear_step(optimizer, params, state, held, h, tilt):
    """A step on hθ²/2 + tilt·θ. Second moments, divisors and dtypes stay as they were."""
    stay = fields(state, (*SECOND_MOMENTS, *DIVISORS), jnp.floating)
    params, new = advance(
        optimizer, params, replace_leaves(state, stay, held), lambda p: 0.5 * h * p**2 + tilt * p
    )
    like = lambda x, old: x if x.dtype == old.dtype else x.astype(old.dtype)
    return params, jax.tree.map(like, new, state)


def late_state(optimizer, count, dtype) -> PyTree:
    """The state after `count` steps without a gradient, its second moments and divisors `HELD`.

    Only the last of them are taken, from step counts that are set. Products of decays have settled by then, and
    sums of weights are set to those of all steps.
    """
    zero = jnp.zeros((), dtype)
    state = lengthen_counts(optimizer.init(zero), dtype)
    walked = jnp.minimum(count, WALK)
    state = replace_leaves(state, fields(state, COUNTS, jnp.integer), count - walked)
    held = fields(state, (*SECOND_MOMENTS, *DIVISORS), jnp.floating)
    walk = lambda _, state: linear_step(optimizer, zero, state, HELD, 1.0, 0.0)[1]
    state = replace_leaves(lax.fori_loop(0, walked, walk, state), held, HELD)
    share = count.astype(dtype) / jnp.maximum(walked, 1).astype(dtype)
    stretched = lambda x: x * share.astype(x.dtype)
    return replace_leaves(state, fields(state, SUMS, jnp.floating), jax.tree.map(stretched, state))


def lengthen_counts(state: PyTree, dtype) -> PyTree:
    """The state, with long counts in double precision.

    JAX divides a short count by a number in single precision, and a schedule that ends at 0 would then end at its
    rounding.
    """
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, state))
    counts = fields(state, COUNTS, jnp.integer) if dtype == jnp.float64 else [False] * len(leaves)
    return structure.unflatten(
        x.astype(jnp.int64) if long else x for x, long in zip(leaves, counts, strict=True)
    )


def largest_move(optimizer, state, dtype) -> jax.Array:
    """The farthest that a gradient of 1 moves θ in a step from this state, at counts all along a schedule."""
    counts, zero = fields(state, COUNTS, jnp.integer), jnp.zeros((), dtype)
    if not any(counts):
        return zero

    def measure_move(count):
        at = replace_leaves(state, counts, count)
        size = abs(jax.jacfwd(lambda c: linear_step(optimizer, zero, at, at, 1.0, c)[0])(zero))
        return jnp.where(jnp.isfinite(size), size, 0)

    return jax.vmap(measure_move)(2 ** jnp.arange(31) - 1).max()


@traceable
def matrix_optimizer(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer of matrices, on a matrix whose one entry is the parameter."""
    entry: Callable[[Any], Any] = lambda x: jnp.reshape(x, (1, 1))
    number: Callable[[Any], Any] = lambda x: jnp.reshape(x, ())

    def update(updates, state, params=None):
        updates, state = optimizer.update(entry(updates), state, entry(params))
        return number(updates), state

    return optax.GradientTransformation(lambda params: optimizer.init(entry(params)), update)
