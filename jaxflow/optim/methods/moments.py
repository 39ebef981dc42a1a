"""What the adaptive methods share: scalars, roots and dtypes handled so that derivatives stay finite."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxflow._check import is_concrete
from jaxflow._programs.half import widen

PyTree = Any

# Added under the root of a second moment. The derivative of sqrt at 0 is infinite, and infinity times the zero
# that the chain rule brings along is NaN wherever a coordinate of the gradient is exactly 0. Its root, 1e-19,
# is lost in any eps in use.
TINY = float(jnp.finfo(jnp.float32).tiny)


def root(second_moment: jax.Array) -> jax.Array:
    """The square root of a second moment, with a finite derivative at 0."""
    return jnp.sqrt(second_moment + TINY)


def divisor(second_moment: jax.Array, eps: Any, eps_in_sqrt: bool = False) -> jax.Array:
    r"""$\sqrt v + \epsilon$, or $\sqrt{v + \epsilon}$ with `eps_in_sqrt`."""
    return root(second_moment + eps) if eps_in_sqrt else root(second_moment) + eps


def tree_map(function, tree: PyTree, *rest: PyTree) -> PyTree:
    """`jax.tree.map` that leaves `None` (a masked gradient) alone."""
    return jax.tree.map(
        lambda leaf, *others: None if leaf is None else function(leaf, *others),
        tree,
        *rest,
        is_leaf=lambda x: x is None,
    )


def square(gradient: jax.Array) -> jax.Array:
    """$|g|^2$ elementwise, real for complex gradients."""
    return jnp.real(gradient * jnp.conj(gradient))


def zeros(params: PyTree, real: bool = False) -> PyTree:
    """Zeros like the parameters; `real` for second moments, which are real where parameters are complex."""
    return tree_map(lambda p: jnp.zeros_like(p.real if real else p), params)


def ema(average: PyTree, new: PyTree, decay: Any) -> PyTree:
    r"""$\beta\, average + (1 - \beta)\, new$."""
    return tree_map(lambda n, a: decay * a + (1 - decay) * n, new, average)


def step_count(count: jax.Array) -> jax.Array:
    """The 1-based step t as a float, in which powers and bias corrections keep float64."""
    return jnp.asarray(count, float) + 1


def keep_below_one(decay: Any) -> Any:
    """The decay of an average, kept below 1 where tracing brings a 1: there 1 − βᵗ would be 0, and a quotient NaN.

    With the correction the average is then nearly the mean of all that has been, which is its limit as β → 1.
    """
    if is_concrete(decay):
        return decay
    decay = jnp.asarray(decay)
    return jnp.minimum(decay, 1 - 8 * float(jnp.finfo(widen(decay).dtype).eps))


def increment(count: jax.Array) -> jax.Array:
    """The next step count; at the largest integer it stays instead of wrapping around."""
    return jnp.asarray(optax.safe_increment(count))


def wrap_optax(transform: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """A transform that promotes dtypes itself, which is allowed here where `jax_numpy_dtype_promotion` is strict."""
    transform = optax.with_extra_args_support(transform)

    def update(updates, state, params=None, **extra):
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(transform.init, update)


def keep_in_single(transform: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Compute and keep the state in float32 where parameters are in half precision.

    In half precision b2 = 0.999 is 1 and eps = 1e-8 is 0. A square is below its range, and an average stops moving
    once what a step adds is below half a unit in its last place.
    """
    transform = optax.with_extra_args_support(transform)

    def widen(tree):
        def widen_leaf(x):
            half = hasattr(x, "dtype") and x.dtype in (jnp.bfloat16, jnp.float16)
            return x.astype(jnp.float32) if half else x

        return jax.tree.map(widen_leaf, tree)

    def update(updates, state, params=None, **extra):
        return transform.update(widen(updates), widen(state), widen(params), **extra)

    return optax.GradientTransformationExtraArgs(lambda params: transform.init(widen(params)), update)


def scale_by_rate(init, update, learning_rate) -> optax.GradientTransformationExtraArgs:
    """A direction, as a pair of functions, times −η: an optimizer, computed and kept in float32 at least."""
    direction = optax.GradientTransformation(init, update)
    return keep_in_single(optax.chain(direction, optax.scale_by_learning_rate(learning_rate)))
