r"""The modified equation in powers of the step size: the fields that do not depend on it.

The field at order p, $F_h = \frac1h \sum_{k \le p} \frac{(-1)^{k-1}}k \Delta^k$, has the first p coefficients right
and others behind them, as $\Delta^k = O(h^k)$. A polynomial through its values at a few steps h therefore gives them.
Terms beyond p would only take the values further from h = 0, where they are wanted.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from numpy.polynomial import Chebyshev, Polynomial
from numpy.polynomial.chebyshev import chebvander

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow.dynamics.base import add, scale
from jaxflow.dynamics.modified_equations.equation import check_arguments
from jaxflow.dynamics.modified_equations.step_logarithm import (
    ModifiedState,
    cold_state,
    increment,
    lift,
    logarithm,
    state_shapes,
    weights,
)

PyTree = Any

HIGHEST = 6
# The largest step times the order and the rate at which the field changes along its own flow; where there are fewer
# digits rounding is the larger part of the error.
REACH = {jnp.dtype(jnp.float64): 0.3, jnp.dtype(jnp.float32): 1.0}
TRIAL = 0.05  # what a trial step's differences fall by, from one to the next
# How many times its own size the state may move in the largest step, where the field is constant.
FARTHEST = 1e3


def coefficients(
    family: Callable[[Any], optax.GradientTransformation],
    objective: Callable[[PyTree], jax.Array],
    state: PyTree,
    order: int,
    *,
    step_size: Any = None,
    two_sided: bool = True,
) -> tuple[ModifiedState, ...]:
    r"""The fields $f_1, \dots, f_p$ of the modified equation $\dot z = f_1 + h f_2 + h^2 f_3 + \dots$ at one state.

    For gradient descent $f_1 = -g$, $f_2 = -\frac12 Hg$, $f_3 = -\frac13 H^2 g - \frac1{12}\nabla^3 L[g, g]$. They
    are made of the optimizer's own steps only: the field of `modified` at order p is evaluated at 2(p + 3) step
    sizes, Chebyshev points about h = 0, and the polynomial through the values is expanded there.

    **Arguments**

    - `family`: a function `family(h) -> optimizer`, such as `jaxflow.optim.gd`. A step must become the identity as
      h → 0, smoothly. So one with memory must let its memory grow, as `lambda h: momentum(h, exp(-h / 0.5),
      ema=True)` does (`effective` is for a fixed β). A bias correction $1 - \beta^k$ at a fixed count k vanishes
      with h: leave it out.
    - `objective`: an `Objective`, any function `loss(params) -> scalar`, or a `VectorField`.
    - `state`: a `ModifiedState`; or parameters, and then the family's state before the first step.
    - `order` p: an integer from 1 to 6 (static).
    - `step_size`: the largest step, in time. Default: $\frac{0.3}{p\rho}$, where ρ is the largest of
      $\frac1h(|\Delta^{k+1}z| / |\Delta z|)^{1/k}$, k = 1, 2, 3, at a small trial step.
    - `two_sided`: whether h < 0 is among the step sizes (static). `False` is for a family that is not defined
      there; it costs two digits of $f_3$ and more of the next.

    **Returns** a tuple of p `ModifiedState`s, shaped like the state. Step counts move at 1/h, which is in no
    coefficient, so theirs are zeros. It costs 2p(p + 3) gradients, and 8 to find the step. It compiles once for a
    family, also with hyperparameters in a `jax.tree_util.Partial`, and works under `jit`, `vmap` and `jacfwd`.

    **Raises** `ValueError` for an order not in 1 … 6 or a step size ≤ 0; `TypeError` for a family that does not
    return an optimizer, or when `objective` is not an objective.

    **Accuracy**, relative, in float64 on losses with one length scale: $f_2$ 1e-12, $f_3$ 1e-9, $f_4$ 1e-7, $f_5$
    1e-4, $f_6$ 1e-2; in float32 $f_2$ 1e-5, $f_3$ 1e-3, $f_4$ 0.1. Where the curvature along the flow does not tell
    what lies a little way off (a narrow kink to one side), give `step_size` and compare two. A family that has no
    expansion gives NaN, or coefficients that change with `step_size`.

    Source: Hairer, Lubich & Wanner (2006), Geometric Numerical Integration, IX.1, have the recursion by derivatives.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> fields = jf.dynamics.coefficients(jf.optim.gd, lambda x: jnp.sum(x**2), jnp.ones(1), 3)
    >>> [float(f.params[0].round(2)) for f in fields]  # −log(1 − 2h)/h of −1
    [-2.0, -2.0, -2.67]
    """
    _check.require_integer("order", order, 1)
    _check.require("order", order, order <= HIGHEST, f"an integer from 1 to {HIGHEST}")
    if step_size is not None:
        _check.require_positive(step_size=step_size)
    if isinstance(family, optax.GradientTransformation) or not callable(family):
        raise TypeError(
            f"family must be a function of the step size that makes an optimizer, got {family!r}."
        )
    check_objective(objective)
    return _coefficients(
        order=int(order),
        two_sided=bool(two_sided),
        family=family,
        objective=objective,
        state=state,
        step_size=step_size,
    )


def check_objective(objective: Any) -> None:
    """Refuse anything but an objective, while it can still be shown in a message."""
    if not callable(objective):
        raise TypeError(f"objective must be an Objective or a function of the parameters, got {objective!r}.")


@compiled(static=("order", "two_sided"))
def _coefficients(*, order, two_sided, family, objective, state, step_size) -> tuple[ModifiedState, ...]:
    # A traced step size, also where it is a constant: no check of a hyperparameter looks at an array.
    first = family(jnp.ones([]))
    check_arguments(first, objective, 1, 1, None)
    known = isinstance(state, ModifiedState)
    state = lift(state) if known else cold_state(first, jax.tree.map(jnp.asarray, state))
    mask = moving_leaves(first, state.params)

    def step(h):
        optimizer = family(h)
        return lambda z: increment(optimizer, objective, z)

    if step_size is None:
        step_size = reach(state.params, order, two_sided) / rate(step, state, mask)
    shares = weights(order)

    def field(h):
        return _keep_where(mask, scale(1 / h, logarithm(step(h), state, shares)))

    return fit(field, step_size, order, two_sided)


def moving_leaves(optimizer: optax.GradientTransformation, params: PyTree) -> Any:
    """Which leaves of the state hold numbers, not counts or flags: True or False for each leaf."""
    floats = lambda tree: jax.tree.map(lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact), tree)
    steps: Any = False
    return ModifiedState(jax.tree.map(lambda _: True, params), floats(state_shapes(optimizer, params)), steps)


def _keep_where(mask: PyTree, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda keep, leaf: leaf if keep else jnp.zeros_like(leaf), mask, tree)


def rate(step: Callable, state: PyTree, mask: PyTree) -> jax.Array:
    """How fast the field changes along its own flow, per unit of the step size; never 0.

    `step(h)(state)` is what a step of size h adds. There are two trials: the first is so short that it must be in a
    linear stretch, and it finds the length of the second.
    """

    numbers = lambda tree: [x for x, keep in zip(*map(jax.tree.leaves, (tree, mask)), strict=True) if keep]

    def differences(h):
        def advance(z, _):
            d = step(h)(z)
            return add(z, d), numbers(d)

        _, path = lax.scan(advance, state, None, length=4)
        for _ in range(4):
            yield optax.tree.norm([x[0] for x in path])
            path = [jnp.diff(x, axis=0) for x in path]

    size = 1 + optax.tree.norm(numbers(state))
    tiny = jnp.sqrt(jnp.finfo(size.dtype).eps)
    speed = optax.tree.norm(numbers(step(tiny)(state))) / tiny
    still = speed == 0
    speed = jnp.where(still, 1.0, speed)
    ratio = lambda part, whole: part / jnp.where(whole == 0, 1.0, whole)
    short = tiny * size / speed  # the state moves by the root of rounding
    d, dd, *_ = differences(short)
    slowest = jnp.maximum(ratio(dd, d) / short, speed / size / FARTHEST)
    trial = TRIAL / slowest
    d, *rest = differences(trial)
    rates = [ratio(part, d) ** (1 / k) / trial for k, part in enumerate(rest, 1)]
    return lax.stop_gradient(jnp.where(still, 1.0, jnp.max(jnp.stack([slowest, *rates]))))


def reach(params: PyTree, order: int, two_sided: bool = True) -> float:
    """The largest step times the rate of change: twice as far where the points are on one side."""
    real = jnp.finfo(jnp.result_type(*jax.tree.leaves(params))).dtype
    return REACH.get(jnp.dtype(real), 1.0) * (1 if two_sided else 2) / order


@lru_cache
def expansion(order: int, two_sided: bool) -> tuple[np.ndarray, np.ndarray]:
    """Points (n,) in [−1, 1] or [0, 1] and the shares (order, n) of values there in the coefficients at 0."""
    count = 2 * (order + 3)  # even: 0 is no point
    low, angles = (-1 if two_sided else 0), (np.arange(count) + 0.5) * np.pi / count
    # A value's share in each Chebyshev polynomial, and that one's in each power.
    values = chebvander(np.cos(angles), count - 1).T * np.where(np.arange(count), 2, 1)[:, None] / count
    powers = np.zeros((count, count))
    for k in range(count):
        coef = Chebyshev.basis(k, domain=[low, 1]).convert(kind=Polynomial).coef
        powers[: coef.size, k] = coef
    return np.cos(angles) if two_sided else (1 + np.cos(angles)) / 2, powers[:order] @ values


def fit(
    field: Callable[[jax.Array], PyTree], largest: Any, order: int, two_sided: bool = True
) -> tuple[PyTree, ...]:
    """The first coefficients of `field(h)` in powers of h, from its values at points up to `largest`."""
    points, shares = expansion(order, two_sided)
    largest = jnp.asarray(largest, float)
    values = jax.vmap(lambda x: field(largest * x))(jnp.asarray(points, largest.dtype))
    coefficient = lambda k: jax.tree.map(
        lambda v: jnp.tensordot((shares[k] / largest**k).astype(v.dtype), v, 1), values
    )
    return tuple(map(coefficient, range(order)))
