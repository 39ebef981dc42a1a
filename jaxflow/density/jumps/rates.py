r"""The exponentially fitted chain: how often the process jumps from a cell to the cells around it.

The diffusion matrix A of a cell, in units of cells, is $\sum_k w_k e_k e_k^\top$ with weights at least 0 and integer
vectors. The chain jumps from x to x ± e with the rate $w\,B(\mp\zeta)$, where $B(z) = z/(e^z - 1)$ and $\zeta = \int
A^{-1} b \cdot dx$ along the edge. So all rates are at least 0, mass is kept, and where $A^{-1}b$ is a gradient and A
constant, or in one coordinate, the law at rest is exact. This is Scharfetter & Gummel's scheme (1969), and Chang &
Cooper's (1970), with the stencil of Bonnans & Zidani (2003). It is of second order in the size of a cell.

A drift in a direction without noise, such as that of a position by its velocity, jumps with the wind. That part is of
first order.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow._compiled import compiled
from jaxflow.density.grid import Grid
from jaxflow.density.jumps.coefficients import Coefficients
from jaxflow.density.jumps.selling_decomposition import decompose

NODES, WEIGHTS = (array.tolist() for array in np.polynomial.legendre.leggauss(6))
# The vectors where the noise is not known yet. They do for matrices whose eigenvalues differ by a factor up to 14.
AROUND = ((0, 1), (1, 0), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1))

Offset = tuple[int, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chain:
    """The jumps of a chain between the cells of a grid, in jumps per unit of time.

    - `grid`: the `Grid`.
    - `forward`, `backward` (E, *shape): the rates of jumps by each of E vectors of cells, and by its opposite.
    - `lost` (*shape): the rate of leaving through an absorbing wall.
    - `offsets`: the vectors (static).
    """

    grid: Grid
    forward: jax.Array
    backward: jax.Array
    lost: jax.Array
    offsets: tuple[Offset, ...] = dataclasses.field(metadata={"static": True})

    @property
    def leaving(self) -> jax.Array:
        """The rate at which the chain leaves each cell."""
        return self.forward.sum(0) + self.backward.sum(0) + self.lost

    def apply(self, density: jax.Array) -> jax.Array:
        """What flows into each cell, less what flows out: the velocity of a density."""
        total = -self.leaving * density
        for k, offset in enumerate(self.offsets):
            total = total + shift(self.forward[k] * density, offset)
            total = total + shift(self.backward[k] * density, tuple(-e for e in offset))
        return total

    def fluxes(self, density: jax.Array) -> jax.Array:
        """The net flow along each edge, from x to x + e, at x: (E, *shape), per unit of volume and time."""
        back = [
            shift(self.backward[k] * density, tuple(-e for e in offset))
            for k, offset in enumerate(self.offsets)
        ]
        return self.forward * density[None] - jnp.stack(back)

    @property
    def has_noise(self) -> jax.Array:
        """Whether something may jump along an edge in both directions; a drift alone jumps in one."""
        return _has_noise(self)

    def band(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Below, on and above the diagonal of the matrix of `apply`, in one coordinate."""
        return shift(self.forward[0], (1,)), -self.leaving, shift(self.backward[0], (-1,))


@compiled
def _has_noise(chain: Chain) -> jax.Array:
    back = [
        shift(rate, tuple(-e for e in offset))
        for rate, offset in zip(chain.backward, chain.offsets, strict=True)
    ]
    return jnp.any((chain.forward > 0) & (jnp.stack(back) > 0))


def shift(values: jax.Array, offset: Offset) -> jax.Array:
    """What was at x, at x + offset; 0 comes in from outside."""
    return lax.pad(values, jnp.zeros((), values.dtype), [(step, -step, 0) for step in offset])


def bernoulli(z: jax.Array) -> jax.Array:
    """z/(eᶻ − 1), 1 at 0."""
    small = jnp.abs(z) < 1e-5
    safe = jnp.where(small, 1.0, z)
    return jnp.where(small, 1 - z / 2, safe / jnp.expm1(safe))


class _Local(NamedTuple):
    """At a point, in units of cells: A⁻¹b along the directions with noise, and b along the others."""

    pull: jax.Array
    wind: jax.Array


def _local(coefficients: Coefficients, t: Any, x: jax.Array, spacing: jax.Array) -> _Local:
    drift = coefficients.drift(t, x) / spacing
    matrix = coefficients.diffusion(t, x) / jnp.outer(spacing, spacing)
    trace = jnp.trace(matrix)
    tiny = jnp.finfo(x.dtype).eps * 8
    if x.size == 1:
        noisy = trace > 0
        pull = jnp.where(noisy, drift / jnp.where(noisy, trace, 1), 0)
        return _Local(pull, jnp.where(noisy, 0, drift))
    determinant = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    full = determinant > tiny * trace**2
    swapped = jnp.array([[matrix[1, 1], -matrix[0, 1]], [-matrix[1, 0], matrix[0, 0]]])
    # Of rank 1, the pseudo-inverse is the matrix over its squared trace.
    scale = jnp.where(trace > 0, trace, 1) ** 2
    inverse = jnp.where(full, swapped / jnp.where(full, determinant, 1), matrix / scale)
    pull = inverse @ drift
    return _Local(pull, jnp.where(full, 0, drift - matrix @ pull))


