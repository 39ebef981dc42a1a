"""Following a dynamics without noise that is stepped by its own map: one scan over the times asked."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow._traceable import compiled
from jaxflow.dynamics import Dynamics
from jaxflow.recording import keeping, looked
from jaxflow.solve.stepping import finish
from jaxflow.solve.trajectory import Trajectory, is_finite

PyTree = Any


class Settings(NamedTuple):
    """What is static about a run: calls of the map between two times."""

    calls: int


def follow_map(
    dynamics: Dynamics,
    params: PyTree,
    times: jax.Array,
    substeps: int | None,
    unused: dict[str, Any],
    record: Any,
    state: PyTree,
) -> Trajectory:
    """Check what is asked and run it; `integrate` says what the arguments are."""
    for name, value in unused.items():
        if value is not None:
            raise ValueError(f"{name} must be None for a dynamics stepped by its own map, got {value!r}.")
    return _follow(Settings(substeps or 1), dynamics, params, times, record, state)


@compiled
def _follow(settings, dynamics, params, times, record, state):
    field = dynamics.build()
    assert field.step is not None
    advance = field.step
    state = field.init(params) if state is None else state
    keep, observe = keeping(record, field.params), field.observe or (lambda state: None)

    def interval(state, span):
        begin, dt = span[0], (span[1] - span[0]) / settings.calls
        call = lambda i, z: advance(begin + i * dt, z, dt, None)
        # At the first time, an interval of no length, there is none: all else is then in the program once.
        state = lax.fori_loop(0, jnp.where(dt > 0, settings.calls, 0), call, state)
        return state, (keep(state), observe(state), ~is_finite(field.params(state)))

    spans = jnp.stack([jnp.concatenate([times[:1], times[:-1]]), times], 1)
    final, (values, observed, bad) = lax.scan(interval, state, spans)
    steps = jnp.asarray((times.size - 1) * settings.calls, jnp.int32)
    path = finish(times, looked(record, values), field.params(final), final, steps, lambda: bad[1:])
    return dataclasses.replace(path, observed=observed)
