"""Schedules in time against the clock that `iterate` keeps."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.dynamics import schedule_in_time
from jaxflow.dynamics.clock import step_times
from jaxflow.optim import inverse_sqrt, sgdr, warmup

pytestmark = pytest.mark.promotes
STEPS = 40
SCHEDULE = inverse_sqrt(0.3)


def run(schedule, steps=STEPS):
    return jf.iterate(jf.optim.gd(schedule), lambda w: 0.5 * w**2, 2.0, steps=steps)


@pytest.mark.parametrize("schedule", [sgdr(0.3, STEPS), warmup(0.1, 5), lambda k: 0.1 / (k + 1)])
def test_rate_of_every_step_holds_from_its_time_on(schedule):
    times = np.asarray(run(schedule).times)
    starts, lengths = times[:-1], np.diff(times)
    rates = np.asarray(jax.jit(jax.vmap(schedule))(np.arange(STEPS)))
    lasting = rates > 1e-12  # a step of rate 0 takes no time
    for steps in (STEPS, STEPS + 13):
        rate = jax.jit(schedule_in_time(schedule, steps))
        for t in (starts, starts + 0.5 * lengths, starts + 0.999 * lengths):
            np.testing.assert_allclose(np.asarray(rate(t))[lasting], rates[lasting], rtol=1e-13)


def test_last_value_holds_and_so_does_the_first():
    rate = schedule_in_time(lambda k: 1.0 + k, 3)
    np.testing.assert_array_equal(
        rate(jnp.array([-1.0, 0.0, 1.0, 2.9, 3.0, 5.9, 6.0, 1e9])), [1, 1, 2, 2, 3, 3, 3, 3]
    )
    assert schedule_in_time(SCHEDULE, 1)(7.0) == SCHEDULE(0)


@pytest.mark.parametrize("rate", [0.1, SCHEDULE])
def test_another_quantity_on_the_clock_of_the_rate(rate):
    doubling = lambda k: 8 * 2 ** (k // 10)
    batch = schedule_in_time(doubling, STEPS, rate)
    times = np.asarray(run(rate).times)
    np.testing.assert_array_equal(jax.jit(batch)(times[:-1]), [doubling(k) for k in range(STEPS)])


def test_euler_at_the_rate_is_descent_with_the_schedule():
    discrete = run(SCHEDULE)
    rate, batch = schedule_in_time(SCHEDULE, STEPS), schedule_in_time(lambda k: 2.0 + k, STEPS, SCHEDULE)
    objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    dynamics = jf.dynamics.sgd(objective, rate, batch)
    step = lambda x, t: (dynamics.step(t, x, rate(t), jnp.zeros(2)), None)
    x, _ = jax.jit(lambda: jax.lax.scan(step, jnp.asarray(2.0), discrete.times[:-1]))()
    np.testing.assert_allclose(x, discrete.params, rtol=1e-13)
    np.testing.assert_allclose(dynamics.time_step(np.asarray(discrete.times)[3]), SCHEDULE(3), rtol=1e-13)


def test_is_a_pytree_of_its_table():
    rate = schedule_in_time(SCHEDULE, 5)
    assert [leaf.shape for leaf in jax.tree.leaves(rate)] == [(5,), (5,)]
    assert pickle.loads(pickle.dumps(rate))(0.4) == rate(0.4)
    stack = jax.jit(jax.vmap(lambda peak: schedule_in_time(inverse_sqrt(peak), STEPS)))(jnp.array([0.1, 0.3]))
    values = jax.jit(jax.vmap(lambda schedule: schedule(0.0)))(stack)
    np.testing.assert_allclose(values, [0.1, 0.3], rtol=1e-15)
    slope = jax.jit(jax.grad(lambda peak: schedule_in_time(inverse_sqrt(peak), STEPS)(1.0)))(0.3)
    np.testing.assert_allclose(slope, schedule_in_time(SCHEDULE, STEPS)(jnp.asarray(1.0)) / 0.3, rtol=1e-12)


def test_single_precision_times():
    with jax.enable_x64(False):
        rate, times = schedule_in_time(SCHEDULE, STEPS), run(SCHEDULE).times
        assert rate(times).dtype == jnp.float32
        np.testing.assert_allclose(
            rate(times[:-1]), jax.vmap(SCHEDULE)(jnp.arange(STEPS)), rtol=1e-5, atol=1e-7
        )


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="schedule must be a function"):
        schedule_in_time(0.1, 10)
    with pytest.raises(ValueError, match="steps must be"):
        schedule_in_time(SCHEDULE, 0)
    with pytest.raises(ValueError, match="clock must be"):
        schedule_in_time(SCHEDULE, 10, -0.1)


@pytest.mark.parametrize("first", [0, 3, jnp.int32(3)])
def test_time_of_steps_is_the_sum_of_their_rates(first):
    sums = [sum(0.1 * 0.5**k for k in range(int(first), int(first) + e)) for e in range(5)]
    rate = lambda k: 0.1 * 0.5**k
    np.testing.assert_allclose(step_times(rate, first, 4), sums, rtol=1e-12)
    np.testing.assert_allclose(step_times(rate, first, 4, np.array([2, 4])), [sums[2], sums[4]], rtol=1e-12)
    for rate in (0.1, jnp.asarray(0.1)):
        np.testing.assert_allclose(step_times(rate, first, 4), [0, 0.1, 0.2, 0.3, 0.4], rtol=1e-12)
        assert step_times(rate, first, 2, dtype=jnp.float32).dtype == jnp.float32
    assert isinstance(step_times(0.1, first, 4), np.ndarray)  # nothing to compile
