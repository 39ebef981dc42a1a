"""What a chain is made of, and a rule for one optimizer, applied inside it."""

from collections.abc import Callable
from typing import Any

import optax

from jaxflow.optim import Optimizer, chain, l2_regularization
from jaxflow.optim.optax_names import as_ours


def members_of(optimizer: Any) -> tuple[Any, ...] | None:
    """The transformations that a `chain`, ours or optax's made traceable, was made of; `None` for anything else."""
    if not isinstance(optimizer, Optimizer):
        return None
    if optimizer.constructor is not chain and optimizer.constructor.body is not optax.chain:
        return None
    (members,) = optimizer.hyperparameters.values()
    return tuple(members)


def is_penalty(part: Any) -> bool:
    """Whether a member of a chain adds a multiple of the parameters to what it is given."""
    return getattr(as_ours(part), "constructor", None) is l2_regularization


def change_in_chain(optimizer: Any, change: Callable[[Any], Optimizer], purpose: str) -> Optimizer:
    """`change(optimizer)`; of a chain, the chain with `change` of the one optimizer that it is of.

    An `l2_regularization` in a chain, or optax's `add_decayed_weights` made traceable, stays as it is. Raises
    `ValueError` for a chain of other parts, which cannot `purpose` ("be rescaled"), and what `change` raises.
    """
    parts = members_of(optimizer)
    if parts is None:
        return change(optimizer)
    optimizers = [part for part in parts if not is_penalty(part)]
    new = [change(part) for part in optimizers]
    if len(new) != 1:
        raise ValueError(f"A chain must hold one optimizer to {purpose}, got {len(new)} in {optimizer!r}.")
    return chain(*(new[0] if part is optimizers[0] else part for part in parts))
