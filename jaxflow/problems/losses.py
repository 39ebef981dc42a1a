"""Per-example losses of predictions, as values that compare equal when they do the same.

The function in an `Objective` is static. If it were made anew for every problem, every problem would compile
anew, and could not be pickled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


def cross_entropy(outputs: jax.Array, y: jax.Array) -> jax.Array:
    r"""$-\log p(y)$ for integer labels y (B,): shape (B,), in nats.

    p is the softmax of logits (B, C), or, of one logit z (B,), the logistic function $p(1) = 1/(1 + e^{-z})$.

    **Arguments**

    - `outputs`: the logits, (B, C), or (B,) for two classes.
    - `y` (B,): the labels, integers from 0 to C − 1.

    **Returns** the loss of each example, (B,), in the dtype of the logits.

    >>> print(cross_entropy(jnp.array([[0.0, 0.0]]), jnp.array([1])).round(4))
    [0.6931]
    """
    if outputs.ndim == 1:
        return jax.nn.softplus(outputs) - y.astype(outputs.dtype) * outputs
    chosen = jnp.take_along_axis(outputs, y[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(outputs, axis=1) - chosen


def cross_entropy_of_columns(outputs: jax.Array, y: jax.Array) -> jax.Array:
    r"""`cross_entropy` of logits (B, C), C ≥ 2, that lie in memory as (C, B), for labels y in 0, …, C−1.

    Sums over classes are then sums of rows, and there is no gather, whose derivative is a slow scatter on a CPU.

    >>> print(cross_entropy_of_columns(jnp.array([[0.0, 0.0]]), jnp.array([1])).round(4))
    [0.6931]
    """
    columns = outputs.T
    is_label = jnp.arange(columns.shape[0], dtype=y.dtype)[:, None] == y[None]
    return jax.nn.logsumexp(columns, axis=0) - jnp.where(is_label, columns, 0).sum(0)


def squared_error(outputs: jax.Array, y: jax.Array) -> jax.Array:
    r"""$\frac12 |f - y|^2$ summed over outputs: shape (B,). Integer labels y (B,) stand for one-hot targets.

    **Arguments**

    - `outputs` f (B, …): the predictions.
    - `y`: the targets (B, …), or integer labels (B,) for predictions (B, C).

    **Returns** the loss of each example, (B,), in the dtype of the predictions.

    >>> print(squared_error(jnp.array([[1.0, 1.0]]), jnp.array([0])))
    [0.5]
    """
    if jnp.issubdtype(y.dtype, jnp.integer):
        y = jax.nn.one_hot(y, outputs.shape[1], dtype=outputs.dtype)
    return 0.5 * jnp.sum((outputs - y).reshape(y.shape[0], -1) ** 2, axis=1)


LOSSES = {"cross_entropy": cross_entropy, "mse": squared_error}


@dataclass(frozen=True)
class PredictionLosses:
    r"""The loss of a prediction, $\ell_i(\theta) = \ell(f(\theta, x_i), y_i)$, as the `losses` of an `Objective`.

    Called with `(params, batch)`, where a batch is a dict of `x` (B, …) and `y` (B, …), it gives (B,). It keeps its
    two parts apart, which a Gauss–Newton matrix needs. It is hashable, and equal to another one with the same
    parts, so that a problem made again compiles nothing again: give it functions that are defined once, not a
    `lambda` for every problem.

    - `predict`: a function `predict(params, x) -> (B, …)` of the outputs f.
    - `loss`: a function `loss(outputs, y) -> (B,)` of the loss of each example, such as `losses.cross_entropy` and
      `losses.squared_error`.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> losses = jf.problems.PredictionLosses(lambda w, x: x @ w, lambda f, y: 0.5 * (f - y) ** 2)
    >>> print(losses(jnp.ones(2), {"x": jnp.array([[1.0, 2.0], [0.0, 1.0]]), "y": jnp.zeros(2)}))
    [4.5 0.5]
    """

    predict: Callable[[Any, jax.Array], jax.Array]
    loss: Callable[[jax.Array, jax.Array], jax.Array]

    def __call__(self, params: Any, batch: Any) -> jax.Array:
        return self.loss(self.predict(params, batch["x"]), batch["y"])
