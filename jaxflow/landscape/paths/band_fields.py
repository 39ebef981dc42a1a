"""The forces on an elastic band as a vector field, for any optimizer and for flows."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._losses.models import Trainable
from jaxflow.games import VectorField
from jaxflow.landscape.paths.band_forces import Band, pull_on
from jaxflow.landscape.paths.ends import open_ends
from jaxflow.landscape.paths.path import dtype_of

PyTree = Any


def band_field(
    objective: Any, a: PyTree, b: PyTree, *, spring: Any, climb: bool = True, trainable: Trainable = None
) -> VectorField:
    r"""The forces on the inner images of an elastic band, in the place of a gradient.

    `neb` relaxes a band for you. With this field you can watch it: `iterate` moves the band by any optimizer and
    records it, and `integrate` with `gradient_flow` follows $\dot\theta_i = F_i$, its continuous limit, on the
    clock of gradient flow.

    **Arguments**

    - `objective`: an `Objective` or any differentiable function `loss(params) -> scalar`.
    - `a`, `b`: the ends, pytrees of one structure and shape, which stay where they are.
    - `spring` k: the stiffness of the springs, a number at least 0 in units of a curvature.
    - `climb`: whether the highest image climbs, where it is above both ends, from the start on (static).
    - `trainable`: what of the models moves, as in `iterate`.

    **Returns** a `VectorField` of stacked inner images, leaves (n − 2, …), whose value is the negative forces of
    `neb`. The straight line has such images: `jax.tree.map(lambda x: x[1:-1], interpolate(objective, a, b).params)`.

    **Raises** `TypeError` for an objective that is not a function, ends that are not real or not of one structure;
    `ValueError` for ends of different shapes, or a negative spring.

    Source: Henkelman & Jónsson 2000; Henkelman, Uberuaga & Jónsson 2000.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: (x[0] ** 2 - 1) ** 2 + 10 * (x[1] - 1 + x[0] ** 2) ** 2
    >>> a, b = jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.0])
    >>> flow = jf.dynamics.gradient_flow(jf.landscape.band_field(loss, a, b, spring=10.0))
    >>> run = jf.integrate(flow, jf.landscape.interpolate(loss, a, b, points=7).params[1:-1], [0.0, 3.0])
    >>> print(run.params[2].round(3))  # the saddle
    [0. 1.]
    """
    objective, first, last, _ = open_ends(objective, a, b, trainable)
    _check.require_nonnegative(spring=spring)
    if jax.tree_util.all_leaves([objective]):  # a plain function is no array
        objective = jax.tree_util.Partial(objective)
    return VectorField(_climbing if climb else _relaxing, (objective, first, last, spring))


def _climbing(inner: PyTree, objective: Any, first: PyTree, last: PyTree, spring: Any) -> PyTree:
    return _slope(inner, objective, first, last, spring, climb=True)


def _relaxing(inner: PyTree, objective: Any, first: PyTree, last: PyTree, spring: Any) -> PyTree:
    return _slope(inner, objective, first, last, spring, climb=False)


def _slope(inner: PyTree, objective: Any, first: PyTree, last: PyTree, spring: Any, climb: bool) -> PyTree:
    """The negative forces, shaped like the inner images."""
    flat, unravel = ravel_pytree(first)
    end = ravel_pytree(last)[0]
    dtype = dtype_of(first)
    value = lambda x: jnp.asarray(objective(unravel(x))).reshape(()).astype(dtype)
    images = jax.vmap(lambda tree: ravel_pytree(tree)[0])(inner)
    images = jnp.concatenate([flat[None], images, end[None]])
    places = jnp.linspace(0, 1, images.shape[0], dtype=dtype)
    ends = jnp.stack([value(flat), value(end)])
    band = Band(images, places, jnp.asarray(images.shape[0], jnp.int32), ends)
    pull = pull_on(
        jax.value_and_grad(value),
        band,
        jnp.asarray(spring).astype(dtype),
        jnp.ones([], bool) if climb else None,
    )
    return jax.vmap(unravel)(pull.slope)
