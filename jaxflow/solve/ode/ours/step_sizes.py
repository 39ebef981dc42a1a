"""How long the next step is: by a controller that keeps the error at a tolerance, or equal steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow.solve.trajectories.trajectory import FINISHED, LEFT, TOO_SMALL

PROPORTIONAL, INTEGRAL = 0.3, 0.4  # gains on the logarithm of the error, each over its order
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
SNAP = 1e-6  # a step that would end this share of itself before the last time ends at it


class Sizes(NamedTuple):
    """The length of the next step, and the logarithm of the error of the last that was kept."""

    next: jax.Array
    error: jax.Array


class Plan(NamedTuple):
    """Either tolerances, with the `order` of the error estimate; or the `length` of equal steps; or their `ends`.

    `last` is the time to stop at, `smallest` the step below which the clock resolves nothing near 0.
    """

    last: jax.Array
    rtol: Any = None
    atol: Any = None
    order: Any = None
    smallest: Any = None
    span: Any = None
    length: Any = None
    ends: Any = None

    def begin(self) -> Sizes:
        length = 1.0 if self.length is None else self.length
        return Sizes(jnp.asarray(length, self.last.dtype), jnp.zeros_like(self.last))

    def step(self, sizes: Sizes, t, number) -> tuple[jax.Array, jax.Array]:
        """Where step `number` from `t` ends, and its length."""
        if self.ends is not None:
            end = self.ends[jnp.minimum(number, self.ends.size - 1)]
        else:
            end = jnp.where(t + (1 + SNAP) * sizes.next >= self.last, self.last, t + sizes.next)
        return end, end - t

    def judge(self, sizes: Sizes, starting, clock, states, slope) -> tuple[jax.Array, jax.Array, Sizes]:
        """Whether a step is kept, whether the solve goes on (a status code), and the sizes for the next.

        This is Gustafsson's (1991) proportional–integral control. The step shrinks to a fifth at most, and grows
        tenfold at most.
        """
        if self.rtol is None:
            return jnp.asarray(True), jnp.asarray(FINISHED, jnp.int32), sizes
        t, end, h = clock
        before, after, error = lax.stop_gradient(states)
        size = jnp.maximum(jnp.abs(before), jnp.where(jnp.isnan(after), 0, jnp.abs(after)))
        scaled = jnp.stack([before, lax.stop_gradient(slope), error]) / (self.atol + self.rtol * size)[None]
        state, speed, gap = jnp.sqrt(jnp.sum(jnp.abs(scaled) ** 2, 1))
        gap = gap / jnp.sqrt(jnp.asarray(before.size, gap.dtype))
        gap = jnp.where(jnp.isnan(gap), jnp.inf, gap).astype(h.dtype)
        kept = gap < 1
        error = jnp.log(gap)
        gain, memory = (PROPORTIONAL + INTEGRAL) / self.order, PROPORTIONAL / self.order
        factor = SAFETY * jnp.exp(memory * sizes.error - gain * error)
        factor = jnp.clip(factor, jnp.where(kept, 1.0, SHRINK), jnp.where(kept, GROW, SAFETY))
        first = first_step(state, speed, self.span)
        length = jnp.where(starting, first, h * factor)
        begins = jnp.where(kept, end, t)
        unresolved = length < 4 * jnp.finfo(h.dtype).eps * jnp.abs(begins) + self.smallest
        ended = jnp.where(jnp.isfinite(gap), TOO_SMALL, LEFT)
        code = jnp.where(unresolved, ended, FINISHED).astype(jnp.int32)
        remembered = kept & jnp.isfinite(error) & ~starting
        return kept, code, Sizes(length, jnp.where(remembered, error, sizes.error))


def first_step(size, speed, span) -> jax.Array:
    """A step over which a state of norm `size`, which moves at `speed`, moves by 1 %; `span` at most.

    Both norms are in units of the tolerance (Hairer, Nørsett & Wanner 1993, II.4). Where they are NaN the step is one
    away from stopping: diffrax's own choice is NaN there, and a step that is NaN never ends.
    """
    whole = jnp.where(span > 0, span, 1.0)
    share = 0.01 * jnp.where(size > 0, size, 1.0) / jnp.where(speed == 0, 1.0, speed) / whole
    share = jnp.minimum(jnp.where(speed == 0, 1e-3, share), 1.0)
    share = jnp.where(jnp.isnan(share), 2 * jnp.finfo(span.dtype).eps ** 2, share)
    return (share * span).astype(span.dtype)
