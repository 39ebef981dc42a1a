"""The Fokker–Planck equation as a dynamics whose state is a density and the chain that moves it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._programs.jaxprs import reads
from jaxflow._traceable import traceable
from jaxflow.density.grid import Grid
from jaxflow.density.jumps.coefficients import Coefficients, coefficients_of
from jaxflow.density.jumps.rates import Chain, Offset, build_chain
from jaxflow.density.stepping.implicit import radau
from jaxflow.density.stepping.uniformization import uniformize
from jaxflow.dynamics import Dynamics, Field

PyTree = Any
MORE = 1e-4  # of mass, what rounding may add
TOUCHING, TOUCHING_IN_SINGLE = 1e-7, 1e-5  # of mass at the walls: from here on the grid is too small
STIFF = 2000.0  # jumps: from here on implicit steps are cheaper in one coordinate


class DensityState(NamedTuple):
    """The state of `fokker_planck`.

    - `density`: an array of the shape of the grid.
    - `chain`: the jumps that move it; `None` where they change with time.
    """

    density: jax.Array
    chain: Chain | None


class MassOnGrid(NamedTuple):
    """What a solved Fokker–Planck equation tells at each time, as `observed`.

    - `mass`: the mass on the grid, 1 less what absorbing walls took.
    - `at_walls`: the mass in the outermost cells. Above 1e-7 the grid is too small for the density.
    """

    mass: jax.Array
    at_walls: jax.Array


@traceable(structural=("offsets", "walls", "method", "watched"))
def density_equation(
    dynamics: Dynamics,
    grid: Grid,
    params: PyTree,
    offsets: tuple[Offset, ...],
    walls: tuple,
    method: str,
    watched: bool,
) -> Field:
    """What `fokker_planck` makes of its checked arguments."""
    # Read when they are needed, as a dynamics is built several times before anything is solved.
    coefficients = lambda: coefficients_of(dynamics, grid.dimensions, grid.low.dtype, params)
    chain_at = lambda t: build_chain(coefficients(), grid, t, offsets, walls)

    def init(density):
        density = grid.as_density(density)
        if not is_steady(coefficients(), grid):
            return DensityState(density, None)
        # One program, which `fokker_planck` has run already to check it.
        chain = chain_of(dynamics=dynamics, grid=grid, params=params, t=0.0, offsets=offsets, walls=walls)
        return DensityState(density, chain)

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
        check=lambda density: check_density(density, grid),
        remark=(lambda times, observed: _remark(times, observed, grid)) if watched else (lambda *_: None),
    )


def check_density(density: Any, grid: Grid) -> None:
    """Refuse concrete numbers that are not a density, or more than one."""
    grid.as_density(density)
    found, low, high = (_check.values(x) for x in (density, grid.low, grid.high))
    if found is None or low is None or high is None:
        return
    spacing = (high - low) / np.array(grid.shape)
    for name, wrong in (("finite", ~np.isfinite(found)), ("at least 0", found < 0)):
        if wrong.any():
            place = low + (np.argwhere(wrong)[0] + 0.5) * spacing
            raise ValueError(
                f"params must be a density, which is {name} in every cell, got {found[wrong][0]:.6g} around "
                f"{place.tolist()}, the first of {wrong.sum()} such cells."
            )
    mass = float(found.sum() * spacing.prod())
    if not 0 < mass <= 1 + MORE:
        raise ValueError(
            f"params must be a density, which has a mass above 0 and at most 1 on its grid, got {mass:.6g}; "
            "params / grid.mass(params) has mass 1."
        )


def _remark(times: Any, observed: MassOnGrid, grid: Grid) -> str | None:
    touching = np.asarray(observed.at_walls)
    most = int(np.argmax(np.where(np.isfinite(touching), touching, 0)))
    allowed = TOUCHING if grid.low.dtype == jnp.float64 else TOUCHING_IN_SINGLE
    if not touching[most] > allowed:
        return None
    return (
        f"The density reaches the walls of its grid: {touching[most]:.2g} of the mass is in the outermost cells at "
        f'time {float(np.asarray(times)[most]):.6g}. A larger grid holds it; walls="reflecting" says that they are '
        "meant."
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
