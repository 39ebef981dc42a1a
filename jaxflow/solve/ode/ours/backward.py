"""The way back through a solve, from its last step to its first: the cotangents of what was given to it.

By Tsitouras' method a program holds the field's derivative once, in a loop over the stages in a loop over the steps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxflow.solve.ode.ours.loop import Method, any_lane
from jaxflow.solve.ode.ours.tape import Tape, put_row
from jaxflow.solve.ode.problem import Problem, Solution

PyTree = Any
Moving = dict[int, jax.Array]  # the arrays in the field and the record that a derivative is taken by


class Given(NamedTuple):
    """What of a problem and its plan has a derivative, in addition to what field and record were made with."""

    start: jax.Array
    times: jax.Array
    first: PyTree
    last: jax.Array
    length: Any
    ends: Any


class Step(NamedTuple):
    """A step made again: where it begins, its length, the vector (n,) there, and its stages."""

    t: jax.Array
    h: jax.Array
    y: jax.Array
    stages: PyTree


class _Sums(NamedTuple):
    """Cotangents: of the time and the vector where the steps left begin, and what was added up so far."""

    t: jax.Array
    y: jax.Array
    moving: Moving
    last: jax.Array
    length: jax.Array


def go_back(
    problem_of: Callable[[Moving], Problem],
    moving: Moving,
    method: Method,
    given: Given,
    tape: Tape,
    cotangent: Solution,
) -> tuple[Given, Moving]:
    """The cotangents of all that was given. `problem_of(moving)` is the problem as a function of those arrays."""
    drift = lambda moving, t, y: problem_of(moving).drift(t, y)
    remake = partial(method.remake, partial(drift, moving))
    is_within, pull_values = _values(problem_of, moving, method, given, cotangent.values)

    def round_(carry):
        number, value, tape, times, ends, sums = carry
        active, k = number > 0, jnp.maximum(number - 1, 0)
        t, end = tape.ends[k], tape.ends[k + 1]
        dense = any_lane(active & is_within(value, k, t))
        tape, y, stages = _make_again(remake, tape, k, active, dense)
        step = Step(t, end - t, y, stages)
        value, times, moved, by_value = pull_values(value, times, sums.moving, active, k, step)
        more, by_t, by_h, by_y = method.pull(
            drift, moving, tape.choices[k + 1], step, dense, sums.y, by_value.stages
        )
        length = by_value.h + by_h
        by_end = length + sums.t
        # A step ends at the last time, or at a time of its own, or a length after it began.
        is_last, has_ends = end >= given.last, given.ends is not None
        to_last = jnp.where(is_last & (not has_ends), by_end, 0)
        follows = jnp.where(is_last | has_ends, 0, by_end)
        if has_ends:
            ends = put_row(ends, k, by_end, active)
        new = _Sums(
            by_value.t + by_t - length + follows,
            by_value.y + by_y,
            jax.tree.map(jnp.add, moved, more),
            sums.last + to_last,
            sums.length + follows,
        )
        sums = jax.tree.map(lambda a, b: jnp.where(active, a, b), new, sums)
        return number - active.astype(jnp.int32), value, tape, times, ends, sums

    number, zeros = jnp.maximum(tape.number, 0), lambda tree: jax.tree.map(jnp.zeros_like, tree)
    value = jnp.sum(given.times <= tape.ends[number], dtype=jnp.int32) - 1
    still = jnp.zeros_like(given.last)
    end, time = (
        jnp.zeros_like(like) if is_zero(cot) else cot
        for cot, like in ((cotangent.end, given.start), (cotangent.time, given.last))
    )
    sums = _Sums(time, end, zeros(moving), still, still)
    begun = number, value, tape, zeros(given.times), zeros(given.ends), sums
    *_, times, ends, sums = lax.while_loop(lambda carry: any_lane(carry[0] > 0), round_, begun)
    first = jax.tree.map(lambda cot: None if is_zero(cot) else cot[0], cotangent.values)
    length = None if given.length is None else sums.length
    return Given(sums.y, times.at[0].add(sums.t), first, sums.last, length, ends), sums.moving


def is_zero(cotangent: Any) -> bool:
    """Whether a cotangent is known to be zero before anything is computed; that of integers is."""
    return isinstance(cotangent, SymbolicZero) or cotangent.dtype == jax.dtypes.float0


def _make_again(remake: Callable[..., Any], tape: Tape, k: jax.Array, active: jax.Array, dense: jax.Array):
    """Step `k`, made again from the latest state that was kept: the vector where it begins, and its stages.

    Where all states on that way have room in the free rows, all are kept; otherwise as many as fill one half, so that
    the way from one to the next has room in the other.
    """
    begin, y = tape.latest(k)
    room, way = jnp.sum(tape.rows_free_after(k), dtype=jnp.int32), k - begin
    spacing = -(-way // (1 + jnp.where(way <= room + 1, room, (room + 1) // 2)))

    def advance(carry):
        i, tape, before, _, y = carry
        here = active & (i <= k)
        after = jnp.minimum(i + 1, tape.ends.size - 1)
        t, end, choice = tape.ends[i], tape.ends[after], tape.choices[after]
        wanted = here & (i > begin) & (i < k) & ((i - begin) % jnp.maximum(spacing, 1) == 0)
        tape = tape.keep(wanted, i, y, tape.rows_free_after(k))
        after, stages = remake(choice, t, end - t, y, dense)
        new = y, stages, after
        before, stages, y = jax.tree.map(lambda a, b: jnp.where(here, a, b), new, (before, *carry[3:]))
        return i + here.astype(i.dtype), tape, before, stages, y

    blank = jax.eval_shape(remake, tape.choices[0], tape.ends[0], tape.ends[0], y, dense)[1]
    begun = begin, tape, y, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), blank), y
    more = lambda carry: any_lane(active & (carry[0] <= k))
    _, tape, before, stages, _ = lax.while_loop(more, advance, begun)
    return tape, before, stages


def _values(problem_of, moving: Moving, method: Method, given: Given, cotangents: PyTree):
    """Whether the value `i` was read off step `k`, which begins at t; and the pull of all that were."""
    leaves = jax.tree.leaves(cotangents)
    chosen = [i for i, cot in enumerate(leaves) if not is_zero(cot)]

    def is_within(i, k, t):
        return (i > 0) & ((given.times[i] > t) | (k == 0)) if chosen else jnp.asarray(False)

    def values(moving, step: Step, time):
        at = method.interpolate((time - step.t) / step.h, step.h, step.y, step.stages)
        kept = jax.tree.leaves(problem_of(moving).keep(at))
        return [kept[i] for i in chosen]

    def pull(value, times, moved, active, k, step: Step):
        begun = value, times, moved, jax.tree.map(jnp.zeros_like, step)
        pending = lambda carry: active & is_within(carry[0], k, step.t)

        def one(carry):
            i, times, *sums = carry
            here = pending(carry)
            pull = jax.vjp(values, moving, step, given.times[i])[1]
            *more, time = pull([leaves[j][i] for j in chosen])
            add = lambda total, x: jnp.where(here, total + x, total)
            return (
                i - here.astype(i.dtype),
                put_row(times, i, time, here),
                *jax.tree.map(add, sums, more),
            )

        return lax.while_loop(lambda carry: any_lane(pending(carry)), one, begun) if chosen else begun

    return is_within, pull
