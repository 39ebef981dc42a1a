"""Where a run is on a slice, and how much of its motion the slice holds."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow._compiled import compiled
from jaxflow.landscape.slices.directions import random_walk_shares
from jaxflow.landscape.slices.planes import Slice
from jaxflow.landscape.slices.records import records_of, rows

SINGULAR = 1e-6  # of the largest norm of a direction: what is below counts as 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False, eq=False)
class Projection:
    r"""A run on a slice, as `project` finds it.

    - `coordinates` (T, k): the coordinates of the nearest point of the slice to each record.
    - `distances` (T,): the distance from that point to the record.
    - `share`: the share of the variance of the records that their projections have, from 0 to 1.
    - `random_walk`: for principal directions, the share that a random walk with the same number of records would
      have; otherwise 0.
    - `principal`: whether the directions are principal; static.

    It is a pytree.
    """

    coordinates: jax.Array
    distances: jax.Array
    share: jax.Array
    random_walk: jax.Array
    principal: bool = field(default=False, metadata={"static": True})

    @property
    def message(self) -> str:
        """How much of the motion is seen on the slice, and what that is worth."""
        where = "line" if self.coordinates.shape[-1] == 1 else "plane"
        said = (
            f"the {where} holds {float(self.share):.3g} of the motion; the largest distance from it is "
            f"{float(np.max(self.distances, where=~np.isnan(self.distances), initial=0)):.3g}"
        )
        if self.principal:
            said += (
                f"; principal directions flatter a path: a random walk of as many records would have "
                f"{float(self.random_walk):.2g} of its motion in its own"
            )
        return said

    def __repr__(self):
        if isinstance(self.share, Tracer) or not hasattr(self.share, "shape") or np.ndim(self.share):
            return f"Projection(coordinates of shape {np.shape(self.coordinates)})"
        finite = int(np.isfinite(self.distances).sum())
        return f"Projection({finite} records; {self.message})"


def project(trajectory: Any, slice: Slice) -> Projection:
    r"""Project a run onto the line or the plane of a slice, and tell how much of its motion the slice holds.

    The coordinates of a record θ minimise $|\theta - \theta_0 - \sum_i x_i d_i|$. The share of the
    motion is $\sum_t |p_t - \bar p|^2 / \sum_t |\theta_t - \bar\theta|^2$, where p is the projection and the bar is
    the mean over records.

    **Arguments**

    - `trajectory`: a `Trajectory` that records parameters, also one with members, whose records follow one another; a
      `Path`; or a pytree of parameters, leaves (T, …).
    - `slice`: what `slice` returned. A slice with other directions through the same parameters is another plane.

    **Returns** a `Projection`. Records that are not finite have coordinates NaN and do not count. It is compiled when
    called plainly, and works under `jit` and `vmap`.

    **Raises** `TypeError` when `slice` is not a slice, or for records that are not like its parameters;
    `ValueError` for records of other shapes.

    Source: Li, Xu, Taylor, Studer & Goldstein 2018, 1712.09913.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: x[0] ** 2 + 10 * x[1] ** 2
    >>> line = jf.landscape.slice(loss, jnp.zeros(2), jf.landscape.between(jnp.zeros(2), jnp.array([1.0, 0.0])))
    >>> jf.landscape.project(jnp.array([[0.0, 0.0], [2.0, 1.0]]), line)
    Projection(2 records; the line holds 0.8 of the motion; the largest distance from it is 1)
    """
    if not isinstance(slice, Slice):
        raise TypeError(f"slice must be what jaxflow.landscape.slice returns, got {type(slice).__name__}.")
    values = records_of(trajectory, slice.center)
    directions = slice.directions
    coordinates, distances, share = _project(values, slice.center, directions.vectors)
    principal = directions.kind == "principal"
    walk = random_walk_shares(directions.records, len(directions)).sum() if principal else 0.0
    return Projection(coordinates, distances, share, jnp.asarray(walk, share.dtype), principal)


@compiled
def _project(values, center, vectors):
    matrix, basis = rows(values), rows(vectors)
    here = matrix - rows(jax.tree.map(lambda x: x[None], center))
    finite = jnp.isfinite(here).all(1)
    here = jnp.where(finite[:, None], here, 0)
    # Directions of any lengths and angles, of which one may be 0.
    gram = basis @ basis.T
    coordinates = here @ basis.T @ jnp.linalg.pinv(gram, rtol=SINGULAR**2, hermitian=True)
    projected = coordinates @ basis
    distances = jnp.sqrt(jnp.sum((here - projected) ** 2, 1))
    number = jnp.maximum(finite.sum(), 1).astype(here.dtype)

    def variance(x):
        middle = jnp.where(finite[:, None], x - x.sum(0, keepdims=True) / number, 0)
        return jnp.sum(middle**2)

    whole = variance(here)
    share = jnp.where(whole > 0, variance(projected) / jnp.where(whole > 0, whole, 1), 1)
    lost = lambda x: jnp.where(finite.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.nan)
    return lost(coordinates), lost(distances), share
