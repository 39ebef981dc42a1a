"""Many runs at once: equal to one by one, spread over the devices, compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

import jaxflow as jf
from jaxflow._compiled import programs

pytestmark = pytest.mark.promotes

iterate_compilations = lambda: programs()["solve.iteration.iterate"]
DEVICES = jax.local_devices()
DATA = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 0.5, 2.0]))
KEYS = jax.random.split(jax.random.key(0), 12)
_compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: _compiled.append(name))


def compilations():
    """How many programs XLA has compiled so far in this process."""
    return sum("backend_compile" in name for name in _compiled)


def sgd(key, rate=0.1, steps=10):
    return jf.iterate(jf.optim.momentum(rate, 0.5), DATA, 1.0, steps=steps, batch_size=1, key=key)


def one_device():
    return Mesh(np.array(DEVICES[:1]), ("runs",), axis_types=(AxisType.Auto,))


def leaves_without_times(trajectory):
    return jax.tree.leaves(
        (trajectory.values, trajectory.params, trajectory.state.optimizer, trajectory.status)
    )


@pytest.mark.parametrize("n", [12, 3])
def test_it_is_the_runs_one_by_one_with_their_times_once(n):
    """12 is a multiple of the four devices, 3 is not."""
    together = jf.ensemble(sgd, KEYS[:n])
    alone = [sgd(key) for key in KEYS[:n]]
    assert together.values.shape == (n, 11)
    np.testing.assert_allclose(together.values, np.stack([run.values for run in alone]), rtol=1e-14)
    np.testing.assert_array_equal(together.times, alone[0].times)
    assert together.times.shape == (11,)
    assert together.state.step.shape == (n,)
    assert isinstance(together, jf.Trajectory)


@pytest.mark.parametrize("n", [12, 10])
def test_it_is_spread_over_the_devices_and_equal_to_one_device_bit_for_bit(n):
    spread = jf.ensemble(sgd, KEYS[:n])
    single = jf.ensemble(sgd, KEYS[:n], one_device())
    assert len(single.values.sharding.device_set) == 1
    if n == 12:
        assert spread.values.sharding.device_set == set(DEVICES[:4])
        assert not spread.values.sharding.is_fully_replicated
        shards = spread.values.addressable_shards
        assert sorted(shard.data.shape for shard in shards) == [(3, 11)] * 4
    for a, b in zip(leaves_without_times(spread), leaves_without_times(single), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_fresh_lambda_compiles_nothing_new():
    def once(rate):
        run = jf.ensemble(lambda key: sgd(key, rate, steps=9), KEYS)
        return jax.block_until_ready(run)

    once(0.1)
    before = compilations(), iterate_compilations()
    for rate in (0.2, 0.3):
        once(rate)
    assert (compilations(), iterate_compilations()) == before


def test_anything_may_be_returned_and_anything_be_a_key():
    def run(member):
        trajectory = sgd(member["key"], member["rate"])
        return {"last": trajectory.params, "twice": (2 * trajectory.params, trajectory.steps)}

    rates = jnp.linspace(0.05, 0.2, 10)
    out = jf.ensemble(run, {"key": KEYS[:10], "rate": rates})
    expected = np.stack([sgd(key, rate).params for key, rate in zip(KEYS[:10], rates, strict=True)])
    np.testing.assert_allclose(out["last"], expected, rtol=1e-14)
    np.testing.assert_allclose(out["twice"][0], 2 * expected, rtol=1e-14)
    assert out["twice"][1].shape == (10,)


def test_a_trajectory_inside_something_keeps_its_times_once():
    out = jf.ensemble(lambda key: {"run": sgd(key), "squared": sgd(key).params ** 2}, KEYS[:5])
    assert out["run"].times.shape == (11,)
    assert out["run"].values.shape == (5, 11)
    assert out["squared"].shape == (5,)


def test_a_member_that_diverges_is_marked_and_the_others_go_on():
    """Members whose start is 1 overflow, those whose start is 0 stay: x ← -2x."""

    def run(start):
        return jf.iterate(jf.optim.gd(1.0), lambda x: 1.5 * x**2, start, steps=1100, every=100)

    starts = jnp.array([0.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    out = jf.ensemble(run, starts)
    assert list(out.diverged) == [start == 1 for start in starts]
    assert (out.values[starts == 0] == 0).all()
    assert out.message == "4 of 6 lanes reached the last time, 2 of 6 lanes diverged"


def test_it_goes_through_jit_and_grad():
    def mean_end(rate):
        return jf.ensemble(lambda key: sgd(key, rate), KEYS[:6]).params.mean()

    inside = jax.jit(lambda keys: jf.ensemble(sgd, keys).values)(KEYS[:6])
    np.testing.assert_allclose(inside, jf.ensemble(sgd, KEYS[:6]).values, rtol=1e-14)
    slope = (mean_end(0.1 + 1e-6) - mean_end(0.1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(mean_end)(0.1), slope, rtol=1e-7)


def test_no_keys_and_times_that_depend_on_the_key_are_refused():
    for keys in (KEYS[:0], KEYS[0], ()):
        with pytest.raises(ValueError, match="keys must hold at least one key along a leading axis"):
            jf.ensemble(sgd, keys)
    with pytest.raises(ValueError, match="must share their times"):
        jf.ensemble(lambda rate: jf.iterate(jf.optim.gd(rate), DATA, 1.0, steps=2), jnp.array([0.1, 0.2]))


def test_groups_change_nothing():
    """Ten members, four at a time: the last group is filled up and cut again."""
    objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    run = lambda key: jf.iterate(jf.optim.gd(0.1), objective, 1.0, steps=5, batch_size=1, key=key)
    keys = jax.random.split(jax.random.key(0), 10)
    whole, groups = jf.ensemble(run, keys), jf.ensemble(run, keys, at_once=4)
    assert jax.tree.structure(groups) == jax.tree.structure(whole)
    jax.tree.map(np.testing.assert_array_equal, groups, whole)
    pair = jf.ensemble(lambda key: (run(key), jax.random.normal(key, (2,))), keys, at_once=3)
    np.testing.assert_array_equal(pair[0].values, whole.values)
    assert pair[1].shape == (10, 2)
    with pytest.raises(ValueError, match="at_once must be an integer at least 1, got 0"):
        jf.ensemble(run, keys, at_once=0)
