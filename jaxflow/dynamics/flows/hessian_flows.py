"""Flows that form the Hessian: Newton's, and the principal flow of gradient descent. For small problems."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Field, widen_tree
from jaxflow.dynamics.flows.first_order import Loss, slope_of
from jaxflow.games import VectorField
from jaxflow.optim.schedules import value_at

PyTree = Any


def _widen_real(params: PyTree) -> PyTree:
    """The parameters in single precision at least, as half has no linear algebra; complex parameters are refused."""
    for leaf in jax.tree.leaves(params):
        if jnp.iscomplexobj(leaf):
            raise TypeError(f"params must be real where a Hessian is formed, got dtype {leaf.dtype}.")
    return widen_tree(params)


def _local_quadratic(slope, params: PyTree):
    """At real parameters: the gradient (d,), the Hessian (d, d), and the way back from (d,)."""
    flat, unravel = ravel_pytree(_widen_real(params))
    along = lambda x: ravel_pytree(slope(unravel(x)))[0]
    back = lambda v: jax.tree.map(lambda x, like: x.astype(like.dtype), unravel(v.astype(flat.dtype)), params)
    return along(flat), jax.jacfwd(along)(flat), back


@traceable
def newton_flow(objective: Loss, damping: Any = 0.0) -> Field:
    r"""Newton's method in continuous time: $\dot\theta = -(H + \mu I)^{-1}\nabla L$, on the clock t = kη.

    It is the limit η → 0 of $\theta \leftarrow \theta - \eta(H + \mu I)^{-1} g$, `jaxflow.optim.newton`. At μ = 0 the
    gradient decays as $\nabla L(\theta(t)) = e^{-t}\,\nabla L(\theta_0)$ exactly, in direction too, whatever the loss
    is: $\frac{d}{dt}\nabla L = H\dot\theta = -\nabla L$ (Smale 1976, J. Math. Econ. 3, 107). So the flow goes to any
    critical point that lies ahead, saddles and maxima too, and stops where H becomes singular. The discrete method is
    Euler's method of step η on it: it is first-order in η, and on a quadratic one step of 1 reaches the end.

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`.
    - `damping` μ: a number at least 0, in units of the Hessian.

    **Returns** a `Dynamics`, whose state is the parameters, which must be real. A drift forms the Hessian, d² numbers
    from d Hessian products, and solves with it (d up to some thousands).

    **Raises** `TypeError` when `objective` is not callable, a hyperparameter is not a number or parameters are
    complex; `ValueError` for a negative damping.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = jf.dynamics.newton_flow(lambda x: x @ jnp.diag(jnp.array([1.0, 100.0])) @ x)
    >>> print(jf.integrate(flow, jnp.ones(2), [0.0, 1.0]).params.round(4))  # 1/e, whatever the curvature
    [0.3679 0.3679]
    """
    _check.require_nonnegative(damping=damping)
    slope = slope_of(objective)

    def drift(t, params):
        g, hessian, back = _local_quadratic(slope, params)
        shift = jnp.asarray(damping).astype(g.dtype) * jnp.eye(g.size, dtype=g.dtype)
        return back(-jnp.linalg.solve(hessian + shift, g))

    return Field(drift=drift)


class PrincipalState(NamedTuple):
    """The state of `principal_flow`, complex parameters x + iy as two real pytrees of one structure.

    - `params`: the real part x, which counts as the parameters.
    - `imaginary`: the imaginary part y, which starts at 0.
    """

    params: PyTree
    imaginary: PyTree


def principal_rates(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log(1 − z)/z for real z, by the principal branch: its real and imaginary part."""
    near = jnp.abs(z) < jnp.finfo(z.dtype).eps ** 0.25
    safe = jnp.where(near, 0.25, z)
    below = safe < 0.5
    logarithm = jnp.where(
        below, jnp.log1p(-jnp.where(below, safe, 0.0)), jnp.log(jnp.abs(1 - jnp.where(below, 0.0, safe)))
    )
    series = -1 - z * (0.5 + z * (1 / 3 + z / 4))
    return jnp.where(near, series, logarithm / safe), jnp.where(z > 1, math.pi / safe, 0.0)


@traceable
def principal_flow(objective: Loss, learning_rate: Any) -> Field:
    r"""The principal flow, which follows gradient descent past the edge of stability, on the clock t = kη.

    $\dot\theta = \sum_i \frac{\log(1 - \eta\lambda_i)}{\eta\lambda_i}\,(u_i^\top\nabla L)\,u_i$, with the eigenvalues
    and eigenvectors of the Hessian (Rosca, Wu, Qin & Dherin 2023, 2302.01952).

    **Arguments**

    - `objective`: an `Objective` or any function `loss(params) -> scalar`.
    - `learning_rate` η: a number above 0, or a function of the time t.

    **Returns** a `Dynamics`, whose state is `PrincipalState(params, imaginary)`. A drift forms the Hessian and its
    eigenvectors, which is d³ work (d up to some hundreds). Its derivative is that of an eigendecomposition, which
    is NaN where eigenvalues coincide.

    **Raises** `TypeError` when `objective` is not callable or is a `VectorField`, whose Jacobian is not symmetric,
    when the rate is not a number, or when parameters are complex; `ValueError` for a rate ≤ 0.

    **Derivation.** On $L = \frac12\theta^\top H\theta$ descent is $\theta_k = (I - \eta H)^k\theta_0 = e^{\log(I -
    \eta H)\,t/\eta}\,\theta_0$, so $\dot\theta = \frac1\eta\log(I - \eta H)\,\theta$ goes through every iterate,
    for every ηλ; write θ as $H^{-1}\nabla L$. Where ηλ > 1 the iterates change sign at each step and the logarithm
    is complex: $\log|1 - \eta\lambda| + i\pi$, a rotation by half a turn per step. Its real part shrinks while ηλ <
    2 and grows beyond. The first two terms of the expansion $-1 - \frac{\eta\lambda}2 - \frac{(\eta\lambda)^2}3 -
    \dots$ are `implicit_gradient_regularization`. The flow leaves out third derivatives of L. On losses that are
    not quadratic it is therefore no more than second-order itself, and past the edge it is a model.

    **Between iterates** the parameters are complex, $\theta = x + iy$. The loss is only evaluated at x: the gradient
    is taken as $\nabla L(x) + iH(x)y$, which is exact for quadratics, and so are the λ and u.

    **It is singular** at ηλ = 1, where descent reaches the minimum in one step. The velocity is infinite there, and
    a run whose curvature crosses 1/η costs many steps.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([0.5, 2.5]) * x**2)  # one curvature below the edge, one beyond
    >>> path = jf.integrate(jf.dynamics.principal_flow(loss, 1.0), jnp.ones(2), [0.0, 1.0, 2.0])
    >>> print(path.values.round(2))
    [[ 1.    1.  ]
     [ 0.5  -1.5 ]
     [ 0.25  2.25]]
    """
    if not callable(learning_rate):
        _check.require_positive(learning_rate=learning_rate)
    if isinstance(objective, VectorField):
        raise TypeError(f"objective must be a loss, whose Hessian is symmetric, got the field {objective!r}.")
    slope = slope_of(objective)

    def drift(t, state):
        g, hessian, back = _local_quadratic(slope, state.params)
        values, basis = jnp.linalg.eigh(hessian)
        imaginary = ravel_pytree(_widen_real(state.imaginary))[0]
        a, b = basis.T @ g, values * (basis.T @ imaginary)
        real, turn = principal_rates(jnp.asarray(value_at(learning_rate, t)).astype(g.dtype) * values)
        return PrincipalState(back(basis @ (real * a - turn * b)), back(basis @ (real * b + turn * a)))

    return Field(
        drift=drift,
        init=lambda params: PrincipalState(params, jax.tree.map(jnp.zeros_like, params)),
        params=lambda state: state.params,
        time_step=learning_rate,
    )
