"""Methods that turn from adaptive to plain descent, and Lookahead, which alternates fast and slow weights.

AdaBound's rates are clipped towards one rate; SWATS measures the rate with which SGD would go on, and switches.
Every phase is a `where`, so nothing recompiles at a switch and a vmapped sweep may switch lane by lane.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.optim.methods.adaptive import MomentsState, check_adam, init_moments, next_moments
from jaxflow.optim.methods.moments import (
    increment,
    keep_below_one,
    keep_in_single,
    root,
    step_count,
    tree_map,
)
from jaxflow.optim.multi_steps import as_transformation
from jaxflow.optim.schedules import value_at

PyTree = Any


def _proportion(schedule, rate):
    first = schedule(0)
    return rate / jnp.where(first > 0, first, 1.0)


@traceable
def adabound(
    learning_rate=1e-3,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    final_learning_rate=0.1,
    gamma=1e-3,
    *,
    amsbound=False,
    paper=False,
):
    r"""AdaBound (Luo et al. 2019, 1902.09843): Adam whose rates are clipped towards SGD's.

    $\theta \leftarrow \theta - \mathrm{clip}(\alpha c_t/(\sqrt{v} + \epsilon),\, l_t,\, u_t)\, m$ with
    $l_t = \alpha^*(1 - 1/(\gamma t + 1))$, $u_t = \alpha^*(1 + 1/(\gamma t))$, m and v uncorrected. By default, as in
    the authors' code, $c_t = \sqrt{1-\beta_2^t}/(1-\beta_1^t)$. It ends as EMA momentum with rate α*.

    **Arguments**

    - `learning_rate` α: a number at least 0 or a schedule, in units of the parameters.
    - `b1` β₁, `b2` β₂: the decays of the moments, numbers in [0, 1).
    - `eps` ε: a number at least 0, in units of the gradient.
    - `final_learning_rate` α*: a number above 0. It follows a schedule of `learning_rate` in proportion,
      $\alpha^* \alpha_t/\alpha_0$.
    - `gamma` γ: how fast the bounds close, a number above 0. It equals 1 − β₂ only at β₂ = .999.
    - `amsbound`: whether to take the maximum of v (static).
    - `paper`: whether to use the paper's form, $c_t = 1$ without ε (static).

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate or `eps`, `b1`, `b2` outside [0, 1), a non-positive α* or γ, or a
    schedule whose first rate is 0 (a warm-up from 0), as α* has no proportion to it; `TypeError` for a
    hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.adabound(0.1)
    >>> print(optimizer.update(jnp.array([5.0, -2.0]), optimizer.init(jnp.zeros(2)))[0])
    [-0.1  0.1]
    """
    check_adam(learning_rate, b1, b2, eps)
    _check.require_positive(final_learning_rate=final_learning_rate, gamma=gamma)
    if callable(learning_rate) and not isinstance(first := learning_rate(0), Tracer):
        _check.require(
            "learning_rate", learning_rate, bool(np.all(np.asarray(first) > 0)), "above 0 at step 0"
        )
    b1, b2 = keep_below_one(b1), keep_below_one(b2)

    def update(updates, state, params=None):
        t = step_count(state.count)
        rate = value_at(learning_rate, state.count)
        final = final_learning_rate * (_proportion(learning_rate, rate) if callable(learning_rate) else 1.0)
        bounded = jnp.asarray(gamma) > 0  # a traced γ of 0 leaves Adam as it is
        upper = jnp.where(bounded, final * (1 + 1 / (jnp.where(bounded, gamma, 1.0) * t)), jnp.inf)
        lower = final * (1 - 1 / (gamma * t + 1))
        correction = 1.0 if paper else jnp.sqrt(1 - b2**t) / (1 - b1**t)
        state = next_moments(updates, state, b1, b2)

        def direction(m, v):
            rates = rate * correction / (root(v) + (0.0 if paper else eps))
            return -jnp.clip(rates, lower, upper) * m

        return tree_map(direction, state.mu, state.nu_max if amsbound else state.nu), state

    return keep_in_single(
        optax.GradientTransformation(lambda params: init_moments(params, maximum=amsbound), update)
    )


class SwatsState(NamedTuple):
    """The state of `swats`. Its numbers are scalars; where each array of the parameters switches by itself they are
    vectors (arrays,), in the order of `jax.tree.leaves`.

    - `moments`: mu turns into SGD's velocity at the switch.
    - `estimate`: the averaged estimate of SGD's rate.
    - `switched`: whether the switch to SGD has happened.
    - `rate`, `adam_rate`: SGD's rate Λ, and Adam's rate at the switch.
    """

    moments: MomentsState
    estimate: jax.Array
    switched: jax.Array
    rate: jax.Array
    adam_rate: jax.Array


def leaves_of(tree: PyTree) -> list:
    """The leaves, `None` (a masked gradient) among them."""
    return jax.tree.leaves(tree, is_leaf=lambda x: x is None)


def spread(numbers: jax.Array, tree: PyTree) -> PyTree:
    """A scalar, or the entries of a vector, in the places of a tree's leaves."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: x is None)
    return structure.unflatten(list(jnp.broadcast_to(numbers, (len(leaves),))))


