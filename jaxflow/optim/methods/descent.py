"""Descent with one gradient and at most one velocity: GD, momentum, Nesterov, SGDW, sign descent, Newton.

Where sources differ the forms are flags, and each docstring says whose form each is. Gradients are those of
the mean loss; one step advances the clock t = k·learning_rate by `learning_rate`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.optim.methods.moments import increment, keep_below_one, keep_in_single, tree_map, wrap_optax
from jaxflow.optim.schedules import check_rate, value_at

PyTree = Any


def _check_momentum(learning_rate, beta):
    check_rate(learning_rate)
    if not callable(beta):
        _check.require_fraction(beta=beta)


class CountState(NamedTuple):
    """The step count k at which a scheduled coefficient is evaluated, and the state of what it drives."""

    count: jax.Array
    inner: PyTree


def _follow_schedule(make, coefficient) -> optax.GradientTransformation:
    """`make(coefficient)`, or, for a schedule, `make(coefficient(k))` at step k."""
    if not callable(coefficient):
        return make(coefficient)

    def init(params):
        return CountState(jnp.zeros([], jnp.int32), make(coefficient(0)).init(params))

    def update(updates, state, params=None):
        updates, inner = make(coefficient(state.count)).update(updates, state.inner, params)
        return updates, CountState(increment(state.count), inner)

    return optax.GradientTransformation(init, update)


@traceable
def gd(learning_rate):
    r"""Gradient descent (Cauchy 1847): $\theta \leftarrow \theta - \eta\,\nabla L(\theta)$.

    With mini-batches this is SGD (Robbins & Monro 1951). Its continuous limit on the clock t = kη is gradient flow.

    **Arguments**

    - `learning_rate` η: a number at least 0 or a schedule, in units of 1/Hessian: the time of a step.

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative or NaN rate; `TypeError` for a hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.gd(0.1)
    >>> print(optimizer.update(jnp.array([1.0, 2.0]), optimizer.init(jnp.zeros(2)))[0])
    [-0.1 -0.2]
    """
    check_rate(learning_rate)
    return optax.sgd(learning_rate)


@traceable
def momentum(learning_rate, beta=0.9, *, ema=False, debias=False):
    r"""Heavy-ball momentum (Polyak 1964): $v \leftarrow \beta v + g,\ \theta \leftarrow \theta - \eta v$.

    η stays outside the velocity (as in PyTorch and optax); the form with η inside it differs once η varies.

    **Arguments**

    - `learning_rate` η: a number at least 0 or a schedule, in units of 1/Hessian: the time of a step.
    - `beta` β: the momentum, a number in [0, 1) or a schedule (`one_cycle_momentum`).
    - `ema`: whether the velocity is an average, $v \leftarrow \beta v + (1-\beta) g$, so that η is the rate of the
      clock (static).
    - `debias`: whether to divide the average by $1 - \beta^t$; only with `ema` (static).

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate, `beta` outside [0, 1), or `debias` without `ema` or with a
    schedule; `TypeError` for a hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.momentum(0.1, 0.5)
    >>> updates, state = optimizer.update(jnp.ones(1), optimizer.init(jnp.zeros(1)))
    >>> print(optimizer.update(jnp.ones(1), state)[0])
    [-0.15]
    """
    _check_momentum(learning_rate, beta)
    if debias and not ema:
        raise ValueError(
            "debias must be False unless ema=True, as the heavy ball's velocity is not an average."
        )
    if debias and callable(beta):
        raise ValueError(
            "debias must be False when beta is a schedule, as the correction 1 - beta^t needs one beta."
        )
    average = lambda b: wrap_optax(optax.ema(keep_below_one(b) if debias else b, debias=debias))
    make = average if ema else optax.trace
    velocity = _follow_schedule(make, beta)
    return optax.chain(keep_in_single(velocity), optax.scale_by_learning_rate(learning_rate))


class LookaheadGradientState(NamedTuple):
    """Velocity and step count of Nesterov's method in its look-ahead form."""

    count: jax.Array
    velocity: PyTree


