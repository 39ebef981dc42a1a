"""How far two trajectories on one clock are apart."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow._compiled import compiled
from jaxflow._norms import difference, norms
from jaxflow.comparison.checks import (
    check_numbers,
    check_structures,
    check_times,
    warn_of_clocks,
)
from jaxflow.comparison.entries import find_entry
from jaxflow.solve.trajectories.trajectory import Trajectory

PyTree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Comparison:
    """Distances between two trajectories a and b: a pytree of arrays.

    - `times` (T,): the times of both.
    - `distance` (T,): the global norm over the pytree of a(t) − b(t); (members, T) where a or b is an ensemble.
    - `relative` (T,): the distance over the length of the path that a has travelled by then (0 where both are 0).

    `final` is the distance at the last time, `largest` the largest one. Where either trajectory has no finite value
    the distance is NaN, and `repr` says from which time on.
    """

    times: jax.Array
    distance: jax.Array
    relative: jax.Array

    @property
    def final(self) -> jax.Array:
        """The distance at the last time."""
        return self.distance[..., -1]

    @property
    def largest(self) -> jax.Array:
        """The largest distance at any time."""
        return self.distance.max(-1)

    def __repr__(self):
        if isinstance(self.distance, Tracer) or np.ndim(self.distance) != 1:
            return f"Comparison(distance of shape {np.shape(self.distance)})"
        times, distance, relative = (np.asarray(x) for x in (self.times, self.distance, self.relative))
        finite = np.isfinite(distance)
        if not finite.any():
            return "Comparison(no finite distance)"
        last = int(np.flatnonzero(finite)[-1])
        top = int(np.nanargmax(np.where(finite, distance, np.nan)))
        lost = "" if finite.all() else f"; not finite from t = {times[int(np.argmax(~finite))]:.6g} on"
        return (
            f"Comparison(distance {distance[last]:.4g} at t = {times[last]:.6g}, "
            f"{100 * relative[last]:.3g} % of the path travelled; "
            f"largest {distance[top]:.4g} at t = {times[top]:.6g}{lost})"
        )


def compare(a: Trajectory, b: Trajectory, *, entry: str | None = None) -> Comparison:
    """The distance $|a(t) - b(t)|$ at every time, absolute and relative to the path that a has travelled.

    The norm is the global 2-norm over the recorded pytree. The path travelled is the length of the polygon
    through a's recorded values. Records may be of any kind of number: integers are subtracted exactly, and
    distances are in at least single precision, in double where it is enabled and records are in double or integers
    of 32 bits or more.

    **Arguments**

    - `a`, `b`: trajectories with the same record at the same times, in any unit. An ensemble is compared member by
      member, with a single trajectory or with another ensemble of the same number of members.
    - `entry`: the name of the only entry of the records to compare, such as `"w"` in a dict, or its path in a pytree,
      such as `"layers/0/weight"`; `"layers/0"` is all that is below it. By default all entries are compared.

    **Returns** a `Comparison`. It works under `jit` and `vmap`; the times' values are checked when concrete.

    **Raises** `TypeError` unless both are trajectories of numbers; `ValueError` when times (beyond rounding in
    their dtype) or the structures or shapes of the values differ, saying how, when no number is recorded, or when
    there is no such `entry`, naming the entries that there are. It warns where the times of only one count steps,
    as no learning rate was found: give `time_step=` to `iterate`.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(x**2)
    >>> discrete = jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(1), steps=10)
    >>> flow = jf.integrate(jf.dynamics.gradient_flow(loss), jnp.ones(1), discrete.times)
    >>> jf.compare(discrete, flow)
    Comparison(distance 0.0192 at t = 1, 2.95 % of the path travelled; largest 0.0192 at t = 1)
    """
    for name, value in (("a", a), ("b", b)):
        if not isinstance(value, Trajectory):
            raise TypeError(f"{name} must be a Trajectory, got {type(value).__name__}.")
    if entry is not None:
        a, b = (
            dataclasses.replace(run, values=find_entry(name, run.values, entry))
            for name, run in (("a", a), ("b", b))
        )
    if a.counts_steps != b.counts_steps:
        warn_of_clocks(stacklevel=3)
        a, b = (dataclasses.replace(run, counts_steps=False) for run in (a, b))
    axes = _members(a), _members(b)
    if axes != (None, None):
        clocks = None if axes[0] is None else axes[0].times
        out = Comparison(times=clocks, distance=0, relative=0)  # type: ignore[arg-type]
        return jax.vmap(compare, in_axes=axes, out_axes=out)(a, b)
    check_structures(a.values, b.values)
    check_numbers("a", a.values)
    check_numbers("b", b.values)
    check_times(a.times, b.times)
    return _compare(a.times, a.values, b.values)


@compiled
def _compare(times, a: PyTree, b: PyTree) -> Comparison:
    travelled = jnp.cumsum(norms(jax.tree.map(lambda x: difference(x[1:], x[:-1]), a)))
    travelled = jnp.pad(travelled, (1, 0))
    distance = jnp.where(_is_finite(a) & _is_finite(b), norms(jax.tree.map(difference, a, b)), jnp.nan)
    # Of unequal types of records the wider one decides.
    travelled = travelled.astype(distance.dtype)
    relative = jnp.where(distance == 0, 0.0, distance / jnp.where(distance == 0, 1.0, travelled))
    return Comparison(times, distance, relative)


def _is_finite(values: PyTree) -> jax.Array:
    """Whether everything recorded at a time is finite; (T,)."""
    finite = [jnp.isfinite(x).reshape(x.shape[0], -1).all(1) for x in jax.tree.leaves(values)]
    return jnp.stack(finite).all(0)


def _members(run: Trajectory) -> Trajectory | None:
    """The axes to map over in an ensemble (which keeps its times once); `None` for a single trajectory."""
    if not np.ndim(run.status):
        return None
    axes = jax.tree.map(lambda _: 0, run)
    return axes if np.ndim(run.times) == 2 else dataclasses.replace(axes, times=None)  # type: ignore[arg-type]
