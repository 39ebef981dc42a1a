"""The sharpness along a run, for `record=`: measured where the run is, from the last eigenvectors found."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._completion import complete
from jaxflow._losses.models import rest_of
from jaxflow._moved import alias_of
from jaxflow._traceable import traceable
from jaxflow.curvature.differentiability import warn_unless_twice_differentiable
from jaxflow.curvature.products import (
    Operator,
    check_objective,
    check_preconditioner,
    match_parameters,
    open_real,
    operator,
    real_parameters,
)
from jaxflow.curvature.spectrum.eigenpairs import BLOCKS, COLD, EACH, TOLERANCE
from jaxflow.curvature.spectrum.krylov import Block, follow, guess
from jaxflow.curvature.stability.preconditioners import preconditioner_of
from jaxflow.optim.multi_steps import as_transformation
from jaxflow.recording import Recorder, replay_records

PyTree = Any
FRESH = 20  # measurements from one cold start to the next


class SharpnessRecord(NamedTuple):
    """What `record_sharpness` keeps at a time.

    - `eigenvalues` (k,): the k largest eigenvalues of the Hessian, largest first; NaN at times between strides.
    - `residuals` (k,): the norms of their residuals, in the units of the eigenvalues; NaN at those times too.
    - `recorded`: what `record` returned; `()` without one.
    """

    eigenvalues: jax.Array
    residuals: jax.Array
    recorded: PyTree = ()

    @property
    def sharpness(self) -> jax.Array:
        """The largest eigenvalue, of shape () at a time, (T,) of a trajectory."""
        return self.eigenvalues[..., 0]


@traceable
def record_sharpness(
    objective: Callable[[PyTree], jax.Array],
    k: int = 1,
    *,
    stride: Any = 1,
    preconditioner: Any = None,
    record: Callable[[PyTree], PyTree] | None = None,
) -> Recorder:
    """A `record=` for `iterate` and `integrate`: the k largest Hessian eigenvalues along the way.

    The first of every 20 measurements finds them cold, because only a cold start sees an eigenvalue that rises in a
    direction of its own. The others start from the eigenvectors of the last one and spend 2k to 5k products
    (`top_eigenpairs`).

    **Arguments**

    - `objective`: the loss whose Hessian is measured, an `Objective` or any twice differentiable function.
    - `k`: the number of eigenvalues, at most the number of parameters (static).
    - `stride`: the number of records from one measurement to the next; the first record is measured. The
      eigenvalues in between are NaN.
    - `preconditioner`: P, for the eigenvalues of $P^{-1/2}HP^{-1/2}$. It is an optimizer, whose P
      `preconditioner_of` reads off its state in `iterate` (before its first step P is ε, and so the first record is
      huge). Or it is a function `P(state)` of the optimizer's state in `iterate`, or of the dynamics' state in
      `integrate`.
    - `record`: a function `record(params) -> pytree` of what else to keep, at every record.

    **Returns** a `Recording`. The trajectory's `values` are then a `SharpnessRecord` with leaves (T, …).
    `integrate` keeps the states of all times until they are measured at its end.

    **Raises** `TypeError` for an objective that is not a loss or another preconditioner; `ValueError` for k or
    `stride` < 1.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: jnp.sum(x**4) / 12
    >>> record = jf.curvature.record_sharpness(loss, record=loss)
    >>> run = jf.iterate(jf.optim.gd(0.5), loss, jnp.array([1.0, 2.0]), steps=2, record=record)
    >>> print(run.values.sharpness.round(4), (run.values.recorded > 0).all())
    [4.     0.6944 0.543 ] True
    """
    check_objective(objective)
    _check.require_integer("k", k, 1)
    whole = isinstance(stride, float) and stride.is_integer()  # as which it is kept
    _check.require_count("stride", int(stride) if whole else stride, 1)
    if isinstance(preconditioner, optax.MultiSteps):
        preconditioner = as_transformation(preconditioner)
    own = isinstance(preconditioner, optax.GradientTransformation)
    if not (preconditioner is None or own or callable(preconditioner)):
        raise TypeError(
            f"preconditioner must be an optimizer or a function of the state, got {preconditioner!r}."
        )

    def hessian_at(params, state):
        loss, params = open_real(objective, params)
        if preconditioner is None:
            return operator(loss, params)
        if isinstance(preconditioner, optax.GradientTransformation):
            found = preconditioner_of(preconditioner, state)
        else:
            found = preconditioner(state)
        return operator(loss, params, check_preconditioner(found, params))

    def begin(params, state):
        del state
        loss, params = open_real(objective, params)
        warn_unless_twice_differentiable(loss, params)
        flat = ravel_pytree(params)[0]
        _check.require("k", k, k <= flat.size, f"at most {flat.size}, the number of parameters")
        return jnp.zeros((k, flat.size), flat.dtype), jnp.zeros([], jnp.int32)

    def look(memory, params, state):
        vectors, count = memory
        every = jnp.asarray(stride).astype(count.dtype)

        def measure():
            found = follow_pairs(hessian_at(params, state), vectors, count % (every * FRESH) == 0)
            return found.values, found.residuals, found.vectors

        blank = jnp.full(k, jnp.nan, vectors.dtype)
        values, residuals, vectors = lax.cond(count % every == 0, measure, lambda: (blank, blank, vectors))
        recorded = () if record is None else record(params)
        return SharpnessRecord(values, residuals, recorded), (vectors, count + 1)

    return Recorder(begin, look)


def follow_pairs(hessian: Operator, vectors: jax.Array, anew: jax.Array) -> Block:
    """The k leading eigenpairs, from the vectors (k, n) found last or, where `anew`, cold."""
    k, size = vectors.shape
    cold = lambda: guess(hessian.apply, size, vectors.dtype, k, min(size, COLD + EACH * k))[1]
    start = lax.cond(anew, cold, lambda: vectors)
    return follow(hessian.apply, start, tolerance=TOLERANCE, blocks=BLOCKS)


def sharpness_along(
    objective: Callable[[PyTree], jax.Array],
    path: PyTree,
    k: int = 1,
    *,
    preconditioners: PyTree = None,
    model: PyTree = None,
) -> SharpnessRecord:
    """The k largest Hessian eigenvalues along a path that was recorded, each found from the one before.

    **Arguments**

    - `objective`: the loss whose Hessian is measured, an `Objective` or any twice differentiable function.
    - `path`: parameters at T times, leaves (T, …): the `values` of a trajectory, or of its `midpoints`.
    - `k`: the number of eigenvalues, at most the number of parameters (static).
    - `preconditioners`: for the eigenvalues of $P^{-1/2}HP^{-1/2}$ a positive P for each time, leaves (T, …), or (T,)
      numbers.
    - `model`: the whole model of which `path` holds the trained part, such as `run.params`. It is needed only where
      `run.values` have `None` in the place of what was not trained.

    **Returns** a `SharpnessRecord` with leaves (T, …). It is compiled when called plainly, and works under `jit` and
    `vmap`.

    **Raises** `TypeError` for an objective that is not a loss or a path that is not of real numbers; `ValueError`
    for k < 1 or above the number of parameters, leaves whose numbers of times differ, preconditioners that are not
    positive, or a `model` of which `path` is not a part.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> print(jf.curvature.sharpness_along(lambda x: jnp.sum(x**4) / 12, jnp.array([[1.0], [2.0]])).sharpness)
    [1. 4.]
    """
    check_objective(objective)
    if model is not None:
        objective = complete(objective, rest_of(model, path))
    path = real_parameters(path, "path")
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(path)}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(
            f"path must have leaves with one leading axis of times, got {sorted(lengths)} for them."
        )
    leaves = jax.tree.leaves(preconditioners)
    if len(leaves) == 1 and jnp.shape(leaves[0]) == (*lengths,)[0]:
        preconditioners = leaves[0]
    elif leaves:
        preconditioners = match_parameters("preconditioners", preconditioners, path)
    for leaf in leaves:
        if not isinstance(leaf, Tracer) and not (np.asarray(leaf) > 0).all():
            worst = np.asarray(leaf)[~(np.asarray(leaf) > 0)][0]
            raise ValueError(f"preconditioners must be positive everywhere, got {worst:.6g} among them.")
    _check.require_integer("k", k, 1)
    return _sharpness_along(objective, path, preconditioners=preconditioners, k=int(k))


@compiled(static=("k",))
def _sharpness_along(objective, path, preconditioners, k):
    own = None if preconditioners is None else _identity
    return replay_records(record_sharpness(objective, k, preconditioner=own), (path, preconditioners))


def _identity(state: PyTree) -> PyTree:
    return state


along = alias_of("jaxflow.curvature.along", "jaxflow.curvature.sharpness_along", sharpness_along)
