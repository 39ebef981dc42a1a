"""States to go on from are those of the same thing, and a solve that did not arrive has no end to go on with."""

import jax
import jax.numpy as jnp
import pytest

import jaxflow as jf

pytestmark = pytest.mark.promotes

ONE = jnp.ones(1)
LOSS = lambda x: 0.5 * jnp.sum(x**2)
DATA = jf.Objective(lambda w, x: jnp.sum(w) * x, jnp.ones(8))
FLOW = jf.dynamics.gradient_flow(LOSS)
NOISY = jf.dynamics.langevin(LOSS, 0.1)
EPOCHS = {"estimator": jf.solve.epochs(2), "key": jax.random.key(0)}


def adam_state():
    return jf.iterate(jf.optim.adam(0.1), LOSS, ONE, steps=1).state


@pytest.mark.parametrize(
    "run",
    [
        lambda: jf.integrate(FLOW, ONE, [0.0, 1.0], state=jnp.ones(3)),
        lambda: jf.integrate(NOISY, ONE, [0.0, 1.0], substeps=4, key=jax.random.key(0), state=(ONE, ONE)),
        lambda: jf.iterate(jf.optim.momentum(0.1), LOSS, ONE, steps=1, state=adam_state()),
        lambda: jf.iterate(jf.optim.gd(0.1), DATA, ONE, steps=1, state=adam_state(), estimator=[jnp.ones(2)]),
        lambda: jf.iterate(
            jf.optim.adam(0.1), DATA, ONE, steps=1, state=adam_state(), **EPOCHS
        ),  # of a run on all data
    ],
    ids=["flow", "sde", "optimizer", "stream", "epochs"],
)
def test_a_state_of_something_else_is_refused(run):
    with pytest.raises(ValueError, match=r"state must be one of .*, with leaves of shapes .*, got "):
        run()


def test_epochs_go_on():
    half = jf.iterate(jf.optim.gd(0.1), DATA, ONE, steps=3, **EPOCHS)
    rest = jf.iterate(jf.optim.gd(0.1), DATA, half.params, steps=3, state=half.state, **EPOCHS)
    assert rest.params == jf.iterate(jf.optim.gd(0.1), DATA, ONE, steps=6, **EPOCHS).params


def test_an_end_that_was_not_reached_is_nan_and_a_sweep_counts_it():
    path = jf.integrate(FLOW, ONE, [0.0, 100.0], max_steps=3)
    assert jnp.isnan(path.params).all()
    assert jnp.isfinite(path.state).all()
    trial = lambda chosen, key: jf.integrate(FLOW, chosen["start"] * ONE, [0.0, 100.0], max_steps=3).params
    assert jf.sweep(trial, {"start": [1.0, 2.0]}, seeds=1)["diverged"].all()


@pytest.mark.parametrize("nothing", [{}, (), None])
def test_parameters_without_an_array_are_refused(nothing):
    for run in (
        lambda: jf.iterate(jf.optim.gd(0.1), LOSS, nothing, steps=1),
        lambda: jf.integrate(FLOW, nothing, [0.0, 1.0]),
    ):
        with pytest.raises(ValueError, match="params must be a pytree with at least one array"):
            run()
