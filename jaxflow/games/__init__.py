"""Games: vector fields that are the gradient of no single loss."""

from typing import Any

from jaxflow.games import vector_field
from jaxflow.games.vector_field import VectorField as VectorField
from jaxflow.games.vector_field import game as game
from jaxflow.games.vector_field import like_players as like_players


def __getattr__(name: str) -> Any:
    """A name of earlier versions; calling it warns."""
    if name == "like":
        return vector_field.like
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
