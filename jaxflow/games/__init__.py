"""Games: vector fields that are the gradient of no single loss."""

from typing import Any

from jaxflow.games import vector_field
from jaxflow.games.corrections import cancel_drift as cancel_drift
from jaxflow.games.corrections import consensus as consensus
from jaxflow.games.corrections import extragradient as extragradient
from jaxflow.games.gradient_penalties import gradient_penalty as gradient_penalty
from jaxflow.games.gradient_penalties import interpolate as interpolate
from jaxflow.games.noisy_inputs import gauss_hermite as gauss_hermite
from jaxflow.games.noisy_inputs import instance_noise as instance_noise
from jaxflow.games.vector_field import VectorField as VectorField
from jaxflow.games.vector_field import game as game
from jaxflow.games.vector_field import like_players as like_players


def __getattr__(name: str) -> Any:
    """A name of earlier versions; calling it warns."""
    if name == "like":
        return vector_field.like
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
