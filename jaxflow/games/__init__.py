"""Games: vector fields that are the gradient of no single loss."""

from jaxflow.games.vector_field import VectorField as VectorField
from jaxflow.games.vector_field import game as game
from jaxflow.games.vector_field import like as like
