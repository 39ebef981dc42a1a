"""AdaGrad as a differential equation: a second moment that is summed; those in `averaged_squares` are averaged."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, like, scale, wide
from jaxflow.dynamics.diffusions.moving_averages import cast, check_adaptive, divided, real
from jaxflow.dynamics.flows.first_order import Loss, slope_of
from jaxflow.optim.schedules import value_at

PyTree = Any


class AdagradState(NamedTuple):
    """Parameters θ and the sum r of squared gradients over steps, in float32 at least; two alike pytrees."""

    params: PyTree
    accumulator: PyTree


@traceable
def adagrad(
    objective: Loss, learning_rate: Any, eps: Any = 1e-10, *, initial_accumulator: Any = 0.0
) -> Field:
    r"""AdaGrad in continuous time, on the clock t = kη.

    $\dot\theta = -\frac{g}{\sqrt r + \epsilon},\ \dot r = \frac{g^2}\eta$, where g is $\nabla L(\theta)$, coordinate
    by coordinate, of the method of Duchi, Hazan & Singer (2011) in the form of `jaxflow.optim.adagrad`.

    **Derivation.** $r_{k+1} - r_k = g^2$ and $\theta_{k+1} - \theta_k = -\eta\frac{g}{\sqrt{r_{k+1}} + \epsilon}$
    happen in a time η; divided by it, with $r_{k+1} = r_k(1 + O(\eta))$, they are the equation. r is of order 1/η:
    with R = ηr it is $\dot R = g^2$, $\dot\theta = -\sqrt\eta\,\frac{g}{\sqrt R + \sqrt\eta\,\epsilon}$, a gradient
    flow whose rate $\sqrt{\eta/R}$ falls as t goes on. It is first-order in η at fixed R (da Silva & Gazeau 2020,
    1810.13108).

    **A cold start is singular.** From r = 0, $r = g^2 t/\eta$ and $\dot\theta = -\mathrm{sign}(g)\sqrt{\eta/t}$,
    infinite at t = 0, though it goes a finite way, $2\sqrt{\eta t}$. In the denominator r counts as no less than g²,
    as in the discrete method, where a step's own gradient is in it: the first step goes η sign(g), as the optimizer's
    does, the later ones as the equation says. As r ≥ g² from then on (unless g grows fast) that is all it changes.
    Yet the first steps remain far from continuous: compare runs from an `initial_accumulator` of many g², or after
    some steps, by `state=` of `integrate`.

    `objective` is an `Objective` or any `loss(params) -> scalar`; `learning_rate` η > 0 a number, or a function of
    the time t; `eps` ε and `initial_accumulator`, r at the start, are as in `jaxflow.optim.adagrad`. The state is
    `AdagradState(params, accumulator)`. A drift costs one gradient.

    Raises `TypeError` when `objective` is not callable or parameters are complex, `ValueError` for a rate ≤ 0, a
    negative `eps` or accumulator.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.adagrad(lambda x: 2.0 * jnp.sum(x), 0.1)  # a constant gradient: R = 4 t
    >>> path = jf.integrate(flow, jnp.zeros(1), [0.0, 0.1, 0.9])
    >>> print(path.values[:, 0].round(3))  # -η, then -2√(ηt) but for a constant
    [ 0.  -0.1 -0.5]
    """
    check_adaptive(learning_rate, eps)
    _check.nonnegative(initial_accumulator=initial_accumulator)
    slope = slope_of(objective)

    def init(params):
        filled = lambda x: jnp.zeros_like(x) + cast(initial_accumulator, x)
        return AdagradState(params, jax.tree.map(filled, wide(real(params))))

    def drift(t, state):
        g = wide(slope(state.params))
        square = jax.tree.map(jnp.square, g)
        move = divided(g, state.accumulator, square, 1.0, eps)
        return AdagradState(
            like(scale(-1.0, move), state.params), scale(1 / value_at(learning_rate, t), square)
        )

    return Field(drift=drift, init=init, params=lambda state: state.params, time_step=learning_rate)
