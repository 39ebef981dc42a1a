"""A number and how far off it may be."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow._norms import root


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Estimate:
    r"""A computed number, or an array of them, and its error: a pytree of two arrays of one shape.

    - `value`: the estimate; `float(estimate)` gives it too.
    - `error`: for a mean over random probes (`trace`, a moment or height of a `SpectralDensity`) its standard error,
      infinite for a single probe; for a count of eigenvalues (`count_above`, `saddle_index`) the standard error
      plus what the quadrature does not resolve; for an eigenvalue λ found by iteration the norm of the residual $Mv
      - \lambda v$ of its unit vector v, within which M has an eigenvalue; 0 where the number is exact up to
      rounding.

    >>> import jax.numpy as jnp
    >>> Estimate(jnp.array(12.3412), jnp.array(0.0521))
    12.341 ± 0.052
    """

    value: jax.Array
    error: jax.Array

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self):
        if (
            isinstance(self.value, Tracer)
            or isinstance(self.error, Tracer)
            or not hasattr(self.value, "shape")
        ):
            return "Estimate(<traced>)"
        if np.ndim(self.value):
            return f"Estimate(value of shape {list(np.shape(self.value))})"
        value, error = float(self.value), float(self.error)
        if not (math.isfinite(error) and error > 0):
            return f"{value:.6g} ± {error:.2g}"
        places = max(1 - math.floor(math.log10(error)), 0)
        plain = places <= 8 and abs(value) < 1e8
        return f"{value:.{places}f} ± {error:.{places}f}" if plain else f"{value:.6g} ± {error:.2g}"


def mean(samples: Any) -> Estimate:
    """The mean of independent samples (n, …) over their first axis, and its standard error."""
    count = samples.shape[0]
    centre = samples.mean(0)
    spread = jnp.sum((samples - centre[None]) ** 2, axis=0)
    error = root(spread / (count * (count - 1))) if count > 1 else jnp.full_like(centre, jnp.inf)
    return Estimate(centre, error)
