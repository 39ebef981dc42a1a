"""What a solve leaves behind for its derivative: where its steps ended, and states from which to make them again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

KEPT, FREE = 64, 32  # states that a solve keeps at most, and room for more on the way back


class Tape(NamedTuple):
    """The ends of the steps that were kept, and some of the states between them.

    `ends` (N + 1,) are times: step k leads from `ends[k]` to `ends[k + 1]`. `choices` (N + 1,) are integers, in the
    place of each step's end, of what else its method chose. `number` is the number of steps that were kept, or −1
    before the start. Row i of `states` (96, n) is the state before step `index[i]`, or blank where that is −1.

    A solve keeps the state before every step whose number `stride` divides. Where no row is left, the stride
    doubles, and every second row is free again. So no limit of steps needs to be known for the states.
    """

    ends: jax.Array
    choices: jax.Array
    number: jax.Array
    stride: jax.Array
    index: jax.Array
    states: jax.Array

    def note(self, here: jax.Array, t: jax.Array, y: jax.Array, choice: jax.Array) -> "Tape":
        """With the state `y` at the time `t`, where a step of a `choice` ended or the first begins, if `here`."""
        number = self.number + here.astype(jnp.int32)
        place = jnp.maximum(number, 0)
        ends = put_row(self.ends, place, t, here)
        choices = put_row(self.choices, place, choice, here)
        wanted = here & (number % self.stride == 0)
        usable = jnp.arange(self.index.size) < self.index.size - FREE
        full = jnp.all((self.index >= 0) & (self.index % self.stride == 0) | ~usable)
        stride = jnp.where(wanted & full, 2 * self.stride, self.stride)
        free = usable & ((self.index < 0) | (self.index % stride != 0))
        noted = self._replace(ends=ends, choices=choices, number=number, stride=stride)
        return noted.keep(wanted, number, y, free)

    def keep(self, wanted: jax.Array, step: jax.Array, y: jax.Array, free: jax.Array) -> "Tape":
        """With the state `y` before a step in one of the rows that are `free`, if `wanted` and there is one."""
        row, wanted = jnp.argmax(free), wanted & free.any()
        index = put_row(self.index, row, step, wanted)
        return self._replace(index=index, states=put_row(self.states, row, y, wanted))

    def latest(self, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The last step not after `step` whose state is kept, and that state."""
        row = jnp.argmax(jnp.where(self.index <= step, self.index, -1))
        return self.index[row], lax.dynamic_index_in_dim(self.states, row, keepdims=False)

    def rows_free_after(self, step: jax.Array) -> jax.Array:
        """Which rows are free once all steps after `step` have been gone back."""
        return (self.index < 0) | (self.index > step)


def blank_tape(start: jax.Array, times: jax.Array, most: int) -> Tape:
    """Before a solve of `most` steps at most."""
    rows = min(KEPT, most + 1) + FREE
    none = jnp.zeros((), jnp.int32)
    ends = jnp.zeros(most + 1, times.dtype)
    index, states = jnp.full(rows, -1, jnp.int32), jnp.zeros((rows, *start.shape), start.dtype)
    return Tape(ends, jnp.zeros(most + 1, jnp.int32), none - 1, none + 1, index, states)


def put_row(rows: jax.Array, place: jax.Array, row: jax.Array, here: jax.Array) -> jax.Array:
    """Another row at a place, if `here`: a write of one row, as a copy of all would cost more than the step."""
    row = jnp.where(here, row, lax.dynamic_index_in_dim(rows, place, keepdims=False))
    return lax.dynamic_update_index_in_dim(rows, row, place, 0)
