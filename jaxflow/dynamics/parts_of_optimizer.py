"""What an optimizer is composed of, as far as its differential equation is concerned."""

from typing import Any, NamedTuple

from jaxflow import optim
from jaxflow.optim.optax_names import as_ours, shown
from jaxflow.optim.rules.chains import groups_in, is_penalty, members_of
from jaxflow.optim.table import Without


class Parts(NamedTuple):
    """One optimizer and what is around it.

    - `optimizer`: the optimizer; one of optax's as the one of ours that takes the same steps.
    - `shown`: the optimizer as a refusal names it.
    - `penalties`: the strengths λ of $\\lambda\\theta$ that is added to its gradient.
    """

    optimizer: Any
    shown: str
    penalties: tuple[Any, ...] = ()


class Groups(NamedTuple):
    """An optimizer for each label, and the labels of the parameters, as `optax.multi_transform` has them."""

    optimizers: dict[Any, Parts]
    labels: Any


def groups_of(optimizer: Any) -> Groups | None:
    """The groups of an `optax.multi_transform` made traceable; `None` for anything else.

    Raises `ValueError` for a group whose optimizer looks at gradients of its own, which are not of the group alone.
    """
    transforms = groups_in(optimizer)
    if transforms is None:
        return None
    parts = {label: parts_of(member) for label, member in transforms.items()}
    for part in parts.values():
        _require_given_gradient(part.optimizer, "a group of optax.multi_transform")
    return Groups(parts, optimizer.hyperparameters["param_labels"])


def parts_of(optimizer: Any) -> Parts:
    """The parts of an optimizer. Raises `ValueError` for a composition that has no equation, and names the reason."""
    members = members_of(optimizer)
    if members is None:
        return Parts(as_ours(optimizer), shown(optimizer))
    for member in members:
        if isinstance(translated := as_ours(member), Without):
            raise ValueError(f"No equation is known for {optimizer!r}, a part of which {translated.why}.")
    steps = [member for member in members if not is_penalty(member)]
    if len(steps) != 1 or members[-1] is not steps[0]:
        raise ValueError(
            "A chain must hold one optimizer, at its end, after any number of l2_regularization or traceable "
            f"optax.add_decayed_weights, to have a known equation, got {optimizer!r}."
        )
    found = as_ours(steps[0])
    penalties = tuple(next(iter(as_ours(part).hyperparameters.values())) for part in members[:-1])
    if penalties:
        _require_given_gradient(found, "a chain after l2_regularization")
    return Parts(found, shown(steps[0]), penalties)


def _require_given_gradient(optimizer: Any, place: str) -> None:
    """Refuse an optimizer that asks for gradients itself, which nothing around it changes."""
    looks = getattr(optimizer, "constructor", None) is optim.newton
    looks |= optim.hyperparameters(optimizer).get("lookahead") is True
    if looks:
        raise ValueError(
            f"An optimizer in {place} must use the gradient that it is given, to have a known equation, got "
            f"{optimizer!r}, which asks for gradients itself."
        )
