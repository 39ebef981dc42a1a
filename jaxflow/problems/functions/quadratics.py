"""Quadratic bowls: the one family where gradient flow, and every discrete method, has a closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial

from jaxflow import _check
from jaxflow.problems.problem import Problem, as_floats


def _bowl(eigenvalues, x):
    return 0.5 * jnp.sum(eigenvalues * x**2)


def _decay(eigenvalues, t, x0):
    return jnp.exp(-eigenvalues * t) * x0


def _problem(eigenvalues: jax.Array, params: jax.Array, name: str) -> Problem:
    return Problem(
        objective=Partial(_bowl, eigenvalues),
        params=params,
        minimum=0.0,
        minima=jnp.zeros_like(params)[None],
        curvature=jnp.sort(eigenvalues),
        flow=Partial(_decay, eigenvalues),
        name=name,
    )


def quadratic(eigenvalues: Any) -> Problem:
    r"""A quadratic bowl, $L(x) = \frac12 \sum_i \lambda_i x_i^2$ with Hessian diag(λ), from (1, …, 1).

    The flow is $x_i(t) = e^{-\lambda_i t} x_i(0)$; gradient descent is
    $x_i^k = (1 - \eta\lambda_i)^k x_i^0$, stable for η < 2/λ_max.

    **Arguments**

    - `eigenvalues` λ (d,): finite numbers at least 0. They may be traced, and are leaves of the problem, so other
      eigenvalues compile nothing.

    **Returns** a `Problem` with `minimum`, `minima`, `curvature` and `flow`.

    **Raises** `ValueError` when `eigenvalues` is not one-dimensional, is empty, or holds a negative or non-finite
    number; `TypeError` for anything that is not a number.

    >>> problem = quadratic([1.0, 10.0])
    >>> print(problem.objective(problem.params), problem.flow(0.1, problem.params).tolist())
    5.5 [0.9048, 0.3679]
    """
    eigenvalues = as_floats("eigenvalues", eigenvalues)
    if eigenvalues.ndim != 1 or eigenvalues.size == 0:
        raise ValueError(f"eigenvalues must have shape (d,) with d ≥ 1, got shape {eigenvalues.shape}.")
    if not isinstance(eigenvalues, Tracer) and (np.asarray(eigenvalues) < 0).any():
        raise ValueError(f"eigenvalues must be at least 0, got {eigenvalues}.")
    return _problem(eigenvalues, jnp.ones_like(eigenvalues), "quadratic")


def ravine(condition: Any = 100.0) -> Problem:
    r"""A narrow valley, $L(x) = \frac12 (x_1^2 + \kappa x_2^2)$, from $(1, \kappa^{-1/2})$.

    Each direction holds half of the starting loss of 1, so neither may be neglected: the steep one needs
    η < 2/κ, and at that learning rate the flat one takes about κ/2 steps for every factor e. The flow is
    $(e^{-t} x_1(0), e^{-\kappa t} x_2(0))$.

    **Arguments**

    - `condition`: the condition number κ > 0; it may be traced.

    **Returns** a `Problem` with `minimum`, `minima`, `curvature` and `flow`.

    **Raises** `ValueError` or `TypeError` when `condition` is not a finite number above 0.

    >>> problem = ravine(condition=100.0)
    >>> problem.params.tolist(), problem.curvature.tolist()
    ([1.0, 0.1], [1.0, 100.0])
    """
    _check.require_positive(condition=condition)
    condition = as_floats("condition", condition)
    one = jnp.ones_like(condition)
    return _problem(jnp.stack([one, condition]), jnp.stack([one, condition**-0.5]), "ravine")
