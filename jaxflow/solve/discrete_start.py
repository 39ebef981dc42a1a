"""The discrete steps with which some flows begin: where they end, and what is recorded at the times among them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jaxflow.dynamics import Dynamics, Field, Prefix

PyTree = Any


def check_prefix(dynamics: Dynamics, params: PyTree, elapsed: jax.Array) -> None:
    """Refuse times that end during the discrete steps, where the numbers are concrete."""
    prefix = dynamics.prefix(params)
    if prefix is None or any(isinstance(x, Tracer) for x in (elapsed, prefix.elapsed)):
        return
    last, span = float(prefix.elapsed[-1]), float(elapsed[-1])
    if last > span * (1 - 8 * float(jnp.finfo(elapsed.dtype).eps)):
        steps = len(prefix.elapsed) - 1
        raise ValueError(
            f"warmup must end before the times do, which span {span:.6g}: its {steps} steps take {last:.6g}; "
            "give fewer."
        )


def start_flow(field: Field, params: PyTree) -> tuple[Prefix | None, PyTree, PyTree]:
    """The discrete steps, their path, and the state from which the flow takes over."""
    prefix, state = field.prefix(params), field.init(params)
    if prefix is None:
        return None, None, state
    return prefix, *prefix.run(state)


def record_discrete_start(
    record: Callable[[PyTree], PyTree], ends: Any, path: PyTree, elapsed: jax.Array, values: PyTree
) -> PyTree:
    """`values`, with those before the flow takes over recorded from the discrete `path`, along straight lines."""
    ends = jnp.asarray(ends, elapsed.dtype)

    def record_at(t):
        i = jnp.clip(jnp.searchsorted(ends, t, side="right") - 1, 0, ends.size - 2)
        length = ends[i + 1] - ends[i]  # 0 where a schedule is
        share = (t - ends[i]) / jnp.where(length == 0, 1.0, length)
        # Not past a last finite iterate, unless it is asked for.
        step = lambda xs: share.astype(xs.real.dtype) * (xs[i + 1] - xs[i])
        between = lambda xs: xs[i] + jnp.where(share > 0, step(xs), 0)
        return record(jax.tree.map(between, path))

    def record_value(_, each):
        t, value = each
        # Not vmapped: `record` may be as costly as the loss, and few of the times are early.
        return None, lax.cond(t <= ends[-1], record_at, lambda _: value, t)

    return lax.scan(record_value, None, (elapsed, values))[1]
