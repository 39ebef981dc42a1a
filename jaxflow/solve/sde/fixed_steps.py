"""Stepping a dynamics with noise by Euler–Maruyama, Heun, or the dynamics' own step, in one scan.

It is one compiled program, whose arguments are the dynamics, parameters, times and key.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._losses.companions import warn_of_companions
from jaxflow._programs.checkpoint import checkpoint
from jaxflow.dynamics import Dynamics, Field
from jaxflow.recording import keeper, replay_records
from jaxflow.solve.discrete.optimizer_steps import finish
from jaxflow.solve.request import Request
from jaxflow.solve.sde.brownian import coarsen, increments, pages
from jaxflow.solve.sde.step_choice import brownian_shape, choose_refinement, choose_substeps, name_of
from jaxflow.solve.times import Times, check_resolved
from jaxflow.solve.trajectories.trajectory import Trajectory, is_finite

PyTree = Any


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
        raise ValueError(
            f"key must be a PRNG key such as jax.random.key(0) for {name_of(dynamics)}, got None."
        )
    _check.random_key(key)
    for value in dynamics.hyperparameters.values():
        warn_of_companions(value, request.params)
    heun = _scheme(dynamics, request.solver)
    substeps = choose_substeps(dynamics, times, request.substeps, request.step_size)
    check_resolved(times, substeps, "substeps", times.elapsed.dtype)
    settings = Settings(substeps, choose_refinement(request, substeps), heun)
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


def _scheme(dynamics: Dynamics, solver: Any) -> bool:
    """Whether to step by Heun's method."""
    if solver is None:
        return False
    import diffrax

    if isinstance(solver, diffrax.Euler):
        return False
    if isinstance(solver, diffrax.AbstractStratonovichSolver) and not dynamics.additive:
        raise ValueError(
            f"solver must be None or diffrax.Euler() for {name_of(dynamics)}, whose noise depends on the state: "
            f"{type(solver).__name__} would solve the Stratonovich equation, and this one is Itô's."
        )
    if not isinstance(solver, diffrax.Heun):
        raise ValueError(
            f"solver must be None, diffrax.Euler() or (where the noise is additive) diffrax.Heun() "
            f"for an SDE, got {solver!r}."
        )
    return True


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
        increments(brownian_shape(field, state), key),
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
