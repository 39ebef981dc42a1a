"""Sign descent on mini-batches as a stochastic differential equation."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._gradients import gradient
from jaxflow._norms import root as rooted
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, cast_like, scale, widen_tree
from jaxflow.dynamics.diffusions.first_order import noise_amplitude, normal_shape
from jaxflow.dynamics.noise.coordinatewise import gradient_variance, mix, mixing, pair_of_gradients
from jaxflow.dynamics.noise.minibatch import FULL, Noise
from jaxflow.objective import Objective
from jaxflow.optim.methods.moments import root
from jaxflow.optim.schedules import value_at


@traceable
def sign_sgd(
    objective: Objective,
    learning_rate: Any,
    batch_size: Any,
    *,
    replacement: bool = True,
    noise: Noise = FULL,
) -> Field:
    r"""Sign descent on mini-batches as a diffusion, on the clock t = kη.

    With s the standard deviation of each coordinate of the mini-batch gradient, $s^2 = s_B\,\mathrm{diag}\,\Sigma$,
    $d\theta = -\mathrm{erf}\big(\tfrac{\nabla L}{\sqrt2\,s}\big)dt
    + \sqrt\eta\,\sqrt{1 - \mathrm{erf}^2\big(\tfrac{\nabla L}{\sqrt2\,s}\big)}\,dW$,
    coordinate by coordinate: the mean and variance of the sign of a Gaussian gradient (Compagnoni et al. 2024,
    2411.15958). It is of weak order 1 in η. Where s = 0 the drift is the sign of ∇L, without noise.

    **Arguments**

    - `objective`: an `Objective` with data.
    - `learning_rate` η: a number above 0, or a function of the time t (`schedule_in_time` makes one of a schedule).
    - `batch_size` B: the number of examples per gradient, a number above 0 or a function of the time t.
    - `replacement`: whether the batches are independent draws, $s_B = \frac1B$, or fresh ones without
      replacement at each step, $s_B = \frac1B\frac{N-B}{N-1}$ (static).
    - `noise`: how the noise is drawn: `noise.full()` (exact covariance), `noise.subset(M)` or `noise.two_batches(b)`.

    **Returns** a `Dynamics`, whose state is the parameters. Its `drift` and `diffusion` form diag Σ from every
    per-example gradient (4 to 5 gradients of the mean loss on a small network), and `diffusion` gives coordinates
    the correlations of the gradient. The step that `integrate` takes instead mixes the signs of two mini-batch
    gradients (two backward passes, one forward) as SVAG does, $\frac{1+r}2\mathrm{sign}\,g_1 +
    \frac{1-r}2\mathrm{sign}\,g_2$ with $r^2 = 2\eta/dt - 1$: it has the same mean, and the covariance of the signs
    themselves, as in the source.

    **Raises** `TypeError` for an objective without data, a hyperparameter that is not a number or complex
    parameters; `ValueError` for a rate ≤ 0 or `batch_size` ≤ 0 (or > N without replacement).

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> print(jf.dynamics.sign_sgd(objective, 0.1, 1).drift(0.0, jnp.array(1.0)).round(4))
    -0.6827
    """
    if not callable(learning_rate):
        _check.require_positive(learning_rate=learning_rate)
    amplitude = noise_amplitude(objective, batch_size, replacement)
    sampling = noise.build()

    def odds(t, params):
        """E sign g, and the standard deviation of g (1 where it is 0)."""
        normal_shape(params)  # refuses complex parameters
        mean = widen_tree(gradient(objective)(params))
        variance = scale(amplitude(1.0, t) ** 2, gradient_variance(objective, params, mean))
        deviation = jax.tree.map(lambda c: jnp.sqrt(jnp.where(c > 0, c, 1)), variance)

        def expected_sign(g, c, s):
            return jnp.where(c > 0, jax.lax.erf(g / (jnp.asarray(2**0.5, s.dtype) * s)), jnp.sign(g))

        return jax.tree.map(expected_sign, mean, variance, deviation), deviation

    def diffusion(t, params, xi):
        expected, deviation = odds(t, params)
        draw = scale(amplitude(1.0, t), widen_tree(sampling.draw(objective, params, xi[0])))
        unit = jax.tree.map(lambda e, n, s: root(1 - e * e) * n / s, expected, draw, deviation)
        return cast_like(scale(-rooted(jnp.asarray(value_at(learning_rate, t))), unit), params)

    def step(t, params, dt, xi):
        first, second = pair_of_gradients(objective, sampling, params, amplitude(1.0, t), xi)
        r = mixing(value_at(learning_rate, t), dt)
        signs = jax.tree.map(lambda a, b: mix(jnp.sign, a, b, r), first, second)
        return jax.tree.map(jnp.add, params, scale(-dt, signs))

    return Field(
        drift=lambda t, params: cast_like(scale(-1.0, odds(t, params)[0]), params),
        diffusion=diffusion,
        brownian=lambda params: (sampling.brownian(objective, params),) * 2,
        step=step,
        time_step=learning_rate,
        increments_add=False,
    )
