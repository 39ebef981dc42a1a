"""Stepping a dynamics with noise by Euler–Maruyama, Heun, or the dynamics' own step, in one scan.

It is one compiled program, whose arguments are the dynamics, parameters, times and key.
"""

import math
import warnings
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxflow import _check
from jaxflow._checkpoint import checkpoint
from jaxflow._companions import warn_of_companions
from jaxflow._compiled import compiled
from jaxflow.dynamics import Dynamics, Field
from jaxflow.recording import keeper, replay_records
from jaxflow.solve.discrete.optimizer_steps import finish
from jaxflow.solve.request import Request
from jaxflow.solve.sde.brownian import coarsen, increments, is_bits, pages
from jaxflow.solve.times import Times, check_resolved
from jaxflow.solve.trajectories.trajectory import Trajectory, is_finite

PyTree = Any

PER_TIME_STEP = 16  # substeps for every step of the discrete process
WARN = 1 / 4  # of a time step


class Settings(NamedTuple):
    """What is static about a run: steps between two saved times, finer increments in each step, and the scheme."""

    substeps: int
    refinement: int
    heun: bool


def diffuse(request: Request) -> Trajectory:
    """Check what is asked of an SDE, and run it."""
    names = ("rtol", "atol", "adjoint", "event")
    request.refuse("a dynamics stepped at fixed steps", **{name: getattr(request, name) for name in names})
    dynamics, times, key = request.dynamics, request.times, request.key
    if key is None:
        raise ValueError(f"key must be a PRNG key such as jax.random.key(0) for {_name(dynamics)}, got None.")
    _check.random_key(key)
    for value in dynamics.hyperparameters.values():
        warn_of_companions(value, request.params)
    heun = _scheme(dynamics, request.solver)
    substeps = _substeps(dynamics, times, request.substeps, request.step_size)
    check_resolved(times, substeps, "substeps", times.elapsed.dtype)
    settings = Settings(substeps, _refinement(request, substeps), heun)
    return _diffuse(
        first=request.first,
        settings=settings,
        dynamics=dynamics,
        params=request.params,
        times=times,
        key=key,
        record=request.record,
        state=request.state,
    )


def fix_steps(request: Request) -> tuple[Request, int]:
    """A request whose number of steps is chosen, so that all parts of it take the same, and a number of intervals.

    Parts of a multiple of that many intervals draw the noise that the whole does.
    """
    substeps = _substeps(request.dynamics, request.times, request.substeps, request.step_size)
    shape = jax.eval_shape(
        lambda p: _shape(request.dynamics.build(), request.dynamics.init(p)), request.params
    )
    fine = substeps if request.noise_substeps is None else request.noise_substeps
    layout = pages(fine, increments(shape, None).numbers)
    return request._replace(substeps=substeps, step_size=None), max(layout.intervals, 1)


def _name(dynamics: Dynamics) -> str:
    return dynamics.constructor.__name__


def _scheme(dynamics: Dynamics, solver: Any) -> bool:
    """Whether to step by Heun's method."""
    if solver is None:
        return False
    import diffrax

    if isinstance(solver, diffrax.Euler):
        return False
    if isinstance(solver, diffrax.AbstractStratonovichSolver) and not dynamics.additive:
        raise ValueError(
            f"solver must be None or diffrax.Euler() for {_name(dynamics)}, whose noise depends on the state: "
            f"{type(solver).__name__} would solve the Stratonovich equation, and this one is Itô's."
        )
    if not isinstance(solver, diffrax.Heun):
        raise ValueError(
            f"solver must be None, diffrax.Euler() or (where the noise is additive) diffrax.Heun() "
            f"for an SDE, got {solver!r}."
        )
    return True


