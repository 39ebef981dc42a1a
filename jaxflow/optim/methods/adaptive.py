"""Adam and its relatives: averages of the gradient and of its square.

Each divides a momentum-averaged gradient by the root of an average of squared gradients, coordinate by coordinate.
Gradients *through* a step are finite also where a coordinate of the gradient is exactly 0.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.optim.methods.moments import (
    TINY,
    ema,
    increment,
    keep_below_one,
    keep_in_single,
    root,
    scale_by_rate,
    square,
    step_count,
    tree_map,
    wrap_optax,
    zeros,
)
from jaxflow.optim.schedules import check_rate

PyTree = Any


def check_adam(learning_rate, b1, b2, eps):
    """The checks that all of Adam's relatives share."""
    check_rate(learning_rate)
    _check.require_fraction(b1=b1, b2=b2)
    _check.require_nonnegative(eps=eps)


class MomentsState(NamedTuple):
    """Step count and moments: mu of the gradient, nu of its square, nu_max the largest nu so far."""

    count: jax.Array
    mu: PyTree
    nu: PyTree
    nu_max: PyTree = None


def init_moments(params: PyTree, maximum: bool = False) -> MomentsState:
    """Zero moments; `maximum` keeps the running maximum too."""
    nu, nu_max = zeros(params, real=True), zeros(params, real=True) if maximum else None  # two: donatable
    return MomentsState(jnp.zeros([], jnp.int32), zeros(params), nu, nu_max)


def next_moments(gradient: PyTree, state: MomentsState, b1, b2) -> MomentsState:
    r"""$\mu \leftarrow \beta_1\mu + (1-\beta_1)g,\ \nu \leftarrow \beta_2\nu + (1-\beta_2)g^2$, and the maximum."""
    nu = ema(state.nu, tree_map(square, gradient), b2)
    nu_max = None if state.nu_max is None else tree_map(jnp.maximum, state.nu_max, nu)
    return MomentsState(increment(state.count), ema(state.mu, gradient, b1), nu, nu_max)


@traceable
def adam(learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8):
    r"""Adam (Kingma & Ba 2015, 1412.6980).

    $m \leftarrow \beta_1 m + (1-\beta_1)g,\ v \leftarrow \beta_2 v + (1-\beta_2)g^2$, with
    $\hat m = m/(1-\beta_1^t),\ \hat v = v/(1-\beta_2^t)$:
    $\theta \leftarrow \theta - \eta\,\hat m/(\sqrt{\hat v} + \epsilon)$.

    **Arguments**

    - `learning_rate` η: a number at least 0 or a schedule, in units of the parameters.
    - `b1` β₁, `b2` β₂: the decays of m and v, numbers in [0, 1).
    - `eps` ε: a number at least 0, in units of the gradient.

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate or `eps`, or `b1`, `b2` outside [0, 1); `TypeError` for a
    hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.adam(0.1)
    >>> print(optimizer.update(jnp.array([5.0, -2.0]), optimizer.init(jnp.zeros(2)))[0])
    [-0.1  0.1]
    """
    check_adam(learning_rate, b1, b2, eps)
    b1, b2 = keep_below_one(b1), keep_below_one(b2)
    scale = wrap_optax(optax.scale_by_adam(b1, b2, eps, eps_root=TINY))
    return keep_in_single(optax.chain(scale, optax.scale_by_learning_rate(learning_rate)))


