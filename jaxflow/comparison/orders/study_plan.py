"""What an order study will do: its orders, its time, and the ladder of step sizes, checked before anything runs."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import _check
from jaxflow.comparison.orders.slope import check_ladder
from jaxflow.dynamics.modified_equations.equation import HIGHEST
from jaxflow.optim.rules.families import Family

PyTree = Any

SPAN = 40  # steps of a family's own optimizer in the time of a study
# The ladder, in steps to that time: from half a family's own step down to a twenty-fourth.
COARSEST, LADDER = 80, (1, 1.5, 2, 3, 4, 6, 8, 12)
# The tolerance of the solves, and the precisions for which there is one.
RTOL = {jnp.dtype(jnp.float64): 1e-13, jnp.dtype(jnp.float32): 1e-6}


class Plan(NamedTuple):
    """The numbers of a study: orders, time, step sizes (n,), and steps (n,) before and during the time."""

    orders: tuple[int, ...]
    time: Any
    step_sizes: jax.Array
    before: jax.Array
    after: jax.Array


def plan(
    family: Callable, params: PyTree, orders: Any, time: Any, warmup: Any, step_sizes: Any = None
) -> Plan:
    """What a study will do, or an error whose sentence says which argument is wrong."""
    if not callable(family):
        raise TypeError(f"family must be a function of the step size, such as family_of(…), got {family!r}.")
    orders = _orders(orders, dtype_of(params))
    if time is None:
        time = SPAN * float(family.time_step) if isinstance(family, Family) else 1.0
    _check.require_positive(time=time)
    warmup = time / 2 if warmup is None else warmup
    _check.require_nonnegative(warmup=warmup)
    return Plan(orders, time, *_ladder(time, warmup, step_sizes))


def dtype_of(params: PyTree) -> Any:
    return jnp.finfo(jnp.result_type(*jax.tree.leaves(params))).dtype


def _orders(orders: Any, dtype: Any) -> tuple[int, ...]:
    for order in orders:
        _check.require_integer("orders", order, 1)
        _check.require("orders", order, order <= HIGHEST, f"integers from 1 to {HIGHEST}")
    if not orders or len(set(orders)) != len(orders):
        raise ValueError(f"orders must be one or more distinct integers, got {orders!r}.")
    if dtype not in RTOL:
        raise ValueError(f"params must be float64 or float32 for an order study, got {dtype}.")
    if dtype != jnp.float64 and max(orders) > 2:
        raise ValueError(
            f"orders must be at most 2 for {dtype} parameters, as rounding hides the errors of others, "
            f"got {max(orders)}; enable float64 by jax.config.update('jax_enable_x64', True)."
        )
    return tuple(sorted(orders))


def _ladder(time: Any, warmup: Any, step_sizes: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Step sizes, and the numbers of them that the warm-up and the time take."""
    sizes = _default_step_sizes(time, warmup) if step_sizes is None else np.asarray(step_sizes, float)
    check_ladder("step_sizes", sizes)
    counts = []
    for name, span in (("warmup", warmup), ("time", time)):
        steps = np.round(span / sizes)
        off = (np.abs(span / sizes - steps) > 1e-6) | (steps < 1) & (span > 0)
        if off.any():
            raise ValueError(f"step_sizes must divide {name} = {span:g}, got {sizes[np.argmax(off)]!r}.")
        counts.append(steps.astype(int))
    return jax.device_put((sizes, *counts))


def _default_step_sizes(time: float, warmup: float) -> np.ndarray:
    """`time` over multiples, near those of `LADDER`, of the denominator of warmup/time."""
    ratio = Fraction(warmup / time).limit_denominator(COARSEST // 2)
    if abs(float(ratio) - warmup / time) > 1e-9:
        raise ValueError(
            f"warmup must be a simple fraction of time = {time:g}, or step_sizes be given, got {warmup!r}."
        )
    part = ratio.denominator
    return time / np.array([part * round(COARSEST * factor / part) for factor in LADDER])