def _substeps(dynamics: Dynamics, times: Times, substeps: int | None, step_size: Any) -> int:
    """The number of steps between two saved times: as asked, or 16 for every step of the discrete process."""
    share = _discrete_steps(dynamics, times)
    if step_size is not None and substeps is None:
        if times.is_traced or not np.size(step_size) == 1 or isinstance(step_size, Tracer):
            raise ValueError(
                "step_size must be a plain number, and times concrete, for an SDE; or give substeps."
            )
        substeps = _ceil(np.diff(times.elapsed).max() / float(step_size))
    if substeps is None:
        if share is None:
            if times.is_traced or isinstance(dynamics.time_step, Tracer):
                what = "times are" if times.is_traced else "time step is"
                raise ValueError(
                    f"substeps must be given for {_name(dynamics)} under jit, such as {PER_TIME_STEP} for each "
                    f"discrete step between two times, as its {what} traced; with times and time step as plain "
                    "numbers it is chosen."
                )
            raise ValueError(
                f"substeps or step_size must be given for {_name(dynamics)}, as there is no concrete time step "
                "from which to choose them."
            )
        return _ceil(PER_TIME_STEP * share)
    if share is not None and share >= substeps * (1 - 1e-6):
        raise ValueError(
            f"step_size must be below the time step of {_name(dynamics)}, the learning rate, as with longer "
            f"steps Euler–Maruyama is noisy descent and not the SDE; got steps of {share / substeps:.3g} of it."
        )
    if share is not None and share > WARN * substeps * (1 + 1e-6):
        warnings.warn(
            f"A step of {_name(dynamics)} takes {share / substeps:.3g} of a discrete step's time; above {WARN} the "
            "error of Euler–Maruyama is that of the discrete process.",
            stacklevel=4,
        )
    return substeps


def _ceil(number: float) -> int:
    """The number rounded up, unless it exceeds an integer only by rounding errors."""
    return max(1, math.ceil(float(number) * (1 - 1e-5)))


def _discrete_steps(dynamics: Dynamics, times: Times) -> float | None:
    """The largest number of discrete steps between two saved times; `None` where nothing tells it.

    It is `None` also where the time step is 0, as the temperature is then 0 too and the path is gradient flow.
    """
    time_step = dynamics.time_step
    if time_step is None or times.is_traced:
        return None
    intervals = np.diff(np.asarray(times.elapsed, float))
    if callable(time_step):
        at = time_step
        time_step = jax.vmap(lambda t: jnp.asarray(at(t), float))(jnp.asarray(times.absolute, float))
    if isinstance(time_step, Tracer):
        return None
    steps = np.broadcast_to(np.asarray(time_step, float), np.shape(times.absolute))
    steps = (steps[:-1] + steps[1:]) / 2
    return float((intervals[steps > 0] / steps[steps > 0]).max()) if (steps > 0).any() else None


def _refinement(request: Request, substeps: int) -> int:
    dynamics, noise_substeps = request.dynamics, request.noise_substeps
    if noise_substeps is None:
        return 1
    _check.require_integer("noise_substeps", noise_substeps, 1)
    if noise_substeps % substeps:
        raise ValueError(
            f"noise_substeps must be a multiple of the {substeps} steps between two times, got {noise_substeps}."
        )
    if not dynamics.build().increments_add:
        raise ValueError(
            f"noise_substeps must be None for {_name(dynamics)}, whose step squares its increments or takes their "
            f"sign, so that sums of them are not the same path; got {noise_substeps}."
        )
    shape = jax.eval_shape(lambda p: _shape(dynamics.build(), dynamics.init(p)), request.params)
    if any(is_bits(leaf) for leaf in jax.tree.leaves(shape)):
        raise ValueError(
            "noise_substeps must be None for noise that picks examples: only Gaussian noise adds up."
        )
    return noise_substeps // substeps


def _shape(field: Field, state: PyTree) -> PyTree:
    return () if field.brownian is None else field.brownian(state)


@compiled(static=("settings",))
def _diffuse(*, settings: Settings, dynamics, params, times, key, record, state, first):
    field = dynamics.build()
    state = field.init(params) if state is None else state
    step, widen, narrow = _stepper(field, state, settings.heun)
    keep = keeper(record, field.params)
    final, values, bad = _walk(
        settings,
        step,
        widen(state),
        times,
        increments(_shape(field, state), key),
        lambda z: keep(narrow(z)),
        first,
    )
    final = narrow(final)
    begun = keep(state)
    values = jax.tree.map(lambda x, xs: jnp.concatenate([jnp.asarray(x)[None], xs]), begun, values)
    steps = jnp.asarray((times.elapsed.size - 1) * settings.substeps, jnp.int32)
    return finish(
        times.absolute, replay_records(record, values), field.params(final), final, steps, lambda: bad
    )


