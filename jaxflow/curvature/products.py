"""Products with second and third derivatives of a loss; no matrix is formed.

Everything else in this package, and the central flow, sees the Hessian through `operator`: a function of flat
vectors at fixed parameters, preconditioned where asked.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from jaxflow import _check
from jaxflow._compiled import compiled
from jaxflow._completion import open_model
from jaxflow._losses.models import Trainable
from jaxflow._programs.half import block_of, has_half, sum_examples
from jaxflow.games import VectorField
from jaxflow.objective import Objective

PyTree = Any
Loss = Callable[[PyTree], jax.Array]


class Operator(NamedTuple):
    """A symmetric operator $P^{-1/2} M P^{-1/2}$ on flat vectors (n,), at the parameters `flat`.

    `apply` is linear; `root` is $P^{-1/2}$, a number or (n,); `unravel` makes a pytree of parameters from a flat
    vector.
    """

    apply: Callable[[jax.Array], jax.Array]
    flat: jax.Array
    root: Any
    unravel: Callable[[jax.Array], PyTree]

    @property
    def size(self) -> int:
        """The number of parameters."""
        return self.flat.size


def hvp(objective: Loss, params: PyTree, v: PyTree, *, trainable: Trainable = None) -> PyTree:
    r"""The product $\nabla^2 L(\theta)\,v$ of the Hessian and a vector, forward over reverse; exact up to rounding.

    It costs about two gradients. An `Objective` with a `chunk` is differentiated one chunk at a time, in the memory
    of one. It is compiled when called plainly, and works under `jit` and `vmap`.

    **Arguments**

    - `objective`: an `Objective` or any twice differentiable function `loss(params) -> scalar`.
    - `params` θ: a pytree whose real arrays are trained.
    - `v`: a pytree of the structure and shapes of what is trained of `params`.
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** the product, shaped like `params`.

    **Raises** `TypeError` for an objective that is not a function, parameters that are not real floats, or `v` of
    another structure; `ValueError` for another shape.

    Source: Pearlmutter 1994; as a `jvp` of the gradient, the JAX autodiff cookbook.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> print(jf.curvature.hvp(lambda x: x[0] ** 2 * x[1], jnp.array([1.0, 3.0]), jnp.array([1.0, 0.0])))
    [6. 2.]
    """
    objective, params = open_real(objective, params, trainable)
    return _hvp(objective, params, match_parameters("v", v, params))


@compiled
def _hvp(objective, params, v):
    return jax.jvp(jax.grad(objective), (params,), (v,))[1]


def ggn_vp(objective: Objective, params: PyTree, v: PyTree, *, trainable: Trainable = None) -> PyTree:
    r"""The product $G v$ with the generalised Gauss–Newton matrix $\frac1N\sum_i J_i^T (\nabla^2_f \ell_i) J_i$.

    $J_i$ is the derivative of the outputs f of example i, and $\nabla^2_f \ell_i$ the Hessian of its loss in them.
    G is positive semidefinite where the loss is convex in f. It is the Hessian without the curvature of the
    network; for cross-entropy it is the Fisher information.

    **Arguments**

    - `objective`: an `Objective` over `{"x", "y"}` whose `losses` has two parts: `losses.predict(params, x)` and
      `losses.loss(outputs, y) -> (B,)`. `jaxflow.problems.PredictionLosses` has them, and so has every problem made
      by `jaxflow.problems.mlp`. Its `chunk` bounds the memory.
    - `params` θ: a pytree whose real arrays are trained.
    - `v`: a pytree of the structure and shapes of what is trained of `params`.
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** the product, shaped like `params`.

    **Raises** `TypeError` for an objective without these parts, parameters that are not real floats, or `v` of
    another structure; `ValueError` for another shape.

    Source: Schraudolph 2002; Martens 2020, 1412.1193.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> losses = jf.problems.PredictionLosses(lambda w, x: jnp.exp(w * x), lambda f, y: 0.5 * (f - y) ** 2)
    >>> line = jf.Objective(losses, {"x": jnp.ones(1), "y": jnp.zeros(1)})
    >>> print(jf.curvature.ggn_vp(line, jnp.array(0.0), jnp.array(1.0)), jf.curvature.hvp(line, 0.0, 1.0))
    1.0 2.0
    """
    objective, params = open_real(objective, params, trainable)
    check_parts(objective)
    return _ggn_vp(objective, params, match_parameters("v", v, params))


@compiled
def _ggn_vp(objective, params, v):
    return gauss_newton(objective, params, v)


def gauss_newton(objective: Objective, params: PyTree, v: PyTree) -> PyTree:
    """The product with the Gauss–Newton matrix, in an objective's chunks."""

    def batch_product(batch):
        outputs, push = jax.linearize(lambda p: objective.losses.predict(p, batch["x"]), params)  # type: ignore
        total = lambda f: objective.losses.loss(f, batch["y"]).sum()  # type: ignore
        along = jax.jvp(jax.grad(total), (outputs,), (push(v),))[1]
        return jax.linear_transpose(push, params)(along)[0]

    size, chunk = objective.size, objective.chunk or objective.size
    if has_half(jax.eval_shape(objective.losses.predict, params, objective.data["x"])):  # type: ignore
        one = lambda example: batch_product(jax.tree.map(lambda x: x[None], example))
        weights = jnp.full(size, 1 / size, jnp.float32)
        return sum_examples(one, objective.data, weights, block_of(params, chunk))
    whole = size - size % chunk
    rest = jax.tree.map(lambda x: x[whole:], objective.data)
    total = batch_product(rest) if size % chunk else jax.tree.map(jnp.zeros_like, params)
    pages = jax.tree.map(lambda x: x[:whole].reshape(-1, chunk, *x.shape[1:]), objective.data)
    add = lambda total, page: (jax.tree.map(jnp.add, total, batch_product(page)), None)
    total, _ = jax.lax.scan(add, total, pages)
    return jax.tree.map(lambda x: x / size, total)


