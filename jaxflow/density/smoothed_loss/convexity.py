"""Whether a descent from y points at a minimum, and how strongly, at each point of a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._gradients import gradient
from jaxflow._norms import norm
from jaxflow.curvature.products import real_parameters
from jaxflow.solve import Trajectory

PyTree = Any


class OnePointConvexity(NamedTuple):
    r"""How $-\nabla L(y)$ points at a target $y^*$, for points y along a run; leaves (…, T).

    - `constant`: $c = \langle -\nabla L(y), y^* - y \rangle / |y^* - y|^2$. L is c-one-point strongly convex about
      $y^*$ where this is at least c; then a step of descent of size η brings y nearer, by $1 - 2\eta c + O(\eta^2)$
      in the square of its distance. NaN at the target itself.
    - `cosine` of the angle between $-\nabla L(y)$ and $y^* - y$; NaN where either is 0.
    - `distance`: $|y^* - y|$.
    """

    constant: jax.Array
    cosine: jax.Array
    distance: jax.Array


def one_point_convexity(
    objective: Callable[[PyTree], jax.Array], points: Any, target: PyTree
) -> OnePointConvexity:
    r"""The one-point convexity of a loss about a target, at the points of a run.

    $c(y) = \langle -\nabla L(y), y^* - y \rangle / |y^* - y|^2$. Where the smoothed loss has c > 0 along the way, SGD
    goes to $y^*$ and stays about it, through minima of the loss that are not minima of the smoothed one.

    **Arguments**

    - `objective`: the loss, such as that of `smoothed`; or any function `loss(params) -> scalar`.
    - `points`: a `Trajectory` whose values are parameters (its default record), or an ensemble of them; or a pytree
      like the parameters with leading axes, the same for each leaf.
    - `target` $y^*$: a pytree like the parameters, such as the `params` at the end of a run.

    **Returns** a `OnePointConvexity`, its leaves with the leading axes of the points. It costs a gradient for each,
    one after another. It is compiled when called plainly, and works under `jit` and `vmap`.

    **Raises** `TypeError` for an objective that is not callable or numbers that are not real; `ValueError` for points
    that are not stacks of parameters like the target.

    Source: Kleinberg, Li & Yuan 2018, 1802.06175.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> from jaxflow.density import one_point_convexity
    >>> run = jf.iterate(jf.optim.gd(0.5), lambda x: jnp.sum(x**2) + x[0] ** 2, jnp.ones(2), steps=1)
    >>> print(one_point_convexity(lambda x: jnp.sum(x**2) + x[0] ** 2, run, jnp.zeros(2)).constant.round(3))
    [3. 4.]
    """
    if not callable(objective):
        raise TypeError(f"objective must be an Objective or a function of the parameters, got {objective!r}.")
    values = points.values if isinstance(points, Trajectory) else points
    target, values = real_parameters(target, "target"), real_parameters(values, "points")
    first = jax.tree.leaves(target)[0], jax.tree.leaves(values)[0]
    axes = np.ndim(first[1]) - np.ndim(first[0])
    if axes < 1:
        raise ValueError(
            "points must be stacks of parameters like target, which has leaves of shapes "
            f"{_check.leaf_shapes(target)}, got {_check.leaf_shapes(values)}."
        )
    stack = np.shape(first[1])[:axes]
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*stack, *leaf.shape), leaf.dtype), target)
    _check.require_like("points", values, like, "be stacks of parameters like target")
    return _one_point_convexity(objective, values, target, axes=axes)


@compiled(static=("axes",))
def _one_point_convexity(objective, points, target, axes: int) -> OnePointConvexity:
    stack = jax.tree.leaves(points)[0].shape[:axes]

    def at(y):
        slope = gradient(objective)(y)
        way = jax.tree.map(lambda end, y: end - y.astype(end.dtype), target, y)
        products = [
            jnp.sum(-g * w) for g, w in zip(jax.tree.leaves(slope), jax.tree.leaves(way), strict=True)
        ]
        along, length = jnp.stack(products).sum(), norm(way)
        divide = lambda x, y: jnp.where(y > 0, x / jnp.where(y > 0, y, 1), jnp.nan)
        return OnePointConvexity(divide(along, length**2), divide(along, length * norm(slope)), length)

    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[axes:]), points)
    return jax.tree.map(lambda x: x.reshape(stack), lax.map(at, rows))
