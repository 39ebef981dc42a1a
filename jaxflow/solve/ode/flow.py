"""Following an ordinary differential equation, which may begin with discrete steps, by the solver asked for."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._compiled import Static, combine, compiled, partition
from jaxflow.dynamics import Dynamics
from jaxflow.recording import WITH_MEMORY, replay_records
from jaxflow.solve.discrete_start import check_prefix, record_discrete_start, start_flow
from jaxflow.solve.ode.ours import explicit
from jaxflow.solve.ode.outcome import find_ending
from jaxflow.solve.ode.problem import Solution, pose
from jaxflow.solve.ode.stiffness import is_stiff
from jaxflow.solve.request import Request
from jaxflow.solve.times import Times, check_resolved
from jaxflow.solve.trajectories.trajectory import FINISHED, STOPPED, WARMING, Trajectory, identity, is_finite

PyTree = Any

RTOL = {jnp.dtype(jnp.float64): 1e-8, jnp.dtype(jnp.float32): 1e-5}  # half precision: 1e-2
LOOSEST = 1e-2


class Settings(NamedTuple):
    """What is static about a solve.

    `machinery` are diffrax's parts without their arrays. `ours` says that our own loop solves it: by RKC2 with at
    most `stages`, unless that is `None`. `reverse` says that our loop has a reverse mode, and so no forward mode.
    """

    substeps: int | None
    max_steps: int | None
    machinery: Static
    ours: bool
    reverse: bool
    stages: int | None


class Inputs(NamedTuple):
    """What is traced of a solve: a `Request`'s values, tolerances filled in, and the arrays of diffrax's parts."""

    dynamics: Dynamics
    params: PyTree
    times: Times
    step_size: Any
    rtol: Any
    atol: Any
    arrays: list
    record: Any
    state: PyTree


def follow_flow(request: Request) -> Trajectory:
    """Check what is asked of an ordinary differential equation, and solve it."""
    request.refuse("a dynamics without noise", noise_substeps=request.noise_substeps)
    rtol = request.rtol
    if rtol is None:
        rtol = LOOSEST if request.is_half else RTOL[request.precision]
    if request.state is None:
        check_prefix(request.dynamics, request.params, request.times.elapsed)
    step = request.step_size
    if step is not None:
        step = float(step) if _check.is_concrete(step) else step
        check_resolved(request.times, step, "step_size", request.precision)
    if request.substeps is not None:
        check_resolved(request.times, int(request.substeps), "substeps", request.precision)
    settings, arrays = _machinery(request)
    inputs = Inputs(
        dynamics=request.dynamics,
        params=request.params,
        times=request.times,
        step_size=request.step_size,
        rtol=rtol,
        atol=rtol if request.atol is None else request.atol,
        arrays=arrays,
        record=request.record,
        state=request.state,
    )
    return _follow(settings=settings, inputs=inputs)


def _machinery(request: Request) -> tuple[Settings, list]:
    """Which solver, static and traced."""
    solver, stages, forward = request.solver, None, False
    if isinstance(solver, str):
        _check.require_choice("solver", solver, ["auto"])
        stiff = is_stiff(request.dynamics, request.params, request.times.absolute, request.state)
        solver = _stabilised_solver()() if stiff else None
    if solver is not None or request.adjoint is not None:
        import diffrax

        if not (solver is None or isinstance(solver, diffrax.AbstractSolver)):
            raise TypeError(f'solver must be a diffrax solver or "auto", got {solver!r}.')
        stages = cast(Any, solver).max_stages if isinstance(solver, _stabilised_solver()) else None
        forward = isinstance(request.adjoint, diffrax.ForwardMode)
    ours = (
        request.event is None
        and (solver is None or stages is not None)
        and (request.adjoint is None or forward)
    )
    # diffrax's own parts keep Python numbers that must stay so (limits of inner loops): only arrays are traced.
    parts = (solver, request.adjoint, request.event)
    arrays, machinery = partition(parts, lambda leaf: isinstance(leaf, jax.Array))
    reverse = ours and not forward
    return Settings(request.substeps, request.max_steps, machinery, ours, reverse, stages), arrays


def _stabilised_solver() -> Any:
    """`RKC2`, whose module imports diffrax."""
    from jaxflow.solve.ode.diffrax_solves.rkc import RKC2

    return RKC2


@compiled(static=("settings",))
def _follow(*, settings: Settings, inputs: Inputs) -> Trajectory:
    field, record = inputs.dynamics.build(), inputs.record
    prefix, path, state = None, None, inputs.state
    if state is None:
        prefix, path, state = start_flow(field, inputs.params)
    times, elapsed = inputs.times
    begin = elapsed
    if prefix is not None:
        begin = jnp.maximum(elapsed, jnp.asarray(prefix.elapsed, elapsed.dtype)[-1])
    problem = pose(
        inputs.dynamics,
        state,
        begin,
        times[0],
        record,
        rtol=inputs.rtol,
        atol=inputs.atol,
        step_size=inputs.step_size,
        substeps=settings.substeps,
        max_steps=settings.max_steps,
    )
    found = _choose_solve(settings, problem, inputs.arrays)
    end, values = found.end, found.values
    status, stopped = find_ending(problem, found, times)
    if prefix is not None:
        if isinstance(record, WITH_MEMORY):
            values = record_discrete_start(identity, prefix.elapsed, path, elapsed, values[0]), values[1]
        else:
            values = record_discrete_start(record, prefix.elapsed, path, elapsed, values)
        lost = ~jax.vmap(is_finite)(values)
        stopped = jnp.where(problem.alive | ~lost.any(), stopped, times[jnp.argmax(lost)])
        late = begin[0] > elapsed[-1]  # refused where the numbers are concrete
        end = jnp.where(late, jnp.nan, end)
        status, stopped = jnp.where(late, WARMING, status), jnp.where(late, times[-1], stopped)
    arrived = (status == FINISHED) | (status == STOPPED)
    return Trajectory(
        times=times,
        values=replay_records(record, values),
        params=field.params(problem.state(jnp.where(arrived, end, jnp.nan))),
        state=problem.state(end),
        steps=found.steps,
        evaluations=found.evaluations,
        status=status,
        stopped=stopped,
    )


def _choose_solve(settings: Settings, problem, arrays) -> Solution:
    if settings.ours:
        return explicit.solve(problem, settings.stages, settings.reverse)
    from jaxflow.solve.ode.diffrax_solves import solving

    return solving.solve(problem, solving.Machinery(*combine(arrays, settings.machinery)))