def _inner_products(p: PyTree, g: PyTree, per_leaf: bool) -> tuple[jax.Array, jax.Array]:
    """pᵀp and pᵀg over all arrays, or of each: scalars or vectors (arrays,)."""
    inner = lambda a, b: jnp.zeros([]) if a is None else jnp.sum(jnp.real(jnp.conj(a) * b))
    each = [[inner(*pair) for pair in zip(leaves_of(p), leaves_of(other), strict=True)] for other in (p, g)]
    pp, pg = (jnp.stack(numbers) if numbers else jnp.zeros(0) for numbers in each)
    return (pp, pg) if per_leaf else (pp.sum(), pg.sum())


@traceable
def swats(learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-9, tolerance=1e-9, *, relative=False, per_leaf=False):
    r"""SWATS: start as Adam, switch to SGD (Keskar & Socher 2017, 1712.07628).

    Adam's step $p = -\alpha\frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\frac{m}{\sqrt v + \epsilon}$ is the step of SGD
    with rate $\gamma = p^Tp/(-p^Tg)$ projected on p (where $p^Tg \ne 0$). The average of these rates is $\lambda
    \leftarrow \beta_2\lambda + (1-\beta_2)\gamma$. When t > 1, $\Lambda = \lambda/(1-\beta_2^t) > 0$ and $|\Lambda
    - \gamma| <$ `tolerance`, the next steps are $v \leftarrow \beta_1 v + g,\ \theta \leftarrow \theta -
    (1-\beta_1)\Lambda v$ from v = 0. Under a schedule Λ goes on in proportion to it.

    **Arguments**

    - `learning_rate` α: a number at least 0 or a schedule, in units of the parameters.
    - `b1` β₁, `b2` β₂: the decays of the moments, numbers in [0, 1).
    - `eps` ε: a number at least 0, in units of the gradient.
    - `tolerance`: a number at least 0, in units of SGD's rate.
    - `relative`: whether to test $|\Lambda - \gamma| <$ `tolerance`·γ, as public codes do; the paper's test is
      absolute (static).
    - `per_leaf`: whether each array switches by itself, as in public codes; the paper's test is over all parameters
      (static).

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate, `eps` or `tolerance`, or `b1`, `b2` outside [0, 1); `TypeError` for
    a hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> run = jf.iterate(jf.optim.swats(0.1, tolerance=0.5), lambda x: 0.5 * x @ x, jnp.ones(1), steps=20)
    >>> print(run.state.optimizer.switched)
    True
    """
    check_adam(learning_rate, b1, b2, eps)
    _check.require_nonnegative(tolerance=tolerance)
    b1, b2 = keep_below_one(b1), keep_below_one(b2)

    def init(params):
        # Every field its own array, so that the state can be donated.
        shape = (len(leaves_of(params)),) if per_leaf else ()
        fill = lambda value: jnp.full(shape, value, float)
        return SwatsState(init_moments(params), fill(0), jnp.full(shape, False), fill(0), fill(1))

    def update(updates, state, params=None):
        t = step_count(state.moments.count)
        alpha = value_at(learning_rate, state.moments.count)
        moments = next_moments(updates, state.moments, b1, b2)
        scale = alpha * jnp.sqrt(1 - b2**t) / (1 - b1**t)
        p = tree_map(lambda m, v: -scale * m / (root(v) + eps), moments.mu, moments.nu)
        pp, pg = _inner_products(p, updates, per_leaf)

        gamma = pp / jnp.where(pg != 0, -pg, 1.0)
        estimate = jnp.where(pg != 0, b2 * state.estimate + (1 - b2) * gamma, state.estimate)
        rate = estimate / (1 - b2**t)
        near = jnp.abs(rate - gamma) < (tolerance * gamma if relative else tolerance)
        now = (pg != 0) & (t > 1) & (rate > 0) & near

        switched = spread(state.switched, p)
        keep = lambda old, new: tree_map(lambda n, o, s: jnp.where(s, o, n), new, old, switched)
        velocity = tree_map(lambda g, m: b1 * m + g, updates, state.moments.mu)
        # Adam's rate may be 0 in a warm-up, which is before any switch, but its quotient has a derivative then too.
        growth = alpha / jnp.where(state.adam_rate != 0, state.adam_rate, 1.0)
        sgd_rate = spread((1 - b1) * state.rate * growth, p)
        step = keep(tree_map(lambda v, r: -r * v, velocity, sgd_rate), p)
        rest = tree_map(lambda m, n: jnp.where(n, 0.0, m), moments.mu, spread(now, p))
        hold = lambda old, new: jnp.where(state.switched, old, new)
        new = SwatsState(
            moments._replace(mu=keep(velocity, rest), nu=keep(state.moments.nu, moments.nu)),
            hold(state.estimate, estimate),
            state.switched | now,
            hold(state.rate, rate),
            hold(state.adam_rate, alpha),
        )
        return step, new

    return keep_in_single(optax.GradientTransformation(init, update))


