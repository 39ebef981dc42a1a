"""RMSProp and Adam on mini-batches as stochastic differential equations; `flows` has them without noise.

The second moment is a state of its own. In the limit of small steps the noise that drives the parameters drives it
too. In Malladi's limit, of large noise, it follows a differential equation without noise.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, cast_like, scale
from jaxflow.dynamics.diffusions.moving_averages import gradients_of, move_towards, noise_of_square
from jaxflow.dynamics.flows import averaged_squares as flows
from jaxflow.dynamics.flows.averaged_squares import AdamState, BiasCorrected, RMSPropState
from jaxflow.dynamics.flows.moments import cast, check_adaptive, divide, relaxation
from jaxflow.dynamics.noise.minibatch import FULL, Noise
from jaxflow.dynamics.old_calls import accept_batches
from jaxflow.objective import Objective


@traceable
def rmsprop_sde(
    objective: Objective,
    learning_rate: Any,
    batch_size: Any,
    decay: Any = 0.9,
    eps: Any = 1e-8,
    *,
    malladi: bool = False,
    eps_in_sqrt: bool = False,
    replacement: bool = True,
    noise: Noise = FULL,
) -> Field:
    r"""RMSProp on mini-batches as a stochastic differential equation; `rmsprop` is the one without noise.

    On the clock t = kη, with $n\,dW_1$ the noise of a mini-batch gradient, of covariance $C = s_B\Sigma$:
    $d\theta = -\frac{1}{\sqrt v + \epsilon}(\nabla L\,dt + \sqrt\eta\,n\,dW_1)$,
    $dv = \lambda(\nabla L^2 + \mathrm{diag}\,C - v)\,dt
    + \lambda\sqrt\eta\,(2\nabla L\, n\,dW_1 + \sqrt2\,\mathrm{diag}\,C\,dW_2)$,
    $\lambda = \frac{2(1-\alpha)}{\eta(1+\alpha)}$.
    $W_1$ is the same in both. This is the limit η → 0 at λ fixed, of weak order 1 in η. Without the noise on v the
    mean would be as good, but the variance of θ would be wrong at leading order.

    **Arguments**

    - `objective`: an `Objective` with data.
    - `learning_rate` η: a number above 0, or a function of the time t (`schedule_in_time` makes one of a schedule).
    - `batch_size` B: the number of examples per gradient, a number above 0 or a function of the time t.
    - `decay` α: the decay of the second moment, a number in [0, 1).
    - `eps` ε: the number at least 0 that is added to √v, in units of the gradient.
    - `malladi`: whether to take the limit of large noise, below, on its clock t = kη² (static).
    - `eps_in_sqrt`: whether the denominator is $\sqrt{v + \epsilon}$, with ε in units of a squared gradient (static).
    - `replacement`: whether the batches are independent draws, $s_B = \frac1B$, or fresh ones without
      replacement at each step, $s_B = \frac1B\frac{N-B}{N-1}$ (static).
    - `noise`: how the noise is drawn: `noise.full()` (exact covariance), `noise.subset(M)` or
      `noise.two_batches(b)`. n is taken as Gaussian.

    **Returns** a `Dynamics`, whose state is `RMSPropState(params, second_moment)`. v is in units of a squared
    gradient in either limit. It starts at v = 0, as the optimizer does, whose first steps are then long,
    $\eta/\sqrt{1-\alpha}$, and no equation describes them well. For an accurate comparison start both from a v as
    large as the squared gradients, here by `state=` of `integrate`. In the denominator v counts as at least 1 − α
    of $E g^2$, as it does in the discrete method.

    **Raises** `TypeError` for an objective without data, a hyperparameter that is not a number or complex
    parameters; `ValueError` for a rate ≤ 0, `decay` outside [0, 1), a negative `eps` or `batch_size` ≤ 0 (or > N
    without replacement).

    **`malladi=True`** is the limit of large noise (Malladi, Lyu, Panigrahi & Arora 2022, 2205.10287), on their
    clock **t = kη²**: $d\theta = -P^{-1}(\nabla L\,dt + \sigma_0\Sigma^{1/2}dW)$, $du = c_2(\mathrm{diag}\,\Sigma -
    u)\,dt$, $P = \sigma_0\sqrt u + \epsilon_0$, with $\sigma_0 = \eta\sqrt{s_B}$, $\epsilon_0 = \epsilon\eta$, $c_2
    = (1-\alpha)/\eta^2$ and $u = v/s_B$. It is of weak order 2 in η where $\sigma_0, \epsilon_0, c_2$ are fixed:
    the noise outweighs the gradient, $s_B\Sigma \gg \nabla L^2$. Batch sizes share this equation by the square-root
    rule (`jaxflow.rescale`).

    **Cost.** `drift` and `diffusion` form diag Σ from every per-example gradient, 4 to 5 gradients of the mean loss
    on a small network. The step that `integrate` takes is two mini-batch gradients (two backward passes and one
    forward), mixed as SVAG mixes them, $\frac{1\pm r}{2}$ with $r^2 = 2\eta/dt - 1$, and their squares likewise:
    they have the same mean and covariance. It keeps the correlations of g² between coordinates, $2 C_{ij}^2$, where
    `diffusion` has $2 C_{ij}\sqrt{C_{ii}C_{jj}}$.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> dynamics = jf.dynamics.rmsprop_sde(objective, 0.01, 1, decay=0.99)
    >>> start = jf.dynamics.RMSPropState(jnp.array(1.0), jnp.array(2.0))
    >>> path = jf.integrate(dynamics, start.params, [0.0, 0.5, 1.0], key=jax.random.key(0), state=start)
    >>> path.values.shape
    (3,)
    """
    check_adaptive(learning_rate, eps)
    _check.require_fraction(decay=decay)
    gradients = gradients_of(objective, learning_rate, batch_size, malladi, replacement, noise)
    rate, time_step = gradients.rate, gradients.time_step
    forget = relaxation(decay, malladi)

    def precondition(x, state, square):
        return divide(x, state.second_moment, square, 1 - decay, eps, eps_in_sqrt)

    def diffusion(t, state, xi):
        tau, m = time_step(t), gradients.moments(t, state.params)
        draws = gradients.draw(t, state.params, xi[0]), gradients.draw(t, state.params, xi[1])
        push = jnp.sqrt(jnp.asarray(tau))
        move = precondition(draws[0], state, m.square)
        square = scale(0.0 if malladi else forget / tau * push, noise_of_square(draws, m))
        # The optimizer subtracts the gradient, and adds its square.
        return RMSPropState(cast_like(scale(-rate(t) / tau * push, move), state.params), square)

    def step(t, state, dt, xi):
        tau = time_step(t)
        g, target, square = gradients.seen(t, state.params, dt, xi)
        move = cast_like(scale(-rate(t) / tau * dt, precondition(g, state, square)), state.params)
        params = jax.tree.map(jnp.add, state.params, move)
        return RMSPropState(params, move_towards(state.second_moment, target, -jnp.expm1(-forget * dt / tau)))

    field = flows.rmsprop_field(gradients, learning_rate, decay, eps, eps_in_sqrt, forget)
    return field._replace(
        diffusion=diffusion,
        brownian=lambda state: gradients.brownian(state.params),
        step=step,
        increments_add=False,
    )


@traceable
def adam_sde(
    objective: Objective,
    learning_rate: Any,
    batch_size: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    malladi: bool = False,
    replacement: bool = True,
    noise: Noise = FULL,
) -> Field:
    r"""Adam on mini-batches as a stochastic differential equation; `adam` is the one without noise.

    In terms of the bias-corrected moments $\hat m, \hat v$, on the clock t = kη, with k the step count, a float,
    $\lambda_i = \frac{2(1-\beta_i)}{\eta(1+\beta_i)}$ and $\gamma_i = 1 - e^{-\lambda_i\eta(k + 1/2)}$: $d\theta =
    -\frac{\hat m}{\sqrt{\hat v} + \epsilon}\,dt$, $d\hat m = \frac{\lambda_1}{\gamma_1}\big((\nabla L - \hat m)\,dt
    + \sqrt\eta\,n\,dW_1\big)$, $d\hat v = \frac{\lambda_2}{\gamma_2}\big((\nabla L^2 + \mathrm{diag}\,C - \hat
    v)\,dt + \sqrt\eta\,(2\nabla L\,n\,dW_1 + \sqrt2\,\mathrm{diag}\,C\,dW_2)\big)$, $dk = dt/\eta$, where $n\,dW_1$
    is the noise of a mini-batch gradient, of covariance $C = s_B\Sigma$. This is the limit η → 0 at $\lambda_i$
    fixed, of weak order 1 in η.

    **Arguments**

    - `objective`: an `Objective` with data.
    - `learning_rate` η: a number above 0, or a function of the time t (`schedule_in_time` makes one of a schedule).
    - `batch_size` B: the number of examples per gradient, a number above 0 or a function of the time t.
    - `b1` β₁, `b2` β₂: the decays of the first and the second moment, numbers in [0, 1).
    - `eps` ε: the number at least 0 that is added to $\sqrt{\hat v}$, in units of the gradient.
    - `malladi`: whether to take the limit of large noise, below, on its clock t = kη² (static).
    - `replacement`: whether the batches are independent draws, $s_B = \frac1B$, or fresh ones without
      replacement at each step, $s_B = \frac1B\frac{N-B}{N-1}$ (static).
    - `noise`: how the noise is drawn: `noise.full()` (exact covariance), `noise.subset(M)` or
      `noise.two_batches(b)`. n is taken as Gaussian.

    **Returns** a `Dynamics`, whose state is `AdamState(params, first_moment, second_moment, steps)`. To go on from
    k steps of the optimizer, with its m and v, give $m/(1-\beta_1^k)$, $v/(1-\beta_2^k)$ and k by `state=` of
    `integrate`. A drift forms diag Σ (4 to 5 gradients of the mean loss on a small network), a step takes two
    mini-batch gradients.

    **Raises** `TypeError` for an objective without data, a hyperparameter that is not a number or complex
    parameters; `ValueError` for a rate ≤ 0, `b1` or `b2` outside [0, 1), a negative `eps` or `batch_size` ≤ 0 (or >
    N without replacement).

    **`malladi=True`** is the limit of large noise (Malladi, Lyu, Panigrahi & Arora 2022, 2205.10287), on their
    clock **t = kη²**: $d\theta = -\frac{\sqrt{\gamma_2}}{\gamma_1}P^{-1}m\,dt$, $dm = c_1(\nabla L - m)\,dt +
    \sigma_0 c_1\Sigma^{1/2}dW$, $du = c_2(\mathrm{diag}\,\Sigma - u)\,dt$, $P = \sigma_0\sqrt u +
    \epsilon_0\sqrt{\gamma_2}$, $\gamma_i = 1 - e^{-c_i t}$, $c_i = (1-\beta_i)/\eta^2$, $\sigma_0 =
    \eta\sqrt{s_B}$, $\epsilon_0 = \epsilon\eta$; it is of weak order 2 in η where $\sigma_0, \epsilon_0, c_i$ are
    fixed.

    Both are singular at the start, where γ is 0. The half step in γ, which is where step k + 1 stands in its
    interval, makes them regular: a run starts with $\hat m = \nabla L$ and $\hat v = E g^2$ (Malladi's: the
    variance), of which one step leaves a third. Steps are counted in the state, so a run may start at any time,
    t = 0 included.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> path = jf.integrate(jf.dynamics.adam_sde(objective, 0.01, 1), 1.0, [0.0, 0.1], key=jax.random.key(0))
    >>> print(path.state.steps.round(3))
    10.0
    """
    check_adaptive(learning_rate, eps)
    _check.require_fraction(b1=b1, b2=b2)
    gradients = gradients_of(objective, learning_rate, batch_size, malladi, replacement, noise)
    rate, time_step = gradients.rate, gradients.time_step
    averages = BiasCorrected((relaxation(b1, malladi), relaxation(b2, malladi)))

    def diffusion(t, state, xi):
        now = gradients.moments(t, state.params)
        draws = gradients.draw(t, state.params, xi[0]), gradients.draw(t, state.params, xi[1])
        first, second = (
            share / jnp.sqrt(jnp.asarray(time_step(t))) for share in averages.shares(state.steps)
        )
        return AdamState(
            jax.tree.map(jnp.zeros_like, state.params),
            scale(first, draws[0]),
            scale(0.0 if malladi else second, noise_of_square(draws, now)),
            jnp.zeros_like(state.steps),
        )

    def step(t, state, dt, xi):
        tau = time_step(t)
        g, target, square = gradients.seen(t, state.params, dt, xi)
        steps = state.steps + cast(dt / tau, state.steps)
        # The moments relax exactly, bias correction and all: a constant gradient stays its own average.
        gammas = zip(averages.forget, averages.forgotten_shares(steps), strict=True)
        parts = [-jnp.expm1(-f * dt / tau) / gamma for f, gamma in gammas]
        first = move_towards(state.first_moment, g, parts[0])
        second = move_towards(state.second_moment, target, parts[1])
        move = divide(first, second, square, jnp.minimum(averages.shares(steps)[1], 1), eps)
        move = cast_like(scale(-rate(t) / tau * dt, move), state.params)
        return AdamState(jax.tree.map(jnp.add, state.params, move), first, second, steps)

    field = flows.adam_field(gradients, learning_rate, averages, eps)
    return field._replace(
        diffusion=diffusion,
        brownian=lambda state: gradients.brownian(state.params),
        step=step,
        increments_add=False,
    )


# Under these names earlier versions had both.
rmsprop = accept_batches(flows.rmsprop, rmsprop_sde)
adam = accept_batches(flows.adam, adam_sde)
