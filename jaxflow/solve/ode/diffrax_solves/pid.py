"""Controllers of step sizes for `diffrax`: one that ends a hopeless solve, and one that counts what was rejected."""

from typing import Any, NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp

PyTree = Any


class ResolvedPID(dfx.PIDController):
    """`diffrax.PIDController` that ends a solve whose steps the clock does not resolve at the present time.

    A step below 4 units in the last place of t, or below `smallest` near t = 0, ends it with `dt_min_reached`, or,
    where the step before was rejected for an error estimate that is not finite, with `max_steps_rejected`.
    """

    smallest: Any = 0.0

    def adapt_step_size(self, *args) -> Any:
        parent: Any = super()
        error = args[5]
        *step, result = parent.adapt_step_size(*args)
        begin, end = step[1], step[2]
        finest = 4 * jnp.finfo(begin.dtype).eps * jnp.abs(begin) + self.smallest
        undefined = ~jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(error)]).all()
        ended = dfx.RESULTS.where(undefined, dfx.RESULTS.max_steps_rejected, dfx.RESULTS.dt_min_reached)
        return *step, dfx.RESULTS.where(end - begin < finest, ended, result)


class CountingPID(ResolvedPID):
    """`ResolvedPID` that also adds up what the rejected steps of `RKC2(counted=True)` cost.

    A rejected step's solver state is lost, its controller's is not. Raises `TypeError` for other solvers.
    """

    def init(self, *args) -> Any:
        end, state = super().init(*args)
        return end, Counted(state, jnp.zeros((), jnp.int32))

    def adapt_step_size(self, *args) -> Any:
        *step, priced, order, counted = args
        if not isinstance(priced, Priced):
            raise TypeError("CountingPID works with RKC2(counted=True) only.")
        parent: Any = super()
        keep, *rest, state, result = parent.adapt_step_size(*step, priced.error, order, counted.state)
        rejected = counted.rejected + jnp.where(keep, 0, priced.cost).astype(jnp.int32)
        return keep, *rest, Counted(state, rejected), result


class Priced(NamedTuple):
    """An error estimate, and the field evaluations that its step cost."""

    error: PyTree
    cost: jax.Array


class Counted(NamedTuple):
    """The state of a controller, and the evaluations that rejected steps cost."""

    state: PyTree
    rejected: jax.Array
