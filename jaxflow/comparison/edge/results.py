"""The result of a study past the edge of stability: iterates, central flow and stable flow on one clock."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow._compiled import compiled

PyTree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EdgePath:
    """One of the three paths, at the T times of a study: those of the iterates without the first and the last.

    - `loss`, `squared_gradient` (T,): for the iterates and the stable flow those at their parameters; for the
      central flow the time averages that it predicts of the iterates.
    - `eigenvalues` (T, modes): the effective ones, of $P^{-1/2}HP^{-1/2}$ with P the preconditioner over the
      learning rate, largest first, so that the edge of stability is at 2. For the iterates they are those at the
      midpoints, for the central flow those where its last substep began.
    - `distance` (T,): the distance of its parameters from the midpoints of the iterates; for the iterates
      themselves the size of their oscillation.
    - `params`: the parameters at the last time.
    """

    loss: jax.Array
    squared_gradient: jax.Array
    eigenvalues: jax.Array
    distance: jax.Array
    params: PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EdgeStudy:
    """Iterates near the edge of stability, their central flow and their stable flow; a pytree of arrays.

    - `times` (T,): on the clock t = kη, from step 1 to the last but one, where the iterates have midpoints.
    - `iterates`, `central`, `stable`: an `EdgePath` each.
    - `averaged_loss`, `averaged_squared_gradient` (T,): those of the iterates, with their oscillation averaged over
      time. They are the values at the midpoints, plus what the iterates have above that, averaged by a Gaussian
      whose standard deviation is `window` steps (near the ends over what there is). An average of the falling loss
      itself would be too high.
    - `covariance` (T, modes, modes): X, the central flow's oscillation in its eigenvectors.
    - `eigenvector_residual`, `complementarity_residual`: the central flow's largest relative residuals.
    - `substeps`, `products`, `third_derivatives`: the numbers of substeps, Hessian products and third derivatives
      that the central flow took.
    - `start`: the parameters where all three begin.
    - `approach_times`, `approach_sharpness` (n,): the way there, from t = 0 of its own; n = 0 without an approach.

    Its numbers over the last half of the time are `loss_ratio`, `stable_loss_ratio`, `squared_gradient_ratio` and
    `sharpness`; at the end `distance_ratio`; and the times at which the edge is `reached` and the flows part, `left`.
    Where a path stops being finite, it and these numbers are NaN from then on.
    """

    times: jax.Array
    iterates: EdgePath
    central: EdgePath
    stable: EdgePath
    averaged_loss: jax.Array
    averaged_squared_gradient: jax.Array
    window: jax.Array
    covariance: jax.Array
    eigenvector_residual: jax.Array
    complementarity_residual: jax.Array
    substeps: jax.Array
    products: jax.Array
    third_derivatives: jax.Array
    start: PyTree
    approach_times: jax.Array
    approach_sharpness: jax.Array

    @property
    def loss_ratio(self) -> jax.Array:
        """The mean loss that the central flow predicts for the last half, over that of the iterates."""
        return self._numbers.loss_ratio

    @property
    def stable_loss_ratio(self) -> jax.Array:
        """The stable flow's mean loss in the last half, over that of the iterates."""
        return self._numbers.stable_loss_ratio

    @property
    def squared_gradient_ratio(self) -> jax.Array:
        """The mean |∇L|² that the central flow predicts for the last half, over that of the iterates."""
        return self._numbers.squared_gradient_ratio

    @property
    def distance_ratio(self) -> jax.Array:
        """The central flow's last distance from the midpoints of the iterates, over the stable flow's."""
        return self._numbers.distance_ratio

    @property
    def sharpness(self) -> jax.Array:
        """The mean effective sharpness of the iterates at their midpoints in the last half; the edge is at 2."""
        return self._numbers.sharpness

    @property
    def reached(self) -> jax.Array:
        """The time at which the iterates' effective sharpness is 2, or the central flow oscillates; NaN if that is
        never.

        Below the edge of stability a central flow is the stable flow, and nothing tells them apart.
        """
        return self._numbers.reached

    @property
    def left(self) -> jax.Array:
        """The time from `reached` on at which the stable flow begins to stay farther from the iterates than the
        central flow; NaN where there is no such time."""
        return self._numbers.left

    @functools.cached_property
    def _numbers(self) -> "_Numbers":
        return _summarise(self)

    def __repr__(self):
        if isinstance(self.times, Tracer) or np.ndim(self.times) != 1:
            return f"EdgeStudy(times of shape {np.shape(self.times)})"
        ratios = self.loss_ratio, self.stable_loss_ratio, self.distance_ratio
        predicted, stable, distance = map(float, ratios)
        edge = "" if np.isfinite(float(self.reached)) else "; the edge was not reached"
        return (
            f"EdgeStudy({self.times.size + 1} steps to t = {float(np.asarray(self.times)[-1]):.6g}: predicted loss "
            f"{predicted:.4f} of the iterates', stable flow's {stable:.4f}; distance {distance:.3g} of the stable "
            f"flow's; sharpness {float(self.sharpness):.4g}{edge})"
        )


class _Numbers(NamedTuple):
    """What an `EdgeStudy` says in numbers, which are computed together."""

    loss_ratio: jax.Array
    stable_loss_ratio: jax.Array
    squared_gradient_ratio: jax.Array
    distance_ratio: jax.Array
    sharpness: jax.Array
    reached: jax.Array
    left: jax.Array


@compiled
def _summarise(study: EdgeStudy) -> _Numbers:
    late = lambda values: values[values.shape[0] // 2 :].mean()
    iterates, central, stable = study.iterates, study.central, study.stable
    oscillates = jnp.any(study.covariance != 0, axis=(1, 2))
    at_edge = oscillates | (iterates.eigenvalues[:, 0] >= 2)
    reached = jnp.where(at_edge.any(), study.times[jnp.argmax(at_edge)], jnp.nan)
    farther = (stable.distance > central.distance) & (study.times >= reached)
    onwards = jnp.flip(jnp.cumprod(jnp.flip(farther)))
    return _Numbers(
        loss_ratio=late(central.loss) / late(iterates.loss),
        stable_loss_ratio=late(stable.loss) / late(iterates.loss),
        squared_gradient_ratio=late(central.squared_gradient) / late(iterates.squared_gradient),
        distance_ratio=central.distance[-1] / stable.distance[-1],
        sharpness=late(iterates.eigenvalues[:, 0]),
        reached=reached,
        left=jnp.where(onwards[-1] == 1, study.times[jnp.argmax(onwards)], jnp.nan),
    )