@traceable
def adamw(learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-2, *, multiplier=None):
    r"""Adam with decoupled weight decay (Loshchilov & Hutter 2019, 1711.05101).

    By default decay is scaled as in PyTorch and optax:
    $\theta \leftarrow \theta - \eta\,(\hat m/(\sqrt{\hat v} + \epsilon) + \lambda\theta)$. λ acts on the old θ, and
    `update` needs `params`.

    **Arguments**

    - `learning_rate` η (the paper's α): a number at least 0 or a schedule, in units of the parameters.
    - `b1` β₁, `b2` β₂: the decays of the moments, numbers in [0, 1).
    - `eps` ε: a number at least 0, in units of the gradient.
    - `weight_decay` λ: a number at least 0, in units of 1/η (without a unit in the paper's form); PyTorch's default
      is 1e-2, optax's 1e-4.
    - `multiplier` $\eta_t$: a number or a schedule, for the paper's form, where decay does not scale with the rate:
      $\theta \leftarrow \theta - \eta_t(\alpha\,\hat m/(\sqrt{\hat v} + \epsilon) + \lambda\theta)$. 1.0 is the
      paper's form without a schedule; `None` is the default form.

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate, `eps`, `weight_decay` or `multiplier`, or `b1`, `b2` outside [0,
    1); `TypeError` for a hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.adamw(0.1, weight_decay=0.5)
    >>> print(optimizer.update(jnp.zeros(1), optimizer.init(jnp.ones(1)), jnp.ones(1))[0])
    [-0.05]
    """
    check_adam(learning_rate, b1, b2, eps)
    b1, b2 = keep_below_one(b1), keep_below_one(b2)
    _check.require_nonnegative(weight_decay=weight_decay)
    scale = wrap_optax(optax.scale_by_adam(b1, b2, eps, eps_root=TINY))
    decay = optax.add_decayed_weights(weight_decay)
    if multiplier is None:
        return keep_in_single(optax.chain(scale, decay, optax.scale_by_learning_rate(learning_rate)))
    check_rate(multiplier, "multiplier")
    rate = optax.scale_by_learning_rate(learning_rate, flip_sign=False)
    return keep_in_single(optax.chain(scale, rate, decay, optax.scale_by_learning_rate(multiplier)))


@traceable
def amsgrad(learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, *, bias_correction=True):
    r"""AMSGrad (Reddi, Kale & Kumar 2018, 1904.09237): Adam with $v_{max} \leftarrow \max(v_{max}, v)$ for v.

    The maximum is over the *uncorrected* v. optax takes it over the corrected v, which is a third method.

    **Arguments**

    - `learning_rate` η: a number at least 0 or a schedule, in units of the parameters.
    - `b1` β₁, `b2` β₂: the decays of the moments, numbers in [0, 1).
    - `eps` ε: a number at least 0, in units of the gradient.
    - `bias_correction`: `True`, PyTorch's form, corrects m and $v_{max}$ afterwards; `False` is the paper's form,
      without corrections (with ε added to the root) (static).

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate or `eps`, or `b1`, `b2` outside [0, 1); `TypeError` for a
    hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.amsgrad(0.1)
    >>> print(optimizer.update(jnp.array([5.0, -2.0]), optimizer.init(jnp.zeros(2)))[0])
    [-0.1  0.1]
    """
    check_adam(learning_rate, b1, b2, eps)
    b1, b2 = keep_below_one(b1), keep_below_one(b2)

    def update(updates, state, params=None):
        t = step_count(state.count)
        c1, c2 = (1 - b1**t, 1 - b2**t) if bias_correction else (1.0, 1.0)
        state = next_moments(updates, state, b1, b2)
        return tree_map(lambda m, v: (m / c1) / (root(v / c2) + eps), state.mu, state.nu_max), state

    return scale_by_rate(lambda params: init_moments(params, maximum=True), update, learning_rate)


