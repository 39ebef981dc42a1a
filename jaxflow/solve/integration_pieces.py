"""A solve in pieces, each of which begins in the state in which the one before it ended."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow._compiled import compiled
from jaxflow.recording import as_recorder
from jaxflow.solve.request import Request
from jaxflow.solve.sde.step_choice import fix_steps
from jaxflow.solve.times import Times
from jaxflow.solve.trajectories.kept_pieces import KeptPieces
from jaxflow.solve.trajectories.long_runs import (
    PIECES,
    Piece,
    check_host,
    finish_pieces,
    hash_of,
    hash_of_program,
    plain,
    shapes_of,
)
from jaxflow.solve.trajectories.trajectory import FINISHED, Trajectory

PyTree = Any


def integrate_in_pieces(
    request: Request, *, solve: Callable[[Request], Trajectory], progress: bool, checkpoint: Any
) -> Trajectory:
    """What was asked of `integrate`, in pieces of its times."""
    traced = (request.dynamics, request.params, request.key, request.state, request.times)
    check_host(traced, progress=progress, checkpoint=checkpoint)
    for name in ("event", "adjoint"):
        if getattr(request, name) is not None:
            raise ValueError(
                f"{name} must be None for a solve with progress= or checkpoint=, got {getattr(request, name)!r}."
            )
    kept = None if checkpoint is None else KeptPieces(checkpoint, _describe(request, solve))
    page = 1
    if request.has_noise:
        request, page = fix_steps(request)
    begun = _begin(
        dynamics=request.dynamics,
        params=request.params,
        time=request.times.absolute[0],
        record=request.record,
        state=request.state,
    )
    pieces = [_piece(request, solve, begin, end) for begin, end in _cut(request, page)]
    return finish_pieces(begun, pieces, label="integrate", unit="records", progress=progress, kept=kept)


@compiled
def _begin(*, dynamics, params, time, record, state) -> Trajectory:
    """A solve of no length: its first record and its state."""
    field = dynamics.build()
    state = field.init(params) if state is None else state
    recorder, params = as_recorder(record), field.params(state)
    value, _ = recorder.look(recorder.begin(params, state), params, state)
    observed = None if field.observe is None or field.step is None else field.observe(state)
    values, observed = jax.tree.map(lambda x: jnp.asarray(x)[None], (value, observed))
    none, time = jnp.zeros([], jnp.int32), jnp.asarray(time)
    return Trajectory(
        times=time[None],
        values=values,
        params=params,
        state=state,
        steps=none,
        evaluations=none,
        status=none + FINISHED,
        stopped=time,
        observed=observed,
    )


def _cut(request: Request, page: int) -> list[tuple[int, int]]:
    """Where pieces begin and end among the times: multiples of a page of noise, the first past all discrete steps."""
    elapsed = np.asarray(request.times.elapsed)
    intervals = elapsed.size - 1
    length = page * -(-intervals // (page * PIECES))
    first = length
    if request.state is None and (prefix := request.dynamics.prefix(request.params)) is not None:
        first = max(length, int(np.searchsorted(elapsed, float(prefix.elapsed[-1]), side="right")))
    ends = [*range(first, intervals, length), intervals] if first < intervals else [intervals]
    return [*zip([0, *ends[:-1]], ends, strict=True)]


def _piece(request: Request, solve: Callable[[Request], Trajectory], begin: int, end: int) -> Piece:
    absolute, elapsed = (part[begin : end + 1] for part in request.times)
    # A solver counts time from the first of its times; steps of fixed length are those of the whole, to the bit.
    times = Times(absolute, elapsed if request.is_stepped else elapsed - elapsed[0])
    has_prefix = begin == 0 and request.state is None and request.dynamics.prefix(request.params) is not None

    def run(last: Trajectory) -> Trajectory:
        if int(last.status) != FINISHED:
            blank = lambda x: jnp.full((end - begin + 1, *x.shape[1:]), jnp.nan, x.dtype)
            zero = jnp.zeros_like(last.steps)
            values, observed = jax.tree.map(blank, (last.values, last.observed))
            return replace(
                last, times=absolute, values=values, observed=observed, steps=zero, evaluations=zero
            )
        part = request._replace(times=times, state=None if has_prefix else last.state)
        return solve(part._replace(first=jnp.asarray(begin, jnp.int32)) if request.has_noise else part)

    return Piece(run, end - begin)


def _describe(request: Request, solve: Callable[[Request], Trajectory]) -> dict[str, Any]:
    """What makes a solve the same solve, by the names of the arguments."""
    dynamics, params = request.dynamics, request.params
    state = jax.eval_shape(dynamics.init, params)
    shown = {name: getattr(request, name) for name in ("solver", "record", "rtol", "atol", "step_size")}
    counts = {name: getattr(request, name) for name in ("substeps", "noise_substeps", "max_steps")}
    return {
        "params": shapes_of(params),
        "dynamics": plain(dynamics),
        "program of the drift": hash_of_program(lambda d, t, z: d.drift(t, z), dynamics, 0.0, state),
        "data": hash_of(dynamics),
        "start": hash_of((params, request.state)),
        "times": hash_of(request.times),
        "key": hash_of(request.key),
        **{name: None if value is None else plain(value) for name, value in shown.items()},
        **counts,
        "program of the record": hash_of_program(request.record, params),
        "program": hash_of_program(lambda params: solve(request._replace(params=params)), params),
    }
