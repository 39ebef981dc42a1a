"""The modified equation of any optimizer on mini-batches: that of all data, with the noise of a mini-batch in it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, scale
from jaxflow.dynamics.diffusions.first_order import noise_amplitude
from jaxflow.dynamics.modified_equations import equation
from jaxflow.dynamics.modified_equations.step_logarithm import increment, weights
from jaxflow.dynamics.noise.batch_temperature import accumulated_batches
from jaxflow.dynamics.noise.minibatch import FULL, Noise
from jaxflow.dynamics.old_calls import accept_batches
from jaxflow.objective import Objective, require_data
from jaxflow.optim.multi_steps import accumulation_of, optimizer_of_updates
from jaxflow.optim.schedules import value_at


@traceable(structural=("order", "stride"))
def modified_sde(
    optimizer: optax.GradientTransformation,
    objective: Objective,
    batch_size: Any,
    *,
    order: int = 2,
    time_step: Any = None,
    stride: int = 1,
    replacement: bool = True,
    noise: Noise = FULL,
) -> Field:
    r"""The modified equation of an optimizer on mini-batches, as a stochastic differential equation.

    $dz = F(z)\,dt + \frac1{\sqrt\tau}\,\partial_g\Phi\,n\,dW$: F is the drift of `modified`, to order p, and the
    noise n of a mini-batch gradient, of covariance $s_B\Sigma$, is carried through the update Φ to first order. It is
    of weak order 1 for updates that are linear in the gradient. It leaves out that averages of g² grow by the noise's
    variance. So for adaptive methods with noise its error does not vanish with τ, and `adam_sde` and `rmsprop_sde`
    are right. It has no warm-up.

    **Arguments**

    - `optimizer`: any of `jaxflow.optim` or optax, as in `modified`. An `optax.MultiSteps` of k mini-batches has the
      noise of batches k times as large.
    - `objective`: an `Objective` with data.
    - `batch_size` B: the number of examples per gradient, a number above 0 or a function of the time t.
    - `order` p: that of the drift, an integer from 1 to 8 (static).
    - `time_step` τ: the time of a step, a number or a schedule; by default the optimizer's learning rate, or 1.0.
    - `stride` m: the number of steps that the drift covers at once (static).
    - `replacement`: whether the batches are independent draws, $s_B = \frac1B$, or fresh ones without
      replacement at each step, $s_B = \frac1B\frac{N-B}{N-1}$ (static).
    - `noise`: how the noise is drawn: `noise.full()` (exact covariance), `noise.subset(M)` or `noise.two_batches(b)`.

    **Returns** a `Dynamics`. Its state is `ModifiedState(params, optimizer, steps)`. A drift costs p m gradients.

    **Raises** `ValueError` for an order not in 1 … 8, a time step ≤ 0, a stride < 1, `batch_size` ≤ 0 (or > N without
    replacement) or an optimizer with random state; `TypeError` when `optimizer` is not one, for an objective
    without data, or for a state that is not made of arrays.

    Source: Hairer, Lubich & Wanner (2006), Geometric Numerical Integration, IX, for the drift; Li, Tai & E (2019,
    1811.01558) for the noise.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> dynamics = jf.dynamics.modified_sde(jf.optim.gd(0.1), objective, 1, order=1)
    >>> state = dynamics.init(jnp.array(1.0))
    >>> print(dynamics.drift(0.0, state).params)
    -1.0
    >>> print(abs(dynamics.diffusion(0.0, state, jnp.array([1.0, -1.0])).params).round(3))  # √η·√2
    0.447
    """
    _, accumulated = accumulation_of(optimizer) or (optimizer, 1)
    optimizer = optimizer_of_updates(optimizer)
    equation.check_arguments(optimizer, objective, order, stride, 0)
    tau = equation.clock_of(optimizer, time_step)
    size = require_data(objective, "Mini-batches")
    batches = accumulated_batches(batch_size, size, replacement, accumulated)
    root, sampling = noise_amplitude(objective, **batches), noise.build()

    def diffusion(t, state, xi):
        draw = scale(root(1.0, t), sampling.draw(objective, state.params, xi))
        respond = lambda noise: increment(optimizer, objective, state, noise)
        _, response = jax.jvp(respond, (jax.tree.map(jnp.zeros_like, draw),), (draw,))
        return scale(1 / jnp.sqrt(jnp.asarray(value_at(tau, state.steps))), response)

    field = equation.modified_field(optimizer, objective, tau, weights(order, stride))
    return field._replace(
        diffusion=diffusion, brownian=lambda state: sampling.brownian(objective, state.params)
    )


# Under this name earlier versions had both.
modified = accept_batches(equation.modified, modified_sde)
