"""The modified equation of any optimizer: the differential equation that its iterates follow, to the order asked."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, Prefix, add, scale
from jaxflow.dynamics.clock import step_times
from jaxflow.dynamics.modified_equations.smoothness import refuse_randomness, warn_if_rough
from jaxflow.dynamics.modified_equations.step_logarithm import (
    ModifiedState,
    cold_state,
    increment,
    logarithm,
    state_shapes,
    weights,
)
from jaxflow.optim import learning_rate_of
from jaxflow.optim.multi_steps import as_transformation, optimizer_of_updates

PyTree = Any

HIGHEST = 8
WARM = 20  # steps after which averages that began at nothing, and their bias corrections, are smooth in time


@traceable(structural=("order", "stride", "warmup"))
def modified(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    *,
    order: int = 2,
    time_step: Any = None,
    stride: int = 1,
    warmup: int | None = None,
) -> Field:
    r"""The modified equation of an optimizer (backward error analysis), to order p, made from the optimizer itself.

    $\dot z = F(z) = \frac1\tau \sum_{j<p} b_j d_j$, where z is the parameters and the optimizer's state, $d_j$ is
    what the j-th of p successive steps from z adds to it, and $b = (1);\ (\frac32, -\frac12);\ (\frac{11}6,
    -\frac76, \frac13)$; … are the coefficients of the series of $\tau F = \log\Phi$ for the map Φ of a step. On the
    clock t = kτ the iterates leave its solution at order p in the step size. For gradient descent, order 1 is
    gradient flow and order 2 descends $L + \frac\eta4|\nabla L|^2$ (Barrett & Dherin 2021, 2009.11162). The
    equation on mini-batches is `modified_sde`.

    **Arguments**

    - `optimizer`: any of `jaxflow.optim` or optax, also with chains, schedules, decay and clipping. Its step counts
      are carried as floats. An `optax.MultiSteps` of k mini-batches has the equation of the optimizer in it, on the
      clock of its updates: `iterate` keeps that clock with `time_step=` η/k.
    - `objective`: an `Objective`, any function `loss(params) -> scalar`, or a `VectorField` that stands for a
      gradient (a game). Order 1 is a step over its time, which for `alternating` players is not the game's flow at
      any h > 0.
    - `order` p: an integer from 1 to 8 (static). An evaluation costs p gradients, in a loop.
    - `time_step` τ: the time of a step, a number or a schedule. By default, as in `iterate`, it is the optimizer's
      learning rate (on the clock $t_k = \sum \eta_i$ under a schedule), and 1.0 where the optimizer has none.
    - `stride` m: the number of steps that the field covers at once, $\log(\Phi^m)/(m\tau)$, at m times the cost
      (static). With m = 2 it follows every second iterate of gradient descent where the sharpness λ has 1 < ηλ < 1
      + √2. A single step turns the sign of a coordinate there, and so is the flow of no real field (`convergence`).
    - `warmup`: the number of steps of the optimizer itself with which a run begins, before the flow takes over
      (static). Averages start at zero, far from where they are heading, and a field cannot follow them at first. A
      run's values at those times are the iterates (with straight lines between them). Default: 20 where the
      optimizer has a state, else 0.

    **Returns** a `Dynamics`. Its state is `ModifiedState(params, optimizer, steps)`; `state=` of `integrate` goes
    on from it, or from where a run of `iterate` ended: `modified_state(run)`.

    **Raises** `ValueError` for an order not in 1 … 8, a time step ≤ 0, a stride < 1, a warm-up < 0 or an
    optimizer with random state; `TypeError` when `optimizer` or `objective` is of another kind, or for a state that
    is not made of arrays.

    It is **valid** where the optimizer is smooth (there is a warning for one that is not: a sign, a clip, a
    condition on the step count) and τ times the sharpness is below 1, which `convergence` measures. A flow that
    leaves the optimizer's domain, such as a second moment below 0, stops, and `message` says when.

    Source: Hairer, Lubich & Wanner (2006), Geometric Numerical Integration, IX; the series for a map as such is
    log(1 + Δ).

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(x**2)
    >>> run = jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(1), steps=10)
    >>> for order in (1, 2):
    ...     flow = jf.dynamics.modified(jf.optim.gd(0.1), loss, order=order)
    ...     print(f"{jf.compare(run, jf.integrate(flow, jnp.ones(1), run.times)).final:.1e}")
    1.9e-02
    1.3e-03
    """
    optimizer = optimizer_of_updates(optimizer)
    check_arguments(optimizer, objective, order, stride, warmup)
    tau = clock_of(optimizer, time_step)
    field = modified_field(optimizer, objective, tau, weights(order, stride))
    return field._replace(prefix=lambda params: first_steps(optimizer, objective, params, tau, warmup))


def modified_field(optimizer, objective, tau, shares) -> Field:
    """The drift of a modified equation, and where it starts."""

    def init(params):
        warn_if_rough(optimizer, params, state_shapes(optimizer, params))
        return cold_state(optimizer, params)

    def drift(t, state):
        total = logarithm(lambda z: increment(optimizer, objective, z), state, shares)
        return scale(steps_per_time(tau, t, state.steps, shares), total)

    # Under a schedule the time of a step depends on the state, not on the time.
    constant = None if callable(tau) else tau
    return Field(drift=drift, init=init, params=lambda state: state.params, time_step=constant)


def check_arguments(optimizer, objective, order, stride, warmup) -> None:
    """Refuse anything but an optimizer and an objective, and static numbers out of range."""
    as_transformation(optimizer)
    if not callable(objective):
        raise TypeError(f"objective must be an Objective or a function of the parameters, got {objective!r}.")
    _check.require_integer("order", order, 1)
    _check.require("order", order, order <= HIGHEST, f"an integer from 1 to {HIGHEST}")
    _check.require_integer("stride", stride, 1)
    if warmup is not None:
        _check.require_integer("warmup", warmup, 0)
    refuse_randomness(optimizer)


def clock_of(optimizer, time_step) -> Any:
    """The time of a step: as given, or the optimizer's learning rate, or 1."""
    if time_step is None:
        time_step = learning_rate_of(optimizer)
    if time_step is None:
        return 1.0
    if not callable(time_step):
        _check.require_positive(time_step=time_step)
    return time_step


