"""What an edge study will do, checked before anything compiles."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jaxflow import _check
from jaxflow.curvature.products import open_real
from jaxflow.dynamics.edge.methods import method_of

PyTree = Any
APPROACH_STEPS = 5_000  # after which the approach is given up


class Plan(NamedTuple):
    """What a study will do, checked."""

    optimizer: optax.GradientTransformation
    objective: Callable[[PyTree], jax.Array]
    params: PyTree
    steps: int
    modes: int
    level: float | None
    approach_steps: int
    window: float


def plan(
    *, optimizer, objective, params, steps, modes, level, approach_steps=APPROACH_STEPS, window=None
) -> Plan:
    """What a study will do, or an error whose sentence says which argument is wrong."""
    objective, params = open_real(objective, params)
    method_of(optimizer)
    _check.require_integer("steps", steps, 4)
    _check.require_integer("modes", modes, 1)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    _check.require("modes", modes, modes <= size, f"at most {size}, the number of parameters")
    if level is not None:
        _check.require_positive(level=level)
    _check.require_integer("approach_steps", approach_steps, 1)
    window = max(steps / 10, 1.0) if window is None else window
    _check.require_positive(window=window)
    return Plan(
        optimizer=optimizer,
        objective=objective,
        params=params,
        steps=steps,
        modes=modes,
        level=level,
        approach_steps=approach_steps,
        window=float(window),
    )
