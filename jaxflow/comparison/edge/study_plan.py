"""What an edge study will do, checked before anything compiles."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jaxflow import _check
from jaxflow.comparison.edge.effective_sharpness import explain_unknown
from jaxflow.curvature.products import open_real
from jaxflow.dynamics.edge.methods import method_of
from jaxflow.dynamics.modified_equations.equation import check_arguments, clock_of
from jaxflow.dynamics.modified_equations.smoothness import warn_if_rough
from jaxflow.dynamics.modified_equations.step_logarithm import state_shapes
from jaxflow.optim.multi_steps import refuse_accumulation
from jaxflow.optim.optax_names import as_ours
from jaxflow.optim.table import entry_of

PyTree = Any
APPROACH_STEPS = 5_000  # after which the approach is given up


class Plan(NamedTuple):
    """What a study will do, checked.

    - `rate`: the time of a step, a number or a schedule.
    - `central`: whether the optimizer has a central flow.
    - `sharpness`: whether its preconditioner and threshold are known, so that effective eigenvalues can be measured.
    """

    optimizer: optax.GradientTransformation
    objective: Callable[[PyTree], jax.Array]
    params: PyTree
    steps: int
    modes: int
    order: int
    level: float | None
    approach_steps: int
    window: float
    rate: Any
    central: bool
    sharpness: bool


def plan(
    *, optimizer, objective, params, steps, modes, level, order=2, approach_steps=APPROACH_STEPS, window=None
) -> Plan:
    """What a study will do, or an error whose sentence says which argument is wrong."""
    refuse_accumulation(optimizer, "whose steps are its updates on all data")
    check_arguments(optimizer, objective, order, 1, None)
    _check.refuse_traced("edge_study", (optimizer, objective, params))
    objective, params = open_real(objective, params)
    warn_if_rough(optimizer, params, state_shapes(optimizer, params))
    central = _has_central_flow(optimizer)
    _check.require_integer("steps", steps, 4)
    _check.require_integer("modes", modes, 1)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    _check.require("modes", modes, modes <= size, f"at most {size}, the number of parameters")
    if level is not None:
        _check.require_positive(level=level)
    why = explain_unknown(optimizer, params)
    if level is not None and why:
        raise ValueError(
            f"level must be None (--level 0 on the command line) for an optimizer whose effective sharpness is not "
            f"known, so that the study begins at the parameters as they are, got {level!r}: {why}"
        )
    _check.require_integer("approach_steps", approach_steps, 1)
    window = max(steps / 10, 1.0) if window is None else window
    _check.require_positive(window=window)
    return Plan(
        optimizer=optimizer,
        objective=objective,
        params=params,
        steps=steps,
        modes=modes,
        order=order,
        level=level,
        approach_steps=approach_steps,
        window=float(window),
        rate=clock_of(optimizer, None),
        central=central,
        sharpness=not why,
    )


def _has_central_flow(optimizer) -> bool:
    """Whether a central flow is known; hyperparameters with which there would be none are refused."""
    entry = entry_of(as_ours(optimizer))
    if entry is None or entry.formula("central_flow") is None:
        return False
    method_of(optimizer)
    return True