def build_chain(
    coefficients: Coefficients, grid: Grid, t: Any, offsets: tuple[Offset, ...], walls: tuple
) -> Chain:
    """The chain of an equation at a time. `walls` are, for each axis, whether its low and its high end absorb."""
    points = grid.points
    weights = _weights(coefficients, grid, t, offsets)
    forward, backward, lost = [], [], jnp.zeros(grid.shape, points.dtype)
    for k, offset in enumerate(offsets):
        there = _edge(coefficients, grid, t, points, offset)
        opposite = tuple(-e for e in offset)
        # The edge back from x is that from x − e, the other way.
        back = _Edge(-shift(there.pull, offset), -shift(there.wind, offset))
        for along, edge, into in ((offset, there, forward), (opposite, back, backward)):
            rate = weights[k] * bernoulli(-edge.pull) + jnp.maximum(edge.wind, 0)
            stays = shift(jnp.ones(grid.shape, bool).astype(points.dtype), tuple(-e for e in along)) > 0
            into.append(jnp.where(stays, rate, 0))
            if any(any(ends) for ends in walls):
                lost = lost + jnp.where(
                    stays, 0, _rate_through_walls(coefficients, grid, t, points, along, weights[k], walls)
                )
    return Chain(grid, jnp.stack(forward), jnp.stack(backward), lost, offsets)


class _Edge(NamedTuple):
    """Along an edge: ∫ A⁻¹b · dx, and the wind in its direction, where it is one of an axis."""

    pull: jax.Array
    wind: jax.Array


def _edge(coefficients, grid: Grid, t, points, offset: Offset, length: float = 1.0) -> _Edge:
    step = jnp.asarray(offset, points.dtype) * length
    spacing = grid.spacing
    look = _map_points(lambda x: _local(coefficients, t, x, spacing), grid)

    def node(place):
        return look(points + grid.as_points(place * step * spacing)).pull @ step

    places = jnp.asarray([(1 + node) / 2 for node in NODES], points.dtype)
    weights = jnp.asarray([weight / 2 for weight in WEIGHTS], points.dtype)
    pull = jnp.tensordot(weights, lax.map(node, places), 1)
    axes = [i for i, e in enumerate(offset) if e]
    if len(axes) > 1:
        return _Edge(pull, jnp.zeros_like(pull))
    return _Edge(pull, look(points + grid.as_points(0.5 * step * spacing)).wind @ jnp.sign(step))


def _rate_through_walls(coefficients, grid: Grid, t, points, along: Offset, weight, walls):
    """The rate of jumps by a vector that leads through a wall that absorbs; its edge ends at the wall."""
    axes = [i for i, e in enumerate(along) if e]
    whole = len(axes) > 1  # an edge across a corner is taken whole
    edge = _edge(coefficients, grid, t, points, along, 1.0 if whole else 0.5)
    rate = weight * bernoulli(-edge.pull) * (1 if whole else 2) + jnp.maximum(edge.wind, 0)
    through = jnp.zeros(grid.shape, bool)
    for axis in axes:
        if walls[axis][along[axis] > 0]:
            index = jnp.arange(grid.shape[axis]) + along[axis]
            out = (index >= grid.shape[axis]) if along[axis] > 0 else (index < 0)
            through |= out.reshape(tuple(-1 if i == axis else 1 for i in range(grid.dimensions)))
    return jnp.where(through, rate, 0)


def _map_points(function, grid: Grid):
    """A function of a point as one of an array of points (*shape, d)."""
    for _ in grid.shape:
        function = jax.vmap(function)
    return function


def _weights(coefficients, grid: Grid, t, offsets: tuple[Offset, ...]) -> jax.Array:
    """The weight of each vector at each cell, (E, *shape); NaN where a cell needs another vector."""
    matrices = _matrices(coefficients, grid, t)
    if grid.dimensions == 1:
        return matrices[None, ..., 0, 0]
    vectors, found = _map_points(decompose, grid)(matrices)
    weights, left = [], found
    for offset in offsets:
        step = jnp.asarray(offset, vectors.dtype)
        step = step.reshape((1,) * (vectors.ndim - 1) + (-1,))
        same = (vectors == step).all(-1) | (vectors == -step).all(-1)
        weights.append(jnp.where(same, found, 0).sum(-1))
        left = jnp.where(same, 0, left)
    known = left.sum(-1) <= 1e-9 * found.sum(-1)
    return jnp.where(known[None], jnp.stack(weights), jnp.nan)


def _matrices(coefficients, grid: Grid, t) -> jax.Array:
    spacing = grid.spacing
    at = lambda x: coefficients.diffusion(t, x) / jnp.outer(spacing, spacing)
    return _map_points(at, grid)(grid.points)


def used_offsets(coefficients: Coefficients, grid: Grid, t: Any) -> tuple[jax.Array, jax.Array]:
    """The vectors (*shape, 3, 2) that the cells of a grid of two coordinates use, and whether each is used."""
    vectors, found = _map_points(decompose, grid)(_matrices(coefficients, grid, t))
    return vectors, found > 1e-12 * found.sum(-1, keepdims=True)
