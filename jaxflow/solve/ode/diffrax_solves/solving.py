"""Solves by diffrax: implicit solvers, events, its adjoints, and any solver of it that a user names."""

import dataclasses
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from diffrax import RESULTS

from jaxflow.solve.ode.diffrax_solves.events import translate_event
from jaxflow.solve.ode.diffrax_solves.pid import CountingPID, ResolvedPID
from jaxflow.solve.ode.diffrax_solves.rkc import RKC2, evaluations
from jaxflow.solve.ode.ours.explicit import FLOAT32
from jaxflow.solve.ode.ours.step_sizes import INTEGRAL, PROPORTIONAL, first_step
from jaxflow.solve.ode.problem import Problem, Solution, blank_unreached
from jaxflow.solve.trajectories.trajectory import FAILED, FINISHED, LEFT, MAX_STEPS, STOPPED, TOO_SMALL

CODES = {
    FINISHED: RESULTS.successful,
    STOPPED: RESULTS.event_occurred,
    MAX_STEPS: RESULTS.max_steps_reached,
    TOO_SMALL: RESULTS.dt_min_reached,
    LEFT: RESULTS.max_steps_rejected,
}


class Machinery(NamedTuple):
    """Parts of diffrax; `None` for its Tsit5, for reverse mode with checkpoints, and for no event."""

    solver: Any = None
    adjoint: Any = None
    event: Any = None


def solve(problem: Problem, machinery: Machinery) -> Solution:
    """Solve by `diffrax.diffeqsolve`."""
    solver = diffrax.Tsit5() if machinery.solver is None else machinery.solver
    adjoint = diffrax.RecursiveCheckpointAdjoint() if machinery.adjoint is None else machinery.adjoint
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver) and problem.is_adaptive:
        raise ValueError(f"{type(solver).__name__} has no error estimate; give step_size or substeps.")
    args = (problem.dynamics, problem.alive, problem.origin)
    times, start = problem.times, jnp.where(problem.alive, problem.start, 0)
    steps, first = _controller(solver, problem, start, _drift(problem)(times[0], start, args))
    solver = _configure_solver(solver, adjoint, problem.is_adaptive)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_drift(problem)),
        solver,
        times[0],
        times[-1],
        first,
        start,
        args,
        saveat=diffrax.SaveAt(
            subs=[
                # The first value is known. Left to the solver, a lane that fails before its first step would, in
                # a vmapped loop, save it anew at every step of the others.
                diffrax.SubSaveAt(ts=times[1:], fn=lambda t, y, args: problem.keep(y)),
                diffrax.SubSaveAt(t1=True),
            ],
            solver_state=isinstance(solver, RKC2),
            controller_state=isinstance(solver, RKC2),
        ),
        stepsize_controller=steps,
        adjoint=adjoint,
        event=translate_event(machinery.event, problem),
        max_steps=problem.max_steps,
        throw=False,
    )
    assert solution.ts is not None
    assert solution.ys is not None
    (saved, ends), (values, states) = solution.ts, solution.ys
    values = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), problem.first, values)
    reached = (
        jnp.append(True, jnp.isfinite(saved)) & problem.alive
    )  # diffrax leaves infinity where it was not
    code = jnp.asarray(FAILED, jnp.int32)
    for ours, theirs in CODES.items():
        code = jnp.where(solution.result == theirs, ours, code)
    return Solution(
        values=jax.tree.map(lambda leaf: blank_unreached(leaf, reached), values),
        end=states[0],
        time=ends[0],
        code=code,
        steps=jnp.asarray(solution.stats["num_steps"], jnp.int32),
        evaluations=_evaluations(solver, solution, problem.is_adaptive),
    )


def _drift(problem: Problem):
    """The vector field, of what it is differentiated by as `args`; NaN in lanes that are not alive.

    From such a start the controller would never find a step, but along NaN it shrinks the step until it stops.
    """

    def drift(t, y, args):
        dynamics, alive, origin = args
        return jnp.where(alive, problem._replace(dynamics=dynamics, origin=origin).drift(t, y), jnp.nan)

    return drift


def _configure_solver(solver, adjoint, adaptive: bool):
    """RKC2, told how its loop over stages will be differentiated, and to hand its cost to the controller."""
    if not isinstance(solver, RKC2):
        return solver
    kinds = {diffrax.ForwardMode: "lax", diffrax.DirectAdjoint: "bounded"}
    kind = next((kind for cls, kind in kinds.items() if isinstance(adjoint, cls)), "checkpointed")
    return dataclasses.replace(solver, scan_kind=kind, counted=adaptive)


def _controller(solver, problem: Problem, start, velocity):
    """The controller of the step size, and the first step."""
    times = problem.times
    if problem.step_size is not None:
        return diffrax.ConstantStepSize(), jnp.asarray(problem.step_size, times.dtype)
    if problem.substeps is not None:
        return diffrax.StepTo(problem.ends()), None
    rtol, stabilised = problem.rtol, isinstance(solver, RKC2)
    if stabilised and times.dtype == jnp.float32:
        rtol = jnp.maximum(rtol, FLOAT32)
    kind = CountingPID if stabilised else ResolvedPID
    smallest = problem.smallest
    pid = kind(rtol, problem.atol, pcoeff=PROPORTIONAL, icoeff=INTEGRAL, smallest=smallest)
    scale = problem.atol + rtol * jnp.abs(start)
    size, speed = jnp.linalg.norm(start / scale), jnp.linalg.norm(velocity / scale)
    return pid, first_step(size, speed, times[-1] - times[0])


def _evaluations(solver, solution, adaptive: bool) -> jax.Array:
    """The number of field evaluations spent; −1 for solvers that do not tell it (implicit ones)."""
    steps = solution.stats["num_steps"]
    if isinstance(solver, RKC2):
        return evaluations(solution)
    if isinstance(solver, diffrax.Euler):
        return jnp.asarray(steps, jnp.int32)
    tableau = getattr(solver, "tableau", None)
    if not (isinstance(solver, diffrax.AbstractERK) and isinstance(tableau, diffrax.ButcherTableau)):
        return jnp.asarray(-1, jnp.int32)
    # Where the last stage is the next step's first, a step saves one; choosing the first step size costs one.
    each, once = (tableau.num_stages - 1, 1) if tableau.fsal else (tableau.num_stages, 0)
    return jnp.asarray(steps * each + once + (1 if adaptive else 0), jnp.int32)
