"""Every verb under JAX's own switches: strict promotion, no implicit transfers, leaked tracers or NaNs."""

from contextlib import nullcontext
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf

DEBIASED = jf.optim.momentum(0.1, 0.5, ema=True, debias=True)
LOSSES = lambda w, c: 0.5 * (w - c) ** 2


def world(verb):
    """What a user's script holds when it calls a verb; functions are new, so that verbs are traced anew."""
    loss = lambda x: 0.5 * jnp.sum(x * x)
    noisy, w = jf.Objective(LOSSES, jnp.array([-1.0, 1.0, 2.0])), jnp.ones(())
    step = jf.optim.momentum(0.1, 0.5)
    run = lambda key: jf.iterate(step, noisy, w, steps=4, batch_size=2, key=key)
    keys = jax.random.split(jax.random.key(0), 40)
    full, members = None, None
    if verb in ("compare", "midpoints"):
        full = jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(2), steps=4)
    if verb == "compare_ensembles":
        members = SimpleNamespace(a=jf.ensemble(run, keys[:20]), b=jf.ensemble(run, keys[20:]))
    return SimpleNamespace(
        loss=loss, noisy=noisy, w=w, run=run, three=keys[:3], key=keys[0], full=full, members=members,
        start=jnp.ones(2), times=[0.0, 0.5, 1.0], flow=jf.dynamics.gradient_flow(loss),
    )  # fmt: skip


VERBS = {
    "iterate": lambda u: jf.iterate(jf.optim.adam(0.1), u.loss, u.start, steps=4),
    "nadam": lambda u: jf.iterate(jf.optim.nadam(0.1), u.loss, u.start, steps=4),
    "debiased": lambda u: jf.iterate(DEBIASED, u.loss, u.start, steps=4),
    "one moment": lambda u: jf.iterate(jf.optim.scalar_rmsprop(0.1), u.loss, u.start, steps=4),
    "schedule": lambda u: jf.iterate(
        jf.optim.gd(jf.optim.one_cycle(0.1, 4)), u.loss, u.start, steps=4, every=2
    ),
    "mini-batches": lambda u: u.run(u.key),
    "chunks": lambda u: jf.iterate(
        jf.optim.gd(0.1), jf.Objective(LOSSES, u.noisy.data, 2), u.w, steps=3
    ),
    "SDE": lambda u: jf.integrate(
        jf.dynamics.sgd(u.noisy, 0.1, 1), u.w, u.times, key=u.key, substeps=32
    ),
    "compare": lambda u: jf.compare(u.full, u.full),
    "midpoints": lambda u: jf.midpoints(u.full),
    "ensemble": lambda u: jf.ensemble(u.run, u.three),
    "groups": lambda u: jf.ensemble(u.run, u.three, at_once=2),
    "compare_ensembles": lambda u: jf.compare_ensembles(u.members.a, u.members.b, key=u.key).p_value,
    "noise_scale": lambda u: jf.noise_scale(u.noisy, u.w),
    "spectral_density": lambda u: jf.curvature.spectral_density(u.loss, u.start, key=u.key),
    "top_eigenpairs": lambda u: jf.curvature.top_eigenpairs(u.loss, u.start, 2),
    "trace": lambda u: jf.curvature.trace(u.loss, u.start, key=u.key),
}  # fmt: skip
# diffrax itself does not run under `jax_check_tracer_leaks`.
OF_DIFFRAX = {
    "flow": lambda u: jf.integrate(u.flow, u.start, u.times),
    "RKC2": lambda u: jf.integrate(u.flow, u.start, u.times, solver=jf.solve.RKC2()),
    "auto": lambda u: jf.integrate(u.flow, u.start, u.times, solver="auto"),
    "adaptive": lambda u: jf.integrate(
        jf.dynamics.stable_flow(jf.optim.rmsprop(0.1), u.loss), u.start, u.times
    ),
    "modified": lambda u: jf.integrate(
        jf.dynamics.modified(jf.optim.gd(0.1), u.loss, order=2), u.start, u.times
    ),
}


@pytest.mark.parametrize("wide", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize("verb", [*VERBS, *OF_DIFFRAX])
def test_verbs_run_under_every_switch(verb, wide):
    with jax.enable_x64(wide):
        user = world(verb)
        with (
            jax.numpy_dtype_promotion("strict"),
            jax.transfer_guard("disallow"),
            jax.checking_leaks() if verb in VERBS else nullcontext(),
            jax.debug_nans(True),
            jax.debug_infs(True),
        ):
            results = jax.tree.leaves((VERBS | OF_DIFFRAX)[verb](user))
        inexact = [x for x in results if jnp.issubdtype(x.dtype, jnp.inexact)]
        assert {x.dtype for x in inexact} == {jnp.dtype(float if wide else jnp.float32)}
        assert all(np.isfinite(x).all() for x in inexact)
