"""Points where the gradient vanishes, of any index, found from a start nearby."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._completion import complete
from jaxflow._losses.models import Trainable, join_model, split_model
from jaxflow.curvature.differentiability import warn_unless_twice_differentiable
from jaxflow.curvature.products import check_objective, real_parameters
from jaxflow.landscape.paths.path import is_traced
from jaxflow.landscape.saddles.search import CONVERGED, FLAT, LOST, MAX_STEPS, ROUNDING, search

PyTree = Any
DEPTH = 500  # Hessian products of a step, where there are as many parameters
MEANING = {
    CONVERGED: "converged",
    MAX_STEPS: "ran out of steps (max_steps)",
    FLAT: "stuck at a gradient-flat point, where the Hessian takes the gradient to 0",
    ROUNDING: "stopped where rounding lets no step lower the gradient",
    LOST: "lost: the loss, its gradient or its Hessian is not finite",
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False, eq=False)
class CriticalPoint:
    r"""A point $\theta$ at which $\nabla L(\theta) = 0$, or the nearest to one that a search came.

    - `params` θ: the parameters, a pytree or model like the start.
    - `loss`: $L(\theta)$.
    - `gradient_norm`: $|\nabla L(\theta)|$.
    - `flatness`: $|Hg| / (|H||g|)$ of the gradient g there, with the largest |eigenvalue| that the search met as
      |H|. Where this is near 0 and the gradient is not, the point is gradient-flat: nearly stationary for |∇L|²,
      but not for L. It is 1 where the gradient is 0.
    - `steps`: the number of steps.
    - `products`: the number of Hessian products spent.
    - `evaluations`: the number of gradients evaluated, each with its loss.
    - `status`: a code that says how the search ended; `message` says it in words.

    It is a pytree; under `vmap` every leaf has a leading axis.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> jf.landscape.find_critical_point(lambda x: 1 - jnp.cos(x), 0.0)
    CriticalPoint(loss 0; converged in 0 steps, gradient norm 0)
    """

    params: PyTree
    loss: jax.Array
    gradient_norm: jax.Array
    flatness: jax.Array
    steps: jax.Array
    products: jax.Array
    evaluations: jax.Array
    status: jax.Array

    @property
    def converged(self) -> jax.Array:
        """Whether the norm of the gradient is at most the tolerance."""
        return self.status == CONVERGED

    @property
    def gradient_flat(self) -> jax.Array:
        """Whether the search is stuck where the Hessian takes a gradient that is not 0 to 0."""
        return self.status == FLAT

    @property
    def message(self) -> str:
        """How the search ended, and how large the gradient is there."""
        status = np.asarray(self.status)
        if status.ndim:
            return count_endings(status)
        ended = f"{MEANING[int(status)]} in {int(self.steps)} steps, gradient norm {float(self.gradient_norm):.3g}"
        flat = f", flatness {float(self.flatness):.2g}" if int(status) != CONVERGED else ""
        return MEANING[LOST] if int(status) == LOST else ended + flat

    def __repr__(self):
        leaves = (self.loss, self.gradient_norm, self.flatness, self.steps, self.status)
        if any(not isinstance(x, (np.ndarray, jax.Array)) or is_traced(x) for x in leaves):
            return "CriticalPoint(<traced>)"
        if np.ndim(self.status):
            return f"CriticalPoint({np.size(self.status)} points; {self.message})"
        return f"CriticalPoint(loss {float(self.loss):.6g}; {self.message})"


def count_endings(status: np.ndarray) -> str:
    """How many of several searches ended in each way."""
    counts = {code: int((status == code).sum()) for code in MEANING}
    return ", ".join(f"{n} of {status.size} searches {MEANING[code]}" for code, n in counts.items() if n)


def find_critical_point(
    objective: Any,
    params: PyTree,
    *,
    tolerance: Any = None,
    max_steps: Any = 200,
    products: int | None = None,
    trainable: Trainable = None,
) -> CriticalPoint:
    r"""Find a point near a start where the gradient vanishes: a saddle of any index, a minimum or a maximum.

    It minimises $\tfrac12 |\nabla L(\theta)|^2$ by damped Gauss–Newton steps (Levenberg–Marquardt),

    $$p = \arg\min_p |H p + g|^2 + \mu |p|^2 = -(H^2 + \mu I)^{-1} H g,$$

    with the gradient g and the Hessian H, in a Krylov space of H and g. The damping µ falls as |g|², and by the ratio
    of the decrease to the predicted one. So convergence is quadratic near points with a regular Hessian, if the
    Krylov space is the whole space. A singular Hessian, such as networks have, makes no step long.

    The search can get stuck where $Hg = 0$ and $g \ne 0$: a local minimum of |∇L|² that is not a critical point of
    L, called gradient-flat. In networks these are common. `status` and `message` tell such points apart. Where a
    gradient falls off at infinity, points that are far away meet any tolerance too: look at the distance from the
    start.

    **Arguments**

    - `objective`: an `Objective` or any twice differentiable function `loss(params) -> scalar`.
    - `params` θ: the start, a pytree whose real arrays are trained, P numbers in all, or a model.
    - `tolerance`: the norm of the gradient at which to stop, a number at least 0. Default: 1e-10 in float64, 1e-4 in
      float32.
    - `max_steps`: the largest number of steps, an integer at least 1.
    - `products`: the number of Hessian products in a step, the dimension of the Krylov space, at most P (static). It
      holds as many vectors. Default: 500, or P if that is less. With fewer than P, convergence is linear only, and
      is slower the worse H is conditioned.
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** a `CriticalPoint`. It is compiled when called plainly, once for all numbers, and works under `jit`
    and `vmap`. A point at which the loss, its gradient or its Hessian is not finite is returned as lost. It has no
    derivatives in reverse mode.

    **Raises** `TypeError` for an objective that is not a function, or parameters that are not real floats;
    `ValueError` for a negative tolerance, `max_steps` < 1, or `products` < 1 or above P.

    Newton-MR, which damps nothing and searches along $-H^+ g$ for a lower |∇L|², was measured and is not used. From
    24 starts along the training of a network of 49 parameters its exact steps found 6 critical points, with H⁺ cut
    off at 1e-6, and 1 at 1e-12, after 78 to 3,945 gradients; this method found 9 after 52 to 212.

    Source: damping by the squared gradient: Yamashita & Fukushima 2001; Krylov spaces and singular Hessians in
    Newton-MR: Roosta, Liu, Xu & Mahoney 2018, 1810.00303; gradient-flat points: Frye, Simon, Wadia, Ligeralde,
    DeWeese & Bouchard 2021, 2003.10397.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> saddle = jf.landscape.find_critical_point(jf.problems.muller_brown().objective, jnp.array([0.2, 0.3]))
    >>> print(saddle.params.round(6), saddle.loss.round(6))
    [0.212487 0.292988] -72.24894
    """
    check_objective(objective)
    trained, rest = split_model(params, trainable)
    objective = objective if rest is None else complete(objective, rest)
    trained = real_parameters(trained)
    found = _find(
        objective=objective,
        params=trained,
        **checked_settings(trained, tolerance=tolerance, max_steps=max_steps, products=products),
    )
    return replace(found, params=join_model(found.params, rest))


def checked_settings(
    params: PyTree, *, tolerance: Any, max_steps: Any, products: int | None
) -> dict[str, Any]:
    """The numbers of a search, checked and with their defaults filled in."""
    leaves = jax.tree.leaves(params)
    size = sum(leaf.size for leaf in leaves)
    if tolerance is None:
        tolerance = 1e-10 if jnp.result_type(*(leaf.dtype for leaf in leaves)) == jnp.float64 else 1e-4
    _check.require_nonnegative(tolerance=tolerance)
    _check.require_count("max_steps", max_steps, 1)
    if products is not None:
        _check.require_integer("products", products, 1)
        _check.require("products", products, products <= size, f"at most {size}, the number of parameters")
    depth = min(size, DEPTH) if products is None else int(products)
    return {"tolerance": tolerance, "max_steps": max_steps, "depth": depth}


@compiled(static=("depth",))
def _find(*, objective, params, tolerance, max_steps, depth: int):
    warn_unless_twice_differentiable(objective, params)
    return search_from(objective, params, tolerance=tolerance, max_steps=max_steps, depth=depth)


def search_from(
    objective: Any, params: PyTree, *, tolerance: Any, max_steps: Any, depth: int
) -> CriticalPoint:
    """The critical point of a loss of real parameters, traced."""
    flat, unravel = ravel_pytree(params)
    number = jnp.asarray(tolerance).astype(flat.dtype)
    end = search(objective, flat, unravel, tolerance=number, max_steps=max_steps, depth=depth)
    return CriticalPoint(
        params=unravel(end.flat),
        loss=end.loss,
        gradient_norm=end.size,
        flatness=end.flatness,
        steps=end.steps,
        products=end.steps * depth + 1,
        evaluations=end.evaluations,
        status=end.status,
    )
