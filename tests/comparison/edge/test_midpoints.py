"""Midpoints against closed forms of sequences, and of runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf

TIMES = 0.5 * np.arange(9.0)


def run_of(values, times=TIMES, **more):
    """A trajectory that holds these values."""
    zero = jnp.zeros((), jnp.int32)
    values = jax.tree.map(jnp.asarray, values)
    stopped = jnp.asarray(times)[..., -1]
    return jf.Trajectory(jnp.asarray(times), values, None, None, zero, zero, zero, stopped, **more)


def test_an_alternation_vanishes_and_a_line_stays():
    sign = (-1.0) ** np.arange(9)
    found = jf.midpoints(
        run_of({"up": sign[:, None] * np.ones(2), "line": 3 - 2 * TIMES, "both": TIMES + 5 * sign})
    )
    np.testing.assert_array_equal(found.times, TIMES[1:-1])
    np.testing.assert_array_equal(found.values["up"], np.zeros((7, 2)))
    np.testing.assert_array_equal(found.values["line"], 3 - 2 * TIMES[1:-1])
    np.testing.assert_allclose(found.values["both"], TIMES[1:-1], atol=1e-15)


@pytest.mark.parametrize("h", [0.5, 0.25])
def test_a_smooth_path_is_left_at_second_order(h):
    """By h²θ''/4: exactly h²/2 of t², and 3h²t/2 of t³."""
    times = h * np.arange(6)
    found = jf.midpoints(run_of({"square": times**2, "cube": times**3}, times))
    inner = times[1:-1]
    np.testing.assert_allclose(found.values["square"] - inner**2, h**2 / 2, rtol=1e-12)
    np.testing.assert_allclose(found.values["cube"] - inner**3, 1.5 * h**2 * inner, rtol=1e-12)


def test_of_an_alternation_that_changes_its_second_difference_is_left():
    """(-1)^k x_k leaves -(-1)^k (x_{k-1} - 2 x_k + x_{k+1}) / 4: nothing where x is linear in k."""
    sign, k = (-1.0) ** np.arange(9), np.arange(9.0)
    found = jf.midpoints(run_of({"linear": sign * k, "square": sign * k**2})).values
    np.testing.assert_array_equal(found["linear"], np.zeros(7))
    np.testing.assert_allclose(found["square"], -sign[1:-1] / 2)


def test_gradient_descent_past_its_stability():
    """On x²/2 the iterates are (1 - η)^k, and their midpoints (2 - η)² / 4(1 - η) of them."""
    run = jf.iterate(jf.optim.gd(1.9), lambda x: 0.5 * jnp.sum(x**2), jnp.ones(2), steps=6)
    found = jf.midpoints(run)
    k = np.arange(1, 6)
    expected = (-0.9) ** k * 0.1**2 / (4 * -0.9)
    np.testing.assert_allclose(found.values, expected[:, None] * np.ones(2), rtol=1e-12)
    np.testing.assert_allclose(found.times, 1.9 * k)
    np.testing.assert_array_equal(found.params, run.params)


def test_lanes():
    values = {"a": np.random.default_rng(0).normal(size=(3, 9, 2)), "b": np.arange(27.0).reshape(3, 9)}
    lanes = run_of(values, np.tile(TIMES, (3, 1)))
    lanes = dataclasses.replace(
        lanes, **{name: jnp.zeros(3, jnp.int32) for name in ("steps", "evaluations", "status")}
    )
    direct, mapped = jf.midpoints(lanes), jax.jit(jax.vmap(jf.midpoints))(lanes)
    for found in (direct, mapped):
        assert found.times.shape == (3, 7)
        for i in range(3):
            for name, x in values.items():
                expected = (x[i, :-2] + 2 * x[i, 1:-1] + x[i, 2:]) / 4
                np.testing.assert_allclose(found.values[name][i], expected, rtol=1e-13)


def test_other_leaves_keep_their_middle_and_their_dtype():
    flags = np.arange(9) % 2 == 0
    values = {
        "count": np.arange(9) ** 2,
        "flag": flags,
        "half": np.arange(9, dtype=np.float16),
        "z": 1j * TIMES,
    }
    found = jf.midpoints(run_of(values)).values
    np.testing.assert_array_equal(found["count"], np.arange(1, 8) ** 2)
    np.testing.assert_array_equal(found["flag"], flags[1:-1])
    np.testing.assert_array_equal(found["half"], np.arange(1, 8))
    np.testing.assert_array_equal(found["z"], 1j * TIMES[1:-1])
    assert [found[name].dtype for name in values] == [np.int64, bool, np.float16, np.complex128]


def test_the_fewest_times_and_fewer():
    found = jf.midpoints(run_of(np.array([1.0, 2.0, 5.0]), TIMES[:3]))
    np.testing.assert_array_equal(found.values, [2.5])
    np.testing.assert_array_equal(found.times, TIMES[1:2])
    for count in (1, 2):
        with pytest.raises(ValueError, match=f"run must have at least 3 times, got {count}"):
            jf.midpoints(run_of(np.ones(count), TIMES[:count]))


def test_what_the_dynamics_tells_keeps_to_the_times():
    found = jf.midpoints(run_of(TIMES, observed={"loss": jnp.asarray(TIMES**2)}))
    assert found.observed is None or found.observed["loss"].shape == (7,)


def test_midpoints_of_midpoints():
    x = np.random.default_rng(1).normal(size=9)
    found = jf.midpoints(jf.midpoints(run_of(x)))
    np.testing.assert_allclose(found.values, np.convolve(x, [1, 4, 6, 4, 1], "valid") / 16, rtol=1e-12)
    np.testing.assert_array_equal(found.times, TIMES[2:-2])


def test_an_ensemble_and_a_run_of_every_other_step():
    keys = jax.random.split(jax.random.key(0), 3)
    loss = jf.Objective(lambda w, c: (w - c) ** 2, jnp.arange(4.0))
    one = lambda key: jf.iterate(jf.optim.gd(0.5), loss, jnp.array(1.0), steps=5, batch_size=1, key=key)
    middle = jf.midpoints(jf.ensemble(one, keys))
    alone = jnp.stack([jf.midpoints(one(key)).values for key in keys])
    np.testing.assert_allclose(middle.values, alone, rtol=1e-12)
    with pytest.raises(ValueError, match="run must be recorded at every step, got 8 steps at 5 times"):
        jf.midpoints(jf.iterate(jf.optim.gd(0.5), loss, jnp.array(1.0), steps=8, every=2))


def test_midpoints_of_large_numbers_of_a_small_type_do_not_overflow():
    found = jf.midpoints(run_of(np.array([6e4, -6e4, 6e4, 6e4], np.float16), times=TIMES[:4])).values
    np.testing.assert_array_equal(found, np.array([0, 3e4], np.float16))
