"""What a chain is made of, and a rule for one optimizer, applied inside it."""

from collections.abc import Callable
from typing import Any

from jaxflow.optim import Optimizer, chain, l2_regularization


def members_of(optimizer: Any) -> tuple[Any, ...] | None:
    """The transformations that a `chain` was made of, in order; `None` for anything else."""
    if not isinstance(optimizer, Optimizer) or optimizer.constructor is not chain:
        return None
    return tuple(optimizer.hyperparameters["transforms"])


def change_in_chain(optimizer: Any, change: Callable[[Any], Optimizer], purpose: str) -> Optimizer:
    """`change(optimizer)`; of a chain, the chain with `change` of the one optimizer that it is of.

    An `l2_regularization` in a chain stays as it is. Raises `ValueError` for a chain of other parts, which cannot
    `purpose` ("be rescaled"), and what `change` raises.
    """
    parts = members_of(optimizer)
    if parts is None:
        return change(optimizer)
    optimizers = [part for part in parts if getattr(part, "constructor", None) is not l2_regularization]
    new = [change(part) for part in optimizers]
    if len(new) != 1:
        raise ValueError(f"A chain must hold one optimizer to {purpose}, got {len(new)} in {optimizer!r}.")
    return chain(*(new[0] if part is optimizers[0] else part for part in parts))
