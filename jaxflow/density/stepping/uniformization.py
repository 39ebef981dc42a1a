r"""Exact steps: $e^{tA}p = \sum_k \mathrm{Poisson}(k; \Lambda t)\, P^k p$ with the jumps $P = I + A/\Lambda$.

Every term is a law, so the result is positive and keeps its mass whatever it begins from. It costs about Λt products,
Λ being the largest rate of leaving a cell.

Source: Jensen (1953); van Moorsel & Sanders (1994).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow.density.jumps.rates import Chain


def uniformize(chain: Chain, density: jax.Array, dt: Any) -> jax.Array:
    """The density after a time `dt` at least 0, to rounding."""
    dtype = density.dtype
    most = 400.0 if dtype == jnp.float64 else 50.0  # jumps in a part: e⁻ᵐᵒˢᵗ must not vanish
    fastest = jnp.max(chain.leaving)
    jumps = fastest * jnp.asarray(dt, dtype)
    # Rates that are NaN or infinite make a density of NaN.
    parts = jnp.where(jnp.isfinite(jumps), jnp.ceil(jumps / most), 1)
    each = jumps / jnp.maximum(parts, 1)
    scale = jnp.where(fastest > 0, 1 / jnp.where(fastest > 0, fastest, 1), 0)
    tiny = jnp.finfo(dtype).eps / 8

    def part(_, density):
        def is_unfinished(carry):
            k, weight, *_ = carry
            return (k < each) | (weight > tiny)

        def jump(carry):
            k, weight, total, term, summed = carry
            term = term + scale * chain.apply(term)
            k = k + 1
            weight = weight * each / k
            return k, weight, total + weight * term, term, summed + weight

        weight = jnp.exp(-each)
        begun = jnp.zeros((), dtype), weight, weight * density, density, weight
        _, _, total, _, summed = lax.while_loop(is_unfinished, jump, begun)
        return total / summed

    return lax.fori_loop(0, parts.astype(jnp.int32), part, density)
