"""What a user gives as an estimator, as one; and what is refused."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._text.shapes import show
from jaxflow._traceable import traceable
from jaxflow.games import VectorField
from jaxflow.objective import Objective, require_data
from jaxflow.solve.discrete.estimator_bodies import name_of, require_draw, require_init
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
        drawn = Draws(given.draw, **others)
        require_draw(drawn.draw)
        require_init(drawn.init)
        return _drawn_by(*drawn)
    if isinstance(given, str):
        raise TypeError(
            f"estimator must be made by a constructor such as jf.solve.epochs(32), got {given!r}."
        )
    if callable(given):
        raise TypeError(
            f"estimator must have a draw, got the function {show(given)}; if it is a constructor, call it, as in "
            f"jf.solve.epochs(32)."
        )
    return given


def is_random(objective: Any) -> bool:
    """Whether an objective or a vector field draws random numbers itself, by the key of a step."""
    return isinstance(objective, (Objective, VectorField)) and objective.is_random


def _check_body(estimator: Estimator, draws: Draws, objective: Any, key: Any) -> None:
    """Refuse an estimator that cannot draw, without a key where there is none."""
    ours = estimator.constructor.__module__ == full_batch.__module__
    if estimator.constructor is full_batch or (ours and key is not None):
        return
    draw: Any = draws.draw
    init: Any = draws.init
    first = jnp.zeros([], jnp.int32)
    attempt = lambda key: jax.eval_shape(
        lambda key: draw(objective, init(objective, key), first, key)[1], key
    )
    try:
        attempt(key)
    except Exception:
        if key is not None or not _works(attempt, jax.eval_shape(lambda: jax.random.key(0))):
            raise
    else:
        return
    own = estimator.constructor is _drawn_by
    name = name_of(estimator.hyperparameters["draw"]) if own else repr(estimator)
    raise ValueError(
        f"key must be a PRNG key such as jax.random.key(0) for the estimator {name}, which draws at random, got None."
    )


def _works(attempt: Callable[[Any], Any], key: Any) -> bool:
    try:
        attempt(key)
    except Exception:
        return False
    return True


def check_data(estimator: Estimator, objective: Any) -> Draws:
    """Refuse an estimator for which the objective has no data."""
    draws = estimator.build()
    if draws.batch_size is not None:
        _check.require_integer("batch_size", draws.batch_size, 1)
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
    _check_body(estimator, check_data(estimator, objective), objective, key)
    return estimator
