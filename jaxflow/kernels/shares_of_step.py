"""The shares of examples in a step: of its averaged gradients, divided as the step was.

Which optimizer averages its gradients how is a fact of the table in `jaxflow.optim.table`, by a name of this module.
"""

from dataclasses import dataclass
from typing import Any

import jax

from jaxflow import _check
from jaxflow.curvature import preconditioner_of
from jaxflow.kernels.shares import Drawn
from jaxflow.optim import hyperparameters
from jaxflow.optim.optax_names import as_ours, shown
from jaxflow.optim.schedules import value_at
from jaxflow.optim.table import formula_of, names_with

PyTree = Any


@dataclass(frozen=True)
class Averaging:
    """How the gradients of a run make its steps, as a linear function of them.

    - `decay`: the name of the decay of the averaged gradient; `None` where a step is made of one gradient.
    - `ahead`: whether the newest gradient is added to the decayed average once more.
    """

    decay: str | None = None
    ahead: bool = False


ONE_GRADIENT, VELOCITY, AVERAGE = Averaging(), Averaging("beta"), Averaging("b1")
VELOCITY_AHEAD = Averaging("beta", ahead=True)
# What makes another method of an optimizer, and the values that are allowed.
FORMS: dict[str, tuple] = {"debias": (False, None), "lookahead": (False,), "multiplier": (None,)}


def check_shared(optimizer: Any) -> None:
    """Refuse an optimizer of which it is not known how its steps are shared."""
    ours = as_ours(optimizer)
    averaging, chosen = formula_of(ours, "shares"), hyperparameters(ours)
    if averaging is None:
        raise ValueError(
            f"optimizer must be one of {', '.join(names_with('shares'))} of jaxflow.optim, whose steps are sums over "
            f"examples, got {shown(optimizer)}."
        )
    if averaging.decay is not None and callable(chosen[averaging.decay]):
        raise ValueError(
            f"{averaging.decay} must be a number, not a schedule, for shares of examples; got "
            f"{chosen[averaging.decay]!r}."
        )
    for form, allowed in FORMS.items():
        value = chosen.get(form, allowed[0])
        _check.require(form, value, value in allowed, f"{allowed[0]}, so that steps are sums over examples")


def is_averaged(optimizer: Any) -> bool:
    """Whether a step is made of the gradients of earlier steps too."""
    return formula_of(optimizer, "shares").decay is not None


def average_shares(optimizer, old: PyTree, gradients: PyTree, drawn: Drawn) -> tuple[PyTree, PyTree, Drawn]:
    """The new averages of each example; what of the step is a sum over examples, and which these are."""
    averaging, chosen = formula_of(optimizer, "shares"), hyperparameters(optimizer)
    if averaging.decay is None:
        return None, gradients, drawn
    decay = chosen[averaging.decay]
    fresh = 1 - decay if chosen.get("ema", averaging is AVERAGE) else 1.0
    scale = lambda factor, tree: jax.tree.map(lambda x: (factor * x).astype(x.dtype), tree)
    averages = drawn.add(scale(decay, old), scale(fresh, gradients))
    taken = drawn.add(scale(decay, averages), gradients) if averaging.ahead else averages
    return averages, taken, drawn._replace(indices=None)


def divide_shares(optimizer, state: PyTree, k: jax.Array, numerators: PyTree) -> PyTree:
    """Shares of a step: what is a sum over examples times −η, divided as the step was."""
    divisor = preconditioner_of(optimizer, state)
    rate = value_at(hyperparameters(optimizer)["learning_rate"], k)
    if jax.tree.structure(divisor) != jax.tree.structure(numerators):  # one number for all
        divisor = jax.tree.map(lambda m: divisor, numerators)
    divide = lambda m, p: jax.vmap(lambda one: (-rate / p * one).astype(m.dtype))(m)
    return jax.tree.map(divide, numerators, divisor)
