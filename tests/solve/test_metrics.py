"""Metrics are what a loop over optax would log, run in one program; strides, resumed runs, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recorders import way

import jaxflow as jf
from jaxflow._compiled import programs

pytestmark = pytest.mark.promotes

metrics = jf.solve.metrics
CHEAP = {
    "loss": metrics.loss,
    "gradient": metrics.gradient_norm,
    "update": metrics.update_norm,
    "cosine": metrics.update_cosine,
}
X = jnp.asarray(np.linspace(-1.0, 2.0, 24).reshape(8, 3))
PARAMS = {"w": jnp.array([0.3, -0.2, 0.5]), "b": jnp.array(0.1)}
DATA = jf.Objective(lambda p, x: jnp.log(jnp.cosh(x @ p["w"] + p["b"])) + 0.05 * x[:, 0] * p["b"] ** 2, X)


def logged(optimizer, steps):
    """What a loop over optax logs."""

    @jax.jit
    def step(params, state):
        loss, slope = jax.value_and_grad(DATA)(params)
        updates, state = optimizer.update(slope, state, params)
        return loss, slope, updates, optax.apply_updates(params, updates), state

    params, state, rows, last = PARAMS, optimizer.init(PARAMS), [], None
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    for _ in range(steps):
        loss, slope, updates, params, state = step(params, state)
        u = flat(updates)
        cosine = np.nan if last is None else u @ last / np.linalg.norm(u) / np.linalg.norm(last)
        rows.append([loss, np.linalg.norm(flat(slope)), np.linalg.norm(u), cosine])
        last = u
    return np.array(rows).T


@pytest.fixture(scope="module")
def logged_of_adam():
    with jax.numpy_dtype_promotion("standard"):
        return logged(optax.adam(0.1), 10)


@pytest.mark.parametrize("every", [1, 3, 4])
def test_metrics_are_those_of_a_loop_over_optax(every, logged_of_adam):
    run = jf.iterate(optax.adam(0.1), DATA, PARAMS, steps=10, every=every, metrics=CHEAP)
    expected = logged_of_adam[:, [*range(every - 1, 10, every)] + ([9] if 10 % every else [])]
    for name, row in zip(CHEAP, expected, strict=True):
        found = np.asarray(run.metrics[name])
        assert np.isnan(found[0])
        np.testing.assert_allclose(found[1:], row, rtol=1e-10)


def test_a_costly_metric_has_a_stride_and_counts_the_steps_of_earlier_runs():
    chosen = {
        "loss": metrics.at_stride(metrics.of_parameters(DATA), 6),
        "count": metrics.at_stride(lambda s: 1, 3),
    }
    first = jf.iterate(jf.optim.gd(0.1), DATA, PARAMS, steps=8, every=2, record=DATA, metrics=chosen)
    rest = jf.iterate(
        jf.optim.gd(0.1), DATA, first.params, steps=8, every=2, record=DATA, metrics=chosen, state=first.state
    )
    for run, begin in ((first, 0), (rest, 8)):
        steps = begin + np.arange(0, 9, 2)
        taken = steps % 6 == 0
        # The first record of a run that goes on is the last one of the run before.
        np.testing.assert_array_equal(np.isfinite(run.metrics["loss"]), taken)
        np.testing.assert_array_equal(np.asarray(run.metrics["loss"])[taken], np.asarray(run.values)[taken])
        np.testing.assert_array_equal(run.metrics["count"], np.where(steps % 3 == 0, 1.0, np.nan))


def joined(first, rest):
    return jax.tree.map(lambda a, b: np.concatenate([a, np.asarray(b)[1:]]), first, rest)


@pytest.mark.parametrize(
    ("estimator", "recorder"),
    [
        (None, jf.curvature.record_sharpness(DATA)),
        (jf.solve.epochs(3), way(1.0)),
        (jf.solve.svag(2, 3.0), way(1.0)),
        (jf.solve.with_replacement(2), way(1.0)),
    ],
    ids=["all data", "epochs", "SVAG", "with replacement"],
)
def test_a_run_that_goes_on_tells_what_one_that_never_ended_tells(estimator, recorder):
    watched = {**CHEAP, "recorded": metrics.at_stride(recorder, 2)}
    run = lambda params, steps, **others: jf.iterate(
        jf.optim.adam(0.05), DATA, params, steps=steps, estimator=estimator, metrics=watched, **others
    )
    whole = run(PARAMS, 7, key=jax.random.key(1))
    first = run(PARAMS, 4, key=jax.random.key(1))
    rest = run(first.params, 3, state=first.state)  # and its key
    jax.tree.map(np.testing.assert_array_equal, rest.params, whole.params)
    # Programs of other lengths may sum in another order.
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13)
    jax.tree.map(same, joined(first.metrics, rest.metrics), whole.metrics)


def test_a_recorder_remembers_where_it_was():
    record = jf.curvature.record_sharpness(DATA, 2)
    run = lambda params, steps, **state: jf.iterate(
        jf.optim.gd(0.05), DATA, params, steps=steps, record=record, **state
    )
    whole, first = run(PARAMS, 6), run(PARAMS, 2)
    rest = run(first.params, 4, state=first.state)
    jax.tree.map(np.testing.assert_array_equal, joined(first.values, rest.values), whole.values)
    # Another record begins anew.
    other = jf.iterate(jf.optim.gd(0.05), DATA, first.params, steps=4, state=first.state, metrics=CHEAP)
    assert np.isnan(np.asarray(other.metrics["loss"])[0])


def test_a_stream_has_metrics_and_goes_on():
    batches = [np.asarray(X)[i : i + 2] for i in range(6)]
    drawn = jf.Objective(DATA.losses)
    run = lambda params, batches, **state: jf.iterate(
        jf.optim.momentum(0.1, 0.5),
        drawn,
        params,
        steps=len(batches),
        estimator=batches,
        metrics=CHEAP,
        **state,
    )
    whole, first = run(PARAMS, batches), run(PARAMS, batches[:2])
    rest = run(first.params, batches[2:], state=first.state)
    jax.tree.map(np.testing.assert_array_equal, joined(first.metrics, rest.metrics), whole.metrics)
    starts = jax.tree.map(lambda x: x[:-1], jax.device_get(whole.values))
    losses = jax.jit(jax.vmap(DATA.over))(starts, np.stack(batches))
    np.testing.assert_allclose(np.asarray(whole.metrics["loss"])[1:], losses, rtol=1e-12)


def test_members_of_an_ensemble_and_frozen_models_have_metrics():
    run = lambda key: jf.iterate(
        jf.optim.gd(0.1),
        DATA,
        PARAMS,
        steps=3,
        batch_size=2,
        key=key,
        metrics=CHEAP,
        trainable={"w": True, "b": False},
    )
    keys = jax.random.split(jax.random.key(0), 3)
    many = jf.ensemble(run, keys)
    np.testing.assert_allclose(
        np.asarray(many.metrics["gradient"])[2], run(keys[2]).metrics["gradient"], rtol=1e-12
    )
    seen = jf.iterate(
        jf.optim.gd(0.1), DATA, PARAMS, steps=1, trainable={"w": True, "b": False},
        metrics={"b": lambda step: step.params["b"], "loss": metrics.of_parameters(DATA)},
    )  # fmt: skip
    np.testing.assert_array_equal(seen.metrics["b"], [0.1, 0.1])
    np.testing.assert_allclose(seen.metrics["loss"][1], DATA(seen.params), rtol=1e-14)


def test_other_data_and_rates_compile_nothing():
    compiled = lambda: programs()["solve.iteration.iterate"]
    for rate, shift in ((0.1, 0.0), (0.2, 1.0)):
        test = jf.Objective(DATA.losses, X + shift)
        chosen = {"test": metrics.at_stride(metrics.of_parameters(test), 2)}
        jf.iterate(jf.optim.gd(rate), DATA, PARAMS, steps=4, metrics=chosen)
        if rate == 0.1:
            before = compiled()
    assert compiled() == before


@pytest.mark.parametrize(
    ("chosen", "error", "message"),
    [
        ([metrics.loss], TypeError, "metrics must be a dict of functions of the step by name"),
        ({"a": 3}, TypeError, r"metrics\['a'\] must be a function of the step or a Recorder, got 3"),
        ({"a": lambda step: "high"}, TypeError, r"metrics\['a'\] must return numbers or arrays, got 'high'"),
        ({"a": lambda step, shapes=[(1,), (2,)]: jnp.ones(shapes.pop())}, ValueError, r"one shape at every step"),
    ],
)  # fmt: skip
def test_what_is_no_metric_is_refused(chosen, error, message):
    with pytest.raises(error, match=message):
        jf.iterate(jf.optim.gd(0.1), DATA, PARAMS, steps=2, metrics=chosen)


def test_a_stride_is_an_integer():
    with pytest.raises(ValueError, match="stride must be an integer at least 1, got 0"):
        metrics.at_stride(metrics.loss, 0)
    with pytest.raises(TypeError, match="metric must be a function of the step or a Recorder, got 'loss'"):
        metrics.at_stride("loss", 2)
    with pytest.raises(TypeError, match="function must be a function of the parameters, got 2"):
        metrics.of_parameters(2)
