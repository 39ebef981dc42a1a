"""Momentum without the momentum: the flow of the parameters alone, once an optimizer's averages have settled.

At fixed hyperparameters an average forgets in a few steps and is from then on a function s(θ) of the parameters, the
slow manifold of the map of a step. `slow_manifold` finds that function numerically, and gives the flow on it.
"""

from collections.abc import Callable
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, scale
from jaxflow.dynamics.modified_equations.equation import check_arguments, clock_of
from jaxflow.dynamics.modified_equations.expansion import moving_leaves
from jaxflow.dynamics.modified_equations.smoothness import warn_if_rough
from jaxflow.dynamics.modified_equations.step_logarithm import (
    ModifiedState,
    cold_state,
    increment,
    logarithm,
    state_shapes,
    weights,
)
from jaxflow.optim.multi_steps import optimizer_of_updates

PyTree = Any

HIGHEST = 4
LONG = 1e6  # steps after which no bias correction is left; a float32 still counts on from it
ROUNDS = 6  # for each order above the first


@traceable(structural=("order",))
def slow_manifold(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    *,
    order: int = 2,
    time_step: Any = None,
) -> Field:
    r"""The flow of the parameters alone to which an optimizer with memory settles, at fixed hyperparameters.

    $\dot\theta = \frac1\tau \sum_{j<p} b_j d_j$, as in `modified`, from the state s(θ) in which the memory no
    longer has a transient: $\Delta^p s = 0$ along p steps of the optimizer from (θ, s). Step counts are
    large, so that bias corrections are gone. For the heavy ball it is
    $-\frac{g}{1-\beta} - \frac{\eta(1+\beta)}{2(1-\beta)^3} Hg + O(\eta^2)$. Without a state to settle (`gd`) it is
    the field of `modified`.

    **Arguments**

    - `optimizer`: any of `jaxflow.optim` or optax; for an `optax.MultiSteps`, the optimizer inside is taken. All
      its hyperparameters must be numbers, no schedules; a schedule that is hidden in a plain optax optimizer is not
      seen, and stands at its end.
    - `objective`: an `Objective`, any function `loss(params) -> scalar`, or a `VectorField`.
    - `order` p: an integer from 1 to 4 (static). A drift costs $1 + p + 6p(p-1)$ gradients: 2, 15, 40, 77.
    - `time_step` τ: the time of a step, a number. Default: the optimizer's learning rate, 1.0 where it has none.

    **Returns** a `Dynamics`, whose state is the parameters. Start it from parameters that have left the start-up
    behind: the iterate after some $\frac{10}{1-\beta}$ steps.

    **Raises** `ValueError` for an order not in 1 … 4, a time step ≤ 0, a schedule, or an optimizer with random state;
    `TypeError` when `optimizer` or `objective` is of another kind, or for a state that is not made of arrays.

    **Method.** A deviation of s from the manifold shrinks by β at each step, so $\Delta^p$ multiplies it by $(\beta
    - 1)^p$, and what moves slowly by $O(\eta^p)$: the constraint leaves an error $O(\eta^p)$. It is solved by 6(p −
    1) steps $s \leftarrow s - (\beta - 1)^{-p}\Delta^p s$, where β − 1 is taken from the optimizer, entry by entry,
    as the derivative of its memory at a fixed gradient. Each step gains a factor of about $(p -
    1)\frac{\beta\eta\lambda}{(1-\beta)^2}$; plain constraint runs, without the division, gain $1 - (1-\beta)^p$.

    It is **valid** where there is a slow manifold: $\eta\lambda < (1 - \sqrt\beta)^2$ for the heavy ball (.0026 at
    β = .9), in every direction λ. Past it a mode rotates, and its parameters alone follow no equation. The series
    gains little above half of that. Adam's second moment must also be fast compared with the loss (1 − β₂ far above
    η times the preconditioned sharpness), and gradients must not change sign. Memory that forgets nothing (AdaGrad)
    has no manifold: the result is NaN, as it is where the steps do not converge.

    Source: constraint runs are Gear, Kaper, Kevrekidis & Zagaris (2005), Projecting to a slow manifold, SIADS 4, 711.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(x**2)
    >>> run = jf.iterate(jf.optim.momentum(0.01, 0.5), loss, jnp.ones(1), steps=120)
    >>> for order in (1, 2):
    ...     flow = jf.dynamics.slow_manifold(jf.optim.momentum(0.01, 0.5), loss, order=order)
    ...     print(f"{abs(jf.integrate(flow, run.values[20], run.times[20:]).params - run.params)[0]:.0e}")
    6e-03
    2e-04
    """
    optimizer = optimizer_of_updates(optimizer)
    check_arguments(optimizer, objective, order, 1, None)
    _check.require("order", order, order <= HIGHEST, f"an integer from 1 to {HIGHEST}")
    tau = fixed_clock(optimizer, time_step)

    def init(params):
        warn_if_rough(optimizer, params, state_shapes(optimizer, params))
        return params

    def drift(t, params):
        state, _ = settle_memory(optimizer, objective, params, order)
        total = logarithm(lambda z: increment(optimizer, objective, z), state, weights(order))
        return scale(1 / tau, total.params)

    return Field(drift=drift, init=init, time_step=tau)


def fixed_clock(optimizer: optax.GradientTransformation, time_step: Any) -> Any:
    """The time of a step, a number; a schedule is refused, because nothing settles under it."""
    for name, value in (("time_step", time_step), ("learning_rate", clock_of(optimizer, None))):
        if callable(value):
            raise ValueError(f"{name} must be a number, as a memory settles at fixed rates, got {value!r}.")
    return clock_of(optimizer, time_step)


def settle_memory(
    optimizer: optax.GradientTransformation, objective: Callable, params: PyTree, order: int
) -> tuple[ModifiedState, list[jax.Array]]:
    """The state on the slow manifold at `params`, and the share that each entry of memory loses in a step."""
    zero = cold_state(optimizer, params)
    mask = moving_leaves(optimizer, params).optimizer
    counted = lambda fast, leaf: leaf if fast else leaf + LONG
    memory = jax.tree.map(counted, mask, zero.optimizer)
    place = lambda memory: ModifiedState(params, memory, zero.steps + LONG)
    step = lambda state: increment(optimizer, objective, state)

    probe = jax.tree.map(lambda fast, leaf: jnp.full_like(leaf, float(fast)), mask, memory)
    change, forgets = jax.jvp(lambda memory: step(place(memory)).optimizer, (memory,), (probe,))

    def solve(memory, residual, slope):
        def entry(fast, x, r, a):
            idle = (r == 0) & (a == 0)  # a constant kept in the state
            return x - jnp.where(idle, 0.0, r / jnp.where(idle, 1.0, a)) if fast else x

        return jax.tree.map(entry, mask, memory, residual, slope)

    # At a fixed gradient one such step would be enough; the parameters' motion remains.
    memory = solve(memory, change, forgets)
    slope = jax.tree.map(lambda a: a**order, forgets)

    def improve(memory, _):
        return solve(memory, logarithm(step, place(memory), _difference(order)).optimizer, slope), None

    memory, _ = lax.scan(improve, memory, None, length=ROUNDS * (order - 1))
    pairs = zip(jax.tree.leaves(forgets), jax.tree.leaves(mask), strict=True)
    return place(memory), [abs(a) for a, fast in pairs if fast]


def _difference(order: int) -> np.ndarray:
    """The share of each step's increment in the difference of order `order` of the states."""
    return np.array([(-1.0) ** (order - 1 - j) * comb(order - 1, j) for j in range(order)])
