"""RMSProp and Adam as ordinary differential equations: a second moment that is averaged, a state of its own.

Their stochastic equations, on mini-batches, share the drift and the start, and are in `diffusions`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, cast_like, scale, widen_tree
from jaxflow.dynamics.flows.first_order import Loss
from jaxflow.dynamics.flows.moments import (
    Gradients,
    cast,
    check_adaptive,
    divide,
    gradients_of_loss,
    relaxation,
    require_real,
)

PyTree = Any


class RMSPropState(NamedTuple):
    """The state of `rmsprop`, two pytrees of one structure.

    - `params`: the parameters θ.
    - `second_moment`: v, in units of a squared gradient, in float32 at least.
    """

    params: PyTree
    second_moment: PyTree


class AdamState(NamedTuple):
    """The state of `adam`; all but the parameters are in float32 at least.

    - `params`: the parameters θ.
    - `first_moment`, `second_moment`: the averages of the gradient and of its square, bias-corrected; like θ.
    - `steps`: the number of steps taken, a float scalar.
    """

    params: PyTree
    first_moment: PyTree
    second_moment: PyTree
    steps: jax.Array


def _clock(learning_rate: Any, gradients: Gradients) -> Any:
    return gradients.time_step if callable(learning_rate) else gradients.time_step(0.0)


def rmsprop_field(
    gradients: Gradients, learning_rate: Any, decay: Any, eps: Any, eps_in_sqrt: bool, forget: Any
) -> Field:
    """The drift of RMSProp, and where it starts; `forget` is what v forgets in the time of one step."""
    rate, time_step = gradients.rate, gradients.time_step

    def init(params):
        return RMSPropState(params, jax.tree.map(jnp.zeros_like, widen_tree(require_real(params))))

    def drift(t, state):
        tau, m = time_step(t), gradients.moments(t, state.params)
        back = jax.tree.map(jnp.subtract, m.target, state.second_moment)
        move = divide(m.mean, state.second_moment, m.square, 1 - decay, eps, eps_in_sqrt)
        return RMSPropState(cast_like(scale(-rate(t) / tau, move), state.params), scale(forget / tau, back))

    clock = _clock(learning_rate, gradients)
    return Field(drift=drift, init=init, params=lambda state: state.params, time_step=clock)


class BiasCorrected(NamedTuple):
    """Adam's averages with its bias correction; `forget` is what each of the two forgets in the time of one step."""

    forget: tuple[Any, Any]

    def forgotten_shares(self, steps: Any) -> list[jax.Array]:
        """γ of both averages after `steps` steps, in double precision where that is enabled."""
        return [-jnp.expm1(-f * (jnp.asarray(steps, float) + 0.5)) for f in self.forget]

    def shares(self, steps: Any) -> list[jax.Array]:
        """How much of the moments one step's gradient makes up: (1 − β)/(1 − βᵏ), continuously."""
        return [f / gamma for f, gamma in zip(self.forget, self.forgotten_shares(steps), strict=True)]


def adam_field(gradients: Gradients, learning_rate: Any, averages: BiasCorrected, eps: Any) -> Field:
    """The drift of Adam, and where it starts."""
    rate, time_step = gradients.rate, gradients.time_step

    def init(params):
        begin = gradients.moments(0.0, require_real(params))
        steps = jnp.zeros([], jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(widen_tree(params)))))
        return AdamState(params, begin.mean, begin.target, steps)

    def drift(t, state):
        tau, now = time_step(t), gradients.moments(t, state.params)
        first, second = averages.shares(state.steps)
        back = lambda mean, x, share: scale(share / tau, jax.tree.map(jnp.subtract, mean, x))
        share = jnp.minimum(second, 1)
        move = divide(state.first_moment, state.second_moment, now.square, share, eps)
        return AdamState(
            cast_like(scale(-rate(t) / tau, move), state.params),
            back(now.mean, state.first_moment, first),
            back(now.target, state.second_moment, second),
            cast(1 / tau, state.steps),
        )

    clock = _clock(learning_rate, gradients)
    return Field(drift=drift, init=init, params=lambda state: state.params, time_step=clock)


