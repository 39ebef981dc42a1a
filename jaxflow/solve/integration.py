"""Continuous time: solve the differential equation of a dynamics and save it at the times asked.

Ordinary differential equations go through diffrax, here. Those with noise are stepped in `sde/fixed_steps.py`. Either
way it is one compiled program, whose arguments are the dynamics, parameters, times, tolerances and key.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._traceable import Static, combine, compiled, partition
from jaxflow.dynamics import Dynamics
from jaxflow.optim import learning_rate_of
from jaxflow.recording import WITH_MEMORY, Recorder, Recording, keeping, looked
from jaxflow.solve.discrete_start import begun, check_prefix, recorded
from jaxflow.solve.ode.diffrax_settings import (
    ResolvedPID,
    controller,
    ending,
    evaluations_of,
    fitted,
    on_given_clock,
)
from jaxflow.solve.ode.rkc import RKC2
from jaxflow.solve.ode.stiffness import choose
from jaxflow.solve.one_step_map import follow_map
from jaxflow.solve.optimizer_steps import IterationState, check_state
from jaxflow.solve.sde.fixed_steps import diffuse
from jaxflow.solve.times import Times, check_resolved, checked, single_or_double
from jaxflow.solve.trajectory import (
    DIVERGED,
    FINISHED,
    STOPPED,
    WARMING,
    Trajectory,
    as_parameters,
    identity,
    is_finite,
)

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

    - `dynamics`: a `Dynamics` from `jaxflow.dynamics`, or a user's own.
    - `params`: the parameters at `times[0]`, a pytree of float or complex arrays.
    - `times` (T,), T ≥ 2: increasing times on the dynamics' clock, such as `discrete.times` of a run to compare with.
      Without noise some may be equal. An ODE's solver chooses its own steps, and its interpolant is evaluated at
      `times`. It counts time from the first of them, so that a solve far from 0 keeps all its digits.
    - `record`: a function `record(params) -> pytree` of what to keep, or a `Recorder` such as
      `jaxflow.curvature.record_sharpness`, which is shown the states when the run is over (during discrete first
      steps it sees the parameters there and the state after them). Default: the parameters.
    - `state`: the `state` of an earlier trajectory, from which the solve goes on instead of from
      `dynamics.init(params)`. Velocities and second moments are kept. (A path with noise then needs another key.)

    A dynamics may begin with discrete steps (the warm-up of `modified`). Values at those times are theirs, with
    straight lines in between, and the solver starts where they end.

    *With noise* (in Itô's sense) the steps are fixed, by Euler–Maruyama or the dynamics' own method:

    - `key`: the random key of the path. One key is one path, on any number of devices; an `ensemble` has one key for
      each member.
    - `substeps`: the number of steps between two times (static). By default it is 16 for each step of the discrete
      process, where the dynamics has a `time_step` and both it and the times are concrete. With one substep for each
      discrete step Euler–Maruyama *is* noisy descent and not the SDE, so that is refused; a step longer than a
      quarter of a discrete step brings a warning.
    - `step_size`: instead of `substeps`, the longest step allowed, in time.
    - `noise_substeps`: the number of Brownian increments drawn between two times, a multiple of the number of steps,
      which are summed into the steps (static). Runs that agree in it, in `key` and in `times` are driven by one
      Brownian path whatever their steps are. This serves strong convergence, and differences between step sizes with
      little variance. It is refused where a step is not driven by the sum of its increments: for `rmsprop`, `adam`
      and `sign_sgd`, and for noise that picks examples.
    - `solver`: `diffrax.Heun()` takes the place of Euler–Maruyama. It has weak order 2, and only additive noise may
      use it, as it would otherwise solve the Stratonovich equation.

    *Without noise* the steps are adaptive:

    - `rtol`, `atol`: relative and absolute tolerance of the solver. Default: rtol is 1e-8 in float64, 1e-5 in
      float32, 1e-2 in half precision, and atol = rtol.
    - `step_size`: fixed steps of this length, in time, instead of adaptive ones.
    - `substeps`: a number of equal steps between two times (static), instead of adaptive ones.
    - `solver`: any diffrax ODE solver. Default: `diffrax.Tsit5()`. `RKC2()` is for stiff late-time gradient flow;
      `"auto"` measures the stiffness at the start and chooses one of the two (on the host, so not under `jit`).
    - `adjoint`: how derivatives pass through the solve. Default: reverse mode with checkpoints;
      `diffrax.ForwardMode()` is for forward mode (`jvp`, `jacfwd`), `diffrax.DirectAdjoint()` for both.
    - `event`: a `diffrax.Event`, such as `gradient_norm_below(1e-3)`. Values at times after it are NaN.
    - `max_steps`: the number of steps allowed, rejected ones included.

    **Returns** a `Trajectory`. Nothing is raised when a solve fails: `Trajectory.message` says how it ended, and
    when. A path of fixed steps that is not finite at its end is marked as diverged. A lane of a vmapped adaptive
    solve stops at once, and is marked as diverged, when its state is no longer finite or its steps shrink below
    what the clock can resolve. Where the state is then of moderate size, the lane is marked as having left the
    domain of its equation (if no drift is defined ahead: a second moment below 0, say) or else as one whose steps
    became too small. The `params` of a solve that did not arrive are NaN; its `state` is where it stopped.

    **Raises** `ValueError` or `TypeError` for times that do not increase in the precision at hand, tolerances or
    steps that are not positive, too long, or too short for that precision, an unknown solver, a Stratonovich solver
    for noise that depends on the state, a missing key, or an argument that is for the other kind of equation.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.gradient_flow(lambda x: 0.5 * jnp.sum(x**2))
    >>> print(jf.integrate(flow, jnp.ones(1), jnp.array([0.0, 1.0])).params.round(4))
    [0.3679]
    """
    if not isinstance(dynamics, Dynamics):
        raise TypeError(f"dynamics must be a Dynamics such as gradient_flow(objective), got {dynamics!r}.")
    noisy = dynamics.diffusion is not None or dynamics.step is not None
    mapped = noisy and dynamics.diffusion is None
    params = as_parameters(params)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(params)]
    precision = jnp.result_type(float) if noisy else single_or_double(dtypes)
    clock = checked(times, mapped or (not noisy and substeps is None), precision)
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
    if state is not None:
        check_state(state, jax.eval_shape(lambda d, p: d.init(p), dynamics, params), repr(dynamics))
    record = identity if record is None else record
    if noisy:
        unused = {"rtol": rtol, "atol": atol, "adjoint": adjoint, "event": event}
        if mapped:
            unused |= {"key": key, "noise_substeps": noise_substeps, "step_size": step_size, "solver": solver}
            return _marked(dynamics, follow_map(dynamics, params, clock, substeps, unused, record, state))
        for name, value in unused.items():
            if value is not None:
                raise ValueError(f"{name} must be None for a dynamics stepped at fixed steps, got {value!r}.")
        how = (substeps, noise_substeps, step_size, solver)
        return _marked(dynamics, diffuse(dynamics, params, clock, key, *how, record, state))
    if noise_substeps is not None:
        raise ValueError(f"noise_substeps must be None for a dynamics without noise, got {noise_substeps!r}.")
    if rtol is None:
        is_half = dtypes and all(jnp.finfo(dtype).bits == 16 for dtype in dtypes)
        rtol = LOOSEST if is_half else RTOL[precision]
    if state is None:
        check_prefix(dynamics, params, clock.elapsed)
    if step_size is not None:
        check_resolved(
            clock, float(step_size) if _check.is_concrete(step_size) else step_size, "step_size", precision
        )
    if substeps is not None:
        check_resolved(clock, int(substeps), "substeps", precision)
    solver = _solver(solver, dynamics, params, clock.absolute, state)
    adjoint = diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
    # diffrax's own parts keep Python numbers that must stay so (limits of inner loops): only arrays are traced.
    arrays, machinery = partition((solver, adjoint, event), lambda leaf: isinstance(leaf, jax.Array))
    settings = Settings(substeps, max_steps, machinery)
    atol = rtol if atol is None else atol
    path = _integrate(
        settings=settings,
        dynamics=dynamics,
        params=params,
        given=clock,
        step_size=step_size,
        rtol=rtol,
        atol=atol,
        arrays=arrays,
        record=record,
        state=state,
    )
    return _marked(dynamics, path)


