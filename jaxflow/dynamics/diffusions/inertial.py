"""SGD with momentum as a stochastic differential equation of a position and a velocity.

Heavy ball and Nesterov are one equation here. They differ in the points along the velocity at which the force is
taken and the parameters are read off. Underdamped Langevin dynamics, which samples instead of imitating SGD, is in
`underdamped`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxflow import _check
from jaxflow._gradients import gradient
from jaxflow._moved import alias_of
from jaxflow._norms import root
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, add, scale
from jaxflow.dynamics.diffusions.first_order import noise_amplitude
from jaxflow.dynamics.flows.damped_oscillators import InertialState, rest_state
from jaxflow.dynamics.flows.first_order import effective_mass
from jaxflow.dynamics.noise.minibatch import FULL, Noise, gradient_and_noise
from jaxflow.objective import Objective
from jaxflow.optim.schedules import value_at

PyTree = Any


class Coefficients(NamedTuple):
    r"""The numbers of $dx = u\,dt$, $m\,du = -f u\,dt - \nabla L(x + e u)\,dt + noise$, $\theta = x + r u$.

    `spread` is the standard deviation of u over that of a per-sample gradient, $\sqrt{\eta s_B / 2fm}$. It is
    given instead of the noise's amplitude because it stays finite where a schedule's rate, hence m, is 0.
    """

    mass: Any
    friction: Any
    spread: Any
    readout: Any
    lookahead: Any


def inertial_field(
    objective: Objective, noise: Noise, at: Callable[[Any], Coefficients], time_step: Any
) -> Field:
    """The field in terms of θ and u, for coefficients `at(t)`.

    The state is θ, not x, so that the parameters are continuous where a schedule's rate, and hence r, jumps.
    """
    sampling = noise.build()
    slope = gradient(objective)

    def move(c, state, distance):
        return add(state.params, scale(distance, state.velocity))

    def drift(t, state):
        c = at(t)
        force = add(slope(move(c, state, c.lookahead - c.readout)), scale(c.friction, state.velocity))
        velocity = scale(-1 / c.mass, force)
        return InertialState(add(state.velocity, scale(c.readout, velocity)), velocity)

    def diffusion(t, state, xi):
        c = at(t)
        draw = sampling.draw(objective, move(c, state, c.lookahead - c.readout), xi)
        velocity = scale(-c.spread * root(2 * c.friction / c.mass), draw)
        return InertialState(scale(c.readout, velocity), velocity)

    def step(t, state, dt, xi):
        # Strang splitting: half a step of dx = u dt, then all that acts on u, solved exactly in law for a force
        # frozen at the middle (friction is stiff: η f/m → 2 as β → 0), then the other half.
        c = at(t)
        middle = move(c, state, dt / 2 - c.readout)
        ahead = add(middle, scale(c.lookahead, state.velocity))
        lost = -jnp.expm1(-c.friction * dt / c.mass)
        kept, random = 1 - lost, root(lost * (2 - lost))
        kick = gradient_and_noise(objective, sampling, ahead, xi, lost / c.friction, c.spread * random)
        velocity = add(scale(kept, state.velocity), scale(-1.0, kick))
        return InertialState(add(middle, scale(dt / 2 + c.readout, velocity)), velocity)

    return Field(
        drift=drift,
        init=rest_state,
        params=lambda state: state.params,
        diffusion=diffusion,
        brownian=lambda state: sampling.brownian(objective, state.params),
        step=step,
        time_step=time_step,
    )


def _check_inertial(learning_rate, beta, order) -> None:
    if not callable(learning_rate):
        _check.require_positive(learning_rate=learning_rate)
    if not callable(beta):
        _check.require_fraction(beta=beta)
    _check.require("order", order, order in (1, 2), "1 or 2")


@traceable
def momentum_sgd(
    objective: Objective,
    learning_rate: Any,
    batch_size: Any,
    beta: Any = 0.9,
    *,
    ema: bool = False,
    replacement: bool = True,
    noise: Noise = FULL,
    order: int = 2,
) -> Field:
    r"""SGD with heavy-ball momentum as a diffusion, on the clock t = kη.

    $d\theta = u\,dt,\quad m\,du = -(1-\beta) u\,dt - \nabla L(\theta)\,dt + \sqrt{\eta s_B \Sigma(\theta)}\,dW$,
    with $m = \frac{\eta}{2}(1+\beta)$ and u = −v for the v of `jaxflow.optim.momentum`.

    **Arguments**

    - `objective`: an `Objective` with data.
    - `learning_rate` η: a number above 0, or a function of the time t (`schedule_in_time` makes one of a schedule).
    - `batch_size` B: the number of examples per gradient, a number above 0 or a function of the time t.
    - `beta` β: the momentum, a number in [0, 1) or a function of the time t.
    - `ema`: whether the optimizer averages gradients, `jaxflow.optim.momentum(…, ema=True)`, whose clock is that of
      its own η (static). Then the friction is $-u\,dt$ and $m = \frac{\eta(1+\beta)}{2(1-\beta)}$.
    - `replacement`: whether the batches are independent draws, $s_B = \frac1B$, or fresh ones without
      replacement at each step, $s_B = \frac1B\frac{N-B}{N-1}$ (static).
    - `noise`: how the noise is drawn: `noise.full()` (exact covariance), `noise.subset(M)` or `noise.two_batches(b)`.
    - `order`: which equation (static). 1 is the one above. 2, the default, costs the same: v is the velocity of
      half a step ago, so that $\theta = x + \frac{\eta}{2} u$, where x and u take the place of the θ and u above.
      Means and covariances, the stationary covariance among them, then err by O(η²) at fixed β, down to β = 0,
      plain SGD.

    **Returns** a `Dynamics`. Its state is an `InertialState(params, velocity)`, at rest at first. A step, of a
    splitting of weak order 2, is one backward pass.

    **Raises** `TypeError` for an objective without data or a hyperparameter that is not a number; `ValueError` for
    a rate ≤ 0, `beta` outside [0, 1), `batch_size` ≤ 0 (or > N without replacement) or another order.

    For isotropic Σ the law ends as Gibbs' at temperature $\frac{\eta s_B}{2(1-\beta)}$, with `ema` at $\frac{\eta
    s_B}{2}$. Order 1 is the same in Itô's and Stratonovich's sense, because the noise on u depends on θ only. It is
    valid while η|H| is small; for fixed β the error of order 1 is O(η). In one dimension the stationary variance of
    order 1 is $1 - \frac{\eta h}{2(1+\beta)}$ of the discrete one. The mass is the modified equation's (Kovachki &
    Stuart 2021, 1906.04285; with noise Kunin et al. 2021, 2107.09133): with m = η the law of u is wrong at order 0.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> dynamics = jf.dynamics.momentum_sgd(objective, 0.1, 1, beta=0.5)
    >>> state = dynamics.init(jnp.array(1.0))
    >>> print(dynamics.step(0.0, state, 0.01, jnp.zeros(2)).velocity.round(3))
    -0.129
    """
    _check_inertial(learning_rate, beta, order)
    root = noise_amplitude(objective, batch_size, replacement)

    def coefficients_at(t):
        rate, b = value_at(learning_rate, t), value_at(beta, t)
        friction = 1.0 if ema else 1 - b
        spread = root((1 - b) / (1 + b) if ema else 1 / (1 - b * b), t)
        mass = effective_mass(rate, b, nesterov=False) / (1 - b if ema else 1.0)
        return Coefficients(mass, friction, spread, rate / 2 if order == 2 else 0.0, 0.0)

    return inertial_field(objective, noise, coefficients_at, learning_rate)


momentum = alias_of("jaxflow.dynamics.momentum", "jaxflow.dynamics.momentum_sgd", momentum_sgd)


@traceable
def nesterov_sgd(
    objective: Objective,
    learning_rate: Any,
    batch_size: Any,
    beta: Any = 0.9,
    *,
    replacement: bool = True,
    noise: Noise = FULL,
    order: int = 2,
) -> Field:
    r"""SGD with Nesterov's momentum as a diffusion, on the clock t = kη.

    $d\theta = \beta u\,dt + dG,\quad m\,du = -(1-\beta) u\,dt + dG$, both driven by one $dG = -\nabla L(\theta)\,dt
    + \sqrt{\eta s_B \Sigma(\theta)}\,dW$, with $m = \frac{\eta}{2}(1+\beta)$ and u = −v. θ are the parameters of
    `jaxflow.optim.nesterov` in its default, shifted form. At β = 0 it is the SDE of SGD. It is the heavy ball's
    equation for $x = \theta - m u$ with the force taken ahead, at θ.

    **Arguments**

    - `objective`: an `Objective` with data.
    - `learning_rate` η: a number above 0, or a function of the time t (`schedule_in_time` makes one of a schedule).
    - `batch_size` B: the number of examples per gradient, a number above 0 or a function of the time t.
    - `beta` β: the momentum, a number in [0, 1) or a function of the time t.
    - `replacement`: whether the batches are independent draws, $s_B = \frac1B$, or fresh ones without
      replacement at each step, $s_B = \frac1B\frac{N-B}{N-1}$ (static).
    - `noise`: how the noise is drawn: `noise.full()` (exact covariance), `noise.subset(M)` or `noise.two_batches(b)`.
    - `order`: which equation (static). 2, the default, places the points as the iterates do: the force at $x +
      \eta\beta u$, the parameters $\theta = x + \eta(\beta + \frac12) u$. Means and covariances then err by O(η²)
      at fixed β. 1 is the equation above, which errs by O(η).

    **Returns** a `Dynamics`. Its state is an `InertialState(params, velocity)`, at rest at first. A step is one
    backward pass, of weak order 1.

    **Raises** `TypeError` for an objective without data or a hyperparameter that is not a number; `ValueError` for
    a rate ≤ 0, `beta` outside [0, 1), `batch_size` ≤ 0 (or > N without replacement) or another order.

    The stationary variance of order 1 is too small by up to $\frac74 \eta h$ of itself as β → 1 (1.083, 1.613, 1.736
    times ηh at β = .5, .9, .99), seven times the error of the heavy ball's. The temperature is
    $\frac{\eta s_B}{2(1-\beta)}$.

    It is **valid** for a β that is constant or slow over the velocity's memory, η/(1−β), and while η|H| is small. The
    iterates of `nesterov(lookahead=True)` are $\theta - \eta\beta u$. Nesterov's $\beta_k = 1 - 3/k$ has its limit
    on another clock, k√η (Su, Boyd & Candès 2016, 1503.01243).

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> dynamics = jf.dynamics.nesterov_sgd(objective, 0.1, 1, beta=0.5)
    >>> print(dynamics.drift(0.0, dynamics.init(jnp.array(1.0))).params.round(3))
    -1.333
    """
    _check_inertial(learning_rate, beta, order)
    root = noise_amplitude(objective, batch_size, replacement)

    def coefficients_at(t):
        rate, b = value_at(learning_rate, t), value_at(beta, t)
        mass, spread = effective_mass(rate, b, nesterov=False), root(1 / (1 - b * b), t)
        readout, ahead = (rate * (b + 0.5), rate * b) if order == 2 else (mass, mass)
        return Coefficients(mass, 1 - b, spread, readout, ahead)

    return inertial_field(objective, noise, coefficients_at, learning_rate)
