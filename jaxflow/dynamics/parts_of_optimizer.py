"""What an optimizer is composed of, as far as its differential equation is concerned."""

from typing import Any, NamedTuple

from jaxflow import optim
from jaxflow.optim.optax_names import as_ours, shown
from jaxflow.optim.rules.accumulation import accumulation_of
from jaxflow.optim.rules.chains import is_penalty, members_of
from jaxflow.optim.table import Without


class Parts(NamedTuple):
    """One optimizer and what is around it.

    - `optimizer`: the optimizer; one of optax's as the one of ours that takes the same steps.
    - `shown`: the optimizer as a refusal names it.
    - `penalties`: the strengths λ of $\\lambda\\theta$ that is added to its gradient.
    - `accumulated`: the number of mini-batches whose gradients are averaged for one step.
    """

    optimizer: Any
    shown: str
    penalties: tuple[Any, ...] = ()
    accumulated: int = 1


def parts_of(optimizer: Any) -> Parts:
    """The parts of an optimizer. Raises `ValueError` for a composition that has no equation, and names the reason."""
    accumulation = accumulation_of(optimizer)
    if accumulation is not None:
        inner, accumulated = accumulation
        return parts_of(inner)._replace(accumulated=accumulated)
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
    own = [name for name in ("newton", "nesterov") if penalties and _looks_itself(found, name)]
    if own:
        raise ValueError(
            f"{own[0]} must stand alone to have a known equation where it asks for gradients itself, which no member "
            f"of a chain before it changes, got {optimizer!r}."
        )
    return Parts(found, shown(steps[0]), penalties)


def _looks_itself(optimizer: Any, name: str) -> bool:
    """Whether it is the optimizer of that name in a form that asks for gradients other than the one it is given."""
    if getattr(optimizer, "constructor", None) is not getattr(optim, name):
        return False
    return optimizer.hyperparameters.get("lookahead", True)