# Of the mean rate so far: of steps far below it the time does not matter, and their number runs away from the clock.
LEAST_SHARE = 3e-3


def steps_per_time(tau, t, steps, shares) -> Any:
    """One over the time that passes in a step; under a schedule it uses the logarithm's component along the clock.

    Where a schedule ends at 0 the clock stops, and so does the flow: smoothly, as the updates vanish with the rate.
    """
    if not callable(tau):
        return 1 / tau
    ahead = jnp.asarray(jax.vmap(tau)(steps + jnp.arange(shares.size)))
    elapsed = jnp.sum(jnp.asarray(shares, ahead.dtype) * ahead)
    mean = jnp.abs(jnp.asarray(t, elapsed.dtype)) / jnp.maximum(jnp.asarray(steps, elapsed.dtype), 1)
    least = LEAST_SHARE * mean
    moving = elapsed > 0
    safe = jnp.where(moving, elapsed, 1.0)
    slowed = 1 / (safe * (1 + jnp.minimum(least / safe, 1e6) ** 4))  # at the mean rate 1/elapsed up to 1e-10
    return jnp.where(least > 0, jnp.where(moving, slowed, 0.0), 1 / elapsed)


def warm_steps(optimizer, params: PyTree, warmup: int | None) -> int:
    """The number of steps to begin with: as given, or by whether the optimizer has a state."""
    if warmup is not None:
        return warmup
    return WARM if jax.tree.leaves(state_shapes(optimizer, params)) else 0


def first_steps(
    optimizer,
    objective,
    params: PyTree,
    tau,
    warmup: int | None,
    *,
    enter: Callable[[Any], ModifiedState] = lambda state: state,
    leave: Callable[[ModifiedState], Any] = lambda state: state,
) -> Prefix | None:
    """The iterates with which a run begins. `enter` makes an optimizer's state of the flow's, `leave` the reverse."""
    warm = warm_steps(optimizer, params, warmup)
    if warm == 0:
        return None

    def step(state, _):
        state = add(state, increment(optimizer, objective, state))
        return state, state.params

    def run(state):
        first = enter(state)
        last, path = lax.scan(step, first, None, length=warm)
        return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), first.params, path), leave(last)

    return Prefix(step_times(tau, 0, warm), run)
