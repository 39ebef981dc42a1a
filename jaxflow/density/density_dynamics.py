"""The Fokker–Planck equation as a dynamics whose state is a density and the chain that moves it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow._compiled import compiled
from jaxflow._jaxprs import reads
from jaxflow._traceable import traceable
from jaxflow.density.grid import Grid
from jaxflow.density.jumps.coefficients import Coefficients, coefficients_of
from jaxflow.density.jumps.rates import Chain, Offset, build_chain
from jaxflow.density.stepping.implicit import radau
from jaxflow.density.stepping.uniformization import uniformize
from jaxflow.dynamics import Dynamics, Field

PyTree = Any
STIFF = 500.0  # jumps: from here on implicit steps are cheaper in one coordinate


class DensityState(NamedTuple):
    """The state of `fokker_planck`.

    - `density`: an array of the shape of the grid.
    - `chain`: the jumps that move it; `None` where they change with time.
    """

    density: jax.Array
    chain: Chain | None


class MassOnGrid(NamedTuple):
    """What a solved Fokker–Planck equation tells at each time, as `observed`.

    - `mass`: the mass on the grid, 1 but for what absorbing walls took.
    - `at_walls`: the mass in the outermost cells. Above 1e-8 the grid is too small for the density.
    """

    mass: jax.Array
    at_walls: jax.Array


@traceable(structural=("offsets", "walls", "method"))
def density_equation(
    dynamics: Dynamics, grid: Grid, params: PyTree, offsets: tuple[Offset, ...], walls: tuple, method: str
) -> Field:
    """What `fokker_planck` makes of its checked arguments."""
    # Read when they are needed, as a dynamics is built several times before anything is solved.
    coefficients = lambda: coefficients_of(dynamics, grid.dimensions, grid.low.dtype, params)
    chain_at = lambda t: build_chain(coefficients(), grid, t, offsets, walls)

    def init(density):
        density = grid.as_density(density)
        return DensityState(density, chain_at(0.0) if is_steady(coefficients(), grid) else None)

    def drift(t, state):
        chain = chain_at(t) if state.chain is None else state.chain
        return DensityState(chain.apply(state.density), jax.tree.map(jnp.zeros_like, state.chain))

    def step(t, state, dt, xi):
        del xi
        chain = chain_at(t + dt / 2) if state.chain is None else state.chain
        return state._replace(density=move(chain, state.density, dt, method))

    return Field(
        drift=drift,
        init=init,
        params=lambda state: state.density,
        step=step,
        observe=lambda state: MassOnGrid(grid.mass(state.density), grid.at_walls(state.density)),
    )


def move(chain: Chain, density: jax.Array, dt: Any, method: str) -> jax.Array:
    """A density after a time, by the method named."""
    if method == "uniformization" or (method == "auto" and chain.grid.dimensions == 2):
        return uniformize(chain, density, dt)
    if method == "radau":
        return radau(chain, density, dt)
    # One of the two has nothing to do, and so takes no time, in each lane of a vmap too.
    stiff = jnp.max(chain.leaving) * dt > STIFF
    density = uniformize(chain, density, jnp.where(stiff, 0, dt))
    return radau(chain, density, jnp.where(stiff, dt, 0))


def is_steady(coefficients: Coefficients, grid: Grid) -> bool:
    """Whether the coefficients do not depend on time."""
    at = lambda t: (coefficients.drift(t, grid.low), coefficients.diffusion(t, grid.low))
    return not reads(at, jnp.zeros((), grid.low.dtype))


@compiled(static=("offsets", "walls"))
def chain_of(*, dynamics, grid, params, t, offsets, walls) -> Chain:
    """The chain of an equation at a time, in one program."""
    coefficients = coefficients_of(dynamics, grid.dimensions, grid.low.dtype, params)
    return build_chain(coefficients, grid, t, offsets, walls)
