"""Losses along one direction or two: a slice of a landscape."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._completion import complete
from jaxflow._losses.models import Rest, Trainable, join_model, split_model
from jaxflow.curvature.products import check_objective, real_parameters
from jaxflow.landscape.paths.path import dtype_of
from jaxflow.landscape.slices.directions import Directions
from jaxflow.landscape.slices.grids import evaluate, point_at
from jaxflow.landscape.slices.spans import coordinates_of, counts_of

PyTree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False, eq=False)
class Slice:
    r"""The losses $L(\theta_0 + x_1 d_1 + x_2 d_2)$ on a grid of coordinates, as `slice` returns them.

    - `center`: the parameters θ₀; for a model with `None` in the place of what is not trained. `slice[x1, x2]` is
      the whole model at coordinates.
    - `directions`: the `Directions` d.
    - `coordinates`: a tuple with the coordinates along each direction, (n₁,) and (n₂,).
    - `losses` (n₁,) or (n₁, n₂): the losses; the first axis goes along the first direction.
    - `rest`: what of a model is not trained.

    It is a pytree.
    """

    center: PyTree
    directions: Directions
    coordinates: tuple[jax.Array, ...]
    losses: jax.Array
    rest: Rest | None = None

    def __getitem__(self, at: Any) -> PyTree:
        """The parameters, or the whole model, at coordinates: one number, or one for each direction."""
        at = jnp.stack([jnp.asarray(x, self.losses.dtype) for x in (at if isinstance(at, tuple) else (at,))])
        if at.shape != (len(self.coordinates),):
            raise ValueError(
                f"A slice is indexed by {len(self.coordinates)} coordinates, one for each direction, got {at.size}."
            )
        return join_model(point_at(self.center, self.directions.vectors, at), self.rest)

    def __repr__(self):
        shape = " × ".join(str(np.shape(x)[-1]) for x in self.coordinates)
        if isinstance(self.losses, Tracer) or np.ndim(self.losses) != len(self.coordinates):
            return f"Slice({shape} points)"
        finite = np.asarray(self.losses)[np.isfinite(self.losses)]
        height = f"losses from {finite.min():.6g} to {finite.max():.6g}" if finite.size else "no finite loss"
        lost = np.size(self.losses) - finite.size
        return f"Slice({shape} points, {height}{f', {lost} not finite' if lost else ''}; {self.directions.message})"


def slice(
    objective: Any,
    params: PyTree,
    directions: Directions | PyTree,
    span: Any = None,
    points: int | tuple[int, ...] = 51,
    *,
    trainable: Trainable = None,
    progress: bool = False,
) -> Slice:
    r"""Evaluate a loss on a line or a plane through parameters: $L(\theta_0 + x_1 d_1 + x_2 d_2)$ on a grid.

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`, such as the score of a problem, a loss on
      other data or an eigenvalue. It needs no derivative.
    - `params` θ₀: a pytree whose real arrays are trained, the point that the slice goes through: dictionaries of
      arrays, Equinox modules, flax parameters.
    - `directions`: one or two `Directions`, or a pytree like the parameters with leaves (1, …) or (2, …).
    - `span`: how far the slice goes along its directions, in units of them: a number s for −s to s, a pair (low,
      high), or one of these for each direction, as a list. Default: that of the directions, ±1 for normalised random
      ones.
    - `points`: the number of points along each direction, an integer at least 2, or a pair of them (static).
    - `trainable`: what of `params` is trained, as in `iterate`. It must be the part that the directions have.
    - `progress`: whether to show a bar. Ctrl-C then ends the slice with a warning; losses not yet evaluated are NaN.

    **Returns** a `Slice`. Points are evaluated 16 at a time, 32 in float32, or fewer where their largest array would
    take more than a 64th of the memory, so that its memory does not grow with their number. What is affine in the
    coordinates, such as a first layer applied to data, is computed once for all points. They are spread over all
    local devices, unless the data or parameters already lie on several. It is compiled when called plainly, and works
    under `jit` and `vmap`.

    **Raises** `TypeError` for an objective that is not a function, parameters that are not real, or directions of
    another structure; `ValueError` for directions of other shapes or more than two of them, a span that is missing,
    not finite or empty, fewer than two points, or an objective that does not return a scalar.

    Source: Goodfellow, Vinyals & Saxe 2015, 1412.6544; Li, Xu, Taylor, Studer & Goldstein 2018, 1712.09913.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> plane = jf.landscape.slice(lambda x: x[0] ** 2 - x[1] ** 2, jnp.zeros(2), jnp.eye(2), span=1.0, points=3)
    >>> print(plane.losses)
    [[ 0.  1.  0.]
     [-1.  0. -1.]
     [ 0.  1.  0.]]
    """
    check_objective(objective)
    trained, rest = split_model(params, trainable)
    trained = real_parameters(trained)
    directions = _check_like(directions, trained)
    counts = counts_of(points, len(directions))
    coordinates = coordinates_of(span, directions, counts, dtype_of(trained))
    given = objective if rest is None else complete(objective, rest)
    losses = evaluate(given, trained, directions.vectors, coordinates, progress)
    return Slice(trained, directions, coordinates, losses, rest)


@compiled
def _lengths(vectors: PyTree) -> jax.Array:
    square = [jnp.sum(x**2, tuple(range(1, x.ndim))) for x in jax.tree.leaves(vectors)]
    dtype = jnp.result_type(*square)
    return jnp.sqrt(jnp.stack([x.astype(dtype) for x in square]).sum(0))


def _check_like(directions: Any, params: PyTree) -> Directions:
    """The directions, checked to be one or two like the parameters."""
    if not isinstance(directions, Directions):
        vectors = real_parameters(directions, "directions")
        sizes = {shape[0] if shape else 0 for shape in _check.leaf_shapes(vectors)}
        if len(sizes) != 1:
            raise ValueError(
                "directions must be Directions, or have leaves (k, …) with one k, got leaves of shapes "
                f"{_check.leaf_shapes(vectors)}."
            )
        directions = Directions(vectors, "given", _lengths(vectors))
    if len(directions) not in (1, 2):
        raise ValueError(f"directions must be one or two, got {len(directions)}.")
    first = jax.tree.map(lambda x: x[0], directions.vectors)
    _check.require_like(
        "directions", first, params, "be like params", "have the shapes of params", structures=TypeError
    )
    return directions
