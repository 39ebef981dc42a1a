"""What every path is: points from one end to the other, their losses, and how high the loss rises between."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxflow._losses.models import Rest, join_model
from jaxflow._norms import norm, norms

PyTree = Any

# Status codes.
EVALUATED, CONVERGED, MAX_STEPS, LOST, TRAINED = range(5)
MEANING = {
    EVALUATED: "evaluated as given",
    CONVERGED: "converged",
    MAX_STEPS: "ran out of steps (max_steps)",
    LOST: "lost",
    TRAINED: "trained for all steps",
}
TOGETHER = 8  # losses that are evaluated at a time, which bounds the memory of a path with many points


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False, eq=False)
class Path:
    r"""Points $\theta_0, \dots, \theta_{n-1}$ from one end to the other, with the losses at them.

    - `params`: the points, a pytree like the ends with leaves (n, …). Of a model it has `None` in the place of what
      is not trained; `path[i]` is the whole model at point i.
    - `arclength` (n,): the distance from the first end along the straight lines between the points, from 0 on.
    - `losses` (n,): the loss at each point; NaN or infinite at points that are lost.
    - `barrier`: the largest excess over the line between the losses at the ends,
      $\max_t L(\theta(t)) - (1-t) L(a) - t L(b)$, where t is the share of the arclength; at least 0 (Frankle et
      al. 2020).
    - `saddle`: the highest loss at any point. `above_higher` and `above_lower` measure it from the ends (Draxler et
      al. 2018).
    - `gradients` (2,): the norms of the gradient at the two ends. They are 0 at minima.
    - `evaluations`: the number of losses and gradients that were evaluated, a gradient with its loss counted once.
    - `residual`: the largest force on an image of a band, in units of a gradient; NaN for other paths.
    - `status`: a code that says how the path was found; `message` says it in words.
    - `rest`: what of a model is not trained.

    It is a pytree; under `vmap` every leaf has a leading axis.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> from jaxflow.landscape import interpolate
    >>> path = interpolate(lambda x: (x[0] ** 2 - 1) ** 2, -jnp.ones(1), jnp.ones(1), points=3)
    >>> path
    Path(3 points, barrier 1, saddle 1; evaluated as given; gradient norms at the ends 0 and 0)
    >>> print(path.arclength, path[1])
    [0. 1. 2.] [0.]
    """

    params: PyTree
    arclength: jax.Array
    losses: jax.Array
    barrier: jax.Array
    saddle: jax.Array
    gradients: jax.Array
    evaluations: jax.Array
    residual: jax.Array
    status: jax.Array
    rest: Rest | None = None

    @property
    def above_higher(self) -> jax.Array:
        """How far the highest point is above the higher end."""
        return self.saddle - jnp.maximum(self.losses[..., 0], self.losses[..., -1])

    @property
    def above_lower(self) -> jax.Array:
        """How far the highest point is above the lower end."""
        return self.saddle - jnp.minimum(self.losses[..., 0], self.losses[..., -1])

    @property
    def top(self) -> PyTree:
        """The parameters, or the whole model, at the highest point."""
        return self[jnp.argmax(self.losses)]

    def __getitem__(self, i: int | jax.Array) -> PyTree:
        """The parameters, or the whole model, at point i."""
        return join_model(jax.tree.map(lambda x: x[i], self.params), self.rest)

    def __len__(self):
        return self.losses.shape[-1]

    @property
    def message(self) -> str:
        """How the path was found, which of its images are lost, and how steep the loss is at its ends."""
        status = np.asarray(self.status)
        if status.ndim:
            counts = {code: int((status == code).sum()) for code in MEANING}
            return ", ".join(f"{n} of {status.size} paths {MEANING[code]}" for code, n in counts.items() if n)
        ended = MEANING[int(status)]
        bad = np.flatnonzero(~np.isfinite(self.losses))
        if bad.size:
            named = ", ".join(map(str, bad[:8])) + (", …" if bad.size > 8 else "")
            ended = (
                f"lost: {'points' if bad.size > 1 else 'point'} {named} of 0 … {len(self) - 1} "
                f"{'are' if bad.size > 1 else 'is'} not finite"
            )
        elif np.isfinite(self.residual):
            ended += f" with the largest force {float(self.residual):.3g}"
        first, last = np.asarray(self.gradients, float)
        return f"{ended}; gradient norms at the ends {first:.3g} and {last:.3g}"

    def __repr__(self):
        if any(not isinstance(x, (np.ndarray, jax.Array)) or is_traced(x) for x in jax.tree.leaves(self)):
            return "Path(<traced>)"
        if np.ndim(self.status):
            return f"Path({np.size(self.status)} paths of {len(self)} points; {self.message})"
        return (
            f"Path({len(self)} points, barrier {float(self.barrier):.6g}, saddle {float(self.saddle):.6g}; "
            f"{self.message})"
        )


def is_traced(leaf: Any) -> bool:
    """Whether a leaf has no numbers to be read."""
    return isinstance(leaf, Tracer)


def losses_at(objective: Any, points: PyTree) -> jax.Array:
    """The losses at stacked points, a few at a time."""
    value = lambda point: jnp.asarray(objective(point)).astype(dtype_of(points))
    return lax.map(value, points, batch_size=TOGETHER)


def dtype_of(params: PyTree) -> Any:
    """The one type for losses and lengths."""
    return jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(params)))


def slopes_at_ends(objective: Any, first: PyTree, last: PyTree) -> jax.Array:
    """The norms of the gradient at both ends, (2,)."""
    slope = lambda params: norm(jax.grad(lambda p: objective(p))(params))
    return jnp.stack([slope(first), slope(last)]).astype(dtype_of(first))


def make_path(
    points: PyTree,
    losses: jax.Array,
    slopes: jax.Array,
    *,
    evaluations: Any,
    status: Any = EVALUATED,
    residual: Any = jnp.nan,
) -> Path:
    """A path from its points, the losses at them and the norms of the gradient at its ends; without its `rest`."""
    steps = norms(jax.tree.map(lambda x: x[1:] - x[:-1], points)).astype(losses.dtype)
    arclength = jnp.concatenate([jnp.zeros(1, losses.dtype), jnp.cumsum(steps)])
    total = arclength[-1]
    share = jnp.where(total > 0, arclength / jnp.where(total > 0, total, 1), 0)
    barrier = jnp.max(losses - (1 - share) * losses[0] - share * losses[-1])
    status = jnp.where(jnp.isfinite(losses).all(), status, LOST)
    return Path(
        params=points,
        arclength=arclength,
        losses=losses,
        barrier=jnp.maximum(barrier, 0),  # at the ends it is 0 but for rounding
        saddle=jnp.max(losses),
        gradients=slopes,
        evaluations=jnp.asarray(evaluations, jnp.int32),
        residual=jnp.asarray(residual, losses.dtype),
        status=jnp.asarray(status, jnp.int32),
    )
