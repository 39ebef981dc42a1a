"""What takes whole models, as what takes their trained part: objectives, fields, and what was made with them."""

from typing import Any

import jax

from jaxflow._losses.companions import warn_of_chunks
from jaxflow._losses.models import Completed, Rest, Trainable, join_model, split_model
from jaxflow._traceable import Bound
from jaxflow.games import VectorField
from jaxflow.objective import Objective

PyTree = Any


def _of_trained(trained: PyTree, field: VectorField, rest: Rest) -> PyTree:
    """A vector field over whole models as one over their trained part."""
    velocity = field(join_model(trained, rest))
    return jax.tree.map(
        lambda mine, part: None if mine is None else part, trained, velocity, is_leaf=lambda x: x is None
    )


def complete(objective: Any, rest: Rest) -> Any:
    """An objective of whole models as one of their trained part."""
    if isinstance(objective, VectorField):
        return VectorField(_of_trained, (objective, rest))
    if isinstance(objective, Objective):
        return objective.completed(rest)
    return Completed(objective, rest) if callable(objective) else objective


def complete_arguments(bound: Bound, rest: Rest) -> Any:
    """A dynamics or recorder of whole models as one of their trained part: the objectives it was made with are."""
    changes: dict[str, Any] = {}
    for name, value in bound.hyperparameters.items():
        if name == "objective" or isinstance(value, (Objective, VectorField)):
            changes[name] = complete(value, rest)
        elif name == "record" and callable(value):
            changes[name] = Completed(value, rest)
        elif isinstance(value, Bound) and type(value) is type(bound):
            changes[name] = complete_arguments(value, rest)
        elif isinstance(value, dict):
            inside = {
                key: complete_arguments(x, rest) for key, x in value.items() if isinstance(x, type(bound))
            }
            changes[name] = value | inside
    return bound.replace(**changes)


def open_model(objective: Any, params: PyTree, trainable: Trainable = None) -> tuple[Any, PyTree]:
    """An objective and the trained part of a model, of which the objective is a function."""
    trained, rest = split_model(params, trainable)
    objective = objective if rest is None else complete(objective, rest)
    warn_of_chunks(objective, trained)
    return objective, trained
