"""Gradient flow that keeps what each training example has contributed to predictions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow._traceable import traceable
from jaxflow.curvature.products import check_parts
from jaxflow.dynamics import Field
from jaxflow.kernels.shares import push_forward, shares_of_gradient
from jaxflow.objective import Objective

PyTree = Any


class PathState(NamedTuple):
    """The state of `path_flow`.

    - `params`: the parameters.
    - `contributions` (N, M) or (N, M, C): what each example has contributed since the start.
    """

    params: PyTree
    contributions: jax.Array


@traceable
def path_flow(objective: Objective, x_test: Any) -> Field:
    r"""Gradient flow, with what each training example has contributed to predictions since its start.

    With $\dot\theta = -\nabla L(\theta)$ and $\dot c_i(x) = -\frac1N\langle\nabla y(x, \theta),
    \nabla\ell_i(\theta)\rangle$ the predictions obey $y(x, t) - y(x, 0) = \sum_i c_i(x, t)$, up to the tolerance of
    the solver.

    **Arguments**

    - `objective`: an `Objective` over `{"x", "y"}` whose losses have the parts `predict` and `loss`.
    - `x_test`: M points, an array (or a pytree of them) with this leading axis.

    **Returns** a `Dynamics` whose state is a `PathState`: the `state.contributions` of a trajectory are those of the
    whole run. A drift costs the gradient of each example and a derivative of the predictions along it.

    **Raises** `TypeError` for an objective without these parts.

    Source: Domingos 2020, 2012.00152.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> losses = jf.problems.PredictionLosses(lambda w, x: x @ w, lambda f, y: 0.5 * (f - y) ** 2)
    >>> line = jf.Objective(losses, {"x": jnp.eye(2), "y": jnp.array([1.0, -1.0])})
    >>> flow = jf.kernels.path_flow(line, jnp.array([[1.0, 2.0]]))
    >>> path = jf.integrate(flow, jnp.zeros(2), jnp.array([0.0, 2.0]))
    >>> print(path.state.contributions[:, 0].round(4), path.params.round(4))
    [ 0.6321 -1.2642] [ 0.6321 -0.6321]
    """
    check_parts(objective)
    losses: Any = objective.losses

    def init(params):
        outputs = jax.eval_shape(losses.predict, params, x_test)
        return PathState(params, jnp.zeros((objective.size, *outputs.shape), outputs.dtype))

    def drift(t, state):
        del t
        shares = jax.tree.map(jnp.negative, shares_of_gradient(objective, state.params))
        velocity = jax.tree.map(lambda share: share.sum(0), shares)
        return PathState(velocity, push_forward(losses.predict, state.params, x_test, shares))

    return Field(drift=drift, init=init, params=lambda state: state.params)
