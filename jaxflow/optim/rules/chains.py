"""A rule for one optimizer, applied inside a chain."""

from collections.abc import Callable
from typing import Any

from jaxflow.optim import Optimizer, chain, l2_regularization


def changed(optimizer: Any, change: Callable[[Any], Optimizer], purpose: str) -> Optimizer:
    """`change(optimizer)`; of a chain, the chain with `change` of the one optimizer that it is of.

    An `l2_regularization` in a chain stays as it is. Raises `ValueError` for a chain of other parts, which cannot
    `purpose` ("be rescaled"), and what `change` raises.
    """
    made_by = lambda part: part.constructor if isinstance(part, Optimizer) else None
    if made_by(optimizer) is not chain:
        return change(optimizer)
    parts = optimizer.hyperparameters["transforms"]
    optimizers = [part for part in parts if made_by(part) is not l2_regularization]
    new = [change(part) for part in optimizers]
    if len(new) != 1:
        raise ValueError(f"A chain must hold one optimizer to {purpose}, got {len(new)} in {optimizer!r}.")
    return chain(*(new[0] if part is optimizers[0] else part for part in parts))