def _nesterov_lookahead(learning_rate, beta) -> optax.GradientTransformationExtraArgs:
    def init(params):
        return LookaheadGradientState(jnp.zeros([], jnp.int32), tree_map(jnp.zeros_like, params))

    def update(updates, state, params=None, *, grad_fn=None, **extra):
        del updates, extra
        if grad_fn is None or params is None:
            raise ValueError(
                "nesterov(lookahead=True) needs params and grad_fn=, the gradient as a function."
            )
        rate, b = value_at(learning_rate, state.count), value_at(beta, state.count)
        ahead = tree_map(lambda p, v: (p - rate * b * v).astype(p.dtype), params, state.velocity)
        velocity = tree_map(lambda g, v: b * v + g, grad_fn(ahead), state.velocity)
        updates = tree_map(lambda v: -rate * v, velocity)
        return updates, LookaheadGradientState(increment(state.count), velocity)

    return optax.GradientTransformationExtraArgs(init, update)


@traceable
def nesterov(learning_rate, beta=0.9, *, lookahead=False):
    r"""Nesterov's accelerated gradient (Nesterov 1983; as momentum: Sutskever et al. 2013).

    The default is the shifted form of PyTorch and optax: $v \leftarrow \beta v + g(\theta)$, $\theta \leftarrow
    \theta - \eta (g + \beta v)$. Its parameters are the look-ahead point. For constant η the two forms are one
    sequence: shifted = look-ahead − ηβv.

    **Arguments**

    - `learning_rate` η: a number at least 0 or a schedule, in units of 1/Hessian: the time of a step.
    - `beta` β: the momentum, a number in [0, 1) or a schedule.
    - `lookahead`: whether to use the original form (static): the gradient is taken at $\theta - \eta\beta v$, then
      $v \leftarrow \beta v + g$, $\theta \leftarrow \theta - \eta v$. Its `update` needs `grad_fn=` (`iterate`
      hands it over).

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate, `beta` outside [0, 1), or an `update` of the original form without
    `grad_fn=`; `TypeError` for a hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> run = jf.iterate(jf.optim.nesterov(0.1, 0.9, lookahead=True), lambda x: 0.5 * x @ x, jnp.ones(1), steps=2)
    >>> print(run.values[:, 0])
    [1.   0.9  0.729]
    """
    _check_momentum(learning_rate, beta)
    if lookahead:
        return keep_in_single(_nesterov_lookahead(learning_rate, beta))
    velocity = _follow_schedule(lambda b: optax.trace(b, nesterov=True), beta)
    return optax.chain(keep_in_single(velocity), optax.scale_by_learning_rate(learning_rate))


