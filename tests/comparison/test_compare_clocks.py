"""Distances between trajectories: on whose clock they are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf

pytestmark = pytest.mark.promotes


def test_ensembles_are_told_of_it_too():
    objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 0.5, 1.0]))
    keys = jax.random.split(jax.random.key(0), 20)
    sgd = lambda optimizer: lambda key: jf.iterate(optimizer, objective, 1.0, steps=2, batch_size=1, key=key)
    counted, known = (jf.ensemble(sgd(optimizer), keys) for optimizer in (optax.sgd(1.0), jf.optim.gd(1.0)))
    with pytest.warns(UserWarning, match="give time_step=") as told:
        jf.compare_ensembles(counted, known, key=keys[0])
    assert told[0].filename == __file__


def test_a_clock_that_counts_steps_is_told_of_beside_a_flow():
    loss = lambda x: 0.5 * jnp.sum(x**2)
    flow = lambda times: jf.integrate(jf.dynamics.gradient_flow(loss), jnp.ones(1), times)
    run = lambda optimizer, **how: jf.iterate(optimizer, loss, jnp.ones(1), steps=10, **how)
    hidden = run(optax.sgd(0.1))
    with pytest.warns(UserWarning, match="give time_step="):
        jf.compare(hidden, flow(hidden.times))
    with pytest.warns(UserWarning, match="give time_step="):
        jf.compare(flow(hidden.times), hidden)
    known = [run(optax.sgd(0.1), time_step=0.1), run(optax.chain(optax.clip(9.0), jf.optim.gd(0.1)))]
    for told in known:  # no warning, and 0.9^10 against e^-1
        distance = jf.compare(told, flow(told.times)).distance[-1]
        np.testing.assert_allclose(distance, np.exp(-1) - 0.9**10, rtol=1e-4)
    jf.compare(hidden, hidden)
    same = jf.dynamics.modified(optax.sgd(0.1), loss, order=2)
    jf.compare(hidden, jf.integrate(same, jnp.ones(1), hidden.times))
