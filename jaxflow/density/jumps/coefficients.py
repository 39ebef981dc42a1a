"""The drift and the diffusion matrix of a dynamics at points of a grid's coordinates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxflow.dynamics import Dynamics, Field

PyTree = Any


class Coefficients(NamedTuple):
    r"""An equation $dx = b(t, x)\,dt + \sigma(t, x)\,dW$ in d coordinates.

    - `drift(t, x) -> (d,)`: b.
    - `diffusion(t, x) -> (d, d)`: $A = \frac12\sigma\sigma^\top$, so that $p_t = -\nabla\cdot(b p) + \sum_{ij}
      \partial_i\partial_j (A_{ij} p)$. For a temperature T and a matrix D it is TD.
    """

    drift: Callable[[Any, jax.Array], jax.Array]
    diffusion: Callable[[Any, jax.Array], jax.Array]


class _Coordinates(NamedTuple):
    """How a state of a dynamics is made of coordinates, and a velocity in its space read off."""

    state: Callable[[jax.Array], PyTree]
    flat: Callable[[PyTree], jax.Array]


def coefficients_of(dynamics: Dynamics, dimensions: int, dtype: Any, like: PyTree = None) -> Coefficients:
    """The coefficients of an SDE over states of `dimensions` numbers, which are its grid's coordinates.

    A state with a velocity has those of its parameters and then of its velocity. `like` are parameters, of which only
    the structure matters.
    """
    field = dynamics.build()
    if field.diffusion is None:
        raise ValueError(
            f"dynamics must have noise to have a density that spreads, got {dynamics!r}; without it (temperature 0) "
            "integrate a gradient flow."
        )
    coordinates = _coordinates(dynamics, field, dimensions, dtype, like)
    noise, shape = field.diffusion, field.brownian
    assert shape is not None

    def drift(t, x):
        return coordinates.flat(field.drift(t, coordinates.state(x))).astype(x.dtype)

    def diffusion(t, x):
        state = coordinates.state(x)
        xi = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape(state))
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(xi)):
            raise ValueError(
                f"dynamics must have Gaussian noise for a density, such as noise.full(), got {dynamics!r}."
            )
        # σ is linear in xi: its rows are pulled back, one for each coordinate, however many numbers xi holds.
        pull = jax.vjp(lambda xi: coordinates.flat(noise(t, state, xi)), xi)[1]
        flat = jax.eval_shape(lambda xi: coordinates.flat(noise(t, state, xi)), xi)
        rows = jax.vmap(lambda row: ravel_pytree(pull(row)[0])[0])(jnp.eye(dimensions, dtype=flat.dtype))
        return (0.5 * rows @ rows.T).astype(x.dtype)

    return Coefficients(drift, diffusion)


def _coordinates(dynamics, field: Field, dimensions: int, dtype: Any, like: PyTree) -> _Coordinates:
    guesses = [like] if like is not None else [jnp.zeros((), dtype), jnp.zeros(dimensions, dtype)]
    if like is None and dimensions == 2:
        guesses.append(jnp.zeros(1, dtype))
    for params in guesses:
        params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
        try:
            state = jax.eval_shape(field.init, params)
        except (TypeError, ValueError, IndexError):
            if like is not None:
                raise
            continue
        phase = hasattr(state, "velocity")
        parts = (state.params, state.velocity) if phase else state
        if sum(leaf.size for leaf in jax.tree.leaves(parts)) == dimensions:
            return _coordinates_of_state(field, parts, phase)
    raise ValueError(
        f"dynamics must have a state of as many numbers as the grid has coordinates, {dimensions}, got {dynamics!r}; "
        "params= tells the structure of its parameters."
    )


def _coordinates_of_state(field: Field, parts: PyTree, phase: bool) -> _Coordinates:
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), parts)
    unravel = ravel_pytree(blank)[1]
    if not phase:
        return _Coordinates(unravel, lambda state: ravel_pytree(state)[0])

    def state_of(x):
        place, velocity = unravel(x)
        return field.init(place)._replace(params=place, velocity=velocity)

    return _Coordinates(state_of, lambda state: ravel_pytree((state.params, state.velocity))[0])
