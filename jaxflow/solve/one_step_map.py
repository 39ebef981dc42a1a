"""Following a dynamics that has no noise and is stepped by its own map: one scan over the times asked."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxflow._compiled import compiled, is_tracing
from jaxflow.recording import as_recorder
from jaxflow.solve.discrete.optimizer_steps import finish
from jaxflow.solve.request import Request
from jaxflow.solve.trajectories.trajectory import Trajectory, is_finite

PyTree = Any


def follow_map(request: Request) -> Trajectory:
    """Check what is asked of a dynamics with its own steps, and run it."""
    names = ("rtol", "atol", "adjoint", "event", "key", "noise_substeps", "step_size", "solver")
    request.refuse("a dynamics stepped by its own map", **{name: getattr(request, name) for name in names})
    calls = request.substeps or 1
    # Alone, another number of substeps compiles nothing; in a program the loop must have a known length, as reverse
    # mode goes through no other.
    known = is_tracing()
    return _follow(
        known_calls=calls if known else None,
        traced_calls=None if known else calls,
        dynamics=request.dynamics,
        params=request.params,
        times=request.times,
        record=request.record,
        state=request.state,
    )


@compiled(static=("known_calls",))
def _follow(*, known_calls, traced_calls, dynamics, params, times, record, state):
    calls = traced_calls if known_calls is None else known_calls
    field = dynamics.build()
    assert field.step is not None
    advance = field.step
    state = field.init(params) if state is None else state
    recorder, observe = as_recorder(record), field.observe or (lambda state: None)

    def interval(carry, span):
        state, memory = carry
        # The first has no length: all is in the program once, and the number of calls the same in all lanes.
        begin, dt = span[0], span[1] / calls
        call = lambda i, z: advance(begin + i * dt, z, dt, None)
        state = lax.fori_loop(0, calls, call, state)
        value, memory = recorder.look(memory, field.params(state), state)
        return (state, memory), (value, observe(state), ~is_finite(field.params(state)))

    # Where each interval begins, and its length.
    begins = jnp.concatenate([times.absolute[:1], times.absolute[:-1]])
    spans = jnp.stack([begins, jnp.diff(times.elapsed, prepend=times.elapsed[:1])], 1)
    begun = state, recorder.begin(field.params(state), state)
    (final, _), (values, observed, bad) = lax.scan(interval, begun, spans)
    steps = jnp.asarray((times.elapsed.size - 1) * calls, jnp.int32)
    path = finish(times.absolute, values, field.params(final), final, steps, lambda: bad[1:])
    return dataclasses.replace(path, observed=observed, evaluations=jnp.full_like(steps, -1))