@traceable
def radam(learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, threshold=4.0):
    r"""Rectified Adam (Liu et al. 2020, 1908.03265).

    With $\rho_\infty = 2/(1-\beta_2) - 1$ and $\rho_t = \rho_\infty - 2t\beta_2^t/(1-\beta_2^t)$: where
    $\rho_t >$ `threshold`, $\theta \leftarrow \theta - \eta\,r_t\,\hat m/(\sqrt{\hat v} + \epsilon)$,
    $r_t^2 = \frac{(\rho_t-4)(\rho_t-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho_t}$;
    before, $\theta \leftarrow \theta - \eta\hat m$.

    **Arguments**

    - `learning_rate` η: a number at least 0 or a schedule, in units of the parameters.
    - `b1` β₁, `b2` β₂: the decays of the moments, numbers in [0, 1).
    - `eps` ε: a number at least 0, in units of the gradient.
    - `threshold`: a number at least 4; 4 is the paper's (first rectified at t = 5 for β₂ = .999), 5 optax's and
      PyTorch's.

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate or `eps`, `b1`, `b2` outside [0, 1), or a `threshold` below 4;
    `TypeError` for a hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.radam(0.1)
    >>> print(optimizer.update(jnp.array([5.0, -2.0]), optimizer.init(jnp.zeros(2)))[0])
    [-0.5  0.2]
    """
    check_adam(learning_rate, b1, b2, eps)
    b1, b2 = keep_below_one(b1), keep_below_one(b2)
    if _check.is_concrete(threshold):
        _check.require("threshold", threshold, threshold >= 4, "at least 4")

    def rectification(t):
        limit = 2 / (1 - b2) - 1
        rho = limit - 2 * t * b2**t / (1 - b2**t)
        # Clamped before the root: `where` would hand its NaN on to the derivative.
        safe = jnp.maximum(rho, 4.0 + 1e-3)
        span = (limit - 4) * (limit - 2)  # where it is not above 0 no ρ is above 4
        ratio = (safe - 4) * (safe - 2) * limit / (jnp.where(jnp.asarray(span) > 0, span, 1.0) * safe)
        return rho > threshold, jnp.sqrt(jnp.maximum(ratio, TINY))

    def update(updates, state, params=None):
        t = step_count(state.count)
        rectified, r = rectification(t)
        state = next_moments(updates, state, b1, b2)

        def direction(m, v):
            m, v = m / (1 - b1**t), v / (1 - b2**t)
            return jnp.where(rectified, r * m / (root(v) + eps), m)

        return tree_map(direction, state.mu, state.nu), state

    return scale_by_rate(init_moments, update, learning_rate)


class NadamState(NamedTuple):
    """Moments and the product of the momentum schedule so far."""

    moments: MomentsState
    product: jax.Array


@traceable
def nadam(learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, *, momentum_decay=None):
    r"""Adam with Nesterov momentum (Dozat 2016).

    The default has a constant β₁ (optax's form): $\theta \leftarrow \theta - \eta\,
    [\beta_1 m/(1-\beta_1^{t+1}) + (1-\beta_1)g/(1-\beta_1^t)]/(\sqrt{\hat v} + \epsilon)$.

    **Arguments**

    - `learning_rate` η: a number at least 0 or a schedule, in units of the parameters.
    - `b1` β₁, `b2` β₂: the decays of the moments, numbers in [0, 1).
    - `eps` ε: a number at least 0, in units of the gradient.
    - `momentum_decay` ψ: a number at least 0, for PyTorch's form (whose default is 4e-3): $\mu_t = \beta_1(1 -
      \frac12 0.96^{t\psi})$ takes the place of β₁ in the bracket, and products of the $\mu_i$ that of powers. ψ → ∞
      is the default form, `None`.

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate, `eps` or `momentum_decay`, or `b1`, `b2` outside [0, 1);
    `TypeError` for a hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.nadam(0.1)
    >>> print(optimizer.update(jnp.array([5.0, -2.0]), optimizer.init(jnp.zeros(2)))[0])
    [-0.147...  0.147...]
    """
    check_adam(learning_rate, b1, b2, eps)
    b1, b2 = keep_below_one(b1), keep_below_one(b2)
    if momentum_decay is None:
        scale = wrap_optax(optax.scale_by_adam(b1, b2, eps, eps_root=TINY, nesterov=True))
        return keep_in_single(optax.chain(scale, optax.scale_by_learning_rate(learning_rate)))
    _check.require_nonnegative(momentum_decay=momentum_decay)

    def init(params):
        return NadamState(init_moments(params), jnp.ones([], float))

    def update(updates, state, params=None):
        t = step_count(state.moments.count)
        mu, mu_next = (b1 * (1 - 0.5 * 0.96 ** (s * momentum_decay)) for s in (t, t + 1))
        product = state.product * mu
        moments = next_moments(updates, state.moments, b1, b2)

        def direction(g, m, v):
            ahead = (1 - mu) * g / (1 - product) + mu_next * m / (1 - product * mu_next)
            return ahead / (root(v / (1 - b2**t)) + eps)

        return tree_map(direction, updates, moments.mu, moments.nu), NadamState(moments, product)

    return scale_by_rate(init, update, learning_rate)
