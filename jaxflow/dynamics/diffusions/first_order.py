"""Stochastic differential equations in the parameters alone: Langevin's, and those of SGD."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow._gradients import gradient
from jaxflow._norms import root
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, add, scale
from jaxflow.dynamics.noise.batch_temperature import batch_factor, check_batch
from jaxflow.dynamics.noise.minibatch import FULL, Noise, gradient_and_noise
from jaxflow.objective import Objective, require_data
from jaxflow.optim.schedules import check_rate, value_at

PyTree = Any


def normal_shape(params: PyTree) -> PyTree:
    """The shape of one normal number for every real parameter; complex parameters are refused."""
    for leaf in jax.tree.leaves(params):
        if jnp.iscomplexobj(leaf):
            raise TypeError(f"params must be real for isotropic noise, got dtype {leaf.dtype}.")
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)


@traceable
def langevin(objective: Callable[[PyTree], jax.Array], temperature: Any) -> Field:
    r"""Overdamped Langevin dynamics $d\theta = -\nabla L\,dt + \sqrt{2T}\,dW$.

    Its stationary density is Gibbs', $\propto e^{-L/T}$. The clock is that of gradient flow. It models no discrete
    method, so it has no order in a learning rate and no time step: `integrate` needs `substeps` or `step_size`. The
    noise is additive (`solver=diffrax.Heun()` is of weak order 2).

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`.
    - `temperature` T: a number at least 0, in units of the loss, or a function of the time t (annealing).

    **Returns** a `Dynamics`, whose state is the parameters.

    **Raises** `TypeError` for an objective that is not callable, a hyperparameter that is not a number or complex
    parameters; `ValueError` for a negative temperature.

    Source: Langevin (1908); as a sampler: Roberts & Tweedie (1996), Bernoulli 2, 341.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> dynamics = jf.dynamics.langevin(lambda x: 0.5 * jnp.sum(x**2), temperature=0.5)
    >>> path = jf.integrate(dynamics, jnp.zeros(1000), [0.0, 5.0], step_size=0.01, key=jax.random.key(0))
    >>> bool(abs(path.params.var() - 0.5) < 0.1)
    True
    """
    if not callable(objective):
        raise TypeError(f"objective must be an Objective or a function of the parameters, got {objective!r}.")
    check_rate(temperature, "temperature")
    slope = gradient(objective)
    return Field(
        drift=lambda t, params: scale(-1.0, slope(params)),
        diffusion=lambda t, params, xi: scale(root(2 * value_at(temperature, t)), xi),
        brownian=normal_shape,
        additive=True,
    )


def noise_amplitude(objective: Objective, batch_size: Any, replacement: bool) -> Callable[[Any, Any], Any]:
    r"""$\sqrt{\eta(t)\, s_B(t)}$ as a function of a rate and the time; an objective without data is refused."""
    size = require_data(objective, "Mini-batches")
    check_batch(batch_size, size, replacement)

    def amplitude(rate, t):
        factor = batch_factor(value_at(batch_size, t), size, replacement=replacement)
        return root(jnp.asarray(value_at(rate, t) * factor))

    return amplitude


@traceable(structural=("order",))
def sgd(
    objective: Objective,
    learning_rate: Any,
    batch_size: Any,
    order: Any = 1,
    *,
    replacement: bool = True,
    noise: Noise = FULL,
) -> Field:
    r"""SGD as a diffusion: $d\theta = -\nabla L\,dt + \sqrt{\eta s_B \Sigma(\theta)}\,dW$ on the clock t = kη.

    **Arguments**

    - `objective`: an `Objective` with data.
    - `learning_rate` η: a number at least 0, or a function of the time t (`schedule_in_time` makes one of a
      schedule over steps); the clock is then the running sum of the rates.
    - `batch_size` B: the number of examples per gradient, a number above 0 or a function of the time t.
    - `order`: which equation (static). 1 is the equation above, of weak order 1 in η (Li, Tai & E 2017, 1511.06251;
      with the temperature $T = \eta s_B/2$ its noise is $\sqrt{2T\Sigma}$). 2 has the drift of order 2, $-\nabla(L
      + \frac{\eta}{4}|\nabla L|^2)$, with the same diffusion, and is of weak order 2. "2+" has that drift and the
      diffusion $(I + \frac{\eta}{2}H)\sqrt{\eta s_B\Sigma}$; it is of weak order 2 and has the right stationary
      variance too, in which 2 errs more than 1.
    - `replacement`: whether the batches are independent draws, $s_B = \frac1B$, or fresh ones without
      replacement at each step, $s_B = \frac1B\frac{N-B}{N-1}$ (static). Shuffled epochs are another process.
    - `noise`: how the noise is drawn: `noise.full()` (exact covariance), `noise.subset(M)` or `noise.two_batches(b)`.

    **Returns** a `Dynamics`, whose state is the parameters. It is meant in Itô's sense, its noise depends on the
    state and does not commute, and it is stepped by Euler–Maruyama. With full noise a step of order 1 is one
    backward pass, drift and noise together; a step of order 2+ costs a Hessian product more.

    **Raises** `TypeError` for an objective without data or a hyperparameter that is not a number; `ValueError` for
    a negative rate, `batch_size` ≤ 0 (or > N without replacement) or another order.

    The second-order terms are derived for a constant η; under a schedule η(t) takes its place.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> path = jf.integrate(jf.dynamics.sgd(objective, 0.1, 1), 1.0, [0.0, 0.5, 1.0], key=jax.random.key(0))
    >>> path.values.shape
    (3,)
    """
    if order not in (1, 2, "2+"):
        raise ValueError(f'order must be 1, 2 or "2+", got {order!r}.')
    check_rate(learning_rate)
    amplitude = noise_amplitude(objective, batch_size, replacement)
    sampling = noise.build()
    slope = gradient(objective)
    curved = lambda params, t, v: _add_curvature(slope, params, value_at(learning_rate, t), v)

    def drift(t, params):
        g = slope(params)
        return scale(-1.0, g if order == 1 else curved(params, t, g))

    def diffusion(t, params, xi):
        draw = sampling.draw(objective, params, xi)
        return scale(-amplitude(learning_rate, t), curved(params, t, draw) if order == "2+" else draw)

    def step(t, params, dt, xi):
        push = root(dt) * amplitude(learning_rate, t)
        move = gradient_and_noise(objective, sampling, params, xi, dt, push)
        return add(params, scale(-1.0, move if order == 1 else curved(params, t, move)))

    return Field(
        drift=drift,
        diffusion=diffusion,
        brownian=lambda params: sampling.brownian(objective, params),
        step=step if order != 2 and sampling.weights is not None else None,
        time_step=learning_rate,
    )


def _add_curvature(slope: Callable[[PyTree], PyTree], params: PyTree, rate: Any, v: PyTree) -> PyTree:
    r"""$(I + \frac{\eta}{2} H) v$."""
    return add(v, scale(0.5 * rate, jax.jvp(slope, (params,), (v,))[1]))
