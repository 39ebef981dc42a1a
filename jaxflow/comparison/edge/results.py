"""The result of a study past the edge of stability: iterates and the flows that stand for them, on one clock."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow._compiled import compiled

PyTree = Any
FLOWS = ("stable", "central", "rods", "pairs")
# What is known of a central flow's work.
OF_CENTRAL = ("eigenvector_residual", "complementarity_residual", "substeps", "products", "third_derivatives")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EdgePath:
    """One path of a study, at its T times: those of the iterates without the first and the last.

    - `loss`, `squared_gradient` (T,): for the iterates and the stable flow, the values at their parameters; for the
      central flow, the time averages that it predicts of the iterates; for pairs and rods, the mean of both ends.
    - `eigenvalues` (T, modes): the effective eigenvalues, largest first: those of $P^{-1/2}HP^{-1/2}$, with P the
      preconditioner, times 2 over the optimizer's stability threshold, so that the edge of stability is at 2. For
      iterates, pairs and rods they are measured at the midpoints, and for the central flow where its last substep
      began. They are NaN where the preconditioner or the threshold is not known.
    - `distance` (T,): the distance of its parameters from the midpoints of the iterates; for the iterates
      themselves, the size of their oscillation.
    - `params`: the parameters at the last time; for pairs and rods, their midpoint.
    """

    loss: jax.Array
    squared_gradient: jax.Array
    eigenvalues: jax.Array
    distance: jax.Array
    params: PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class EdgeStudy:
    """Iterates near the edge of stability and the flows that stand for them; a pytree of arrays.

    - `times` (T,): on the clock t = kη, from step 1 to the last but one, where the iterates have midpoints.
    - `iterates`, `stable`, `rods`, `pairs`: an `EdgePath` each; `central`: another, or `None` for an optimizer
      without a central flow.
    - `averaged_loss`, `averaged_squared_gradient` (T,): those of the iterates, with their oscillation averaged over
      time. They are the values at the midpoints, plus what the iterates have above that, averaged by a Gaussian
      whose standard deviation is `window` steps (near the ends it covers fewer steps). An average of the falling
      loss itself would be too high.
    - `start`: the parameters at which all paths begin.
    - `approach_times`, `approach_sharpness` (n,): the times and the effective sharpness of the approach to `start`,
      on a clock that begins at 0; n = 0 without an approach.
    - `covariance` (T, modes, modes): X, the central flow's oscillation in its eigenvectors; X and the following
      fields are `None` without a central flow.
    - `eigenvector_residual`, `complementarity_residual`: the central flow's largest relative residuals.
    - `substeps`, `products`, `third_derivatives`: the numbers of substeps, Hessian products and third derivatives
      that the central flow took.

    Some numbers follow from these. `loss_ratios`, over the last half of the time, and `distance_ratios`, at the
    end, are dicts by the name of the flow. `sharpness` is the mean over the last half. `reached` is the time at
    which the iterates reach the edge, and `left` that at which they leave the stable flow. Where a path stops being
    finite, it and these numbers are NaN from then on.
    """

    times: jax.Array
    iterates: EdgePath
    stable: EdgePath
    rods: EdgePath
    pairs: EdgePath
    central: EdgePath | None = None
    averaged_loss: jax.Array
    averaged_squared_gradient: jax.Array
    window: jax.Array
    start: PyTree
    approach_times: jax.Array
    approach_sharpness: jax.Array
    covariance: jax.Array | None = None
    eigenvector_residual: jax.Array | None = None
    complementarity_residual: jax.Array | None = None
    substeps: jax.Array | None = None
    products: jax.Array | None = None
    third_derivatives: jax.Array | None = None

    @property
    def flows(self) -> dict[str, EdgePath]:
        """The flows by name: `stable`, `central` where there is one, `rods`, `pairs`."""
        found = {name: getattr(self, name) for name in FLOWS}
        return {name: path for name, path in found.items() if path is not None}

    @property
    def loss_ratios(self) -> dict[str, jax.Array]:
        """The mean loss that each flow predicts for the last half, over that of the iterates."""
        return self._numbers.loss_ratios

    @property
    def distance_ratios(self) -> dict[str, jax.Array]:
        """The last distance of each flow from the midpoints of the iterates, over the stable flow's."""
        return self._numbers.distance_ratios

    @property
    def loss_ratio(self) -> jax.Array:
        """The entry of `loss_ratios` for the central flow, or for the pairs where there is no central flow."""
        return self.loss_ratios[self.predicted]

    @property
    def stable_loss_ratio(self) -> jax.Array:
        """The stable flow's mean loss in the last half, over that of the iterates."""
        return self.loss_ratios["stable"]

    @property
    def squared_gradient_ratio(self) -> jax.Array:
        """The mean |∇L|² that the flow named by `predicted` predicts for the last half, over that of the iterates.

        |∇L|² comes in bursts. The half holds a few of them, and its ends may cut one in two; see `burst_ratios`.
        """
        return self._numbers.squared_gradient_ratio

    @property
    def squared_gradient_total_ratio(self) -> jax.Array:
        """The mean |∇L|² that the flow named by `predicted` predicts for all steps, over that of the iterates."""
        return self._numbers.squared_gradient_total_ratio

    @functools.cached_property
    def burst_ratios(self) -> np.ndarray:
        r"""The sums of |∇L|² over each whole burst, the central flow's over those of the iterates; shape (bursts,).

        A burst is from one time at which the iterates' effective sharpness rises through 2 to the next. With X the
        oscillation along its eigenvector, the sharpness S obeys $dS/dk = \alpha - \beta X$, α and β changing slowly,
        whatever X does within the burst. S is the same at both ends, so the sum of X is α/β times the steps, which
        is the central flow's; and |∇L|² is $4X/\eta^2$ and little else. Shorter stretches may be off by any factor.
        Where several modes oscillate, the leading one alone does not tell where a burst ends: compare all steps.
        Without a central flow the sums are those of the pairs, which follow each burst.
        """
        above = np.asarray(self.iterates.eigenvalues)[:, 0] >= 2
        rises = np.flatnonzero(~above[:-1] & above[1:]) + 1
        sums = [
            np.add.reduceat(np.asarray(path.squared_gradient)[: rises[-1]], rises[:-1])
            if len(rises) > 1
            else np.zeros(0)
            for path in (self.flows[self.predicted], self.iterates)
        ]
        return sums[0] / sums[1]

    @property
    def distance_ratio(self) -> jax.Array:
        """The entry of `distance_ratios` for the central flow, or for the pairs where there is no central flow."""
        return self.distance_ratios[self.predicted]

    @property
    def sharpness(self) -> jax.Array:
        """The mean effective sharpness of the iterates at their midpoints in the last half; the edge is at 2."""
        return self._numbers.sharpness

    @property
    def reached(self) -> jax.Array:
        """The time at which the iterates' effective sharpness is 2, or the central flow oscillates; NaN if that
        never happens.

        Below the edge of stability a central flow is the stable flow, and nothing tells them apart.
        """
        return self._numbers.reached

    @property
    def left(self) -> jax.Array:
        """The time from `reached` on at which the stable flow begins to stay farther from the iterates than the
        central flow (or the pairs, where there is no central flow); NaN where there is no such time."""
        return self._numbers.left

    @property
    def predicted(self) -> str:
        """The flow to which single numbers belong: "central", or "pairs" where there is no central flow."""
        return "pairs" if self.central is None else "central"

    @functools.cached_property
    def _numbers(self) -> "_Numbers":
        return _summarise(self)

    def __repr__(self):
        if isinstance(self.times, Tracer) or np.ndim(self.times) != 1:
            return f"EdgeStudy(times of shape {np.shape(self.times)})"
        ratios = self.loss_ratio, self.stable_loss_ratio, self.distance_ratio
        predicted, stable, distance = map(float, ratios)
        edge = "; the edge was not reached" if is_below_edge(self) else ""
        return (
            f"EdgeStudy({self.times.size + 1} steps to t = {float(np.asarray(self.times)[-1]):.6g}: loss predicted "
            f"by the {NAMES[self.predicted]} {predicted:.4f} of the iterates', stable flow's {stable:.4f}; distance "
            f"{distance:.3g} of the stable flow's; sharpness {float(self.sharpness):.4g}{edge})"
        )


