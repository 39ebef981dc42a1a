"""A run of an optimizer in pieces of one program, whose records and state are those of the whole to the bit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.dynamics.clock import step_times
from jaxflow.solve.discrete.estimator_checks import is_random
from jaxflow.solve.discrete.iteration_request import IterationRequest, Settings
from jaxflow.solve.discrete.watching import Watch
from jaxflow.solve.metrics import loss
from jaxflow.solve.trajectories.kept_pieces import KeptPieces
from jaxflow.solve.trajectories.long_runs import (
    PIECES,
    SHOWN,
    Piece,
    check_host,
    finish_pieces,
    hash_of,
    hash_of_program,
    plain,
    shapes_of,
)
from jaxflow.solve.trajectories.trajectory import FINISHED, INTERRUPTED, Trajectory

PyTree = Any


def iterate_in_pieces(
    request: IterationRequest,
    *,
    run: Callable[[IterationRequest], Trajectory],
    begin: Callable[[IterationRequest], Trajectory],
    progress: bool,
    checkpoint: Any,
) -> Trajectory:
    """What was asked of `iterate`, in pieces."""
    traced = (request.optimizer, request.objective, request.params, request.key, request.state, request.rate)
    check_host(traced, progress=progress, checkpoint=checkpoint)
    if request.settings.open:
        raise ValueError("steps must be a plain number for a run with progress= or checkpoint=.")
    kept = None if checkpoint is None else KeptPieces(checkpoint, describe_iteration(request, run))
    metrics = {**(request.metrics or {}), SHOWN: loss} if progress else request.metrics
    shown = request._replace(metrics=metrics)

    def piece(settings: Settings) -> Piece:
        ahead = lambda last: run(
            shown._replace(settings=settings, params=last.params, state=go_on(last.state))
        )
        assert settings.steps is not None
        return Piece(ahead, settings.steps, recorded=not settings.blind)

    pieces = [piece(settings) for settings in cut_steps(request.settings)]
    begun = begin(shown)
    whole = finish_pieces(begun, pieces, label="iterate", unit="steps", progress=progress, kept=kept)
    whole = _put_on_one_clock(_add_last_record(whole, shown, begin), begun, request)
    return _drop_shown_metric(whole, request) if progress else whole


def _add_last_record(
    run: Trajectory, request: IterationRequest, begin: Callable[[IterationRequest], Trajectory]
) -> Trajectory:
    """A run that was interrupted between two records, with a record of where it is.

    Metrics of a step are NaN there, and what remembers begins anew.
    """
    taken, every = int(run.steps), request.settings.interval
    if taken % every == 0 or taken == request.settings.steps:
        return run
    here = begin(request._replace(params=run.params, state=go_on(run.state)._replace(watch=())))
    last = lambda a, b: jax.tree.map(lambda x, y: jnp.concatenate([x, y]), a, b)
    return replace(
        run,
        times=last(run.times, here.times),
        values=last(run.values, here.values),
        observed=last(run.observed, here.observed),
        state=here.state,
    )


def _put_on_one_clock(run: Trajectory, begun: Trajectory, request: IterationRequest) -> Trajectory:
    """A run with the times that one program would give it: those of pieces are rounded at every seam."""
    taken = int(run.steps)
    ends = np.minimum(np.arange(run.times.size) * request.settings.interval, taken)
    time = np.asarray(begun.state.time)
    ends = np.append(ends, taken)
    passed = (
        np.asarray(step_times(request.rate, begun.state.step, taken, ends, time.dtype)) if taken else 0 * ends
    )
    times = jnp.asarray(time + passed, time.dtype)
    lasted = (run.status == FINISHED) | (run.status == INTERRUPTED)
    stopped = jnp.where(lasted, times[-2], run.stopped)
    return replace(run, times=times[:-1], stopped=stopped, state=run.state._replace(time=times[-1]))


def go_on(state: Any) -> Any:
    """A state as a request holds it: its key is the request's."""
    return state._replace(key=None)


def cut_steps(settings: Settings) -> list[Settings]:
    """A run in about `PIECES` pieces: of whole intervals between records, or of parts of an interval."""
    steps, every = settings.steps, settings.interval
    assert steps is not None
    if settings.intervals >= PIECES // 2:
        length = every * -(-settings.intervals // PIECES)
        return [Settings(min(length, steps - begin), every) for begin in range(0, steps, length)]
    pieces = []
    for begin in range(0, steps, every):
        left = min(every, steps - begin)
        part = -(-left // max(PIECES // settings.intervals, 1))
        sizes = [min(part, left - done) for done in range(0, left, part)]
        pieces += [Settings(size, None, blind=True) for size in sizes[:-1]] + [Settings(sizes[-1], None)]
    return pieces


def describe_iteration(
    request: IterationRequest, run: Callable[[IterationRequest], Trajectory]
) -> dict[str, Any]:
    """What makes a run the same run, by the names of the arguments; its whole program tells what they do not."""
    optimizer, objective, params = request.optimizer, request.objective, request.params
    update = lambda p, s: optimizer.update(p, s, p)
    state = jax.eval_shape(optimizer.init, params)
    return {
        "params": shapes_of(params),
        "optimizer": plain(optimizer),
        "program of the optimizer": hash_of_program(update, params, state),
        "objective": plain(objective),
        "program of the losses": hash_of_program(_loss, objective, params),
        "data": hash_of(objective),
        "start": hash_of((params, request.rest, request.state)),
        "steps": request.settings.steps,
        "every": request.settings.every,
        "time_step": plain(request.rate),
        "estimator": plain(request.estimator),
        "key": hash_of(request.key),
        "record": plain(request.record),
        "metrics": None if request.metrics is None else sorted(request.metrics),
        "program of the record": hash_of_program(request.record, params),
        "program": hash_of_program(lambda params: run(request._replace(params=params)), params),
    }


def _loss(objective: Any, params: PyTree) -> jax.Array:
    return (objective.with_key(jax.random.key(0)) if is_random(objective) else objective)(params)


def _drop_shown_metric(run: Trajectory, request: IterationRequest) -> Trajectory:
    """A run without the metric that only its bar showed."""

    def drop(told: dict) -> dict | None:
        rest = {name: value for name, value in told.items() if name != SHOWN}
        return rest if request.metrics is not None else None

    watch = run.state.watch
    (own, others), (value, told) = watch.memory, watch.seen
    remembers = request.metrics is not None or jax.tree.leaves(own)
    left = Watch((own, drop(others) or {}), (value, drop(told)), watch.updates) if remembers else ()
    return replace(run, observed=drop(run.observed), state=run.state._replace(watch=left))
