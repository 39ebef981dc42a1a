"""Every verb under JAX's own switches: dtypes are promoted by us, never by JAX."""

import jax
import jax.numpy as jnp
import pytest

import jaxflow as jf

LOSS = lambda x: 0.5 * jnp.sum(x * x)
LOSSES = lambda w, c: 0.5 * (w - c) ** 2


def _verbs():
    start, times, key = jnp.ones(2), jnp.array([0.0, 0.5, 1.0]), jax.random.key(0)
    noisy, w = jf.Objective(LOSSES, jnp.array([-1.0, 1.0, 2.0])), jnp.ones(())
    flow = jf.dynamics.gradient_flow(LOSS)
    run = lambda key: jf.iterate(jf.optim.momentum(0.1, 0.5), noisy, w, steps=4, batch_size=2, key=key)
    full = lambda: jf.iterate(jf.optim.gd(0.1), LOSS, start, steps=4)
    return {
        "iterate": full,
        "mini-batches": lambda: run(key),
        "flow": lambda: jf.integrate(flow, start, times),
        "RKC2": lambda: jf.integrate(flow, start, times, solver=jf.solve.RKC2()),
        "auto": lambda: jf.integrate(flow, start, times, solver="auto"),
        "SDE": lambda: jf.integrate(jf.dynamics.sgd(noisy, 0.1, 1), w, times, key=key, substeps=32),
        "modified": lambda: jf.integrate(jf.dynamics.modified(jf.optim.gd(0.1), LOSS, order=2), start, times),
        "compare": lambda: jf.compare(full(), full()),
        "ensemble": lambda: jf.ensemble(run, jax.random.split(key, 3)),
        "spectral_density": lambda: jf.curvature.spectral_density(LOSS, start, key=key),
        "top_eigenpairs": lambda: jf.curvature.top_eigenpairs(LOSS, start, 2),
    }


@pytest.mark.parametrize("verb", _verbs())
def test_nothing_relies_on_implicit_promotion(verb):
    with jax.numpy_dtype_promotion("strict"):
        inexact = [x for x in jax.tree.leaves(_verbs()[verb]()) if jnp.issubdtype(x.dtype, jnp.inexact)]
        assert {x.dtype for x in inexact} == {jnp.dtype(jnp.float64)}