def _stepper(field: Field, like: PyTree, heun: bool):
    """The function `step(t, state, dt, xi)`, and how its state is made from the dynamics' state and back.

    A half-precision state is kept in float32, where increments of a short step are not lost.
    """
    wide = lambda x: jnp.float32 if jnp.finfo(x.dtype).bits < 32 else x.dtype
    widen = lambda tree: jax.tree.map(lambda x: x.astype(wide(x)), tree)
    narrow = lambda tree: jax.tree.map(lambda x, z: x.astype(z.dtype), tree, like)
    is_half = any(wide(x) != x.dtype for x in jax.tree.leaves(like))

    def move(t, z, dt, xi):
        times = lambda c, tree: jax.tree.map(lambda x: c.astype(x.real.dtype) * x, widen(tree))
        drift = times(dt, field.drift(t, narrow(z)))
        if field.diffusion is None:
            return drift
        return jax.tree.map(jnp.add, drift, times(jnp.sqrt(dt), field.diffusion(t, narrow(z), xi)))

    def euler_maruyama(t, z, dt, xi):
        return jax.tree.map(jnp.add, z, move(t, z, dt, xi))

    def heun_step(t, z, dt, xi):
        first = move(t, z, dt, xi)
        second = move(t + dt, jax.tree.map(jnp.add, z, first), dt, xi)
        return jax.tree.map(lambda z, a, b: z + 0.5 * (a + b), z, first, second)

    if heun:
        return heun_step, widen, narrow
    return euler_maruyama if field.step is None or is_half else field.step, widen, narrow


def _walk(settings: Settings, step, state, times: Times, noise, record, first):
    """All steps: the last state, the records after each interval, and whether each record's state was not finite.

    `first` is the number of intervals of the path before these, in which its first pages of noise are used up.
    """
    substeps, refinement = settings.substeps, settings.refinement
    layout = pages(substeps * refinement, noise.numbers)
    draw = noise.draw
    if first is not None:
        used = first // layout.intervals if layout.intervals else first * layout.pages_of_interval
        draw = lambda page, count: noise.draw(used + page, count)
    begins, dts = times.absolute, jnp.diff(times.elapsed) / substeps
    number = dts.size
    on_each = min(layout.intervals, number)
    seen = lambda z: (record(z), ~is_finite(z))

    @checkpoint
    def take_step(state, item):
        i, j, increment = item
        return step(
            begins[i] + j.astype(begins.dtype) * dts[i], state, dts[i], noise.unravel(increment)
        ), None

    def take_steps(state, i, first, drawn, count):
        """`count` steps of interval i from its step `first` on, their noise in hand."""
        where = jnp.full(count, i), first + jnp.arange(count)
        return lax.scan(take_step, state, (*where, drawn))[0]

    # Reverse mode keeps the states between pages only, and draws each page again. The last page may hold more than
    # is left to do: a page of its own length would be compiled on its own.
    @checkpoint
    def page(state, p):
        drawn = coarsen(draw(p, on_each * substeps * refinement), refinement)
        drawn = jax.tree.map(lambda x: x.reshape(on_each, substeps, *x.shape[1:]), drawn)

        def interval(state, item):
            i, drawn = item
            walk = lambda state: take_steps(state, i, 0, drawn, substeps)
            state = walk(state) if number % on_each == 0 else lax.cond(i < number, walk, lambda z: z, state)
            return state, seen(state)

        return lax.scan(interval, state, (p * on_each + jnp.arange(on_each), drawn))

    def part(state, i, j, count):
        """The `count` steps of the j-th page of interval i."""
        drawn = draw(i * layout.pages_of_interval + j, count)
        return take_steps(state, i, j * layout.length, drawn, count)

    @checkpoint
    def take_coarse_steps(state, i):
        """All steps of interval i, where they are coarser than the noise: they straddle pages."""
        whole = jax.vmap(lambda j: draw(i * layout.pages_of_interval + j, layout.length))(
            jnp.arange(layout.whole)
        )
        parts = [jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), whole)]
        parts += [draw(i * layout.pages_of_interval + layout.whole, layout.rest)] if layout.rest else []
        drawn = jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
        return take_steps(state, i, 0, coarsen(drawn, refinement), substeps)

    def interval(state, i):
        if refinement > 1:
            state = take_coarse_steps(state, i)
            return state, seen(state)
        body = lambda state, j: (checkpoint(partial(part, count=layout.length))(state, i, j), None)
        state, _ = lax.scan(body, state, jnp.arange(layout.whole))
        if layout.rest:
            state = checkpoint(partial(part, count=layout.rest))(state, i, jnp.asarray(layout.whole))
        return state, seen(state)

    if not layout.intervals:
        final, (values, bad) = lax.scan(interval, state, jnp.arange(number))
        return final, values, bad
    final, records = lax.scan(page, state, jnp.arange(-(-number // on_each)))
    values, bad = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:number], records)
    return final, values, bad
