"""AdaGrad as a differential equation: a second moment that is summed; those in `averaged_squares` are averaged."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, cast_like, scale, widen_tree
from jaxflow.dynamics.flows.first_order import Loss, slope_of
from jaxflow.dynamics.flows.moments import cast, check_adaptive, divide, require_real
from jaxflow.optim.schedules import value_at

PyTree = Any


class AdagradState(NamedTuple):
    """The state of `adagrad`, two pytrees of one structure.

    - `params`: the parameters θ.
    - `accumulator`: the sum r of squared gradients over steps, in float32 at least.
    """

    params: PyTree
    accumulator: PyTree


@traceable
def adagrad(
    objective: Loss,
    learning_rate: Any,
    eps: Any = 1e-10,
    *,
    initial_accumulator: Any = 0.0,
    eps_in_sqrt: bool = False,
) -> Field:
    r"""AdaGrad in continuous time, on the clock t = kη.

    $\dot\theta = -\frac{g}{\sqrt r + \epsilon},\ \dot r = \frac{g^2}\eta$, coordinate by coordinate, where g is
    $\nabla L(\theta)$. The method is that of Duchi, Hazan & Singer (2011) in the form of `jaxflow.optim.adagrad`.

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`.
    - `learning_rate` η: a number above 0, or a function of the time t.
    - `eps` ε: the number at least 0 that is added to √r, in units of the gradient.
    - `initial_accumulator`: r at the start, a number at least 0, in units of a squared gradient.
    - `eps_in_sqrt`: whether the denominator is $\sqrt{r + \epsilon}$, with ε in units of a squared gradient (static).

    **Returns** a `Dynamics`, whose state is `AdagradState(params, accumulator)`. A drift costs one gradient.

    **Raises** `TypeError` when `objective` is not callable, a hyperparameter is not a number or parameters are
    complex; `ValueError` for a rate ≤ 0, a negative `eps` or accumulator.

    **Derivation.** $r_{k+1} - r_k = g^2$ and $\theta_{k+1} - \theta_k = -\eta\frac{g}{\sqrt{r_{k+1}} + \epsilon}$
    happen in a time η; divided by it, with $r_{k+1} = r_k(1 + O(\eta))$, they are the equation. r is of order 1/η:
    with R = ηr it is $\dot R = g^2$, $\dot\theta = -\sqrt\eta\,\frac{g}{\sqrt R + \sqrt\eta\,\epsilon}$, a gradient
    flow whose rate $\sqrt{\eta/R}$ falls as t goes on. It is first-order in η at fixed R (da Silva & Gazeau 2020,
    1810.13108).

    **A cold start is singular.** From r = 0, $r = g^2 t/\eta$ and $\dot\theta = -\mathrm{sign}(g)\sqrt{\eta/t}$.
    This is infinite at t = 0, though it goes a finite way, $2\sqrt{\eta t}$. In the denominator r counts as no less
    than g², as in the discrete method, where a step's own gradient is part of r: the first step goes η sign(g), as
    the optimizer's does, and the later ones go as the equation says. As r ≥ g² from then on (unless g grows fast)
    that is all it changes. Yet the first steps remain far from continuous: compare runs from an
    `initial_accumulator` of many g², or after some steps, by `state=` of `integrate`.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.adagrad(lambda x: 2.0 * jnp.sum(x), 0.1)  # a constant gradient: R = 4 t
    >>> path = jf.integrate(flow, jnp.zeros(1), [0.0, 0.1, 0.9])
    >>> print(path.values[:, 0].round(3))  # −η, then −2√(ηt) up to a constant
    [ 0.  -0.1 -0.5]
    """
    check_adaptive(learning_rate, eps)
    _check.require_nonnegative(initial_accumulator=initial_accumulator)
    slope = slope_of(objective)

    def init(params):
        filled = lambda x: jnp.zeros_like(x) + cast(initial_accumulator, x)
        return AdagradState(params, jax.tree.map(filled, widen_tree(require_real(params))))

    def drift(t, state):
        g = widen_tree(slope(state.params))
        square = jax.tree.map(jnp.square, g)
        move = divide(g, state.accumulator, square, 1.0, eps, eps_in_sqrt)
        return AdagradState(
            cast_like(scale(-1.0, move), state.params), scale(1 / value_at(learning_rate, t), square)
        )

    return Field(drift=drift, init=init, params=lambda state: state.params, time_step=learning_rate)