def _marked(dynamics: Dynamics, path: Trajectory) -> Trajectory:
    """The path, which now tells whether its times only count the steps of an optimizer without a learning rate."""
    arguments = dynamics.hyperparameters
    if "optimizer" not in arguments or arguments.get("time_step") is not None:
        return path
    return dataclasses.replace(path, counts_steps=learning_rate_of(arguments["optimizer"]) is None)


def _solver(solver, dynamics, params, times, state):
    if solver is None:
        return diffrax.Tsit5()
    if isinstance(solver, str):
        _check.choice("solver", solver, ["auto"])
        return choose(dynamics, params, times, state)
    if not isinstance(solver, diffrax.AbstractSolver):
        raise TypeError(f'solver must be a diffrax solver or "auto", got {solver!r}.')
    return solver


@compiled(static=("settings",))
def _integrate(*, settings, dynamics, params, given: Times, step_size, rtol, atol, arrays, record, state):
    solver, adjoint, event = combine(arrays, settings.machinery)
    if (
        not isinstance(solver, diffrax.AbstractAdaptiveSolver)
        and step_size is None
        and settings.substeps is None
    ):
        raise ValueError(f"{type(solver).__name__} has no error estimate; give step_size or substeps.")
    field = dynamics.build()
    prefix, path, state = begun(field, params) if state is None else (None, None, state)
    times, elapsed = given
    keep, begin = keeping(record, field.params), elapsed
    first = keep(state)
    if prefix is not None:
        begin = jnp.maximum(elapsed, jnp.asarray(prefix.elapsed, elapsed.dtype)[-1])
    # The solver works in one dtype, at least single precision: its clock and its error estimates need it.
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(state)]
    wide = single_or_double(dtypes)
    is_complex = any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes)
    dtype = jnp.promote_types(wide, jnp.complex64) if is_complex else wide
    widen = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
    real = lambda x, like: x if jnp.iscomplexobj(like) else x.real
    narrow = lambda tree: jax.tree.map(lambda x, like: real(x, like).astype(like.dtype), tree, state)
    # From a start that is not finite the controller would never find a step, but on a NaN drift it shrinks the
    # step to dtmin and stops: such a lane runs from zero along NaN, and is blanked afterwards.
    alive = is_finite(state)
    start = jax.tree.map(lambda z: jnp.where(alive, z, 0), widen(state))
    clock = begin.astype(wide)
    args = (dynamics, alive, times[0].astype(wide))
    drift = _drift(widen, narrow)
    velocity = drift(clock[0], start, args)
    if isinstance(solver, RKC2) and wide == jnp.float32:
        rtol = jnp.maximum(rtol, RTOL[jnp.dtype(wide)])  # rounding over many stages is no smaller
    steps, dt0 = controller(solver, settings.substeps, clock, step_size, rtol, atol, start, velocity)
    adaptive = isinstance(steps, ResolvedPID)
    solver = fitted(solver, adjoint, adaptive)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(drift),
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
        event=on_given_clock(event),
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
    end = times[0] + ends[0].astype(times.dtype)
    status, stopped = ending(solution.result, start, final, end, times, values)
    status, stopped = jnp.where(alive, status, DIVERGED), jnp.where(alive, stopped, times[0] + begin[0])
    if prefix is not None:
        if isinstance(record, WITH_MEMORY):
            values = recorded(identity, prefix.elapsed, path, elapsed, values[0]), values[1]
        else:
            values = recorded(record, prefix.elapsed, path, elapsed, values)
        lost = ~jax.vmap(is_finite)(values)
        stopped = jnp.where(alive | ~lost.any(), stopped, times[jnp.argmax(lost)])
        late = begin[0] > elapsed[-1]  # refused where the numbers are concrete
        final = jax.tree.map(lambda leaf: _blank(leaf, ~late), final)
        status, stopped = jnp.where(late, WARMING, status), jnp.where(late, times[-1], stopped)
    arrived = (status == FINISHED) | (status == STOPPED)
    return Trajectory(
        times=times,
        values=looked(record, values),
        params=jax.tree.map(lambda leaf: _blank(leaf, arrived), field.params(final)),
        state=final,
        steps=jnp.asarray(solution.stats["num_steps"], jnp.int32),
        evaluations=evaluations_of(solver, solution, adaptive),
        status=status,
        stopped=stopped,
    )


def _drift(widen, narrow):
    """The vector field in the solver's dtype and on its clock; NaN in lanes that are not alive."""

    def drift(t, y, args):
        dynamics, alive, origin = args
        velocity = widen(dynamics.drift(origin + t, narrow(y)))
        return jax.tree.map(lambda v: jnp.where(alive, v, jnp.nan), velocity)

    return drift


def _blank(leaf: jax.Array, reached: jax.Array) -> jax.Array:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    return jnp.where(reached.reshape(reached.shape + (1,) * (leaf.ndim - reached.ndim)), leaf, jnp.nan)
