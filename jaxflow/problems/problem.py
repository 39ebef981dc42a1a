"""The type of every problem: what is minimised, where it starts, and what is known about the answer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial

from jaxflow import _check
from jaxflow._programs.half import widen
from jaxflow.objective import Objective

PyTree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    r"""An objective, a starting point, and what is known about the answer; `None` where nothing is known.

    A problem is a pytree: everything except `predict`, `name` and `classes` is a leaf or a pytree of leaves, so
    that it goes through `jit` and `vmap` as an argument, and two problems of one shape share one compilation.

    - `objective`: an `Objective` over the training examples, or a callable pytree `loss(params) -> scalar`
      whose leaves are its numbers. A plain function is made into one (with no leaves).
    - `params`: the starting point.
    - `test`: a held-out batch `{"x": (M, ...), "y": (M, ...)}`, never part of the objective.
    - `predict`: a function `predict(params, x (B, ...)) -> (B, ...)` of logits or outputs; static.
    - `minimum`: the least value of the objective, a scalar. `None` where it is not known or there is none.
    - `minima`: known local minima stacked on a leading axis, deepest first (equal ones in no order): where
      `minimum` is known and `minima` is given, `minima[0]` attains it.
    - `saddles`: known stationary points of index one (in one dimension the maxima), stacked, lowest first.
    - `curvature`: the eigenvalues of the Hessian at `minima[0]`, ascending, shape (P,).
    - `flow`: a function `flow(t, x0) -> x(t)`, the closed form of gradient flow $\dot x = -\nabla L(x)$ for a scalar
      time t ≥ 0 on the clock t = k·learning_rate; a callable pytree.
    - `name`: the name of the problem; static.
    - `classes`: the names, words or integers, of the labels 0, …, C−1; static.

    **Raises** `TypeError` when `objective` is not callable.

    >>> import jax.numpy as jnp
    >>> from jaxflow.problems import Problem, quadratic
    >>> problem = quadratic([1.0, 4.0])
    >>> print(problem.objective(problem.params), problem.minimum, problem.curvature)
    2.5 0.0 [1. 4.]
    >>> problem.flow(0.5, problem.params).tolist()
    [0.6065, 0.1353]
    >>> mine = Problem(lambda x: jnp.sum(x**4), jnp.ones(3), minimum=0.0, name="quartic")
    >>> print(mine.objective(mine.params))
    3.0
    """

    objective: Objective | Callable[[PyTree], jax.Array]
    params: PyTree
    test: PyTree = None
    predict: Callable[[PyTree, Any], jax.Array] | None = field(default=None, metadata={"static": True})
    minimum: Any = None
    minima: PyTree = None
    saddles: PyTree = None
    curvature: Any = None
    flow: Callable[[Any, PyTree], PyTree] | None = None
    name: str = field(default="problem", metadata={"static": True})
    classes: tuple | None = field(default=None, metadata={"static": True})

    def __post_init__(self):
        if not callable(self.objective):
            raise TypeError(
                f"objective must be an Objective or a function of the parameters, got {self.objective!r}."
            )
        # A plain function would be a leaf of the pytree, which jit refuses.
        for name in ("objective", "flow"):
            function = getattr(self, name)
            if callable(function) and jax.tree_util.all_leaves([function]):
                object.__setattr__(self, name, Partial(function))

    def score(self, params: PyTree, batch: PyTree = None) -> jax.Array:
        r"""How well `params` predict `batch`, by default the held-out examples; a scalar, 1 is perfect.

        For integer labels `y` (B,) it is the accuracy, in [0, 1]; the predicted class is the largest of the logits
        (B, C), or 1 where the single logit (B,) is positive. For real targets it is the coefficient of determination
        $R^2 = 1 - \sum (y - f)^2 / \sum (y - \bar y)^2$, summed over examples and outputs; at most 1, and 0
        for the constant prediction $\bar y$. It may be traced.

        Raises `ValueError` for a problem that predicts nothing or, without `batch`, has no held-out examples.

        >>> from jaxflow.problems import linear_regression
        >>> problem = linear_regression(noise=0.0)
        >>> print(problem.score(problem.minima[0]).round(6))
        1.0
        """
        if self.predict is None:
            raise ValueError(f"{self.name} predicts nothing, so it has no score.")
        batch = self.test if batch is None else batch
        if batch is None:
            raise ValueError(f"{self.name} has no held-out examples: give score a batch.")
        outputs, y = widen(self.predict(params, batch["x"])), widen(batch["y"])
        if jnp.issubdtype(y.dtype, jnp.integer):
            guess = outputs > 0 if outputs.ndim == 1 else outputs.argmax(-1)
            return (guess.astype(y.dtype) == y).mean(dtype=outputs.dtype)
        spread = y - y.mean(0, keepdims=True)
        return 1.0 - jnp.sum((y - outputs) ** 2) / jnp.sum(spread**2)


def as_floats(name: str, value: Any) -> jax.Array:
    """An array in its own floating dtype, or the default one where it holds integers.

    Raises `ValueError` when it holds a NaN or an infinity; a tracer passes.
    """
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(float)
    if not isinstance(array, Tracer) and not np.isfinite(array).all():
        raise ValueError(f"{name} must hold finite numbers only, got {array}.")
    return array


def as_key(key: jax.Array | None) -> jax.Array:
    """The key given, or `jax.random.key(0)`. Raises `TypeError` for anything but one key, such as a bare seed."""
    return jax.random.key(0) if key is None else jnp.asarray(_check.random_key(key))
