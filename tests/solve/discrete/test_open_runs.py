"""Runs whose number of steps is traced, with records, and runs that a condition ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.solve.trajectories.trajectory import DIVERGED, FINISHED, MAX_STEPS, STOPPED

pytestmark = pytest.mark.promotes
LOSS = lambda x: 0.5 * jnp.sum(x**2)
HALF = jf.optim.gd(0.5)  # x becomes x/2


@pytest.mark.parametrize(("steps", "every"), [(7, 1), (7, 3), (9, 3), (2, 4), (12, 5)])
def test_a_traced_number_of_steps_has_records(steps, every):
    run = jax.jit(lambda n: jf.iterate(HALF, LOSS, jnp.ones(1), steps=n, every=every, max_steps=12))
    open_run, whole = run(jnp.asarray(steps)), jf.iterate(HALF, LOSS, jnp.ones(1), steps=steps, every=every)
    reached, times, values = whole.times.size, np.asarray(open_run.times), np.asarray(open_run.values)
    np.testing.assert_allclose(times[:reached], whole.times, rtol=1e-15)
    np.testing.assert_allclose(values[:reached], whole.values, rtol=1e-15)
    assert np.isnan(values[reached:]).all()
    assert (np.diff(times) > 0).all()
    assert times[-1] == 6.0
    assert (open_run.steps, open_run.status, open_run.stopped) == (steps, FINISHED, steps / 2)
    np.testing.assert_allclose(open_run.params, 0.5**steps)


def test_lanes_of_different_lengths_and_schedules():
    schedule = lambda k: 0.5 / (k + 1)
    runs = jax.vmap(
        lambda n: jf.iterate(jf.optim.gd(schedule), LOSS, jnp.ones(1), steps=n, every=2, max_steps=6)
    )(jnp.array([1, 4, 9]))
    clock = np.concatenate([[0], np.cumsum(0.5 / np.arange(1, 7))])
    np.testing.assert_allclose(runs.stopped, clock[[1, 4, 6]], rtol=1e-14)
    np.testing.assert_array_equal(
        runs.status, [FINISHED, FINISHED, MAX_STEPS]
    )  # 9 are more than there is room for
    np.testing.assert_array_equal(runs.steps, [1, 4, 6])


def test_an_open_run_goes_on():
    first = jf.iterate(HALF, LOSS, jnp.ones(1), steps=jnp.asarray(3), every=2, max_steps=8)
    rest = jf.iterate(HALF, LOSS, first.params, steps=2, state=first.state)
    np.testing.assert_allclose(rest.times, [1.5, 2.0, 2.5])
    np.testing.assert_allclose(rest.params, 0.5**5)


@pytest.mark.parametrize(
    ("until", "steps"),
    [
        ({"loss": 0.011}, 4),  # of the step from 1/8: 1/128
        ({"gradient_norm": 0.13}, 4),
        ({"time": 2.5}, 5),
        ({"gradients": 3}, 3),
        ({"gradients": 9, "loss": 0.011}, 4),
        ({"loss": -1.0}, 40),
    ],
)
def test_a_condition_ends_a_run(until, steps):
    run = jf.train(HALF, LOSS, jnp.ones(1), until=until, max_steps=40, every=1)
    assert run.steps == steps
    assert run.status == (MAX_STEPS if steps == 40 else STOPPED)
    np.testing.assert_allclose(run.params, 0.5**steps)
    np.testing.assert_allclose(run.values[: steps + 1, 0], 0.5 ** np.arange(steps + 1))
    assert run.stopped == steps / 2


def test_conditions_are_traced_and_a_lost_run_ends():
    targets = jnp.array([0.2, 0.011, 1e-5])
    many = jax.jit(jax.vmap(lambda loss: jf.train(HALF, LOSS, jnp.ones(1), until={"loss": loss})))(targets)
    np.testing.assert_array_equal(many.steps, [2, 4, 9])
    wild = jf.train(jf.optim.gd(0.5), lambda x: jnp.sum(x**4), jnp.array([4.0]), until={"loss": 1e-3})
    assert wild.status == DIVERGED
    assert wild.steps < 10


def test_training_on_batches_goes_on():
    data = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([1.0, -1.0]))
    run = lambda w, n, **others: jf.train(
        jf.optim.gd(0.1), data, w, until={"gradients": n}, batch_size=1, **others
    )
    whole, first = run(3.0, 9, key=jax.random.key(2)), run(3.0, 4, key=jax.random.key(2))
    rest = run(first.params, 5, state=first.state)
    assert rest.params == whole.params


@pytest.mark.parametrize(
    ("until", "error", "message"),
    [
        ({}, TypeError, "until must be a dict such as"),
        (0.1, TypeError, "until must be a dict such as"),
        ({"los": 0.1}, ValueError, "until must be one of gradient_norm, gradients, loss, time; got 'los'"),
        ({"time": -1.0}, ValueError, r"until\['time'\] must be a finite number above 0, got -1.0"),
        ({"loss": None}, TypeError, r"until\['loss'\] must be a number, got None"),
        ({"loss": float("nan")}, ValueError, r"until\['loss'\] must be a number, got nan"),
    ],
)
def test_what_is_no_condition_is_refused(until, error, message):
    with pytest.raises(error, match=message):
        jf.train(HALF, LOSS, jnp.ones(1), until=until)


def test_open_runs_refuse_what_has_no_meaning():
    with pytest.raises(ValueError, match="max_steps must be None unless steps is a traced number, got 5"):
        jf.iterate(HALF, LOSS, jnp.ones(1), steps=3, max_steps=5)
    with pytest.raises(ValueError, match="every must be None when steps is a traced number without a bound"):
        jf.iterate(HALF, LOSS, jnp.ones(1), steps=jnp.asarray(3), every=2)
    with pytest.raises(ValueError, match="max_steps must be an integer at least 1, got 0"):
        jf.train(HALF, LOSS, jnp.ones(1), until={"loss": 1.0}, max_steps=0)
    drawn = jf.Objective(lambda w, c: (w - c) ** 2)
    with pytest.raises(TypeError, match=r"estimator must come from jaxflow\.solve"):
        jf.train(HALF, drawn, 0.0, until={"loss": 1.0}, estimator=[jnp.ones(2)])
