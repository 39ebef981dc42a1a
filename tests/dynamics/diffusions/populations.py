"""Ensembles of SDEs in one dimension whose moments are known, and how far off their means are."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow as jf


def two_point(deviation):
    """L = θ²/2 with per-example gradients θ ± deviation."""
    return jf.Objective(lambda w, c: 0.5 * w**2 - c * w, jnp.array([-deviation, deviation]))


def end_of(dynamics, times, count, seed, start=1.0, state=None):
    keys = jax.random.split(jax.random.key(seed), count)
    run = lambda key: (
        jf.integrate(dynamics, start, times, key=key, state=state, record=lambda p: jnp.zeros(())).state
    )
    return jf.ensemble(run, keys)


def z_scores(x, *moments):
    """How many standard errors the mean, and the mean square, of a sample is off."""
    pairs = zip((x, x**2), moments, strict=False)
    return [abs(np.mean(y) - exact) / np.std(y) * len(y) ** 0.5 for y, exact in pairs]
