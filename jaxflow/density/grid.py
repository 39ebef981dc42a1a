"""A grid of cells over one or two coordinates, and densities on it: arrays of averages over cells."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow import _check
from jaxflow._compiled import compiled

MOST = 2  # coordinates


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Grid:
    r"""Equal cells over an interval or a rectangle. A density on it is an array of averages over its cells.

    A density p has the shape of the grid, is not negative, and $\sum_i p_i\,v = 1$ with the volume v of a cell. Its
    values at the middles of the cells, which `gaussian` takes, differ from averages by $h^2 p''/24$.
    `fokker_planck` moves a density of either kind to one of the same kind.

    **Arguments**

    - `low`, `high`: the ends of the interval, two numbers; or those of the rectangle, two pairs of numbers. They may
      be traced.
    - `shape`: the number of cells, an integer or a pair of integers at least 2 (static).

    **Raises** `ValueError` for more than two coordinates, `low` ≥ `high`, fewer than two cells or lengths that
    differ; `TypeError` for a number of cells that is not an integer. Beyond two coordinates a grid has too many
    cells: `jaxflow.density.ou_limit` gives the law at a minimum, and `jaxflow.ensemble` a sample of any.

    >>> import jaxflow as jf
    >>> grid = jf.density.Grid(-2.0, 2.0, 4)
    >>> print(grid.centers(0), grid.volume)
    [-1.5 -0.5  0.5  1.5] 1.0
    >>> jf.density.Grid((-1, -2), (1, 2), (10, 20))
    Grid(low=[-1. -2.], high=[1. 2.], shape=(10, 20))
    """

    low: jax.Array
    high: jax.Array
    shape: tuple[int, ...]

    def __init__(self, low: Any, high: Any, shape: Any):
        cells = shape if isinstance(shape, (tuple, list)) else (shape,)
        for number in cells:
            _check.require_integer("shape", number, 2)
        if len(cells) > MOST:
            raise ValueError(
                f"shape must be of one or two coordinates, got {tuple(cells)!r}: beyond two, ou_limit gives the law "
                "at a minimum, and jaxflow.ensemble a sample of any law."
            )
        bounds = {}
        for name, value in {"low": low, "high": high}.items():
            value = jnp.asarray(value, float)
            if value.shape not in ((), (len(cells),)):
                raise ValueError(f"{name} must be one number for each of {len(cells)} axes, got {value}.")
            bounds[name] = jnp.broadcast_to(value, len(cells))
        if not any(isinstance(bound, Tracer) for bound in bounds.values()):
            ends = {name: np.asarray(bound) for name, bound in bounds.items()}
            if not (ends["low"] < ends["high"]).all() or not np.isfinite([*ends.values()]).all():
                raise ValueError(
                    f"high must be finite and above low, got {ends['high']} above {ends['low']}."
                )
        for name, bound in bounds.items():
            object.__setattr__(self, name, bound)
        object.__setattr__(self, "shape", tuple(int(number) for number in cells))

    def tree_flatten_with_keys(self):
        keys = map(jax.tree_util.GetAttrKey, ("low", "high"))
        return tuple(zip(keys, (self.low, self.high), strict=True)), self.shape

    @classmethod
    def tree_unflatten(cls, shape, bounds):
        """A grid whose bounds were checked when it was made, or are not numbers now."""
        grid = object.__new__(cls)
        for name, value in zip(("low", "high", "shape"), (*bounds, shape), strict=True):
            object.__setattr__(grid, name, value)
        return grid

    @property
    def dimensions(self) -> int:
        """The number of coordinates, 1 or 2."""
        return len(self.shape)

    @property
    def spacing(self) -> jax.Array:
        """The width of a cell along each axis, (d,)."""
        return (self.high - self.low) / jnp.asarray(self.shape, self.low.dtype)

    @property
    def volume(self) -> jax.Array:
        """The length or the area of a cell; a scalar."""
        return jnp.prod(self.spacing)

    def centers(self, axis: int) -> jax.Array:
        """The middles of the cells along an axis, (n,)."""
        places = jnp.arange(self.shape[axis], dtype=self.low.dtype) + 0.5
        return self.low[axis] + places * self.spacing[axis]

    @property
    def points(self) -> jax.Array:
        """The middle of every cell, shape (*shape, d)."""
        return _points(self)

    def mass(self, density: Any) -> jax.Array:
        """What a density integrates to, 1 where nothing has left; a scalar."""
        return jnp.sum(self.as_density(density)) * self.volume

    def mean(self, density: Any, values: Any = None) -> jax.Array:
        """The mean of an array of values at the cells, shape (*shape, …), by default of the coordinates: (d,)."""
        return _mean(self, self.as_density(density), values)

    def covariance(self, density: Any) -> jax.Array:
        """The covariance matrix of the coordinates under a density, (d, d)."""
        return _covariance(self, self.as_density(density))

    def as_points(self, vector: Any) -> jax.Array:
        """A vector (d,), to be broadcast over all points, (1, …, d)."""
        return jnp.reshape(vector, (1,) * self.dimensions + (-1,))

    def at_walls(self, density: Any) -> jax.Array:
        """The mass in the outermost cells; a scalar. Above 1e-7 the grid is too small for the density."""
        inside = self.as_density(density)[(slice(1, -1),) * self.dimensions]
        return self.mass(density) - jnp.sum(inside) * self.volume

    def as_density(self, density: Any) -> jax.Array:
        """An array, refused unless it has the shape of the grid."""
        density = jnp.asarray(density)
        if density.shape != self.shape:
            raise ValueError(f"density must have the shape of the grid, {self.shape}, got {density.shape}.")
        return density.astype(self.low.dtype)

    def __repr__(self):
        ends = ", ".join(f"{name}={_show(getattr(self, name))}" for name in ("low", "high"))
        return f"Grid({ends}, shape={self.shape})"


def _show(bound: Any) -> str:
    return (
        f"<{np.shape(bound)}>" if isinstance(bound, Tracer) or np.ndim(bound) != 1 else str(np.asarray(bound))
    )


@compiled
def _points(grid: Grid) -> jax.Array:
    return jnp.stack(jnp.meshgrid(*map(grid.centers, range(grid.dimensions)), indexing="ij"), -1)


@compiled
def _mean(grid: Grid, density: jax.Array, values: Any) -> jax.Array:
    values = grid.points if values is None else jnp.asarray(values)
    weights = density * grid.volume
    return jnp.tensordot(weights, values.astype(weights.dtype), grid.dimensions)


@compiled
def _covariance(grid: Grid, density: jax.Array) -> jax.Array:
    away = grid.points - grid.as_points(_mean(grid, density, None))
    return _mean(grid, density, away[..., :, None] * away[..., None, :])


def gaussian(grid: Grid, mean: Any, covariance: Any) -> jax.Array:
    r"""A normal density on a grid, scaled to mass 1 there.

    **Arguments**

    - `grid`: a `Grid`.
    - `mean`: a number, or one for each axis.
    - `covariance`: the variance, a number above 0, or a positive definite matrix (2, 2).

    **Returns** a density, an array of the shape of the grid. Its values at the middles of the cells stand for the
    averages, which differ by a relative h²/24σ².

    **Raises** `ValueError` for a covariance that is not positive definite, or of another shape, or a mean outside the
    grid.

    >>> import jaxflow as jf
    >>> grid = jf.density.Grid(-5.0, 5.0, 100)
    >>> p = jf.density.gaussian(grid, 1.0, 0.25)
    >>> print(grid.mean(p).round(4), grid.covariance(p).round(4))
    [1.] [[0.25]]
    """
    size = grid.dimensions
    mean = jnp.broadcast_to(jnp.asarray(mean, grid.low.dtype), size)
    covariance = jnp.asarray(covariance, grid.low.dtype)
    if covariance.ndim == 0:
        covariance = covariance * jnp.eye(size, dtype=covariance.dtype)
    if covariance.shape != (size, size):
        raise ValueError(f"covariance must be a number or have shape {(size, size)}, got {covariance.shape}.")
    found = _check.values(covariance)
    if found is not None and not (np.linalg.eigvalsh(found) > 0).all():
        raise ValueError(f"covariance must be positive definite, got {found.tolist()}.")
    low, middle, high = (_check.values(x) for x in (grid.low, mean, grid.high))
    if low is not None and middle is not None and high is not None:
        inside = (low <= middle) & (middle <= high)
        _check.require("mean", middle.tolist(), bool(inside.all()), f"inside the grid, {grid}")
    return _gaussian(grid, mean, covariance)


@compiled
def _gaussian(grid: Grid, mean: jax.Array, covariance: jax.Array) -> jax.Array:
    away = grid.points - grid.as_points(mean)
    scaled = jnp.einsum("...i,ij,...j", away, jnp.linalg.inv(covariance), away)
    weights = jnp.exp(-0.5 * (scaled - jnp.min(scaled)))
    return weights / (jnp.sum(weights) * grid.volume)


def histogram(values: Any, grid: Grid, *, spread: bool = False) -> jax.Array:
    r"""The density of a sample, such as the records of an ensemble at one time.

    **Arguments**

    - `values`: a sample of n points, shape (n,) or (n, d). Points that are not finite, as of runs that diverged, and
      points outside the grid are counted among the n, so that the mass of the result tells how many there are.
    - `grid`: a `Grid` of d coordinates.
    - `spread`: whether a point is shared out between the cells whose middles surround it, in proportion to nearness
      ("cloud in cell", static). The mean is then exact, the variance too large by h²/6 at most, and the noise less.

    **Returns** a density, an array of the shape of the grid; its mass is the share of points within the grid.

    **Raises** `ValueError` for a sample of another shape; `TypeError` for values that are not numbers.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> grid = jf.density.Grid(0.0, 4.0, 4)
    >>> print(jf.density.histogram(jnp.array([0.5, 2.2, 2.8, 9.0]), grid))
    [0.25 0.   0.5  0.  ]
    >>> print(jf.density.histogram(jnp.array([1.0]), grid, spread=True))
    [0.5 0.5 0.  0. ]
    """
    values = jnp.asarray(values)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] != grid.dimensions or not values.shape[0]:
        raise ValueError(
            f"values must have shape (n, {grid.dimensions}) for this grid, with n at least 1, got {values.shape}."
        )
    return _histogram(values, grid, spread=bool(spread))


@compiled(static=("spread",))
def _histogram(values: jax.Array, grid: Grid, spread: bool) -> jax.Array:
    places = (values.astype(grid.low.dtype) - grid.low[None]) / grid.spacing[None]
    inside = (places >= 0) & (places <= jnp.asarray([grid.shape], places.dtype))
    weight = jnp.where(inside.all(1), 1 / values.shape[0], 0).astype(places.dtype)
    places = jnp.where(inside, places, 0)
    total = jnp.zeros(grid.shape, places.dtype)
    if not spread:
        cell = [jnp.minimum(places[:, i].astype(int), n - 1) for i, n in enumerate(grid.shape)]
        return total.at[tuple(cell)].add(weight) / grid.volume
    below = jnp.floor(places - 0.5)
    above = places - 0.5 - below
    for corner in np.ndindex(*(2,) * grid.dimensions):
        cell, share = [], weight
        for i, step in enumerate(corner):
            cell.append(jnp.clip(below[:, i].astype(int) + step, 0, grid.shape[i] - 1))
            share = share * (above[:, i] if step else 1 - above[:, i])
        total = total.at[tuple(cell)].add(share)
    return total / grid.volume


def l1_distance(p: Any, q: Any, grid: Grid) -> jax.Array:
    r"""$\int |p - q|$, the L1 distance of two densities: 0 where they are equal, 2 where they do not overlap.

    **Arguments**

    - `p`, `q`: densities on the grid.
    - `grid`: their `Grid`.

    **Returns** a scalar.

    **Raises** `ValueError` for an array of another shape than the grid's; `TypeError` for densities that are not
    numbers.

    >>> import jaxflow as jf
    >>> grid = jf.density.Grid(-9.0, 9.0, 200)
    >>> left, right = jf.density.gaussian(grid, -4.0, 0.1), jf.density.gaussian(grid, 4.0, 0.1)
    >>> print(jf.density.l1_distance(left, right, grid).round(4))
    2.0
    """
    return jnp.sum(jnp.abs(grid.as_density(p) - grid.as_density(q))) * grid.volume
