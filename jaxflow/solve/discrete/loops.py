"""The loop of a run of an optimizer, in one program: over a known number of steps, or an open one.

Each loop returns how the run ended, what was seen at the records that follow the first, and a function that tells
which of them are not finite.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow.optim.updates import Step
from jaxflow.solve.discrete.iteration_request import Settings
from jaxflow.solve.discrete.watching import Watcher
from jaxflow.solve.trajectories.trajectory import is_finite

PyTree = Any


class Carry(NamedTuple):
    """What one step hands to the next."""

    step: Step
    estimator: PyTree
    model: PyTree


class Ended(NamedTuple):
    """How a loop ended: its last carry, what its watcher remembers, the steps taken and whether a condition held."""

    carry: Carry
    memory: PyTree
    taken: jax.Array
    met: jax.Array | bool


Advance = Callable[[Carry, jax.Array], Carry]
Outcome = tuple[Ended, PyTree, Callable[[], jax.Array]]


def scan_steps(
    advance: Advance, carry: Carry, memory: PyTree, *, first, settings: Settings, watcher: Watcher, kept: bool
) -> Outcome:
    """All steps, as a scan over records of scans over steps.

    Parameters that are `kept` can be examined afterwards, all at once, which spares the loop the work.
    """
    step = lambda carry, k: (advance(carry, k), None)

    def interval(length):
        def run(carry, begin):
            carry, memory = carry
            if length == 1:
                carry, _ = step(carry, begin)
            else:
                carry = carry._replace(step=watcher.take_up(carry.step))
                carry, _ = lax.scan(step, carry, begin + jnp.arange(length, dtype=jnp.int32))
            seen, memory = watcher.look(memory, carry.step, begin + length)
            carry = carry._replace(step=watcher.hand_on(carry.step))
            return (carry, memory), seen if kept else (seen, ~is_finite(carry.step.params))

        return run

    assert settings.steps is not None
    every = settings.interval
    whole, rest = divmod(settings.steps, every)
    begins = first + jnp.arange(whole, dtype=jnp.int32) * every
    (carry, memory), seen = lax.scan(interval(every), (carry, memory), begins)
    if rest:
        (carry, memory), last = interval(rest)((carry, memory), first + whole * every)
        seen = jax.tree.map(lambda a, b: jnp.concatenate([a, jnp.asarray(b)[None]]), seen, last)
    ended = Ended(carry, memory, jnp.asarray(settings.steps, jnp.int32), False)
    if kept:
        return ended, seen, lambda: ~jax.vmap(is_finite)(seen[0])
    seen, bad = seen
    return ended, seen, lambda: bad


def loop(advance: Advance, carry: Carry, memory: PyTree, *, first, limit, watcher: Watcher) -> Outcome:
    """A traced number of steps, of which only the end is recorded."""
    steps = jnp.asarray(limit, jnp.int32)
    carry = carry._replace(step=watcher.take_up(carry.step))
    carry = lax.fori_loop(0, steps, lambda k, c: advance(c, first + k), carry)
    seen, memory = watcher.look(memory, carry.step, first + steps)
    seen = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], seen)
    return Ended(carry, memory, steps, False), seen, lambda: jnp.ones(1, bool)


def loop_with_records(
    advance: Advance,
    carry: Carry,
    memory: PyTree,
    *,
    first,
    limit,
    settings: Settings,
    watcher: Watcher,
    holds: Callable[[Step, jax.Array], jax.Array | bool],
) -> tuple[Outcome, jax.Array]:
    """At most `limit` steps, until `holds(step, number of steps)`, with room for the records of `settings.steps`.

    It also returns the number of steps at each record, where it was reached, and where it would have been.
    """
    most: Any = settings.steps
    limit = jnp.minimum(jnp.asarray(limit, jnp.int32), most)

    def interval(state, index):
        carry, memory, taken, met = state
        end = jnp.minimum((index + 1) * settings.interval, limit)

        def body(state):
            carry, k, _ = state
            carry = advance(carry, first + k)
            return carry, k + 1, jnp.asarray(holds(carry.step, k + 1))

        before = taken
        going = lambda state: (state[1] < end) & ~state[2]
        carry, taken, met = lax.while_loop(going, body, (carry, taken, met))
        moved = taken > before
        look = lambda memory: watcher.look(memory, carry.step, first + taken)
        shapes = jax.eval_shape(look, memory)[0]
        missing = lambda x: jnp.full(x.shape, jnp.nan if jnp.issubdtype(x.dtype, jnp.inexact) else 0, x.dtype)
        seen, memory = lax.cond(moved, look, lambda memory: (jax.tree.map(missing, shapes), memory), memory)
        reached = jnp.where(moved, taken, jnp.minimum((index + 1) * settings.interval, most))
        return (carry, memory, taken, met), (seen, moved & ~is_finite(carry.step.params), reached)

    carry = carry._replace(step=watcher.take_up(carry.step))
    begun = carry, memory, jnp.zeros([], jnp.int32), jnp.zeros([], bool)
    ended, (seen, bad, reached) = lax.scan(interval, begun, jnp.arange(settings.intervals, dtype=jnp.int32))
    return (Ended(*ended), seen, lambda: bad), jnp.pad(reached, (1, 0))
