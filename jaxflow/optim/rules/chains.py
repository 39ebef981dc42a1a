"""What a chain and a transformation of groups are made of, and a rule for one optimizer, applied inside them."""

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


def groups_in(optimizer: Any) -> dict[Any, Any] | None:
    """The optimizer of each label of an `optax.multi_transform` made traceable; `None` for anything else."""
    constructor = getattr(optimizer, "constructor", None)
    if getattr(constructor, "body", None) not in (optax.partition, optax.multi_transform):
        return None
    return optimizer.hyperparameters["transforms"]


def change_inside(optimizer: Any, change: Callable[[Any], Optimizer], purpose: str) -> Optimizer:
    """`change(optimizer)`; of a chain, the chain with `change` of its one optimizer; of groups, of each.

    An `l2_regularization` in a chain, or optax's `add_decayed_weights` made traceable, stays as it is. Raises
    `ValueError` for a chain of other parts, which cannot `purpose` ("be rescaled"), and what `change` raises.
    """
    groups = groups_in(optimizer)
    if groups is not None:
        return optimizer.replace(
            transforms={label: change_inside(member, change, purpose) for label, member in groups.items()}
        )
    parts = members_of(optimizer)
    if parts is None:
        return change(optimizer)
    optimizers = [part for part in parts if not is_penalty(part)]
    new = [change_inside(part, change, purpose) for part in optimizers]
    if len(new) != 1:
        raise ValueError(f"A chain must hold one optimizer to {purpose}, got {len(new)} in {optimizer!r}.")
    return chain(*(new[0] if part is optimizers[0] else part for part in parts))