def third_derivative(
    objective: Loss, params: PyTree, u: PyTree, v: PyTree, *, trainable: Trainable = None
) -> PyTree:
    r"""$\nabla^3 L(\theta)[u, v]$: the gradient of $u^T \nabla^2 L\, v$ in θ.

    It tells how curvature changes: with a normalised eigenvector u of eigenvalue λ, $\nabla\lambda = \nabla^3 L[u,
    u]$. It costs about four gradients. It is compiled when called plainly, and works under `jit` and `vmap`.

    **Arguments**

    - `objective`: an `Objective` or any three times differentiable function `loss(params) -> scalar`.
    - `params` θ: a pytree whose real arrays are trained.
    - `u`, `v`: pytrees of the structure and shapes of what is trained of `params`.
    - `trainable`: what of `params` is trained, as in `iterate`: the derivatives are those in this part.

    **Returns** the gradient, shaped like `params`.

    **Raises** `TypeError` for an objective that is not a function, parameters that are not real floats, or `u` or
    `v` of another structure; `ValueError` for another shape.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> e = jnp.eye(2)
    >>> print(jf.curvature.third_derivative(lambda x: x[0] ** 2 * x[1], jnp.array([1.0, 3.0]), e[0], e[1]))
    [2. 0.]
    """
    objective, params = open_real(objective, params, trainable)
    u, v = match_parameters("u", u, params), match_parameters("v", v, params)
    return _third(objective, params, u=u, v=v)


@compiled
def _third(objective, params, u, v):
    along = lambda p: jax.jvp(jax.grad(objective), (p,), (u,))[1]
    return jax.jvp(along, (params,), (v,))[1]


def operator(objective: Loss, params: PyTree, preconditioner: PyTree = None, gn: bool = False) -> Operator:
    """The (preconditioned) Hessian at fixed parameters, or with `gn` the Gauss–Newton matrix, as an operator."""
    flat, unravel = ravel_pytree(params)
    loss = lambda x: objective(unravel(x))
    if gn:
        product = lambda x: ravel_pytree(gauss_newton(objective, params, unravel(x)))[0]  # type: ignore
    elif getattr(objective, "chunk", None) is None:
        _, product = jax.linearize(jax.grad(loss), flat)  # what is the same for all vectors is computed once
    else:
        product = lambda x: jax.jvp(jax.grad(loss), (flat,), (x,))[1]
    root = inverse_root(preconditioner, flat.dtype)
    return Operator(lambda x: root * product(root * x), flat, root, unravel)


