"""Central flows: where gradient descent and its preconditioned relatives go, on average, at the edge of stability."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.curvature.differentiability import warn_unless_twice_differentiable
from jaxflow.curvature.products import check_objective, real_parameters
from jaxflow.curvature.spectrum.eigenpairs import COLD, EACH
from jaxflow.curvature.spectrum.krylov import follow, guess
from jaxflow.dynamics.base import Field
from jaxflow.dynamics.edge.central_state import CentralRecord as CentralRecord  # where earlier pickles look
from jaxflow.dynamics.edge.central_state import CentralState, central_state, observe
from jaxflow.dynamics.edge.methods import Method, flat_loss, flat_moment, method_of, moment_of
from jaxflow.dynamics.edge.oscillation_covariance import NEAR, oscillate
from jaxflow.dynamics.edge.stable import LEAST, follow_velocity, post_update, step_rate, velocity

PyTree = Any
# Relative residual of the oscillation's equation at which it has no solution: a quadratic has nothing to hold it.
UNSOLVED = 1e-2
IDLE = 1000  # steps in a row that take no time, after which a schedule is taken to have stopped
FRESH = 50  # intervals from one cold start of the eigenvectors to the next
TOLERANCE, BLOCKS = 1e-4, 2  # of the critical eigenvectors' residuals, and Krylov blocks at most to get there


@traceable
def central_flow(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    *,
    modes: int = 3,
) -> Field:
    r"""The central flow of an optimizer: its time-averaged path at the edge of stability, with its oscillation.

    Let P be the preconditioner over the learning rate. Where an effective eigenvalue, of $P^{-1/2} H P^{-1/2}$,
    reaches 2, the iterates oscillate along its eigenvector. Gradient flow goes on into sharper regions, and the
    iterates do not: an oscillation of covariance Σ adds $\frac12\langle H, \Sigma\rangle$ to the average loss,
    which pushes back. On the clock of steps k,

    $dw/dk = -P^{-1}(\nabla L + \frac12\nabla^3 L[\Sigma])$, and for RMSProp
    $d\nu/dk = \frac{1-\beta_2}{\beta_2}(\nabla L^2 + \mathrm{diag}(H\Sigma H) - \nu)$,

    with Σ the one for which no effective eigenvalue passes 2: on the critical directions U ($HU = 2PU$, $U^TPU =
    1$) $\Sigma = UXU^T$ and, over a substep, $0 \preceq X \perp A + B[X] \succeq 0$. A and B hold all that moves the
    effective eigenvalues: dH/dk, dν/dk and, in a warm-up, dη/dk, by which 2P falls. The clock of the result is t =
    kη, its running sum under a schedule: run it at the times of the discrete run.

    **Arguments**

    - `optimizer`: `gd`, `scalar_rmsprop`, `rmsprop` or `adagrad`, with a number or a schedule as learning rate;
      or an `optax.MultiSteps` of one, whose flow is that of its updates.
    - `objective`: an `Objective` on all data, or any three times differentiable function `loss(params) -> scalar`.
    - `modes`: the number of leading eigenvectors to follow (static). All that come to oscillate must be among them.
      The number of Hessian products grows in proportion; up to 16 modes are solved for together.

    **Returns** a `Dynamics`, whose state is a `CentralState`. `integrate` steps it by its own map, with substeps as
    long as the effective sharpness allows: of fourth order below the edge, where it is `stable_flow`; at the edge
    of second order, and of first in Σ. The trajectory's `observed` is a `CentralRecord` of its predictions.
    `substeps=` of `integrate` asks for at least that number between two times; in a plain call another number
    compiles nothing. All is one compiled program, which vmaps over optimizers and starts, and is a trial of
    `jf.sweep`, each lane with its own substeps; a sweep keeps only the values of a `Trajectory`, so return what you
    need of `observed` with them. It has no derivative: reverse mode is refused, and forward mode, through
    eigenvectors that meet, is not to be trusted. The eigenvectors are found anew at the first and every 50th
    interval between two times. That search holds 2·(20 + 8·modes) vectors like the parameters; while a mode is
    within .2 of the edge there is a third derivative for each pair of modes, modes·(modes + 1)/2 vectors, in the
    same memory, and otherwise none is taken. A compiled program asks for the larger at once: 100 vectors in all for
    3 modes, 330 for 16.

    **Raises** `ValueError` for an optimizer with momentum, for which this closure does not hold (2605.06821 treats
    momentum), or any other one, and for `modes` < 1 or more than parameters; `TypeError` for an objective that is
    not a loss.

    **It holds** from a start that does not oscillate yet, such as the end of `stable_flow` run to an effective
    sharpness of 1.8 (see `flow_state`). From a random start far past the edge it does not describe the first steps.
    It averages over oscillations, so compare it with `midpoints` of the iterates. An oscillation first has to grow
    from what there is. So a run overshoots the edge, the farther the calmer it was before, and then oscillates in
    bursts; a warm-up that comes to the edge from far below leaves almost nothing to grow from. X and the squared
    gradient are predicted for whole bursts, from one rise of the sharpness through the edge to the next
    (`EdgeStudy.burst_ratios`), and not within one, which `pair_flow` follows.

    Source: Cohen, Damian, Talwalkar, Kolter & Lee 2024, 2410.24206, whose P, Σ and X these are.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda p: 0.5 * p[1] * p[0] ** 2 + 0.05 * (27.2 - p[1]) ** 2
    >>> flow = jf.dynamics.central_flow(jf.optim.gd(0.1), loss, modes=1)
    >>> path = jf.integrate(flow, jnp.array([0.6, 20.0]), [0.0, 1.0, 2.0])
    >>> print(path.params[1].round(3), path.observed.eigenvalues[-1].round(3))
    20.0 [2.]
    """
    check_objective(objective)
    _check.require_integer("modes", modes, 1)
    method = method_of(optimizer)

    def init(params):
        params = real_parameters(params)
        warn_unless_twice_differentiable(objective, params)
        return central_state(objective, params, post_update(method, objective, params), modes)

    def step(t, state, dt, xi):
        del xi
        return advance(method, objective, state, jnp.asarray(t), jnp.asarray(dt))

    return Field(
        drift=_refuse_drift,
        init=init,
        params=lambda state: state.params,
        step=step,
        time_step=method.learning_rate if not callable(method.learning_rate) else None,
        observe=lambda state: observe(method, objective, state),
    )


def _refuse_drift(t, state):
    raise ValueError(
        "central_flow has no drift for another solver to follow, or to add or scale, as its oscillation is found "
        "by its own map, one substep at a time."
    )


def _scale_by_preconditioner(method: Method, loss, flat, nu, steps):
    """$P^{-1/2}$, the gradient, and the product with $P^{-1/2}HP^{-1/2}$."""
    root = lax.rsqrt(method.denominator(nu) / step_rate(method, steps))
    gradient, product = jax.linearize(jax.grad(loss), flat)
    return root, gradient, lambda v: root * product(root * v)


def advance(method: Method, objective, state: CentralState, t: jax.Array, time: jax.Array) -> CentralState:
    """Follow the flow from t for the given time, in substeps. What is left at the end is the rounding of t."""
    state = _refresh(method, objective, state)
    rounding = jnp.maximum(100 * jnp.finfo(time.dtype).eps * time, 8 * jnp.finfo(t.dtype).eps * jnp.abs(t))
    time, close = time.astype(state.steps.dtype), rounding.astype(state.steps.dtype)

    def go_on(carry):
        state, left, idle = carry
        going = jnp.isfinite(state.eigenvalues).all() & (state.residuals[1] <= UNSOLVED)
        return (left > close) & going & (idle < IDLE)

    def substep(carry):
        state, left, idle = carry
        rate = step_rate(method, state.steps)
        span = left / rate
        if callable(method.learning_rate):  # to the next step, where the rate changes, but leave no crumb
            step_left = 1 - (state.steps - jnp.floor(state.steps + 1e-2))
            span = jnp.where(span < step_left + 1e-3, span, step_left)
        # A substep times the fastest rate is at most 1, half of where Euler's method is unstable.
        fastest = jnp.maximum(jnp.maximum(state.eigenvalues[0], method.inflow), 1.0)
        h = span / jnp.maximum(jnp.ceil(span * fastest - 1e-3), 1.0)
        return _substep(method, objective, state, h), left - h * rate, jnp.where(rate <= LEAST, idle + 1, 0)

    state, left, _ = lax.while_loop(go_on, substep, (state, time, jnp.zeros((), jnp.int32)))
    # A curvature that is not finite leads nowhere, nor does a learning rate of 0, nor what oscillates without a hold.
    held = (left <= close) & (state.residuals[1] <= UNSOLVED)
    lost = jnp.where(held, 0.0, jnp.nan)
    return state._replace(params=jax.tree.map(lambda x: x + lost.astype(x.dtype), state.params))


def _refresh(method: Method, objective, state: CentralState) -> CentralState:
    """Every FRESH calls the eigenvectors are found anew instead of followed.

    Otherwise an eigenvalue that rises in a direction of its own would never be seen. The number of calls is the
    same in all lanes of a vmap, so that no lane does this without need.
    """
    k = len(state.vectors)

    def find_anew():
        loss, flat, _ = flat_loss(objective, state.params)
        nu = flat_moment(method, state.second_moment, flat)
        _, _, apply = _scale_by_preconditioner(method, loss, flat, nu, state.steps)
        depth = min(flat.size, COLD + EACH * k)
        values, vectors, _, _ = guess(apply, flat.size, flat.dtype, k, depth)
        turn = vectors @ state.vectors.T
        return vectors, values, turn @ state.covariance @ turn.T, jnp.asarray(depth, jnp.int32)

    kept = lambda: (state.vectors, state.eigenvalues, state.covariance, jnp.zeros((), jnp.int32))
    vectors, values, x, products = lax.cond(state.calls % FRESH == 0, find_anew, kept)
    return state._replace(
        vectors=vectors,
        eigenvalues=values,
        covariance=x,
        cost=state.cost.at[1].add(products),
        calls=state.calls + 1,
    )


def _substep(method: Method, objective, state: CentralState, h: jax.Array) -> CentralState:
    loss, flat, unravel = flat_loss(objective, state.params)
    nu = flat_moment(method, state.second_moment, flat)
    root, gradient, apply = _scale_by_preconditioner(method, loss, flat, nu, state.steps)
    tightening = _schedule_tightening(method, state.steps, h)
    critical = lambda values, residuals: values + residuals - tightening > 2 - NEAR
    found = follow(apply, state.vectors, tolerance=TOLERANCE, blocks=BLOCKS, needed=critical)
    turn = found.vectors @ state.vectors.T
    last = turn @ state.covariance @ turn.T
    rate, modes = step_rate(method, state.steps), root[None] * found.vectors
    room = 2 - found.values + tightening
    wave = oscillate(
        method=method,
        loss=loss,
        flat=flat,
        gradient=gradient,
        nu=nu,
        rate=rate,
        room=room,
        modes=modes,
        guess=last,
        h=h,
    )

    def velocities(flat, nu):
        falling, rising = velocity(method, loss, flat, nu)
        pushed = wave.push / method.denominator(jnp.maximum(nu, 0.0))
        return rate * (falling - pushed), rising + method.inflow * wave.squares

    flat, nu = follow_velocity(velocities, (flat, nu), h)
    relative = found.residuals / jnp.where(found.scale > 0, found.scale, 1.0)
    rough = jnp.where(critical(found.values, found.residuals), relative, 0.0).max()
    return CentralState(
        params=unravel(flat),
        second_moment=moment_of(method, jnp.maximum(nu, 0.0), unravel),
        steps=state.steps + h,
        vectors=found.vectors,
        eigenvalues=found.values,
        covariance=wave.covariance,
        residuals=jnp.maximum(state.residuals, jnp.stack([rough, wave.residual])),
        cost=state.cost + jnp.stack([jnp.ones((), jnp.int32), found.products, wave.thirds]),
        calls=state.calls,
    )


def _schedule_tightening(method: Method, steps: jax.Array, h: jax.Array) -> Any:
    """By how much a schedule has changed 2P, in units of P, at the end of a substep: evenly over each step."""
    if not callable(method.learning_rate):
        return 0.0
    change = step_rate(method, steps) / step_rate(method, steps + 1) - 1
    return 2 * change * (steps + h - jnp.floor(steps + 1e-2))
