"""What a central flow carries from substep to substep, and what it tells of the iterates around it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow.dynamics.edge.methods import Method, flat_loss, flat_moment
from jaxflow.dynamics.edge.stable import step_rate

PyTree = Any


class CentralState(NamedTuple):
    r"""The state of a `central_flow`; `vectors` are in the coordinates $P^{1/2}\theta$, flat, P numbers in all.

    - `params`: the parameters.
    - `second_moment` ν: the one after the update at `params`; like the parameters, or a number, which is 0 where
      the method has no second moment.
    - `steps`: the step count k, a float.
    - `vectors` (modes, P): orthonormal eigenvectors of $P^{-1/2}HP^{-1/2}$.
    - `eigenvalues` (modes,): the effective ones at the beginning of the last substep.
    - `covariance` (modes, modes): X in the eigenvectors, over the last substep.
    - `residuals` (2,): the largest relative residual of a critical eigenvector so far, and of a complementarity
      problem.
    - `cost` (3,): integers, the substeps, Hessian products and third derivatives so far.
    - `calls`: the number of intervals so far.
    """

    params: PyTree
    second_moment: PyTree
    steps: jax.Array
    vectors: jax.Array
    eigenvalues: jax.Array
    covariance: jax.Array
    residuals: jax.Array
    cost: jax.Array
    calls: jax.Array


class CentralRecord(NamedTuple):
    r"""What a central flow predicts of the iterates around it, at every time: `Trajectory.observed`, leaves (T, …).

    - `loss`: the time-averaged loss $L + \mathrm{tr} X$.
    - `squared_gradient`: the time average $|\nabla L|^2 + \mathrm{tr}(H\Sigma H)$.
    - `covariance` (T, modes, modes): X, over the last substep.
    - `eigenvalues` (T, modes): the effective ones, of $P^{-1/2}HP^{-1/2}$, largest first, at the beginning of the
      last substep; 2 at the edge of stability.
    - `eigenvector_residual`, `complementarity_residual`: the largest relative residuals so far.
    - `substeps`, `products`, `third_derivatives`: their numbers so far; a third derivative costs about two Hessian
      products.
    """

    loss: jax.Array
    squared_gradient: jax.Array
    covariance: jax.Array
    eigenvalues: jax.Array
    eigenvector_residual: jax.Array
    complementarity_residual: jax.Array
    substeps: jax.Array
    products: jax.Array
    third_derivatives: jax.Array


def central_state(objective, params: PyTree, second_moment: PyTree, modes: int) -> CentralState:
    """The state at these parameters and ν, with nothing oscillating; its eigenvectors are found at the first step."""
    _, flat, _ = flat_loss(objective, params)
    _check.require("modes", modes, modes <= flat.size, f"at most {flat.size}, the number of parameters")
    zeros = lambda *shape: jnp.zeros(shape, flat.dtype)
    vectors, x = zeros(modes, flat.size), zeros(modes, modes)
    cost, calls = jnp.zeros(3, jnp.int32), jnp.zeros((), jnp.int32)
    return CentralState(
        params=params,
        second_moment=second_moment,
        steps=zeros(),
        vectors=vectors,
        eigenvalues=zeros(modes),
        covariance=x,
        residuals=zeros(2),
        cost=cost,
        calls=calls,
    )


def observe(method: Method, objective, state: CentralState) -> CentralRecord:
    """What a central flow's state predicts of the iterates around it."""
    loss, flat, _ = flat_loss(objective, state.params)
    value, gradient = jax.value_and_grad(loss)(flat)
    x = state.covariance
    denominator = method.denominator(flat_moment(method, state.second_moment, flat))
    pulled = jnp.sqrt(denominator / step_rate(method, state.steps))[None] * state.vectors  # PU, as HU = 2PU
    swing = 4 * jnp.sum((x @ pulled) * pulled)
    substeps, products, thirds = state.cost
    return CentralRecord(
        loss=value + jnp.trace(x),
        squared_gradient=jnp.sum(gradient**2) + swing,
        covariance=x,
        eigenvalues=state.eigenvalues,
        eigenvector_residual=state.residuals[0],
        complementarity_residual=state.residuals[1],
        substeps=substeps,
        products=products,
        third_derivatives=thirds,
    )
