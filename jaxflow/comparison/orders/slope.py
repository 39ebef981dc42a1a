"""The order at which a gap closes: the slope of its logarithm against that of the step size."""

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import indent
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow._compiled import compiled
from jaxflow._norms import root
from jaxflow._text.text_table import text_table


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Order:
    """A fitted order of accuracy: the slope of log error against log step size.

    - `step_sizes` (n,): the ladder of step sizes. `errors` (n,): the error at each of them.
    - `slope`, `intercept`: the fitted line.
    - `uncertainty`: the standard error of the slope.
    """

    step_sizes: jax.Array
    errors: jax.Array
    slope: jax.Array
    intercept: jax.Array
    uncertainty: jax.Array

    def __repr__(self):
        if isinstance(self.slope, Tracer) or np.ndim(self.slope):
            return f"Order(slope of shape {np.shape(self.slope)})"
        rows = [(f"{h:.6g}", f"{e:.6g}") for h, e in zip(self.step_sizes, self.errors, strict=True)]
        table = indent(text_table([("step size", "error"), *rows], head=0, left=(), least=12), "  ")
        return f"Order(slope {self.slope:.3f} ± {self.uncertainty:.3f}\n{table})"


def order_of_accuracy(run: Callable[[jax.Array], Any], step_sizes: Any) -> Order:
    r"""Fit $\log e(h) = p \log h + c$ by least squares over a ladder of step sizes.

    **Arguments**

    - `run`: a function `run(step_size) -> error`, a positive scalar. It is vmapped over the ladder, so that all
      step sizes are one compiled program. So let it take a traced number of steps, `jnp.round(T / h).astype(int)`,
      and `every=None`.
    - `step_sizes` (n,), n ≥ 3: positive, distinct numbers, in time.

    **Returns** an `Order`: the slope p and its standard error from the residuals of the fit (n − 2 degrees of
    freedom). It is large where the errors leave the power law, by higher orders at large h or by rounding at small
    h.

    **Raises** `ValueError` for fewer than three step sizes, non-positive or repeated ones, or errors that are not
    one number each; and, when concrete, for errors that are not positive and finite; `TypeError` for a `run` that
    is not a function.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> jf.order_of_accuracy(lambda h: 3 * h**2, [0.1, 0.05, 0.025])
    Order(slope 2.000 ± 0.000
         step size         error
               0.1          0.03
              0.05        0.0075
             0.025      0.001875)
    """
    h = jnp.asarray(step_sizes, float)
    check_ladder("step_sizes", h)
    errors = jax.vmap(run)(h)
    if not hasattr(errors, "shape") or errors.shape != h.shape:
        raise ValueError(
            f"run must return one number for each step size, got {jax.tree.map(jnp.shape, errors)}."
        )
    if not isinstance(errors, Tracer):
        e = np.asarray(errors)
        bad = ~(np.isfinite(e) & (e > 0))
        if bad.any():
            i = int(np.argmax(bad))
            raise ValueError(
                f"run must return positive finite errors, got {e[i]!r} at step size {float(h[i]):g}."
            )
    return fit(h, errors)


def check_ladder(name: str, sizes: Any) -> None:
    """Refuse anything but a vector of at least three positive, distinct numbers; those of a tracer are not known."""
    if sizes.ndim != 1 or sizes.size < 3:
        raise ValueError(f"{name} must be a vector of at least three numbers, got shape {sizes.shape}.")
    if isinstance(sizes, Tracer):
        return
    sizes = np.asarray(sizes)
    if not (np.isfinite(sizes).all() and (sizes > 0).all() and np.unique(sizes).size == sizes.size):
        raise ValueError(f"{name} must be positive and distinct, got {sizes.tolist()}.")


@compiled
def fit(step_sizes: jax.Array, errors: jax.Array, used: Any = None) -> Order:
    """The line of least squares through log–log points (n,), or through those of the mask `used` (n,).

    Slope and uncertainty are NaN where fewer than three points are used.
    """
    used = jnp.ones_like(step_sizes, bool) if used is None else jnp.asarray(used)
    weights = used.astype(step_sizes.dtype)
    count = weights.sum()
    mean = lambda values: jnp.sum(weights * values) / count
    x, y = jnp.log(step_sizes), jnp.log(jnp.where(used, errors, 1.0))
    centred = x - mean(x)
    spread = jnp.sum(weights * centred**2)
    slope = jnp.where(count < 3, jnp.nan, jnp.sum(weights * centred * y) / spread)
    intercept = mean(y) - slope * mean(x)
    residual = y - intercept - slope * x
    uncertainty = root(jnp.sum(weights * residual**2) / (count - 2) / spread)
    return Order(step_sizes, errors, slope, intercept, uncertainty)
