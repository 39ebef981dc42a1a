"""Index against loss: the critical points near many starts, and how many directions lead down from each."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._completion import complete
from jaxflow._losses.models import rest_of
from jaxflow._norms import norm
from jaxflow.curvature import saddle_index
from jaxflow.curvature.differentiability import warn_unless_twice_differentiable
from jaxflow.curvature.products import check_objective, real_parameters
from jaxflow.curvature.spectrum.traces import DENSE
from jaxflow.landscape.paths.path import is_traced
from jaxflow.landscape.saddles.critical_point import (
    CriticalPoint,
    checked_settings,
    count_endings,
    search_from,
)

PyTree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False, eq=False)
class IndexAgainstLoss:
    r"""Where the searches from n starts ended, and the index there. All arrays are (n,) or have the leading axis n.

    - `points`: a `CriticalPoint` of all searches, with their losses, gradient norms and how each ended.
    - `index`: the number of negative eigenvalues of the Hessian. Where the search did not converge, it is the index
      at the point where it ended, which is not a critical point.
    - `share`: `index` over the number of parameters, from 0 to 1.
    - `distance`: how far each search moved from its start, in units of the parameters.

    It is a pytree. `result.points.loss[result.converged]` are the losses of the critical points that were found.
    """

    points: CriticalPoint
    index: jax.Array
    share: jax.Array
    distance: jax.Array

    @property
    def converged(self) -> jax.Array:
        """Which searches found a critical point."""
        return self.points.converged

    @property
    def message(self) -> str:
        """How many searches ended in each way."""
        return count_endings(np.asarray(self.points.status))

    def __repr__(self):
        if not isinstance(self.index, (np.ndarray, jax.Array)) or is_traced(self.index):
            return "IndexAgainstLoss(<traced>)"
        return f"IndexAgainstLoss({self.message})"


def index_against_loss(
    objective: Any,
    starts: PyTree,
    *,
    tolerance: Any = None,
    max_steps: Any = 200,
    products: int | None = None,
    negative: Any = None,
    key: jax.Array | None = None,
    model: PyTree = None,
) -> IndexAgainstLoss:
    r"""Find a critical point near each of many starts, and count the negative eigenvalues of its Hessian.

    In high dimension, critical points of high loss are expected to be saddles of high index: for random Gaussian
    functions the share of negative eigenvalues grows with the loss. Many searches in networks end at gradient-flat
    points, which are not critical points (see `find_critical_point`); `converged` says which searches did find one.

    **Arguments**

    - `objective`: an `Objective` or any twice differentiable function `loss(params) -> scalar`.
    - `starts`: parameters of n starts, leaves (n, …), such as the `values` of a trajectory. The searches run one
      after another, in the memory of one.
    - `tolerance`, `max_steps`, `products`: of each search, as in `find_critical_point`.
    - `negative`: eigenvalues count as negative below −`negative` × the largest |eigenvalue|: the `tolerance` of
      `saddle_index`. Default: 1e-6 in float64, 1e-4 in float32.
    - `key`: the random key for the estimate of the index; it is needed for more than 2,000 parameters only.
    - `model`: the whole model of which `starts` holds the trained part, such as `run.params`. It is needed only where
      `run.values` have `None` in the place of what was not trained.

    **Returns** an `IndexAgainstLoss`. It is compiled when called plainly, once for all numbers, and works under `jit`
    and `vmap`.

    **Raises** `TypeError` for an objective that is not a function, or starts that are not of real numbers;
    `ValueError` for leaves whose numbers of starts differ, no `key` where one is needed, or a `model` of which
    `starts` is not a part; and what `find_critical_point` raises.

    Source: Dauphin, Pascanu, Gulcehre, Cho, Ganguli & Bengio 2014, 1406.2572; random functions: Bray & Dean 2007.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> problem = jf.problems.himmelblau()
    >>> found = jf.landscape.index_against_loss(problem.objective, jnp.array([[3.0, 1.5], [0.0, 3.0], [0.0, 0.0]]))
    >>> print(found.index, found.points.loss.round(2) + 0)
    [0. 1. 2.] [  0.    67.72 181.62]
    """
    check_objective(objective)
    if model is not None:
        objective = complete(objective, rest_of(model, starts))
    starts = real_parameters(starts, "starts")
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(starts)}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(f"starts must have leaves with one leading axis, got {sorted(lengths)} for them.")
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), starts)
    settings = checked_settings(one, tolerance=tolerance, max_steps=max_steps, products=products)
    size = sum(leaf.size for leaf in jax.tree.leaves(one))
    if negative is not None:
        _check.require_nonnegative(negative=negative)
    if key is not None:
        key = _check.random_key(key)
    elif size > DENSE:
        raise ValueError(
            f"key must be given to estimate the index of a Hessian of {size:,} parameters, got None."
        )
    return _index_against_loss(objective=objective, starts=starts, negative=negative, key=key, **settings)


@compiled(static=("depth",))
def _index_against_loss(*, objective, starts, negative, key, tolerance, max_steps, depth: int):
    warn_unless_twice_differentiable(objective, jax.tree.map(lambda x: x[0], starts))

    def look(start):
        point = search_from(objective, start, tolerance=tolerance, max_steps=max_steps, depth=depth)
        index = saddle_index(objective, point.params, tolerance=negative, key=key).value
        moved = norm(jax.tree.map(jnp.subtract, point.params, start)).astype(index.dtype)
        size = sum(leaf.size for leaf in jax.tree.leaves(start))
        return IndexAgainstLoss(points=point, index=index, share=index / size, distance=moved)

    return lax.map(look, starts)
