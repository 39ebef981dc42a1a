r"""The flow of pairs of iterates: where any optimizer goes past the edge of stability, and how it oscillates there.

Let Φ be the map of a step on the optimizer's whole state z. Write an iterate as $z_k = m_k + (-1)^k \delta_k$. Then

$$m_{k+1} = \tfrac12(\Phi(m_k + \delta_k) + \Phi(m_k - \delta_k)), \quad
\delta_{k+1} = -\tfrac12(\Phi(m_k + \delta_k) - \Phi(m_k - \delta_k))$$

holds for ever if it holds once: it is exact, whatever z was split into. An eigenvalue e of Φ' is e for m, −e for δ.
So slow motion (e near 1) is slow in m, an oscillation of period two (e near −1) is slow in δ, and this map has a
logarithm where that of a single step has none. What is in the other half, slow motion in δ or an oscillation in m,
is not in a start that is split well, and decays.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from numpy.polynomial import Polynomial

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.curvature.products import check_objective
from jaxflow.dynamics.base import Field, add, scale
from jaxflow.dynamics.modified_equations.equation import (
    check_arguments,
    clock_of,
    first_steps,
    steps_per_time,
)
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
from jaxflow.recording import Recorder

PyTree = Any
LEAST = 2  # order of the split: at order 1 it would be the larger error


class PairState(NamedTuple):
    """The state of `pair_flow`: iterates alternate between the midpoint plus and minus the half-difference.

    - `midpoint`: a `ModifiedState`, the parameters and the optimizer's state without their oscillation.
    - `half_difference`: a `ModifiedState`, the oscillation of each; its step count is 0.
    """

    midpoint: ModifiedState
    half_difference: ModifiedState


class PairRecord(NamedTuple):
    """What `record_pairs` keeps, at each time.

    - `midpoint`: the parameters without their oscillation.
    - `half_difference`: what iterates alternately add to them and subtract.
    - `loss`: the mean of the losses of both ends, which a time average over iterates is to be compared with.
    """

    midpoint: PyTree
    half_difference: PyTree
    loss: jax.Array


@traceable(structural=("order", "warmup"))
def pair_flow(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    *,
    order: int = 2,
    time_step: Any = None,
    warmup: int | None = None,
) -> Field:
    r"""The flow of pairs of iterates of any optimizer: past the edge of stability too, without eigenvectors.

    Iterates are $z_k = m_k + (-1)^k \delta_k$, where z is the parameters and the optimizer's state, and k counts the
    steps from where they were split. A step Φ takes the pair (m, δ) to

    $$\Psi(m, \delta) = \left(\tfrac12(\Phi(m + \delta) + \Phi(m - \delta)),\;
    -\tfrac12(\Phi(m + \delta) - \Phi(m - \delta))\right),$$

    which is exact. This is the flow of $\frac1\tau \log\Psi$, whose series is cut after p terms as in `modified`. The
    midpoint m moves along the gradients at both ends, and the half-difference δ grows where the sharpness is past
    the threshold of the optimizer, as $\log(-e)$ for the eigenvalue e of Φ' near −1. For gradient descent at order 1

    $$\dot m = -\tfrac12(\nabla L(m + \delta) + \nabla L(m - \delta)), \quad
    \eta\dot\delta = -2\delta + \tfrac\eta2(\nabla L(m + \delta) - \nabla L(m - \delta)).$$

    **Arguments**

    - `optimizer`: any of `jaxflow.optim` or optax: momentum, second moments, chains, schedules. The flow is made of
      its own `update`; of an `optax.MultiSteps`, of that of the optimizer inside.
    - `objective`: an `Objective`, any function `loss(params) -> scalar`, or a `VectorField`.
    - `order` p: an integer from 1 to 8 (static). An evaluation costs 2p gradients.
    - `time_step` τ: the time of a step, a number or a schedule. Default: the optimizer's learning rate, 1.0 where it
      has none.
    - `warmup`: the number of steps of the optimizer itself with which a run begins (static), as in `modified`.
      Default: 20 where the optimizer has a state, else 0.

    **Returns** a `Dynamics`, whose state is a `PairState`. The `values` of a trajectory are midpoints: compare them
    with `midpoints` of the iterates. `record_pairs` keeps the oscillation too. From the end of a run `pair_state`
    makes the state to go on from, for `integrate(…, state=…)`.

    **Raises** `ValueError` for an order not in 1 … 8, a time step ≤ 0, a warm-up < 0 or an optimizer with random
    state; `TypeError` when `optimizer` or `objective` is of another kind, or for a state that is not made of
    arrays. There is a warning for an optimizer that is not smooth, such as a sign or a clip.

    It **holds** where what a run excites is slow or oscillates: of eigenvalues e with |e − 1| or |e + 1| below 1 it
    has the logarithm, the closer the higher the order, and all others only have to decay. Those that turn, of modulus
    $\sqrt\beta$ under momentum, do so at orders 1 and 2 whatever their angle, but at order 3 up to |e| = .95, at 4 up
    to .83, at 6 up to .63, at 8 up to .49. So take order 1 or 2 for β = .9, Adam's too. Past the edge the
    flow follows bursts in their time. Where a run depends on its own rounding it cannot be nearer than two runs are
    to each other. For an adaptive method give `integrate` an `atol` far below the second moments.

    The *gauge* is `convergence(…, stride=2)`. Its `radius` is the largest $|e^2 - 1|$, 1 + β of modes that turn.
    Its `ratio` tells how strongly a run excites what the series misses. On digits it is at most .53 with Nesterov's
    method (β = .9), where the flow is closest. In the bursts of other methods it passes 1, and there the flow errs.
    Where modes that turn are few or soon damped it is near again after that (RMSProp and Adam, 2 to 10 for some
    steps). A burst of the heavy ball with β = .9 leaves modes that turn and decay by .95 a step: the ratio stays
    above 1 for a hundred steps, and this flow errs most.

    *Related flows.* `modified(…, stride=2)` follows every second iterate; it has both in one state and is accurate in
    the same places, at half the reach in step size. A central flow (Cohen et al.) averages over the bursts: its
    covariance of k modes is what holds the sharpness at the threshold, where here δ does so in its own time. Rod flow
    (Regis & Chewi) has the picture of a rod with these two ends; `rod_flow` is order 1.

    Source: the lift to pairs is exact and has no other source; Regis & Chewi (2026, 2602.01480; 2605.06821 for
    momentum and Adam); Cohen, Damian, Talwalkar, Kolter & Lee (2024, 2410.24206).

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda p: 0.5 * p[1] * p[0] ** 2 + 0.05 * (27.2 - p[1]) ** 2
    >>> start, descent = jnp.array([0.6, 20.0]), jf.optim.gd(0.1)  # the edge is at 20
    >>> run = jf.iterate(descent, loss, start, steps=100)
    >>> pairs = jf.integrate(jf.dynamics.pair_flow(descent, loss, order=4), start, run.times)
    >>> middle = jf.midpoints(run).values  # without the oscillation of about .8
    >>> print(abs(middle - pairs.values[1:-1]).max().round(2))
    0.01
    """
    optimizer = optimizer_of_updates(optimizer)
    check_arguments(optimizer, objective, order, 1, warmup)
    tau, shares = clock_of(optimizer, time_step), weights(order)
    split = lambda state: pair_state(optimizer, objective, state, order=max(order, LEAST))

    def init(params):
        warn_if_rough(optimizer, params, state_shapes(optimizer, params))
        return split(cold_state(optimizer, params))

    def drift(t, state):
        total = logarithm(lambda pair: _pair_increment(optimizer, objective, pair), state, shares)
        return scale(steps_per_time(tau, t, state.midpoint.steps, shares), total)

    return Field(
        drift=drift,
        init=init,
        params=lambda state: state.midpoint.params,
        time_step=None if callable(tau) else tau,
        prefix=lambda params: first_steps(
            optimizer, objective, params, tau, warmup, enter=lambda pair: add(*pair), leave=split
        ),
    )


@traceable(structural=("warmup",))
def rod_flow(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    *,
    time_step: Any = None,
    warmup: int | None = None,
) -> Field:
    r"""Rod flow: two successive iterates as the ends of a rod whose middle and extent flow; `pair_flow` at order 1.

    Each end takes a step of the optimizer. The middle moves by the mean of both moves. The extent, half the
    difference of the ends, changes by half the difference of the moves, and then its sign turns, because the ends
    change places: $\Delta m = \frac12(\Delta_+ + \Delta_-)$, $\Delta\delta = -2\delta - \frac12(\Delta_+ -
    \Delta_-)$.

    **Arguments**

    - `optimizer`, `objective`, `time_step`, `warmup`: as in `pair_flow`.

    **Returns** a `Dynamics`, whose state is a `PairState`. An evaluation costs 2 gradients.

    **Raises** what `pair_flow` does.

    Source: the picture is that of Regis & Chewi (2026, 2602.01480), who follow the covariance $\delta\delta^\top$ of
    the rod. The equations here are derived from it for any optimizer.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda p: 0.5 * p[1] * p[0] ** 2 + 0.05 * (27.2 - p[1]) ** 2
    >>> rod = jf.dynamics.rod_flow(jf.optim.gd(0.1), loss)
    >>> path = jf.integrate(rod, jnp.array([0.6, 20.0]), [0.0, 10.0])
    >>> print(path.values[-1, 1].round(1))  # it stays near the edge, where gradient flow goes on to 24.5
    19.7
    """
    return pair_flow(optimizer, objective, order=1, time_step=time_step, warmup=warmup).build()


def pair_state(
    optimizer: optax.GradientTransformation,
    objective: Callable[[PyTree], jax.Array],
    state: ModifiedState,
    *,
    order: int = 2,
) -> PairState:
    r"""Split an optimizer's state into midpoint and half-difference, so that `pair_flow` goes on from it.

    Both are weighted sums of the states of 2q − 1 further steps. Of what a step multiplies by e the midpoint has the
    share $p(e) = \int_{-1}^e (1 - u^2)^{q-1}du \,/ \int_{-1}^1$: all of slow motion and none of an oscillation,
    except for the q-th power of the distance of e from 1 and −1. At q = 1 they are half the sum and half the
    difference of two iterates. At q = 2 the half-difference is $\frac14(2z_0 - 3z_1 + z_3)$.

    **Arguments**

    - `optimizer`: any of `jaxflow.optim` or optax.
    - `objective`: an `Objective`, any function `loss(params) -> scalar`, or a `VectorField`.
    - `state`: a `ModifiedState`, such as `modified_state(run)` at the end of a run of `iterate`.
    - `order` q: an integer at least 1 (static). The order of the flow is enough.

    **Returns** a `PairState`, whose midpoint plus half-difference is the state. It costs 2q − 1 gradients.

    **Raises** `TypeError` for a state that is not a `ModifiedState`; `ValueError` for an order < 1.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([0.1, 2.0]) * x**2)
    >>> run = jf.iterate(jf.optim.gd(1.0), loss, jnp.ones(2), steps=4)
    >>> pair = jf.dynamics.pair_state(jf.optim.gd(1.0), loss, jf.dynamics.modified_state(run))
    >>> print(run.params.round(4), pair.midpoint.params.round(4), pair.half_difference.params.round(4))
    [0.6561 1. ] [0.6513 0. ] [0.0048 1. ]
    """
    if not isinstance(state, ModifiedState):
        raise TypeError(f"state must be a ModifiedState, got {type(state).__name__}.")
    optimizer = optimizer_of_updates(optimizer)
    _check.require_integer("order", order, 1)
    half = logarithm(lambda z: increment(optimizer, objective, z), state, _oscillating_share(order))
    half = half._replace(steps=jnp.zeros_like(half.steps))
    return PairState(jax.tree.map(jnp.subtract, state, half), half)


@lru_cache
def _oscillating_share(order: int) -> np.ndarray:
    """The share of each step's increment in the half-difference, shape (2·order − 1,).

    >>> print(_oscillating_share(2))  # z1 − z0, z2 − z1, z3 − z2 of (2 z0 − 3 z1 + z3)/4
    [-0.5 0.25 0.25]
    """
    bump = Polynomial([1.0, 0.0, -1.0]) ** (order - 1)
    slow = bump.integ(lbnd=-1) / bump.integ(lbnd=-1)(1.0)
    weights = -slow.coef  # of the states after the first
    return np.cumsum(weights[:0:-1])[::-1]


@traceable
def record_pairs(objective: Callable[[PyTree], jax.Array]) -> Recorder:
    """Keep midpoint, half-difference and mean loss along a `pair_flow`: a recorder for `integrate(…, record=…)`.

    **Arguments**

    - `objective`: the loss of the flow.

    **Returns** a recorder whose values are a `PairRecord`, leaves (T, …). Begin the flow with `state=` or without a
    warm-up: at the first discrete steps there are no pairs, and the first pair stands in their place.

    **Raises** `TypeError` for an objective that is not a loss.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([0.1, 2.0]) * x**2)
    >>> flow = jf.dynamics.pair_flow(jf.optim.gd(1.0), loss)
    >>> pairs = jf.integrate(flow, jnp.ones(2), [0.0, 8.0], record=jf.dynamics.record_pairs(loss)).values
    >>> print(pairs.half_difference[-1].round(3), pairs.loss.round(3))
    [0. 1.] [1.05 1.01]
    """

    check_objective(objective)

    def look(memory, params, state):
        del params
        m, d = (part.params for part in state)
        ends = [objective(jax.tree.map(lambda x, y, s=sign: x + s * y, m, d)) for sign in (1, -1)]
        return PairRecord(m, d, 0.5 * (ends[0] + ends[1])), memory

    return Recorder(begin=lambda params, state: (), look=look)


def _pair_increment(optimizer, objective, pair: PairState) -> PairState:
    """What a step adds to midpoint and half-difference.

    One program serves both ends, which take turns. Their shares are summed on the way, because slicing both out of a
    stack costs a quarter of a small network's gradient.
    """
    m, d = pair

    def take_end(total, sign):
        signed = lambda x: sign.astype(x.dtype) * x
        move = increment(optimizer, objective, jax.tree.map(lambda x, y: x + signed(y), m, d))
        middle = jax.tree.map(lambda x, y: x + 0.5 * y, total.midpoint, move)
        half = jax.tree.map(lambda x, y: x - 0.5 * signed(y), total.half_difference, move)
        return PairState(middle, half), None

    start = PairState(jax.tree.map(jnp.zeros_like, m), scale(-2, d))
    return lax.scan(take_end, start, jnp.array([1.0, -1.0]))[0]
