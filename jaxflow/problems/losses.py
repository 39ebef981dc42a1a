"""Per-example losses of predictions, as values that compare equal when they do the same.

The function in an `Objective` is static. If it were made anew for every problem, every problem would compile
anew, and could not be pickled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def cross_entropy(outputs: jax.Array, y: jax.Array) -> jax.Array:
    r"""$-\log p(y)$ for integer labels y (B,): shape (B,), in nats.

    p is the softmax of logits (B, C), or, of one logit z (B,), the logistic function $p(1) = 1/(1 + e^{-z})$. The
    loss of a label outside 0, …, C−1 is NaN.

    **Arguments**

    - `outputs`: the logits, (B, C), or (B,) for two classes.
    - `y` (B,): the labels, integers from 0 to C − 1.

    **Returns** the loss of each example, (B,), in the dtype of the logits.

    >>> print(cross_entropy(jnp.array([[0.0, 0.0]]), jnp.array([1])).round(4))
    [0.6931]
    """
    if outputs.ndim == 1:
        return jax.nn.softplus(outputs) - y.astype(outputs.dtype) * outputs
    return jax.nn.logsumexp(outputs, axis=1) - _outputs_of_labels(outputs, y, axis=1)


def cross_entropy_of_columns(outputs: jax.Array, y: jax.Array) -> jax.Array:
    r"""`cross_entropy` of logits (B, C), C ≥ 2, that lie in memory as (C, B), for labels y in 0, …, C−1.

    Sums over classes are then sums of rows.

    >>> print(cross_entropy_of_columns(jnp.array([[0.0, 0.0]]), jnp.array([1])).round(4))
    [0.6931]
    """
    columns = outputs.T
    return jax.nn.logsumexp(columns, axis=0) - _outputs_of_labels(columns, y, axis=0)


def _outputs_of_labels(outputs: jax.Array, y: jax.Array, axis: int) -> jax.Array:
    """The output for each example's label y (B,), with the classes along `axis`; NaN for a label of no class.

    It compares, as the derivative of a gather is a scatter: slow to compile and, on a CPU, to run.
    """
    number = outputs.shape[axis]
    if y.dtype.itemsize < 4:  # which may not hold the number of classes
        y = y.astype(jnp.int32)
    is_label = lax.broadcasted_iota(y.dtype, outputs.shape, axis) == jnp.expand_dims(y, axis)
    chosen = jnp.where(is_label, outputs, 0).sum(axis)
    return jnp.where((y >= 0) & (y < number), chosen, jnp.nan)


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
