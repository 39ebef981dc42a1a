"""Straight lines between two sets of parameters, and more points on any path."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._completion import complete
from jaxflow._losses.models import Trainable, split_model
from jaxflow.curvature.products import check_objective, real_parameters
from jaxflow.landscape.paths.ends import open_ends
from jaxflow.landscape.paths.path import Path, dtype_of, losses_at, make_path, slopes_at_ends

PyTree = Any


def interpolate(
    objective: Any, a: PyTree, b: PyTree, *, points: int = 51, trainable: Trainable = None
) -> Path:
    r"""Evaluate a loss on the straight line $\theta(t) = (1 - t)\,a + t\,b$ and measure its barrier.

    The barrier is $\max_t L(\theta(t)) - (1-t) L(a) - t L(b)$. Two solutions without a barrier, up to the noise of
    training, are linearly mode connected.

    **Arguments**

    - `objective`: an `Objective` or any differentiable function `loss(params) -> scalar`.
    - `a`, `b`: the ends, pytrees of one structure and of one shape: dictionaries of arrays, Equinox modules, flax
      parameters. The parts of a model that are not trained are taken from `a`.
    - `points` n: the number of points, both ends included; an integer at least 3 (static). They are evenly spaced.
    - `trainable`: what of the models moves, as in `iterate`; the rest is that of `a`.

    **Returns** a `Path`. It is compiled when called plainly, works under `jit`, `vmap` and `grad`, and evaluates
    eight points at a time. Ends need not be minima: the norms of the gradient there are in `gradients`.

    **Raises** `TypeError` for an objective that is not a function, ends that are not real or not of one structure;
    `ValueError` for ends of different shapes or `points` < 3.

    Source: Goodfellow, Vinyals & Saxe 2015, 1412.6544; the barrier: Frankle, Dziugaite, Roy & Carbin 2020,
    1912.05671.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> path = jf.landscape.interpolate(lambda x: (x**2 - 1) ** 2, -1.0, 1.0)
    >>> print(path.barrier)
    1.0
    """
    _check.require_integer("points", points, 3)
    objective, first, last, rest = open_ends(objective, a, b, trainable)
    return replace(_interpolate(objective, first, last, points=int(points)), rest=rest)


@compiled(static=("points",))
def _interpolate(objective, first, last, points: int) -> Path:
    line = straight_line(first, last, points)
    slopes = slopes_at_ends(objective, first, last)
    return make_path(line, losses_at(objective, line), slopes, evaluations=points + 2)


@compiled(static=("points",))
def straight_line(first: PyTree, last: PyTree, points: int) -> PyTree:
    """Evenly spaced points from one end to the other; the ends are exact."""
    t = jnp.linspace(0, 1, points)

    def between(x, y):
        share = t.astype(x.dtype).reshape(-1, *[1] * x.ndim)
        inner = (1 - share) * x[None] + share * y[None]
        return jnp.concatenate([x[None], inner[1:-1], y[None]])

    return jax.tree.map(between, first, last)


def path_through(objective: Any, points: PyTree, *, trainable: Trainable = None) -> Path:
    r"""Evaluate a loss at given points one after another, such as the records of a run or the images of a band.

    **Arguments**

    - `objective`: an `Objective` or any differentiable function `loss(params) -> scalar`.
    - `points`: a pytree of stacked parameters, leaves (n, …) with n at least 2.
    - `trainable`: what of a model moves, as in `iterate`; only this is stacked.

    **Returns** a `Path` from the first point to the last. It is compiled when called plainly, and works under `jit`
    and `vmap`.

    **Raises** `TypeError` for an objective that is not a function or points that are not real; `ValueError` for
    leaves that differ in n, or n < 2.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> run = jf.iterate(jf.optim.gd(0.25), lambda x: x**2, 2.0, steps=2)
    >>> path = jf.landscape.path_through(lambda x: x**2, run.values)
    >>> print(path.losses, path.arclength)
    [4. 1. 0.25] [0. 1. 1.5]
    """
    check_objective(objective)
    trained, rest = split_model(points, trainable)
    trained = real_parameters(trained, "points")
    shapes = _check.leaf_shapes(trained)
    sizes = {shape[0] if shape else 0 for shape in shapes}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(
            f"points must have leaves (n, …) with one n at least 2, got leaves of shapes {shapes}."
        )
    given = objective if rest is None else complete(objective, rest)
    return replace(_evaluate_through(given, trained), rest=rest)


@compiled
def _evaluate_through(objective, points) -> Path:
    first, last = (jax.tree.map(lambda x, i=i: x[i], points) for i in (0, -1))
    slopes = slopes_at_ends(objective, first, last)
    losses = losses_at(objective, points)
    return make_path(points, losses, slopes, evaluations=losses.shape[0] + 2)


def refine(objective: Any, path: Path, between: int = 9) -> Path:
    r"""Evaluate a loss densely along the straight lines between the points of a path.

    A band of few images knows its barrier at its images only. Between two of them the loss may be higher.

    **Arguments**

    - `objective`: the objective of the path.
    - `path`: a `Path` with n points, such as `neb` returns.
    - `between` m: the number of points that are added between every two neighbours, evenly spaced; an integer at
      least 1 (static).

    **Returns** a `Path` of n + (n − 1) m points, among them those of the path, with their barrier and saddle. It says
    how the given path was found, and counts the evaluations of both. It is compiled when called plainly, and works
    under `jit` and `vmap`.

    **Raises** `TypeError` for an objective that is not a function or a `path` that is not one; `ValueError` for
    `between` < 1.

    Source: Draxler, Veschgini, Salmhofer & Hamprecht 2018, 1803.00885, who evaluate nine points between pivots.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> line = jf.landscape.interpolate(lambda x: -(x**4), -1.0, 2.0, points=3)
    >>> print(line.saddle, jf.landscape.refine(lambda x: -(x**4), line, between=5).saddle)
    -0.0625 0.0
    """
    check_objective(objective)
    if not isinstance(path, Path):
        raise TypeError(f"path must be a Path, such as neb returns, got {path!r}.")
    _check.require_integer("between", between, 1)
    given = objective if path.rest is None else complete(objective, path.rest)
    return replace(_refine(given, replace(path, rest=None), between=int(between)), rest=path.rest)


@compiled(static=("between",))
def _refine(objective, path: Path, between: int) -> Path:
    shares = jnp.arange(between + 1) / (between + 1)

    def fill(x):
        share = shares.astype(x.dtype).reshape(1, -1, *[1] * (x.ndim - 1))
        inner = x[:-1, None] + share * (x[1:] - x[:-1])[:, None]
        return jnp.concatenate([inner.reshape(-1, *x.shape[1:]), x[-1:]])

    points = jax.tree.map(fill, path.params)
    return make_path(
        points,
        losses_at(objective, points).astype(dtype_of(points)),
        path.gradients,
        evaluations=path.evaluations + len(path) + (len(path) - 1) * between,
        status=path.status,
        residual=path.residual,
    )