@traceable
def rmsprop(
    objective: Loss,
    learning_rate: Any,
    *,
    decay: Any = 0.9,
    eps: Any = 1e-8,
    eps_in_sqrt: bool = False,
) -> Field:
    r"""RMSProp as an ordinary differential equation, on the clock t = kη.

    $\dot\theta = -\frac{\nabla L}{\sqrt v + \epsilon},\ \dot v = \lambda(\nabla L^2 - v),\ \lambda =
    \frac{2(1-\alpha)}{\eta(1+\alpha)}$. It is within O(η) of the iterates at λ fixed: $v_{k+1} - v_k =
    (1-\alpha)(g^2 - v_k)$ is $\eta\dot v$ to leading order, and $\lambda = -\frac{\ln\alpha}\eta + O(\eta^2)$, the
    rate at which the discrete average forgets. `rmsprop_sde` is the equation on mini-batches.

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`.
    - `learning_rate` η: a number above 0, or a function of the time t (`schedule_in_time` makes one of a schedule).
    - `decay` α: the decay of the second moment, a number in [0, 1).
    - `eps` ε: the number at least 0 that is added to √v, in units of the gradient.
    - `eps_in_sqrt`: whether the denominator is $\sqrt{v + \epsilon}$, with ε in units of a squared gradient (static).

    **Returns** a `Dynamics`, whose state is `RMSPropState(params, second_moment)`. It starts at v = 0, as the
    optimizer does, whose first steps are then long, $\eta/\sqrt{1-\alpha}$, and no equation describes them well. For
    an accurate comparison start both from a v as large as the squared gradients, here by `state=` of `integrate`. In
    the denominator v counts as at least 1 − α of g², as it does in the discrete method. A drift costs one gradient.

    **Raises** `TypeError` when `objective` is not callable, a hyperparameter is not a number or parameters are
    complex; `ValueError` for a rate ≤ 0, `decay` outside [0, 1) or a negative `eps`.

    Source: da Silva & Gazeau (2020, 1810.13108), whose equations of adaptive methods include it.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.rmsprop(lambda x: jnp.sum(x), 0.01, decay=0.99)
    >>> start = jf.dynamics.RMSPropState(jnp.array([1.0]), jnp.array([4.0]))
    >>> print(flow.drift(0.0, start).params)  # −1/√4
    [-0.5]
    """
    check_adaptive(learning_rate, eps)
    _check.require_fraction(decay=decay)
    gradients = gradients_of_loss(objective, learning_rate)
    return rmsprop_field(gradients, learning_rate, decay, eps, eps_in_sqrt, relaxation(decay, malladi=False))


@traceable
def adam(objective: Loss, learning_rate: Any, *, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8) -> Field:
    r"""Adam as an ordinary differential equation, on the clock t = kη.

    In terms of the bias-corrected moments $\hat m, \hat v$, with k the step count, a float, $\lambda_i =
    \frac{2(1-\beta_i)}{\eta(1+\beta_i)}$ and $\gamma_i = 1 - e^{-\lambda_i\eta(k + 1/2)}$: $\dot\theta = -\frac{\hat
    m}{\sqrt{\hat v} + \epsilon}$, $\dot{\hat m} = \frac{\lambda_1}{\gamma_1}(\nabla L - \hat m)$, $\dot{\hat v} =
    \frac{\lambda_2}{\gamma_2}(\nabla L^2 - \hat v)$, $\dot k = 1/\eta$. `adam_sde` is the equation on mini-batches.

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`.
    - `learning_rate` η: a number above 0, or a function of the time t (`schedule_in_time` makes one of a schedule).
    - `b1` β₁, `b2` β₂: the decays of the first and the second moment, numbers in [0, 1).
    - `eps` ε: the number at least 0 that is added to $\sqrt{\hat v}$, in units of the gradient.

    **Returns** a `Dynamics`, whose state is `AdamState(params, first_moment, second_moment, steps)`. To go on from
    k steps of the optimizer, with its m and v, give $m/(1-\beta_1^k)$, $v/(1-\beta_2^k)$ and k by `state=` of
    `integrate`. A drift costs one gradient.

    **Raises** `TypeError` when `objective` is not callable, a hyperparameter is not a number or parameters are
    complex; `ValueError` for a rate ≤ 0, `b1` or `b2` outside [0, 1) or a negative `eps`.

    **Derivation.** $m_{k+1} - m_k = (1-\beta_1)(g - m_k)$ is $\dot m = \lambda_1(\nabla L - m)$, whose share of
    gradients is $1 - e^{-\lambda_1 t} = \gamma_1$, $\dot\gamma_1 = \lambda_1(1 - \gamma_1)$, so that $\hat m =
    m/\gamma_1$ has $\dot{\hat m} = \frac{\dot m - \hat m\dot\gamma_1}{\gamma_1} = \frac{\lambda_1}{\gamma_1}(\nabla
    L - \hat m)$; v is treated in the same way. It is singular at the start, where γ is 0. The half step in γ, which
    is where step k + 1 stands in its interval, makes it regular: a run starts with $\hat m = \nabla L$ and $\hat v =
    \nabla L^2$, of which one step leaves a third. Steps are counted in the state, so a run may start at any time,
    t = 0 included.

    Source: da Silva & Gazeau (2020, 1810.13108), whose equation it is, $\dot\theta = -m/\sqrt{v + \epsilon},\ \dot m
    = h\nabla L - rm,\ \dot v = p(\nabla L)^2 - qv$, for $h = r = \lambda_1/\gamma_1$ and $p = q =
    \lambda_2/\gamma_2$, except for their ε under the root and the half step in γ.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> path = jf.integrate(jf.dynamics.adam(lambda x: jnp.sum(x**2), 0.01), jnp.ones(1), [0.0, 0.1])
    >>> print(path.params.round(3), path.state.steps.round(3))  # at first as fast as sign descent
    [0.9] 10.0
    """
    check_adaptive(learning_rate, eps)
    _check.require_fraction(b1=b1, b2=b2)
    gradients = gradients_of_loss(objective, learning_rate)
    averages = BiasCorrected((relaxation(b1, malladi=False), relaxation(b2, malladi=False)))
    return adam_field(gradients, learning_rate, averages, eps)
