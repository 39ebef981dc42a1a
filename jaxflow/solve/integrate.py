"""Continuous time: solve a dynamics' differential equation and save at the times asked.

Ordinary differential equations go through diffrax, here; those with noise are stepped in `stochastic.py`. Either
way it is one compiled program whose arguments are the dynamics, parameters, times, tolerances and key.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow import _check
from jaxflow._traceable import Static, combine, compiled, partition
from jaxflow.dynamics import Dynamics
from jaxflow.optim import learning_rate_of
from jaxflow.recording import WITH_MEMORY, Recorder, Recording, keeping, looked
from jaxflow.solve.automatic import choose
from jaxflow.solve.control import controller, ending, evaluations_of, fitted
from jaxflow.solve.mapped import follow_map
from jaxflow.solve.prefix import begun, check_prefix, recorded
from jaxflow.solve.rkc import RKC2
from jaxflow.solve.stepping import IterationState
from jaxflow.solve.stochastic import diffuse
from jaxflow.solve.trajectory import DIVERGED, WARMING, Trajectory, as_parameters, identity, is_finite

PyTree = Any

RTOL = {jnp.dtype(jnp.float64): 1e-8, jnp.dtype(jnp.float32): 1e-5}  # half precision: 1e-2
LOOSEST = 1e-2


class Settings(NamedTuple):
    """What is static about a solve."""

    substeps: int | None
    max_steps: int | None
    machinery: Static


def integrate(
    dynamics: Dynamics,
    params: PyTree,
    times: Any,
    *,
    key: jax.Array | None = None,
    substeps: int | None = None,
    noise_substeps: int | None = None,
    step_size: Any = None,
    rtol: Any = None,
    atol: Any = None,
    solver: diffrax.AbstractSolver | str | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    event: diffrax.Event | None = None,
    record: Callable[[PyTree], PyTree] | Recording | Recorder | None = None,
    max_steps: int | None = 4096,
    state: PyTree = None,
) -> Trajectory:
    r"""Solve $dz = f(t, z)\,dt + \sigma(t, z)\,dW$ from `dynamics.init(params)` at `times[0]`, saved at `times`.

    **Arguments**

    - `times` (T,), T ≥ 2, increasing: `discrete.times` of a run to compare with, say. Without noise some may be
      equal. An ODE's solver steps where it likes and its interpolant is read off at `times`.
    - `record(params) -> pytree`: what to keep, or a `Recorder` such as `jaxflow.curvature.record_sharpness`, which is
      shown the states when the run is over (among first, discrete steps the parameters there and the state after
      them). Default: the parameters.
    - A dynamics may begin with discrete steps (the warm-up of `modified`): values at those times are theirs, along
      straight lines in between, and the solver starts where they end.
    - `state`: the `state` of an earlier trajectory to go on from, instead of `dynamics.init(params)`; velocities
      and second moments are kept. (A path with noise then needs another key.)

    *With noise* (Itô) the steps are fixed, by Euler–Maruyama or the dynamics' own method:

    - `key`: makes the path; one key is one path, on any number of devices. Under `ensemble`, one a member.
    - `substeps` (static): steps between two times. Default: 16 for each step of the discrete process, where the
      dynamics has a `time_step` and it and the times are concrete. Or `step_size`, the longest allowed. At
      `substeps` of one a discrete step Euler–Maruyama *is* noisy descent and not the SDE, so that is refused; a
      step above a quarter of it is warned of.
    - `noise_substeps`, a multiple of the steps: Brownian increments drawn between two times, summed into the
      steps. Runs that agree in it (and in `key` and `times`) are driven by one Brownian path whatever their
      steps: strong convergence, differences between step sizes with little variance.
    - `solver`: `diffrax.Heun()` instead, weak order 2, where the noise is additive; elsewhere it would solve
      the Stratonovich equation.

    *Without noise*, adaptive steps:

    - `rtol`, `atol`: tolerances of the adaptive solver. Default rtol 1e-8 in float64, 1e-5 in float32, 1e-2 in
      half precision; atol = rtol.
    - `step_size`: fixed steps of this size instead; or `substeps` (static): so many equal steps between two
      times.
    - `solver`: any diffrax ODE solver. Default `diffrax.Tsit5()`; `RKC2()` for stiff late-time gradient flow;
      `"auto"` measures the stiffness at the start and takes one of the two (on the host: not under `jit`).
    - `adjoint`: default reverse mode by checkpoints; `diffrax.ForwardMode()` for forward mode (`jvp`,
      `jacfwd`), `diffrax.DirectAdjoint()` for both.
    - `event`: a `diffrax.Event`, such as `gradient_norm_below(1e-3)`. Times after it hold NaN.
    - `max_steps`: steps allowed, rejected ones counted.

    A path of fixed steps that is not finite at its end is marked diverged. A lane of a vmapped adaptive solve whose
    state stops being finite, or whose steps shrink below what the clock can resolve, stops at once and is marked
    diverged, or, where its state is of moderate size, as having left the domain of its equation: no drift is
    defined ahead (a second moment below 0). Nothing is raised; `Trajectory.message` says how it ended, and when.

    Raises `ValueError` or `TypeError` for times that do not increase, tolerances or steps that are not
    positive or too long, an unknown solver, a Stratonovich solver for noise that depends on the state, a missing
    key, or an argument that is for the other kind of equation.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.gradient_flow(lambda x: 0.5 * jnp.sum(x**2))
    >>> print(jf.integrate(flow, jnp.ones(1), jnp.array([0.0, 1.0])).params.round(4))
    [0.3679]
    """
    if not isinstance(dynamics, Dynamics):
        raise TypeError(f"dynamics must be a Dynamics such as gradient_flow(objective), got {dynamics!r}.")
    noisy = dynamics.diffusion is not None or dynamics.step is not None
    mapped = noisy and dynamics.diffusion is None
    times = _times(times, repeated=mapped or (not noisy and substeps is None))
    params = as_parameters(params)
    for name, value in (("step_size", step_size), ("rtol", rtol), ("atol", atol)):
        if value is not None:
            _check.positive(**{name: value})
    if substeps is not None:
        _check.integer("substeps", substeps, 1)
        if step_size is not None:
            raise ValueError(f"Give either substeps or step_size, got both (step_size={step_size!r}).")
    if max_steps is not None:
        _check.integer("max_steps", max_steps, 1)
    if isinstance(state, IterationState):
        raise TypeError(
            "state must be a state of the dynamics, got an optimizer's; dynamics.modified_state(run) makes one of it."
        )
    record = identity if record is None else record
    if noisy:
        unused = {"rtol": rtol, "atol": atol, "adjoint": adjoint, "event": event}
        if mapped:
            unused |= {"key": key, "noise_substeps": noise_substeps, "step_size": step_size, "solver": solver}
            return follow_map(dynamics, params, times, substeps, unused, record, state)
        for name, value in unused.items():
            if value is not None:
                raise ValueError(f"{name} must be None for a dynamics stepped at fixed steps, got {value!r}.")
        how = (substeps, noise_substeps, step_size, solver)
        return diffuse(dynamics, params, times, key, *how, record, state)
    if noise_substeps is not None:
        raise ValueError(f"noise_substeps must be None for a dynamics without noise, got {noise_substeps!r}.")
    dtype = jnp.finfo(jnp.result_type(*jax.tree.leaves(params))).dtype
    rtol = RTOL.get(jnp.dtype(dtype), LOOSEST) if rtol is None else rtol
    if state is None:
        check_prefix(dynamics, params, times)
    solver = _solver(solver, dynamics, params, times, state)
    adjoint = diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
    # diffrax's own parts keep Python numbers that must stay so (limits of inner loops): only arrays are traced.
    arrays, machinery = partition((solver, adjoint, event), lambda leaf: isinstance(leaf, jax.Array))
    settings = Settings(substeps, max_steps, machinery)
    atol = rtol if atol is None else atol
    run = _integrate(settings, dynamics, params, times, step_size, rtol, atol, arrays, record, state)
    arguments = dynamics.hyperparameters
    counted = "optimizer" in arguments and arguments.get("time_step") is None
    counted = counted and learning_rate_of(arguments["optimizer"]) is None
    return dataclasses.replace(run, counts_steps=counted)


def _times(times, repeated: bool) -> jax.Array:
    """Times that increase; `repeated` ones are let through, which a schedule makes that begins or ends at 0."""
    if isinstance(times, Tracer):
        return times
    try:
        array = np.asarray(times, float)
    except (TypeError, ValueError):
        raise TypeError(f"times must be a vector of numbers, got {times!r}.") from None
    if array.ndim != 1 or array.size < 2:
        raise ValueError(f"times must be a vector of at least two numbers, got shape {array.shape}.")
    passed = np.diff(array)
    good = (passed >= 0) if repeated and array[-1] > array[0] else (passed > 0)
    late = ~(good & np.isfinite(passed))
    if late.any():
        i = int(np.argmax(late))
        raise ValueError(
            f"times must be finite and increase, got {array[i]:g} followed by {array[i + 1]:g} at index {i + 1}."
        )
    with jax.ensure_compile_time_eval():  # under jit too, concrete times stay so
        return jnp.asarray(times, float)


def _solver(solver, dynamics, params, times, state):
    if solver is None:
        return diffrax.Tsit5()
    if isinstance(solver, str):
        _check.choice("solver", solver, ["auto"])
        return choose(dynamics, params, times, state)
    if not isinstance(solver, diffrax.AbstractSolver):
        raise TypeError(f'solver must be a diffrax solver or "auto", got {solver!r}.')
    return solver


@compiled
def _integrate(settings, dynamics, params, times, step_size, rtol, atol, arrays, record, state):
    solver, adjoint, event = combine(arrays, settings.machinery)
    if (
        not isinstance(solver, diffrax.AbstractAdaptiveSolver)
        and step_size is None
        and settings.substeps is None
    ):
        raise ValueError(f"{type(solver).__name__} has no error estimate; give step_size or substeps.")
    field = dynamics.build()
    prefix, path, state = begun(field, params) if state is None else (None, None, state)
    keep, begin = keeping(record, field.params), times
    first = keep(state)
    if prefix is not None:
        begin = jnp.maximum(times, times[0] + jnp.asarray(prefix.elapsed, times.dtype)[-1])
    # The solver works in one dtype, at least single precision: its clock and its error estimates need it.
    with jax.numpy_dtype_promotion("standard"):  # of dtypes alone, whatever the user wants of arrays
        wide = jnp.result_type(jnp.float32, *(leaf.real.dtype for leaf in jax.tree.leaves(state)))
        dtype = jnp.result_type(wide, *(leaf.dtype for leaf in jax.tree.leaves(state)))
    widen = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
    real = lambda x, like: x if jnp.iscomplexobj(like) else x.real
    narrow = lambda tree: jax.tree.map(lambda x, like: real(x, like).astype(like.dtype), tree, state)
    # From a start that is not finite the controller would never find a step, but on a NaN drift it shrinks the
    # step to dtmin and stops: such a lane runs from zero along NaN, and is blanked afterwards.
    alive = is_finite(state)
    start = jax.tree.map(lambda z: jnp.where(alive, z, 0), widen(state))
    args = (dynamics, alive)
    clock = begin.astype(wide)
    velocity = _drift(widen, narrow)(clock[0], start, args)
    if isinstance(solver, RKC2) and wide == jnp.float32:
        rtol = jnp.maximum(rtol, RTOL[jnp.dtype(wide)])  # rounding over many stages is no smaller
    steps, dt0 = controller(solver, settings.substeps, clock, step_size, rtol, atol, start, velocity)
    adaptive = isinstance(steps, diffrax.PIDController)
    solver = fitted(solver, adjoint, adaptive)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(_drift(widen, narrow)),
        solver,
        clock[0],
        clock[-1],
        dt0,
        start,
        args,
        saveat=diffrax.SaveAt(
            subs=[
                # The first value is known. Left to the solver, a lane that fails before its first step would, in
                # a vmapped loop, save it anew at every step of the others.
                diffrax.SubSaveAt(ts=clock[1:], fn=lambda t, y, args: keep(narrow(y))),
                diffrax.SubSaveAt(t1=True),
            ],
            solver_state=isinstance(solver, RKC2),
            controller_state=isinstance(solver, RKC2),
        ),
        stepsize_controller=steps,
        adjoint=adjoint,
        event=event,
        max_steps=settings.max_steps,
        throw=False,
    )
    assert solution.ts is not None
    assert solution.ys is not None
    (saved, ends), (values, states) = solution.ts, solution.ys
    final = narrow(jax.tree.map(lambda leaf: _blank(leaf[0], alive), states))
    # diffrax leaves infinity at times it did not reach.
    reached = jnp.append(alive, jnp.isfinite(saved) & alive)
    values = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), first, values)
    values = jax.tree.map(lambda leaf: _blank(leaf, reached), values)
    status, stopped = ending(solution.result, start, final, ends[0].astype(times.dtype), times, values)
    status, stopped = jnp.where(alive, status, DIVERGED), jnp.where(alive, stopped, begin[0])
    if prefix is not None:
        if isinstance(record, WITH_MEMORY):
            values = recorded(identity, prefix.elapsed, path, times, values[0]), values[1]
        else:
            values = recorded(record, prefix.elapsed, path, times, values)
        lost = ~jax.vmap(is_finite)(values)
        stopped = jnp.where(alive | ~lost.any(), stopped, times[jnp.argmax(lost)])
        late = begin[0] > times[-1]  # refused where the numbers are concrete
        final = jax.tree.map(lambda leaf: _blank(leaf, ~late), final)
        status, stopped = jnp.where(late, WARMING, status), jnp.where(late, times[-1], stopped)
    return Trajectory(
        times=times,
        values=looked(record, values),
        params=field.params(final),
        state=final,
        steps=jnp.asarray(solution.stats["num_steps"], jnp.int32),
        evaluations=evaluations_of(solver, solution, adaptive),
        status=status,
        stopped=stopped,
    )


def _drift(widen, narrow):
    """The vector field in the solver's dtype; NaN in lanes that are not alive."""

    def drift(t, y, args):
        dynamics, alive = args
        velocity = widen(dynamics.drift(t, narrow(y)))
        return jax.tree.map(lambda v: jnp.where(alive, v, jnp.nan), velocity)

    return drift


def _blank(leaf: jax.Array, reached: jax.Array) -> jax.Array:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    return jnp.where(reached.reshape(reached.shape + (1,) * (leaf.ndim - reached.ndim)), leaf, jnp.nan)
