"""Iterates over batches that arrive from the host one by one, for data that do not fit in memory.

It is a Python loop over one compiled step. Dispatch is asynchronous, so the next batch is read while the last step
runs.
"""

import contextlib
import contextvars
import dataclasses
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._compiled import compiled, transfers
from jaxflow._text.progress import Bar
from jaxflow.dynamics.clock import step_times
from jaxflow.objective import Objective
from jaxflow.optim.updates import Step, take_step
from jaxflow.solve.discrete.iteration_request import IterationRequest
from jaxflow.solve.discrete.optimizer_steps import IterationState, finish, keep_key, key_of_losses, start
from jaxflow.solve.discrete.watching import Watcher
from jaxflow.solve.trajectories.trajectory import INTERRUPTED, STREAM_ENDED, Trajectory, is_finite

PyTree = Any
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
def _begin(*, optimizer, objective, params, state, record, metrics, batch, key, model):
    """The step that the run begins from, what is seen there, and the memory."""
    watcher = Watcher(record, metrics)
    asked = {"optimizer": optimizer, "objective": objective, "batch": batch, "key": key, "model": model}
    take = lambda step: _take(watcher, step, number=state.step, **asked)[0]
    return watcher.begin(params, state.optimizer, take, state.step, state.watch, model)


@compiled
def _stream_step(*, optimizer, objective, step, record, metrics, batch, key, number, model):
    watcher = Watcher(record, metrics)
    return _take(
        watcher,
        step,
        optimizer=optimizer,
        objective=objective,
        batch=batch,
        key=key,
        number=number,
        model=model,
    )


def _take(watcher: Watcher, step: Step, *, optimizer, objective, batch, key, number, model):
    """A step on a batch, the state of the model after it, and the loss of the batch before it."""
    if key is not None:
        objective = objective.with_key(key_of_losses(jax.random.fold_in(key, number)))
    states = [model]
    if model is not None:
        objective, states = objective.carrying(model)
        objective.over(step.params, batch)  # for the new state; the compiler does not do it again
    model = states[0]
    loss = lambda params: objective.over(params, batch)
    taken = take_step(optimizer, step.params, step.state, loss, last_updates=step.updates)
    return watcher.keep(taken._replace(model=model)), model, taken.loss


@compiled
def _observe(*, record, metrics, step, memory, number):
    """What is seen after a step, whether its parameters are not finite, and the memory."""
    seen, memory = Watcher(record, metrics).look(memory, step, number)
    return (seen, ~is_finite(step.params)), memory


def iterate_stream(request: IterationRequest, *, progress: bool, checkpoint: Any) -> Trajectory:
    """`iterate` over an iterable of batches; a stream that ends early gives a shorter trajectory and a warning."""
    if checkpoint is not None:
        raise ValueError(
            f"checkpoint must be None for a stream of batches, which cannot go back, got {checkpoint!r}."
        )
    if _REFUSED.get():
        raise ValueError(
            "estimator must not be a stream of batches inside ensemble: it is read once, so that all members would "
            "see the same batches; give batch_size= or an estimator of jaxflow.solve, or run them one after another."
        )
    optimizer, objective, batches = request.optimizer, request.objective, request.estimator
    if not isinstance(objective, Objective):
        raise TypeError(f"A stream of batches needs an Objective(losses), got {objective!r}.")
    try:
        stream = iter(batches)
    except TypeError:
        raise TypeError(
            f"estimator must come from jaxflow.solve or be an iterable of batches, got {batches!r}."
        ) from None
    first = next(stream, None)
    if first is None:
        raise ValueError("The stream of batches is empty.")
    with transfers():
        state = start(optimizer, request.params) if request.state is None else request.state
    key = request.key if objective.is_random else None
    asked = {"optimizer": optimizer, "objective": objective, "key": key}
    model = objective.state if state.model is None else state.model
    steps: Any = request.settings.steps
    watched = {"record": request.record, "metrics": request.metrics}
    step, seen, memory = _begin(
        params=request.params, state=state, batch=first, model=model, **asked, **watched
    )
    compares = step.updates is not None  # a metric with the updates before
    records, ends, last, loss = [], [], 0, None

    def observe(number: int, memory: PyTree) -> PyTree:
        at = state.step + number
        found, memory = _observe(step=step, memory=memory, number=at, **watched)
        records.append(found)
        ends.append(number)
        return memory

    interrupted = False
    with Bar("iterate", steps, "steps", shown=progress) as bar:
        try:
            for batch in itertools.islice(itertools.chain([first], stream), steps):
                number, before = None if key is None else state.step + last, loss
                step, model, loss = _stream_step(
                    step=step, batch=batch, number=number, model=model, **asked, **watched
                )
                last += 1  # only now: Ctrl-C may come before
                if last % request.settings.interval == 0:
                    memory = observe(last, memory)
                # Whoever asked for the loss of the step that runs now would wait for it.
                bar.advance(1, **({"loss": float(before)} if before is not None and bar.is_due else {}))
        except KeyboardInterrupt:
            if not progress:
                raise
            interrupted = True
    if not ends or ends[-1] != last:  # a last shorter interval
        memory = observe(last, memory)
    with transfers():
        times = state.time + step_times(
            request.rate, state.step, last, np.array([0, *ends]), state.time.dtype
        )
        # On the host: a program that stacks as many arrays as there are records takes ever longer to make.
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(records))
        found, bad = jax.tree.map(jnp.asarray, stacked)
        values, observed = jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), seen, found)
        watch = Watcher(**watched).remember(memory, records[-1][0], step.updates if compares else None)
        final = IterationState(
            step=state.step + last,
            time=times[-1],
            optimizer=step.state,
            estimator=state.estimator,
            key=keep_key(request.key),
            watch=watch,
            model=model,
        )
        taken = jnp.asarray(last, jnp.int32)
        run = finish(times, values, step.params, final, taken, lambda: bad, observed=observed)
    if interrupted:
        return dataclasses.replace(run, status=jnp.where(run.diverged, run.status, INTERRUPTED))
    if last < steps:
        warnings.warn(f"The stream of batches ended after {last} of {steps} steps.", stacklevel=3)
        return dataclasses.replace(run, status=jnp.where(run.diverged, run.status, STREAM_ENDED))
    return run
