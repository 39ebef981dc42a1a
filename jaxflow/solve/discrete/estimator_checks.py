"""What a user gives as an estimator, as one; and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow._text.shapes import show
from jaxflow._traceable import traceable
from jaxflow.games import VectorField
from jaxflow.objective import Objective, require_data
from jaxflow.solve.discrete.estimators import Draws, Estimator, full_batch, with_replacement

EVERYTHING = full_batch()


@traceable(structural=("batch_size",))
def _drawn_by(draw, init, batch_size, distinct) -> Draws:
    return Draws(draw, init, batch_size, distinct)


def as_estimator(given: Any) -> Any:
    """What a user gives as an estimator as one; a stream of batches is returned as it is."""
    if given is None or isinstance(given, Estimator):
        return given
    if hasattr(given, "draw"):
        others = {
            name: getattr(given, name) for name in ("init", "batch_size", "distinct") if hasattr(given, name)
        }
        return _drawn_by(*Draws(given.draw, **others))
    if isinstance(given, str):
        raise TypeError(
            f"estimator must be made by a constructor such as jf.solve.epochs(32), got {given!r}."
        )
    if callable(given):
        raise TypeError(
            f"estimator must have a draw, as what a constructor such as jf.solve.epochs(32) returns has, got the "
            f"function {show(given)}; it must be called where it is a constructor."
        )
    return given


def is_random(objective: Any) -> bool:
    """Whether an objective or a vector field draws random numbers itself, by the key of a step."""
    return isinstance(objective, (Objective, VectorField)) and objective.is_random


def draws_at_random(draws: Draws, objective: Any) -> bool:
    """Whether an estimator cannot do without a key."""
    draw: Any = draws.draw
    init: Any = draws.init
    try:
        jax.eval_shape(lambda: draw(objective, init(objective, None), jnp.zeros([], jnp.int32), None)[1])
    except Exception:
        return True
    return False


def check_data(estimator: Estimator, objective: Any) -> Draws:
    """Refuse an estimator for which the objective has no data."""
    draws = estimator.build()
    if draws.batch_size is not None:
        size = require_data(objective, "Mini-batches")
        if draws.distinct and draws.batch_size > size:
            rule = f"at most the number of examples, {size}, when drawn without replacement"
            raise ValueError(f"batch_size must be {rule}, got {draws.batch_size}.")
    return draws


def choose_estimator(estimator: Any, batch_size: int | None, objective: Any, key: Any) -> Estimator:
    """The estimator of a run: the one given, independent draws of a `batch_size`, or all data."""
    if estimator is not None and batch_size is not None:
        raise ValueError(f"Give either estimator or batch_size, got both (batch_size={batch_size!r}).")
    if estimator is None:
        if batch_size is None:
            return EVERYTHING
        estimator = with_replacement(batch_size)
    draws = check_data(estimator, objective)
    if draws.batch_size is not None and key is None and draws_at_random(draws, objective):
        raise ValueError(
            "key must be a PRNG key such as jax.random.key(0) when mini-batches are drawn, got None."
        )
    return estimator