class LookaheadState(NamedTuple):
    """Step count, slow weights φ and the inner optimizer's state."""

    count: jax.Array
    slow: PyTree
    inner: PyTree


@traceable
def lookahead(inner, steps=5, alpha=0.5, *, reset=False):
    r"""Lookahead (Zhang et al. 2019, 1907.08610): k fast steps of `inner`, one slow step.

    $\phi \leftarrow \phi + \alpha(\theta_k - \phi)$ after every k fast steps, and both weights continue from the
    new φ. Parameters are plain: the fast weights go in and out, the slow ones are in the state. `update` needs
    `params`.

    **Arguments**

    - `inner`: the fast optimizer, any optax transformation.
    - `steps` k: the number of fast steps, at least 1; the paper takes 5–10.
    - `alpha` α: the slow step, a number in [0, 1]; the paper takes .5–.8.
    - `reset`: whether the inner state starts afresh at each synchronisation instead of being kept (static).

    **Returns** an `Optimizer`.

    **Raises** `TypeError` when `inner` is not an optimizer; `ValueError` for `steps` < 1, `alpha` outside [0, 1],
    or an `update` without `params`.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.lookahead(jf.optim.gd(0.5), steps=2)
    >>> print(jf.iterate(optimizer, lambda x: 0.5 * x @ x, jnp.ones(1), steps=2).values[:, 0])
    [1.    0.5   0.625]
    """
    inner = as_transformation(inner, "inner")
    if _check.is_concrete(steps):
        _check.require("steps", steps, steps >= 1, "at least 1")
    if _check.is_concrete(alpha):
        _check.require("alpha", alpha, 0 <= alpha <= 1, "in [0, 1]")
    fast = optax.with_extra_args_support(inner)

    def init(params):
        slow = tree_map(jnp.array, params)  # a copy, so that parameters and state can both be donated
        return LookaheadState(jnp.zeros([], jnp.int32), slow, fast.init(params))

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("lookahead needs params in update.")
        updates, inner_state = fast.update(updates, state.inner, params, **extra)
        ahead = tree_map(lambda u, p: p + u, updates, params)
        synchronise = jnp.mod(step_count(state.count), steps) < 0.5
        pulled = tree_map(lambda a, s: s + alpha * (a - s), ahead, state.slow)
        choose = lambda new, old: tree_map(
            lambda n, o: jnp.where(synchronise, n, o).astype(o.dtype), new, old
        )
        slow = choose(pulled, state.slow)
        updates = choose(tree_map(lambda s, p: s - p, pulled, params), updates)
        if reset:
            inner_state = choose(fast.init(slow), inner_state)
        return updates, LookaheadState(increment(state.count), slow, inner_state)

    return keep_in_single(optax.GradientTransformationExtraArgs(init, update))
