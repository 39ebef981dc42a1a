"""Iterates over batches that arrive from the host one by one, for data that do not fit in memory.

It is a Python loop over one compiled step. Dispatch is asynchronous, so the next batch is read while the last step
runs.
"""

import contextlib
import contextvars
import dataclasses
import warnings
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._compiled import compiled, transfers
from jaxflow.dynamics.clock import step_times
from jaxflow.objective import Objective
from jaxflow.optim.updates import advance
from jaxflow.recording import as_recorder
from jaxflow.solve.optimizer_steps import finish, start
from jaxflow.solve.trajectory import STREAM_ENDED, is_finite

_REFUSED = contextvars.ContextVar("refused", default=False)


@contextlib.contextmanager
def refuse_streams() -> Iterator[None]:
    """Refuse streams of batches inside this context.

    A stream exists once, on the host, so all members of an ensemble would be one and the same run.
    """
    token = _REFUSED.set(True)
    try:
        yield
    finally:
        _REFUSED.reset(token)


@compiled
def _stream_step(*, optimizer, objective, params, optimizer_state, batch):
    return advance(optimizer, params, optimizer_state, lambda p: objective.over(p, batch))


@compiled
def _observe(record, params, state, memory=None):
    """The record, whether the parameters are not finite, and the memory, which is `None` before the first record."""
    recorder = as_recorder(record)
    memory = recorder.begin(params, state) if memory is None else memory
    value, memory = recorder.look(memory, params, state)
    return (value, ~is_finite(params)), memory


def iterate_stream(*, optimizer, objective, params, steps, rate, batches, every, record, state):
    """`iterate` over an iterable of batches; a stream that ends early gives a shorter trajectory and a warning."""
    if _REFUSED.get():
        raise ValueError(
            "estimator must not be a stream of batches inside ensemble: it is read once, so that all members would "
            "see the same batches; give batch_size= or an estimator of jaxflow.solve, or run one after another."
        )
    if not isinstance(objective, Objective):
        raise TypeError(f"A stream of batches needs an Objective(losses), got {objective!r}.")
    try:
        stream = iter(batches)
    except TypeError:
        raise TypeError(
            f"estimator must come from jaxflow.solve or be an iterable of batches, got {batches!r}."
        ) from None
    with transfers():
        state = start(optimizer, params) if state is None else state
    optimizer_state = state.optimizer
    seen, memory = _observe(record, params, optimizer_state)
    records, ends, last = [seen], [0], 0
    for last, batch in enumerate((batch for _, batch in zip(range(steps), stream, strict=False)), 1):
        params, optimizer_state = _stream_step(
            optimizer=optimizer,
            objective=objective,
            params=params,
            optimizer_state=optimizer_state,
            batch=batch,
        )
        if last % every == 0:
            seen, memory = _observe(record, params, optimizer_state, memory=memory)
            records.append(seen)
            ends.append(last)
    if last == 0:
        raise ValueError("The stream of batches is empty.")
    if ends[-1] != last:  # a last shorter interval
        records.append(_observe(record, params, optimizer_state, memory=memory)[0])
        ends.append(last)
    with transfers():
        times = state.time + step_times(rate, state.step, last, np.array(ends), state.time.dtype)
        final = state._replace(step=state.step + last, time=times[-1], optimizer=optimizer_state)
        values, bad = jax.tree.map(lambda *leaves: jnp.stack(leaves), *records)
        taken = jnp.asarray(last, jnp.int32)
        trajectory = finish(times, values, params, final, taken, lambda: bad[1:])
    if last < steps:
        warnings.warn(f"The stream of batches ended after {last} of {steps} steps.", stacklevel=3)
        ended = jnp.where(trajectory.diverged, trajectory.status, STREAM_ENDED)
        return dataclasses.replace(trajectory, status=ended)
    return trajectory
