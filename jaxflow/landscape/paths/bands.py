"""Nudged elastic bands: paths of least loss between two minima, and the saddles on them."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._losses.models import Trainable
from jaxflow._norms import norm
from jaxflow.landscape.paths.band_forces import Band, Pull, pull_on, stiffness
from jaxflow.landscape.paths.ends import as_end, open_ends, require_like_end
from jaxflow.landscape.paths.fire import fire
from jaxflow.landscape.paths.insertion import BETWEEN, insert_images
from jaxflow.landscape.paths.path import CONVERGED, MAX_STEPS, Path, dtype_of, is_traced, make_path
from jaxflow.landscape.paths.straight import straight_line
from jaxflow.optim.multi_steps import as_transformation

PyTree = Any

READY = (
    0.3  # of the largest gradient at the start: the largest force at which the highest image begins to climb
)
LONGEST = 1 / 80  # of the distance between the ends: a step of all images together, of the default optimizer
STIFFEST = 32  # images: this number has springs of the mean curvature, and fewer need weaker ones


def neb(
    objective: Any,
    a: PyTree,
    b: PyTree,
    *,
    points: int = 9,
    start: Path | None = None,
    optimizer: optax.GradientTransformation | None = None,
    spring: Any = None,
    climb: bool = True,
    insert: int = 0,
    rounds: int = 2,
    max_steps: Any = 2000,
    tolerance: Any = None,
    trainable: Trainable = None,
) -> Path:
    r"""Relax a nudged elastic band between two minima into a path of least loss, and climb its saddle.

    The force on an inner image is $F_i = -(I - \tau\tau^T) \nabla L(\theta_i) + k (|\theta_{i+1} - \theta_i| -
    |\theta_i - \theta_{i-1}|)\,\tau$: the loss pulls across the path only, the springs along it only. The unit
    tangent τ points to the higher neighbour (the improved tangent). The highest image, where it is above both ends,
    feels $-\nabla L + 2 (\tau^T \nabla L)\,\tau$ instead and climbs to the saddle itself.

    It begins to climb once no force is above .3 of the largest gradient at the start.

    In many dimensions a band may fold: where the path turns back on itself, no force across it would undo the fold.
    So where it bends by an angle φ of more than a right one, the force is mixed with that without any projection,
    $-\nabla L + k (\theta_{i+1} - 2 \theta_i + \theta_{i-1})$, in the share $-\cos\phi$.

    All forces together take the place of a gradient, and an optimizer descends along them. It stops when no force
    but the springs' is above `tolerance`. The climbing image is then a stationary point to this accuracy, and its
    loss that of the saddle to second order in it.

    **Arguments**

    - `objective`: an `Objective` or any differentiable function `loss(params) -> scalar`. It is evaluated on all of
      its data. The state of a model stays as it is given there.
    - `a`, `b`: the ends, pytrees of one structure and shape, which stay where they are. They should be minima; the
      norms of the gradient at them are in `gradients` and `message`, and the band is relaxed whatever they are.
    - `points` n: the number of images at the start, both ends included; an integer at least 3 (static). They are
      evenly spaced on the straight line.
    - `start`: a path at which the band begins instead, with its images and their relative distances, such as one
      that `curve` or `neb` returned. `points` is then not used.
    - `optimizer`: any optimizer. Default: `fire`, with a first step from the forces at the start, which needs no
      tuning.
    - `spring` k: the stiffness, a number at least 0 in units of a curvature. Default: n/32 times the mean curvature
      along the start, the change of the gradient from image to image over their distance.
    - `climb`: whether the highest image climbs (static).
    - `insert`: the number of images that may be added where the path is high between two images, an integer at least
      0 (static). After the band has relaxed, the loss is evaluated at nine points between all neighbours. A new
      image is put where the loss is highest above the line between the two, if by more than .02 of the height of
      the path.
    - `rounds`: the number of times that images are added, and the band is relaxed anew; an integer at least 1
      (static). Each adds at most `insert` / `rounds`, rounded up.
    - `max_steps`: the largest number of steps of each relaxation, an integer at least 1. In networks a band grows
      longer with its steps and rises between its images, which `refine` shows. More images, inserted after some
      tens of steps, then help it more than further steps.
    - `tolerance`: the largest force, a number above 0 in units of a gradient. Default: 1e-10 of the largest gradient
      at the start in float64, 1e-4 in float32.
    - `trainable`: what of the models moves, as in `iterate`; the rest is that of `a`.

    **Returns** a `Path` of the images. Its barrier and saddle are those at the images; `refine` evaluates between
    them. `evaluations` counts a gradient with its loss at each inner image in use, and the losses between images. An
    image that stops being finite ends the relaxation; `message` names it. The band is compiled when called plainly,
    once for all numbers, and works under `jit` and `vmap`, where a band of fewer images than
    `insert` allows ends with copies of `b`. It has no derivatives in reverse mode.

    **Raises** `TypeError` for an objective that is not a function, ends that are not real or not of one structure,
    or a start that is not a path; `ValueError` for ends of different shapes, `points` < 3, a negative spring,
    `insert` < 0, or numbers that are not positive.

    Source: Henkelman & Jónsson 2000; the climbing image: Henkelman, Uberuaga & Jónsson 2000; the insertion and
    bands between networks: Draxler, Veschgini, Salmhofer & Hamprecht 2018, 1803.00885.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> problem = jf.problems.muller_brown()
    >>> path = jf.landscape.neb(problem.objective, problem.minima[1], problem.minima[2])
    >>> print(path.top, path.saddle)
    [0.212 0.293] -72.249
    """
    objective, first, last, rest = open_ends(objective, a, b, trainable)
    given = None
    if start is not None:
        if not isinstance(start, Path):
            raise TypeError(f"start must be a Path, such as curve returns, got {start!r}.")
        points = len(start)
        require_like_end("start", jax.tree.map(lambda x: x[0], start.params), first)
        total = jnp.where(start.arclength[-1] > 0, start.arclength[-1], 1)
        given = jax.vmap(as_end, (0, None))(start.params, first), start.arclength / total
    _check.require_integer("points", points, 3)
    _check.require_integer("insert", insert, 0)
    _check.require_integer("rounds", rounds, 1)
    _check.require_count("max_steps", max_steps, 1)
    if optimizer is not None:
        optimizer = as_transformation(optimizer)
    if spring is not None:
        _check.require_nonnegative(spring=spring)
    if tolerance is not None:
        _check.require_positive(tolerance=tolerance)
    found, count = _neb(
        objective=objective,
        first=first,
        last=last,
        given=given,
        optimizer=optimizer,
        spring=spring,
        tolerance=tolerance,
        max_steps=max_steps,
        points=int(points),
        climb=bool(climb),
        insert=int(insert),
        rounds=int(rounds) if insert else 0,
    )
    if insert and not is_traced(count) and jnp.ndim(count) == 0:
        kept = int(count)
        cut = lambda x: x[:kept]
        found = replace(
            found,
            params=jax.tree.map(cut, found.params),
            arclength=cut(found.arclength),
            losses=cut(found.losses),
        )
    return replace(found, rest=rest)


class _Run(NamedTuple):
    band: Band
    pull: Pull
    climbing: jax.Array
    state: PyTree
    steps: jax.Array
    evaluations: jax.Array


@compiled(static=("points", "climb", "insert", "rounds"))
def _neb(
    *,
    objective,
    first,
    last,
    given,
    optimizer,
    spring,
    tolerance,
    max_steps,
    points: int,
    climb: bool,
    insert: int,
    rounds: int,
):
    dtype = dtype_of(first)
    unravel = ravel_pytree(first)[1]
    value = lambda x: jnp.asarray(objective(unravel(x))).reshape(()).astype(dtype)
    value_and_slope = jax.value_and_grad(value)
    flatten = jax.vmap(lambda tree: ravel_pytree(tree)[0])
    ends = jnp.stack([ravel_pytree(first)[0], ravel_pytree(last)[0]])
    if given is None:
        images, places = flatten(straight_line(first, last, points)), jnp.linspace(0, 1, points)
    else:
        images, places = flatten(given[0]), given[1]
        images = images.at[0].set(ends[0]).at[-1].set(ends[1])
    values, slopes = jax.vmap(value_and_slope)(images)
    number = lambda x: jnp.asarray(x).astype(dtype)
    largest = jax.vmap(norm)(slopes).max().astype(dtype)
    mean = stiffness(images, slopes)
    spring = mean * number(points / STIFFEST) if spring is None else number(spring)
    if tolerance is None:
        tolerance = largest * (1e-10 if dtype == jnp.float64 else 1e-4)
    tolerance = number(tolerance)
    fill = lambda x: jnp.concatenate([x, jnp.broadcast_to(x[-1:], (insert, *x.shape[1:]))])
    count = jnp.asarray(points, jnp.int32)
    band = Band(fill(images), fill(places.astype(dtype)), count, jnp.stack([values[0], values[-1]]))
    if optimizer is None:
        distance = norm(ends[1] - ends[0]).astype(dtype)
        distance = jnp.where(distance > 0, distance, 1)
        # The first step of the steepest image is a tenth of the distance between two.
        first_step = jnp.sqrt(0.1 * distance / (points - 1) / jnp.where(largest > 0, largest, 1))
        optimizer = fire(first_step, LONGEST * distance)
    method = optax.with_extra_args_support(optimizer)
    as_trees, as_rows = jax.vmap(unravel), flatten

    def inspect(band: Band, climbing: jax.Array) -> Pull:
        return pull_on(value_and_slope, band, spring, climbing if climb else None)

    def advance(run: _Run) -> _Run:
        band, climbing = run.band, run.climbing
        move = lambda inner: band._replace(images=jnp.concatenate([band.images[:1], inner, band.images[-1:]]))
        field = lambda tree: as_trees(inspect(move(as_rows(tree)), climbing).slope)
        inner, slope = as_trees(band.images[1:-1]), as_trees(run.pull.slope)
        no_value = jnp.asarray(jnp.nan, dtype)
        updates, state = method.update(slope, run.state, inner, value=no_value, grad=slope, grad_fn=field)
        new = as_rows(optax.apply_updates(inner, updates))
        used = jnp.arange(1, new.shape[0] + 1) < band.count - 1
        band = move(jnp.where(used[:, None], new, band.images[-1]))
        if climb:  # far from the path the highest image would climb to anywhere
            climbing |= run.pull.largest <= jnp.maximum(READY * largest, tolerance)
        evaluations = run.evaluations + band.count - 2
        return _Run(band, inspect(band, climbing), climbing, state, run.steps + 1, evaluations)

    def relax(band: Band, evaluations: jax.Array) -> _Run:
        climbing, steps = jnp.zeros([], bool), jnp.zeros([], jnp.int32)
        pull, state = inspect(band, climbing), method.init(as_trees(band.images[1:-1]))
        unfinished = lambda run: (run.pull.largest > tolerance) | (climb & ~run.climbing)
        go_on = lambda run: unfinished(run) & ~run.pull.lost & (run.steps < max_steps)
        begun = _Run(band, pull, climbing, state, steps, evaluations + band.count - 2)
        return lax.while_loop(go_on, advance, begun)

    def add_and_relax(run: _Run) -> _Run:
        looked = BETWEEN * (run.band.count - 1)
        return relax(insert_images(value, run.band, run.pull.losses, most), run.evaluations + looked)

    most = min(-(-insert // rounds), insert, points - 1) if rounds else 0
    run = relax(band, jnp.asarray(points, jnp.int32))
    if rounds:
        # One program of a relaxation for all rounds. A lost band is left as it was lost.
        more = lambda _, run: lax.cond(run.pull.lost, lambda run: run, add_and_relax, run)
        run = lax.fori_loop(0, rounds, more, run)
    path = make_path(
        as_trees(run.band.images),
        run.pull.losses,
        jnp.stack([norm(slopes[0]), norm(slopes[-1])]).astype(dtype),
        evaluations=run.evaluations,
        status=jnp.where(run.pull.largest <= tolerance, CONVERGED, MAX_STEPS),
        residual=run.pull.largest,
    )
    return path, run.band.count
