"""An ordinary differential equation in the dtype and on the clock of its solver, and what a solver returns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxflow.dynamics import Dynamics
from jaxflow.recording import keeper
from jaxflow.solve.times import clock_dtype

PyTree = Any


class Problem(NamedTuple):
    """What a solver is given.

    A solver works on one vector, of single precision at least: its clock and its error estimates need that. Its clock
    `times` (T,) begins at 0, which is `origin` on the clock of the dynamics. `start` (n,) is the state as such a
    vector; a lane that is not `alive` began with a number that is not finite.
    `tree` makes a pytree of a vector, and `state` one in the dtypes of the dynamics, those of `like`. `first` is the
    record at the start, and `record` is what `integrate` was given. All but functions and numbers are arrays.

    Either the steps are adaptive, to `rtol` and `atol`, or all have the length `step_size`, or there are `substeps`
    equal ones between two times. At most `max_steps` are taken.
    """

    dynamics: Dynamics
    origin: jax.Array
    alive: jax.Array
    start: jax.Array
    tree: Callable[[jax.Array], PyTree]
    like: PyTree
    times: jax.Array
    first: PyTree
    record: Any
    rtol: Any = None
    atol: Any = None
    step_size: Any = None
    substeps: int | None = None
    max_steps: int | None = None

    @property
    def is_adaptive(self) -> bool:
        return self.step_size is None and self.substeps is None

    @property
    def smallest(self) -> jax.Array:
        """The step below which the clock resolves nothing, near its zero."""
        return jnp.finfo(self.times.dtype).eps ** 2 * (self.times[-1] - self.times[0])

    def state(self, y: jax.Array) -> PyTree:
        """A vector as a state of the dynamics."""
        real = lambda x, like: x if jnp.iscomplexobj(like) else x.real
        return jax.tree.map(lambda x, like: real(x, like).astype(like.dtype), self.tree(y), self.like)

    def vector(self, state: PyTree) -> jax.Array:
        """The inverse, of a state or a velocity."""
        return jnp.concatenate([jnp.ravel(leaf).astype(self.start.dtype) for leaf in jax.tree.leaves(state)])

    def drift(self, t, y: jax.Array) -> jax.Array:
        """The vector field."""
        return self.vector(self.dynamics.drift(self.origin + t, self.state(y)))

    def keep(self, y: jax.Array) -> PyTree:
        """A vector's record."""
        return keeper(self.record, self.dynamics.params)(self.state(y))

    def ends(self) -> jax.Array:
        """Where `substeps` equal steps between two times begin and end.

        Times of discrete first steps are all where these end: their steps go into the next interval.
        """
        times, substeps = self.times, self.substeps
        assert substeps is not None
        fractions = jnp.arange(substeps, dtype=times.dtype) / substeps
        fine = times[:-1, None] + jnp.diff(times)[:, None] * fractions[None]
        fine = jnp.append(fine.ravel(), times[-1])
        spent = jnp.sum(fine <= times[0])
        share = jnp.arange(fine.size, dtype=times.dtype) / spent.astype(times.dtype)
        return jnp.where(share < 1, times[0] + share * (fine[spent] - times[0]), fine)


class Solution(NamedTuple):
    """What a solver found.

    - `values`: the records at all times, leaves (T, …); where a time was not reached, NaN in float leaves.
    - `end` (n,): the vector where it stopped, at `time` on the solver's clock.
    - `code`: how it ended; `steps` taken, rejected ones counted; `evaluations` of the field.
    """

    values: PyTree
    end: jax.Array
    time: jax.Array
    code: jax.Array
    steps: jax.Array
    evaluations: jax.Array


def pose(
    dynamics: Dynamics, state: PyTree, times: jax.Array, origin: jax.Array, record: Any, **how: Any
) -> Problem:
    """The problem of a dynamics from `state` at the first of `times` on the solver's clock."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(state)]
    clock = wide = clock_dtype(dtypes)
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes):
        wide = jnp.promote_types(wide, jnp.complex64)
    start, tree = ravel_pytree(jax.tree.map(lambda x: x.astype(wide), state))
    alive = jnp.isfinite(largest(start, start)[0])
    return Problem(
        dynamics=dynamics,
        origin=origin.astype(clock),
        alive=alive,
        start=start,
        tree=tree,
        like=state,
        times=times.astype(clock),
        first=keeper(record, dynamics.params)(state),
        record=record,
        **how,
    )


def largest(*vectors: jax.Array) -> jax.Array:
    """The largest size of a number in each of some vectors (n,); together: XLA makes four programs of one."""
    return jnp.max(jnp.abs(jnp.stack(vectors)), axis=1, initial=0.0)


def blank_unreached(leaf: jax.Array, reached: jax.Array) -> jax.Array:
    """NaN in the lines (n,) of a leaf (n, …) that were not reached, if it can hold NaN."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    return jnp.where(reached.reshape(reached.shape + (1,) * (leaf.ndim - reached.ndim)), leaf, jnp.nan)
