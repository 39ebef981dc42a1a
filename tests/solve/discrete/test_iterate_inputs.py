"""What `iterate` refuses, in one sentence that names the argument, before anything is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxflow as jf
from jaxflow._compiled import programs

pytestmark = pytest.mark.promotes

compilations = lambda: programs()["solve.iteration.iterate"]
gd = jf.optim.gd
START = jnp.ones(2)
KEY = jax.random.key(0)
DATA = jf.Objective(lambda w, x: jnp.sum((w[None] - x) ** 2, axis=1), jnp.ones((10, 2)))


def quadratic(x):
    return jnp.sum(x**2)


def run(optimizer=None, objective=quadratic, params=START, *, steps=3, **settings):
    return jf.iterate(gd(0.1) if optimizer is None else optimizer, objective, params, steps=steps, **settings)


REFUSED = {
    "optimizer is a number": (lambda: run(0.1), TypeError, "optimizer must be an optax transformation, got 0.1"),
    "optimizer is a constructor": (lambda: run(gd), TypeError, "optimizer must be an optax transformation"),
    "learning rate below 0": (lambda: run(gd(-0.1)), ValueError, "learning_rate must be"),
    "learning rate NaN": (lambda: run(gd(float("nan"))), ValueError, "learning_rate must be"),
    "objective is no function": (lambda: run(objective=3.0), TypeError, "objective must be an Objective or"),
    "steps 0": (lambda: run(steps=0), ValueError, "steps must be an integer at least 1, got 0"),
    "steps below 0": (lambda: run(steps=-3), ValueError, "steps must be an integer at least 1, got -3"),
    "steps a float": (lambda: run(steps=3.0), TypeError, "steps must be an integer at least 1, got 3.0"),
    "steps a flag": (lambda: run(steps=True), TypeError, "steps must be an integer"),
    "steps a float array": (
        lambda: run(steps=jnp.asarray(3.0), every=None), TypeError, "steps must be an integer"),
    "steps many": (
        lambda: run(steps=jnp.array([1, 2]), every=None), TypeError, r"an array of shape \(2,\)"),
    "steps traced with every": (
        lambda: run(steps=jnp.asarray(3)), ValueError, "traced number without a bound max_steps, got every=1"),
    "every 0": (lambda: run(every=0), ValueError, "every must be an integer at least 1, got 0"),
    "every a float": (lambda: run(every=0.5), TypeError, "every must be an integer"),
    "params integers": (lambda: run(params=jnp.arange(2)), TypeError, "params must be .* dtype int64"),
    "params a string": (lambda: run(params={"w": "x"}), TypeError, r"params must be .*\['w'\] has str"),
    "params flags": (lambda: run(params=jnp.array([True])), TypeError, "params must be .* dtype bool"),
    "time step below 0": (lambda: run(time_step=-1.0), ValueError, "time_step must be a finite number at least 0"),
    "time step a string": (lambda: run(time_step="1"), TypeError, "time_step must be"),
    "a stack of time steps": (lambda: run(time_step=jnp.ones(2)), ValueError, "time_step must be one number"),
    "a stack of optimizers": (
        lambda: run(jax.vmap(gd)(jnp.ones(2))), ValueError, "a stack of optimizers goes through jax.vmap"),
    "a seed": (lambda: run(objective=DATA, batch_size=2, key=3), TypeError, "key must be a PRNG key .* got 3"),
    "no key": (lambda: run(objective=DATA, batch_size=2), ValueError, "key must be a PRNG key .* got None"),
    "no data": (lambda: run(batch_size=2, key=KEY), TypeError, "Mini-batches need an Objective"),
    "data only in streams": (
        lambda: run(objective=jf.Objective(DATA.losses), batch_size=2, key=KEY), ValueError, "has no data"),
    "batch 0": (lambda: run(objective=DATA, batch_size=0, key=KEY), ValueError, "batch_size must be .* at least 1"),
    "batch a float": (lambda: run(objective=DATA, batch_size=2.0, key=KEY), TypeError, "batch_size must be an"),
    "batch above the data, drawn without replacement": (
        lambda: run(objective=DATA, estimator=jf.solve.without_replacement(11), key=KEY),
        ValueError, "batch_size must be at most the number of examples, 10, .* got 11"),
    "batch above the data, in epochs": (
        lambda: run(objective=DATA, estimator=jf.solve.epochs(11), key=KEY), ValueError, "at most .* 10"),
    "batch size twice": (
        lambda: run(objective=DATA, batch_size=2, estimator=jf.solve.epochs(2), key=KEY),
        ValueError, "Give either estimator or batch_size"),
    "svag's l below 1": (lambda: jf.solve.svag(2, 0.5), ValueError, "l must be at least 1, got 0.5"),
    "estimator is a number": (
        lambda: run(objective=DATA, estimator=7), TypeError, "estimator must come from jaxflow.solve or"),
    "stream with batch size": (
        lambda: run(objective=DATA, estimator=[jnp.ones((2, 2))], batch_size=2), ValueError, "which sets it"),
    "stream for a plain function": (
        lambda: run(estimator=[jnp.ones((2, 2))]), TypeError, "stream of batches needs an Objective"),
    "empty stream": (lambda: run(objective=DATA, estimator=[]), ValueError, "stream of batches is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, error, message = REFUSED[case]
    before = compilations()
    with pytest.raises(error, match=message):
        make()
    assert compilations() == before


@pytest.mark.parametrize(
    ("objective", "error", "message"),
    [
        (
            jf.Objective(lambda w, x: jnp.sum(x), jnp.ones((10, 2))),
            ValueError,
            "losses must return one value per",
        ),
        (jf.Objective(DATA.losses), ValueError, "has no data"),
        (lambda x: x, TypeError, "scalar-output"),
    ],
)
def test_refused_while_tracing(objective, error, message):
    with pytest.raises(error, match=message):
        run(objective=objective)


def test_what_looks_unusual_but_is_allowed():
    assert int(run(steps=np.int64(3)).steps) == 3
    assert run(objective=lambda p: (p[0] - p[1]) ** 2, params=[1, 2.0]).values[0].shape == (4,)
    assert run(gd(0)).values.shape == (4, 2)
    assert run(objective=DATA, batch_size=50, key=KEY).values.shape == (4, 2)  # with replacement
    assert run(optax.sgd(0.1)).values.shape == (4, 2)


def test_an_estimator_by_name_is_refused_and_multi_steps_are_taken():
    loss = lambda x: 0.5 * jnp.sum(x**2)
    with pytest.raises(TypeError, match=r"estimator must be made by a constructor .* got 'epochs'"):
        jf.iterate(jf.optim.gd(0.1), loss, jnp.ones(2), steps=2, estimator="epochs")
    run = jf.iterate(optax.MultiSteps(optax.sgd(0.5), 2), loss, jnp.ones(2), steps=4)
    np.testing.assert_allclose(run.values[:, 0], [1, 1, 0.5, 0.5, 0.25])
