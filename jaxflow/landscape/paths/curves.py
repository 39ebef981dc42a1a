"""Curves of low loss: Bézier curves and polygonal chains whose bends are trained at random points."""

from dataclasses import replace
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._losses.models import Trainable
from jaxflow._traceable import traceable
from jaxflow.landscape.paths.ends import open_ends
from jaxflow.landscape.paths.path import TRAINED, Path, losses_at, make_path, slopes_at_ends
from jaxflow.landscape.paths.straight import straight_line
from jaxflow.optim import adam
from jaxflow.solve import Draws, Estimator, full_batch, iterate, with_replacement

PyTree = Any


def curve(
    objective: Any,
    a: PyTree,
    b: PyTree,
    *,
    key: jax.Array,
    kind: str = "bezier",
    bends: int = 1,
    optimizer: optax.GradientTransformation | None = None,
    steps: int = 1000,
    draws: int = 1,
    batch_size: int | None = None,
    estimator: Estimator | None = None,
    points: int = 51,
    trainable: Trainable = None,
) -> Path:
    r"""Train a curve between two minima to have a low mean loss, $\min_\theta E_{t \sim U(0,1)} L(\phi_\theta(t))$.

    A Bézier curve with one bend is $\phi(t) = (1-t)^2 a + 2t(1-t)\,\theta + t^2 b$; with m bends it has degree m + 1.
    A polygonal chain joins a, its m bends and b by straight lines, of equal length in t. At every step the gradient
    in the bends is taken at fresh random points on the curve. The bends begin evenly spaced on the straight line.

    **Arguments**

    - `objective`: an `Objective` or any differentiable function `loss(params) -> scalar`. The state of a model stays
      as it is given there: averages of batch normalisation are not those of the points on the curve.
    - `a`, `b`: the ends, pytrees of one structure and shape, which stay where they are.
    - `key`: the random key of the points, and of the mini-batches.
    - `kind`: `"bezier"` or `"polychain"`.
    - `bends` m: the number of bends, an integer at least 1 (static).
    - `optimizer`: any optimizer, for a stack (m, …) of the bends. Default: `adam(0.01)`.
    - `steps`: the number of steps, an integer at least 1.
    - `draws`: the number of points on the curve at each step, an integer at least 1 (static). The interval (0, 1)
      is divided into this number of equal parts, and one point lies in each.
    - `batch_size`: the number of examples that each step draws with replacement. Default: all data.
    - `estimator`: another way to draw them, as in `iterate`.
    - `points`: the number of points, even in t, of the path that is returned; an integer at least 3 (static).
    - `trainable`: what of the models moves, as in `iterate`; the rest is that of `a`.

    **Returns** a `Path` of points on the curve. `evaluations` counts the gradients on the curve, of a batch each, and
    the losses at the end. Where training diverged all points but the ends are lost. It is compiled when called
    plainly, once for all numbers, and works under `jit` and `vmap`.

    **Raises** `TypeError` for an objective that is not a function, ends that are not real or not of one structure;
    `ValueError` for ends of different shapes, an unknown kind, `bends`, `draws` or `steps` < 1, `points` < 3; and
    what `iterate` raises for mini-batches.

    Source: Garipov, Izmailov, Podoprikhin, Vetrov & Wilson 2018, 1802.10026.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> ring = lambda x: (jnp.sum(x**2) - 1) ** 2 + 0.1 * x[1]  # the lower half is lower
    >>> a, b = jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.0])
    >>> path = jf.landscape.curve(ring, a, b, key=jax.random.key(0), optimizer=jf.optim.gd(0.1))
    >>> print(path.barrier < 0.1, jf.landscape.interpolate(ring, a, b).barrier)
    True 1.0
    """
    _check.require_choice("kind", kind, ("bezier", "polychain"))
    for name, value in (("bends", bends), ("draws", draws)):
        _check.require_integer(name, value, 1)
    _check.require_integer("points", points, 3)
    key = _check.random_key(key)
    given, first, last, rest = open_ends(objective, a, b, trainable)
    if batch_size is not None and estimator is not None:
        raise ValueError(f"batch_size must be None where an estimator is given, got {batch_size!r}.")
    inner = estimator if batch_size is None else with_replacement(batch_size)
    inner = full_batch() if inner is None else inner
    if not isinstance(inner, Estimator):
        raise TypeError(f"estimator must be one of jaxflow.solve, such as epochs(32), got {inner!r}.")
    start = jax.tree.map(lambda x: x[1:-1], straight_line(first, last, bends + 2))
    run = iterate(
        adam(0.01) if optimizer is None else optimizer,
        given,
        start,
        steps=steps,
        time_step=1.0,
        estimator=_on_curve(first, last, inner, kind=kind, draws=int(draws)),
        key=key,
        every=None,
        record=_record_nothing,
    )
    path = _evaluate(given, first, last, run.params, run.steps * draws, kind=kind, points=int(points))
    return replace(path, rest=rest)


def _record_nothing(bends: PyTree) -> tuple:
    """A record of nothing: the bends are wanted at the end only."""
    del bends
    return ()


@traceable(structural=("draws",))
def _on_curve(first, last, inner, kind: str, draws: int) -> Draws:
    """The loss of a step as another estimator draws it, at random points on the curve."""
    each = inner.build()

    def draw(objective, state, step, key):
        loss, state = each.draw(objective, state, step, jax.random.fold_in(key, 0))
        shifts = jax.random.uniform(jax.random.fold_in(key, 1), (draws,))
        t = (jnp.arange(draws) + shifts) / draws
        mean = lambda bends: jnp.mean(jax.vmap(loss)(points_on_curve(first, bends, last, t, kind)))
        return mean, state

    return Draws(draw, each.init, each.batch_size, each.distinct)


def points_on_curve(first: PyTree, bends: PyTree, last: PyTree, t: jax.Array, kind: str) -> PyTree:
    """The points of a curve at the t (T,), stacked."""
    corners = jax.tree.map(lambda x, y, z: jnp.concatenate([x[None], y, z[None]]), first, bends, last)
    sides = jax.tree.leaves(corners)[0].shape[0] - 1
    t, places = t[:, None], jnp.arange(sides + 1, dtype=t.dtype)[None]
    if kind == "bezier":
        numbers = jnp.asarray([comb(sides, i) for i in range(sides + 1)], t.dtype)
        # Powers of 0, whose exponent 0 is meant as 1.
        weights = numbers[None] * t**places * (1 - t) ** (sides - places)
    else:
        weights = jnp.maximum(1 - abs(sides * t - places), 0)
    return jax.tree.map(lambda x: jnp.tensordot(weights.astype(x.dtype), x, 1), corners)


@compiled(static=("kind", "points"))
def _evaluate(objective, first, last, bends, evaluations, kind: str, points: int) -> Path:
    on = points_on_curve(first, bends, last, jnp.linspace(0, 1, points), kind)
    # A bend that is not finite has the weight 0 at the ends, which is not a number either.
    put = lambda x, a, b: x.at[0].set(a).at[-1].set(b)
    on = jax.tree.map(put, on, first, last)
    slopes = slopes_at_ends(objective, first, last)
    losses = losses_at(objective, on)
    return make_path(on, losses, slopes, evaluations=evaluations + points + 2, status=TRAINED)
