"""What is between two models: the objective of what is trained of them, their ends, and what they share."""

from typing import Any

import jax

from jaxflow import _check
from jaxflow._completion import complete
from jaxflow._losses.models import Rest, Trainable, split_model
from jaxflow.curvature.products import check_objective, real_parameters

PyTree = Any


def open_ends(
    objective: Any, a: PyTree, b: PyTree, trainable: Trainable = None
) -> tuple[Any, PyTree, PyTree, Rest | None]:
    """The objective of the trained part, both ends of it as real arrays of one type, and the rest of model `a`."""
    check_objective(objective)
    first, rest = split_model(a, trainable)
    last, _ = split_model(b, trainable)
    first, last = real_parameters(first, "a"), real_parameters(last, "b")
    require_like_end("b", last, first)
    return (objective if rest is None else complete(objective, rest)), first, as_end(last, first), rest


def require_like_end(name: str, tree: PyTree, end: PyTree) -> None:
    """Refuse anything but a pytree like the end `a`."""
    _check.require_like(name, tree, end, "be a pytree like a", "have the shapes of a", structures=TypeError)


def as_end(tree: PyTree, end: PyTree) -> PyTree:
    """Real arrays of the types of the other end."""
    return jax.tree.map(lambda x, like: x.astype(like.dtype), tree, end)
