"""Values that reverse mode computes again instead of keeping them."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun


def checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.checkpoint` of a function whose closure is handed over as arguments.

    JAX remembers what a function closes over as long as the process runs; this way no tracer outlives its trace.
    """

    def call(*arguments):
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        run = lambda consts, leaves: jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))(*leaves)
        out = jax.checkpoint(run)(closed.consts, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), out)

    return call