NAMES = {
    "iterates": "iterates",
    "stable": "stable flow",
    "central": "central flow",
    "rods": "rod flow",
    "pairs": "flow of pairs",
}


def is_below_edge(study: EdgeStudy) -> bool:
    """Whether the edge was not reached, where that is known."""
    known = not np.isnan(np.asarray(study.iterates.eigenvalues)).all()
    return known and bool(np.isnan(float(study.reached)))


class _Numbers(NamedTuple):
    """What an `EdgeStudy` says in numbers, which are computed together."""

    loss_ratios: dict[str, jax.Array]
    distance_ratios: dict[str, jax.Array]
    squared_gradient_ratio: jax.Array
    squared_gradient_total_ratio: jax.Array
    sharpness: jax.Array
    reached: jax.Array
    left: jax.Array


@compiled
def _summarise(study: EdgeStudy) -> _Numbers:
    late = lambda values: values[values.shape[0] // 2 :].mean()
    iterates, stable, flows = study.iterates, study.stable, study.flows
    predicted = flows[study.predicted]
    at_edge = iterates.eigenvalues[:, 0] >= 2
    if study.covariance is not None:
        at_edge |= jnp.any(study.covariance != 0, axis=(1, 2))
    reached = jnp.where(at_edge.any(), study.times[jnp.argmax(at_edge)], jnp.nan)
    farther = (stable.distance > predicted.distance) & (study.times >= reached)
    onwards = jnp.flip(jnp.cumprod(jnp.flip(farther)))
    return _Numbers(
        loss_ratios={name: late(path.loss) / late(iterates.loss) for name, path in flows.items()},
        distance_ratios={name: path.distance[-1] / stable.distance[-1] for name, path in flows.items()},
        squared_gradient_ratio=late(predicted.squared_gradient) / late(iterates.squared_gradient),
        squared_gradient_total_ratio=predicted.squared_gradient.mean() / iterates.squared_gradient.mean(),
        sharpness=late(iterates.eigenvalues[:, 0]),
        reached=reached,
        left=jnp.where(onwards[-1] == 1, study.times[jnp.argmax(onwards)], jnp.nan),
    )