def _paper_sgdw(learning_rate, beta, weight_decay, multiplier) -> optax.GradientTransformation:
    def init(params):
        return CountState(jnp.zeros([], jnp.int32), tree_map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        eta, rate = value_at(multiplier, state.count), value_at(learning_rate, state.count)
        b = value_at(beta, state.count)
        velocity = tree_map(lambda g, m: b * m + eta * rate * g, updates, state.inner)
        updates = tree_map(lambda m, p: -m - eta * weight_decay * p, velocity, params)
        return updates, CountState(increment(state.count), velocity)

    return optax.GradientTransformation(init, update)


@traceable
def sgdw(learning_rate, beta=0.9, weight_decay=1e-4, *, multiplier=None):
    r"""Momentum with decoupled weight decay (Loshchilov & Hutter 2019, 1711.05101).

    By default decay is scaled as in PyTorch and optax: $v \leftarrow \beta v + g,\ \theta \leftarrow \theta - \eta
    (v + \lambda\theta)$. λ acts on the old θ, and `update` needs `params`.

    **Arguments**

    - `learning_rate` η (the paper's α): a number at least 0 or a schedule, in units of 1/Hessian: the time of a step.
    - `beta` β: the momentum, a number in [0, 1) or a schedule.
    - `weight_decay` λ: a number at least 0, in units of 1/η (without a unit in the paper's form).
    - `multiplier` $\eta_t$: a number or a schedule, for the paper's form, where the schedule is apart from the rate
      α and both are inside the velocity: $m \leftarrow \beta m + \eta_t\alpha g,\ \theta \leftarrow \theta - m -
      \eta_t\lambda\theta$. 1.0 is the paper's form without a schedule; `None` is the default form.

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate, `weight_decay` or `multiplier`, or `beta` outside [0, 1);
    `TypeError` for a hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.sgdw(0.1, weight_decay=0.5)
    >>> print(optimizer.update(jnp.zeros(1), optimizer.init(jnp.ones(1)), jnp.ones(1))[0])
    [-0.05]
    """
    _check_momentum(learning_rate, beta)
    _check.require_nonnegative(weight_decay=weight_decay)
    if multiplier is not None:
        check_rate(multiplier, "multiplier")
        return keep_in_single(_paper_sgdw(learning_rate, beta, weight_decay, multiplier))
    return keep_in_single(
        optax.chain(
            _follow_schedule(optax.trace, beta),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


@traceable
def sign(learning_rate):
    r"""Sign descent (Bernstein et al. 2018, 1802.04434): $\theta \leftarrow \theta - \eta\,\mathrm{sign}(g)$.

    Its step does not vanish with the gradient, so it ends in a two-cycle of width η.

    **Arguments**

    - `learning_rate` η: a number at least 0 or a schedule, in units of the parameters.

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative or NaN rate; `TypeError` for a hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.sign(0.1)
    >>> print(optimizer.update(jnp.array([3.0, 0.0]), optimizer.init(jnp.zeros(2)))[0])
    [-0.1 -0. ]
    """
    check_rate(learning_rate)
    return optax.chain(optax.scale_by_sign(), optax.scale_by_learning_rate(learning_rate))


@traceable
def newton(learning_rate=1.0, damping=0.0):
    r"""Newton's method, exact and damped: $\theta \leftarrow \theta - \eta (H + \mu I)^{-1} \nabla L$.

    The Hessian H is formed, d² numbers from d Hessian-vector products, and a linear system with it is solved, so
    this is for small problems (d up to some thousands). It goes to any critical point, saddles and maxima too. Its
    `update` needs `params` and `grad_fn=` (`iterate` hands them over).

    **Arguments**

    - `learning_rate` η: a number at least 0 or a schedule; it has no unit.
    - `damping` μ: a number at least 0, in units of the Hessian (Levenberg 1944).

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate or damping, or an `update` without `grad_fn=`; `TypeError` for a
    hyperparameter that is not a number, or for complex parameters.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: x @ jnp.diag(jnp.array([1.0, 100.0])) @ x
    >>> run = jf.iterate(jf.optim.newton(), loss, jnp.ones(2), steps=1)
    >>> print(abs(run.params).round(6))
    [0. 0.]
    """
    check_rate(learning_rate)
    _check.require_nonnegative(damping=damping)

    def update(updates, state, params=None, *, grad_fn=None, **extra):
        del extra
        if grad_fn is None or params is None:
            raise ValueError("newton needs params and grad_fn=, the gradient as a function.")
        flat, unravel = ravel_pytree(params)
        g = ravel_pytree(updates)[0]
        hessian = jax.jacfwd(lambda x: ravel_pytree(grad_fn(unravel(x)))[0])(flat)
        step = jnp.linalg.solve(hessian + damping * jnp.eye(flat.size, dtype=flat.dtype), g)
        return unravel(step.astype(flat.dtype)), state

    def init(params):
        if any(map(jnp.iscomplexobj, jax.tree.leaves(params))):
            raise TypeError("newton takes real parameters, got complex ones: split them into their parts.")
        return optax.EmptyState()

    direction = optax.GradientTransformationExtraArgs(init, update)
    # There is no solver for linear systems in half precision.
    return keep_in_single(optax.chain(direction, optax.scale_by_learning_rate(learning_rate)))
