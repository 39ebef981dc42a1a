"""Events, which end a solve before its last time. They are diffrax's, which is imported where one is made."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow.solve.ode.problem import Problem

if TYPE_CHECKING:
    import diffrax


def gradient_norm_below(tolerance: float) -> "diffrax.Event":
    r"""Make an event for `integrate`: stop at the end of the first step where $|\dot z| \le$ `tolerance`.

    Along gradient flow $|\dot z|$ is the norm of the gradient.

    **Arguments**

    - `tolerance`: the norm at which to stop, a number above 0, in units of the state per time.

    **Returns** a `diffrax.Event`.

    **Raises** `ValueError` unless `tolerance` > 0; `TypeError` for a tolerance that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.gradient_flow(lambda x: 0.5 * jnp.sum(x**2))
    >>> path = jf.integrate(flow, jnp.ones(1), jnp.array([0.0, 50.0]), event=jf.gradient_norm_below(1e-3))
    >>> path.message.split(" at")[0], bool(jnp.abs(path.params[0]) <= 1e-3)
    ('stopped by the condition', True)
    """
    import diffrax

    _check.require_positive(tolerance=tolerance)
    return diffrax.Event(jax.tree_util.Partial(_is_flat, jnp.asarray(tolerance, float)))


def _is_flat(tolerance, t, y, args, *, terms, **kwargs):
    squares = [jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(terms.vf(t, y, args))]
    return jnp.sqrt(sum(squares)) <= tolerance


def translate_event(event: "diffrax.Event | None", problem: Problem) -> "diffrax.Event | None":
    """An event that is shown the user's clock and pytree, where the solver has a clock of its own and a vector."""
    if event is None:
        return None
    import diffrax

    def translate_condition(condition):
        def evaluate(t, y, args, *, terms, **kwargs):
            *rest, origin = args
            field = lambda t, tree, args: problem.tree(terms.vf(t - origin, problem.vector(tree), args))
            return condition(
                origin + t, problem.tree(y), (*rest, origin), terms=diffrax.ODETerm(field), **kwargs
            )

        return evaluate

    return dataclasses.replace(
        event, cond_fn=jax.tree.map(translate_condition, event.cond_fn, is_leaf=callable)
    )