def inverse_root(preconditioner: PyTree, dtype: Any) -> jax.Array:
    """$P^{-1/2}$: flat, or one number where P is a number or `None`."""
    if preconditioner is None:
        return jnp.ones((), dtype)
    leaves = jax.tree.leaves(preconditioner)
    flat = leaves[0] if len(leaves) == 1 and not jnp.ndim(leaves[0]) else ravel_pytree(preconditioner)[0]
    return jax.lax.rsqrt(jnp.asarray(flat).astype(dtype))


def check_objective(objective: Any) -> None:
    """Refuse an objective that is not a loss and therefore has no Hessian."""
    if isinstance(objective, VectorField) or not callable(objective):
        raise TypeError(f"objective must be an Objective or a loss of the parameters, got {objective!r}.")


def check_parts(objective: Any) -> None:
    """Refuse an objective that does not separate outputs from their loss."""
    losses = getattr(objective, "losses", None)
    if not (hasattr(losses, "predict") and hasattr(losses, "loss")):
        raise TypeError(
            "objective must be an Objective whose losses have the parts predict and loss, such as "
            f"problems.PredictionLosses, for a Gauss–Newton matrix; got losses {losses!r}."
        )


def open_real(objective: Any, params: PyTree, trainable: Trainable = None) -> tuple[Any, PyTree]:
    """A loss, and the trained part of a model, of which it is a function, as real arrays."""
    check_objective(objective)
    objective, params = open_model(objective, params, trainable)
    return objective, real_parameters(params)


def real_parameters(params: PyTree, name: str = "params") -> PyTree:
    """Parameters as real arrays, half precision as single."""

    def convert(path, leaf):
        try:
            array = jnp.asarray(leaf)
        except TypeError:
            raise TypeError(f"{name} must be a pytree of real arrays, got {leaf!r}.") from None
        array = array.astype(float) if isinstance(leaf, int) else array
        if not jnp.issubdtype(array.dtype, jnp.floating):
            where = jax.tree_util.keystr(path) or "it"
            raise TypeError(f"{name} must be a pytree of real arrays; {where} has dtype {array.dtype}.")
        # Never weakly typed: a state made of it would be, once, and compile its program once more.
        return array.astype(jnp.float32 if jnp.finfo(array.dtype).bits < 32 else array.dtype)

    params = jax.tree_util.tree_map_with_path(convert, params)
    if not jax.tree.leaves(params):
        raise ValueError(f"{name} must hold at least one number, got none.")
    return params


def match_parameters(name: str, tree: PyTree, params: PyTree) -> PyTree:
    """A pytree of the structure, shapes and dtypes of the parameters."""
    _check.require_like(
        name, tree, params, "be a pytree like params", "have the shapes of params", structures=TypeError
    )
    check_real(name, tree)
    return jax.tree.map(lambda x, p: jnp.asarray(x).astype(p.dtype), tree, params)


def check_real(name: str, tree: PyTree) -> None:
    """Refuse a pytree that holds complex numbers."""
    for leaf in jax.tree.leaves(tree):
        if jnp.iscomplexobj(leaf):
            raise TypeError(f"{name} must be real, got dtype {jnp.result_type(leaf)}.")


def _is_positive(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return np.isfinite(array) & (array > 0)


def check_preconditioner(preconditioner: PyTree, params: PyTree) -> PyTree:
    """A positive number, or positive numbers like the parameters; `None` passes."""
    leaves = jax.tree.leaves(preconditioner)
    for leaf in leaves:
        number = isinstance(leaf, (int, float, jax.Array, np.ndarray, np.generic)) and not isinstance(
            leaf, bool
        )
        if not number or jnp.iscomplexobj(leaf):
            raise TypeError(f"preconditioner must be real numbers, got {leaf!r}.")
        wrong = np.zeros(1) if isinstance(leaf, Tracer) else np.asarray(leaf)[~_is_positive(leaf)]
        if not isinstance(leaf, Tracer) and wrong.size:
            raise ValueError(
                f"preconditioner must be positive everywhere, got {wrong[0]:.6g} among its numbers."
            )
    if not leaves or (len(leaves) == 1 and not jnp.ndim(leaves[0])):
        return preconditioner
    return match_parameters("preconditioner", preconditioner, params)
