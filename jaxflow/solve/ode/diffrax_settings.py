"""What `integrate` gives to diffrax and takes from it: step size control, events, and a solve's status and cost."""

import dataclasses

import diffrax
import jax
import jax.numpy as jnp
import optax
from diffrax import RESULTS

from jaxflow import _check
from jaxflow._half import widened
from jaxflow.solve.ode.pid import CountingPID, ResolvedPID
from jaxflow.solve.ode.rkc import RKC2, evaluations
from jaxflow.solve.trajectory import (
    DIVERGED,
    FAILED,
    FINISHED,
    LEFT,
    MAX_STEPS,
    STOPPED,
    TOO_SMALL,
    is_finite,
)

CODES = {
    FINISHED: RESULTS.successful,
    STOPPED: RESULTS.event_occurred,
    MAX_STEPS: RESULTS.max_steps_reached,
    TOO_SMALL: RESULTS.dt_min_reached,
    LEFT: RESULTS.max_steps_rejected,
}


def gradient_norm_below(tolerance: float) -> diffrax.Event:
    r"""Make an event for `integrate`: stop at the end of the first step where $|\dot z| \le$ `tolerance`.

    Along gradient flow $|\dot z|$ is the norm of the gradient.

    **Arguments**

    - `tolerance`: the norm at which to stop, a number above 0, in units of the state per time.

    **Returns** a `diffrax.Event`.

    **Raises** `ValueError` unless `tolerance` > 0.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.gradient_flow(lambda x: 0.5 * jnp.sum(x**2))
    >>> path = jf.integrate(flow, jnp.ones(1), jnp.array([0.0, 50.0]), event=jf.gradient_norm_below(1e-3))
    >>> path.message.split(" at")[0], bool(jnp.abs(path.params[0]) <= 1e-3)
    ('stopped by the event', True)
    """
    _check.positive(tolerance=tolerance)
    return diffrax.Event(jax.tree_util.Partial(_is_flat, jnp.asarray(tolerance, float)))


def _is_flat(tolerance, t, y, args, *, terms, **kwargs):
    squares = [jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(terms.vf(t, y, args))]
    return jnp.sqrt(sum(squares)) <= tolerance


def on_given_clock(event: diffrax.Event | None) -> diffrax.Event | None:
    """An event that is shown the times the user gave, where the solver's clock starts at 0."""
    if event is None:
        return None

    def shifted(condition):
        def shown(t, y, args, *, terms, **kwargs):
            *rest, origin = args
            given = diffrax.ODETerm(lambda t, y, args: terms.vf(t - origin, y, args))
            return condition(origin + t, y, (*rest, origin), terms=given, **kwargs)

        return shown

    conditions = jax.tree.map(shifted, event.cond_fn, is_leaf=callable)
    return dataclasses.replace(event, cond_fn=conditions)


def fitted(solver, adjoint, adaptive: bool):
    """RKC2, told how its loop over stages will be differentiated, and to hand its cost to the controller."""
    if not isinstance(solver, RKC2):
        return solver
    kinds = {diffrax.ForwardMode: "lax", diffrax.DirectAdjoint: "bounded"}
    kind = next((kind for cls, kind in kinds.items() if isinstance(adjoint, cls)), "checkpointed")
    return dataclasses.replace(solver, scan_kind=kind, counted=adaptive)


def controller(solver, substeps, times, step_size, rtol, atol, state, velocity):
    """The controller and the first step size."""
    span = times[-1] - times[0]
    if step_size is not None:
        return diffrax.ConstantStepSize(), jnp.asarray(step_size, times.dtype)
    if substeps is not None:
        return diffrax.StepTo(_equal_steps(times, substeps)), None
    kind = CountingPID if isinstance(solver, RKC2) else ResolvedPID
    smallest = jnp.finfo(times.dtype).eps ** 2 * span
    pid = kind(rtol, atol, pcoeff=0.3, icoeff=0.4, smallest=smallest)
    first = _first_step(span, rtol, atol, state, velocity)
    return pid, jnp.where(jnp.isnan(first), 2 * smallest, first)  # one step away from stopping


def _equal_steps(times: jax.Array, substeps: int) -> jax.Array:
    """The ends of `substeps` equal steps between two times.

    Times among first, discrete steps all stand where those end: their steps go into the next interval.
    """
    fractions = jnp.arange(substeps, dtype=times.dtype) / substeps
    fine = times[:-1, None] + jnp.diff(times)[:, None] * fractions[None]
    fine = jnp.append(fine.ravel(), times[-1])
    spent = jnp.sum(fine <= times[0])
    share = jnp.arange(fine.size, dtype=times.dtype) / spent.astype(times.dtype)
    return jnp.where(share < 1, times[0] + share * (fine[spent] - times[0]), fine)


def _first_step(span, rtol, atol, state, velocity):
    """A step over which the state moves by 1 % (Hairer, Nørsett & Wanner 1993, II.4); NaN where state or velocity is.

    diffrax's own choice is not used, because a solve whose first step is NaN never ends.
    """
    scale = jax.tree.map(lambda z: atol + rtol * jnp.abs(z), state)
    norm = lambda tree: optax.tree.norm(jax.tree.map(jnp.divide, tree, scale))
    size, speed = norm(state), norm(velocity)
    step = 0.01 * jnp.where(size > 0, size, 1.0) / jnp.where(speed == 0, 1.0, speed)
    return jnp.minimum(jnp.where(speed == 0, 1e-3 * span, step), span).astype(span.dtype)


def _huge(dtype) -> float:
    """The growth beyond which a state was blowing up: that of 1/t within the shortest time the clock resolves."""
    return min(1e6, float(jnp.finfo(dtype).eps) ** -0.75)


def ending(result, start, final, end, times, values) -> tuple[jax.Array, jax.Array]:
    """How a solve ended, as a code, and when.

    With fixed steps nothing stops the solve where the state is lost; the first of `values` to show the loss dates it.
    """
    status = jnp.asarray(FAILED)
    for code, meaning in CODES.items():
        status = jnp.where(result == meaning, code, status)
    lost = ~is_finite(final)
    size = lambda tree: jnp.max(
        jnp.stack([jnp.max(jnp.abs(widened(x)), initial=0.0) for x in jax.tree.leaves(tree)])
    )
    moderate = ~lost & (size(final) < _huge(jnp.result_type(*jax.tree.leaves(start))) * (1 + size(start)))
    small = (status == LEFT) | (status == TOO_SMALL)
    status = jnp.where(small & ~moderate, DIVERGED, status)
    blown = (status == FINISHED) & lost
    bad = ~jax.vmap(is_finite)(values)
    stopped = jnp.where(blown & bad.any(), times[jnp.argmax(bad)], end)
    return jnp.where(blown, DIVERGED, status), stopped


def evaluations_of(solver, solution, adaptive: bool) -> jax.Array:
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
