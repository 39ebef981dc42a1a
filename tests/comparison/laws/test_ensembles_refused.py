"""What `compare_ensembles` refuses at the door, each in a sentence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_ensembles import KEY, NOISE, sgd

import jaxflow as jf

X = np.random.default_rng(0).standard_normal((64, 3))


@pytest.mark.parametrize(
    ("b", "settings", "message"),
    [
        (X, {"test": "pannel"}, "test must be one of energy, panel; got 'pannel'. Did you mean 'panel'"),
        (X, {"key": 0}, "key must be a PRNG key such as jax.random.key\\(0\\), got 0"),
        (X, {"key": jax.random.split(KEY)}, "key must be a PRNG key"),
        (X, {"level": 1.0}, "level must be a number between 0 and 1, got 1.0"),
        (X, {"level": 0}, "level must be a finite number above 0"),
        (X, {"level": "high"}, "level must be"),
        (X, {"repetitions": 18}, "repetitions must be at least 19 at level 0.95, got 18"),
        (X, {"repetitions": 99.5}, "repetitions must be an integer"),
        (X, {"at": 1.0}, "at must be None for plain arrays"),
        (X, {"objective": 3.0}, "objective must be a function of a record, got 3.0"),
        (X, {"objective": jnp.sum, "test": "energy"}, "objective must be None for test"),
        (
            X,
            {"objective": lambda w: w},
            r"objective must return one number for each record, got shape \(3,\)",
        ),
        (X[:50], {"paired": True}, "paired ensembles must have the same number of members, got 64 and 50"),
        (X[:19], {}, "at least 20 members each for test='panel' at level 0.95, got 64 and 19"),
        (X[:3], {"test": "energy"}, "at least 4 members each for test='energy' at level 0.95, got 64 and 3"),
        (X[:4], {"test": "energy", "level": 0.99}, "at least 5 members each"),
        (X[:, :1], {}, r"differ in shape at the values: \(3,\) against \(1,\)"),
        ({"w": X}, {}, "differ in structure"),
        (1.0, {}, r"b must be an ensemble trajectory or a pytree of arrays .* got leaves of shape \(\)"),
        ({"w": X, "b": X[:3]}, {}, "b must be .* share their leading axis n, got leaves of shape"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(b, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        jf.compare_ensembles(X, b, **{"key": KEY, **settings})


def test_raw_keys_are_keys_and_those_of_another_kind_are_named():
    for key in (jax.random.PRNGKey(0), np.asarray(jax.random.PRNGKey(0))):
        assert jf.compare_ensembles(X, X, key=key).p_value == 1
    rbg = jax.random.PRNGKey(0, impl="rbg")
    with pytest.raises(
        TypeError, match=r"raw array of shape \(4,\), which is not JAX's default kind, threefry2x32"
    ):
        jf.compare_ensembles(X, X, key=rbg)
    with jax.default_prng_impl("rbg"):
        assert jf.compare_ensembles(X, X, key=rbg).p_value == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [({}, "leaves of shape none"), (np.zeros((64, 0)), r"leaves of shape \(64, 0\)")],
)
def test_records_that_hold_no_number_are_refused(values, message):
    with pytest.raises(ValueError, match=f"a must .* {message}"):
        jf.compare_ensembles(values, values, key=KEY)
    run = jf.Trajectory(jnp.zeros(1), jax.tree.map(lambda x: x[:, None], values), *[jnp.zeros(64, int)] * 6)
    with pytest.raises(ValueError, match="a must hold records of at least one number"):
        jf.compare_ensembles(run, run, key=KEY)


@pytest.mark.promotes
def test_trajectories_that_do_not_fit_are_refused():
    a = sgd(0)
    single = jf.iterate(jf.optim.gd(0.1), NOISE, jnp.ones(3), steps=10, every=5)
    shifted = dataclasses.replace(a, times=a.times + 0.1)
    with pytest.raises(ValueError, match=r"b must be an ensemble made by jf.ensemble, .* got a single run"):
        jf.compare_ensembles(a, single, key=KEY)
    with pytest.raises(
        TypeError, match="both be ensemble trajectories or both be pytrees of arrays, got Traj"
    ):
        jf.compare_ensembles(a, a.values, key=KEY)
    with pytest.raises(ValueError, match="differ in their times, first at index 0"):
        jf.compare_ensembles(a, shifted, key=KEY)
    with pytest.raises(
        ValueError, match=r"at must be among the 3 recorded times, 0 … 1, got 0\.6; the nearest is 0\.5"
    ):
        jf.compare_ensembles(a, a, key=KEY, at=[0.5, 0.6])
    with pytest.raises(ValueError, match="at must be a time or a sequence of times"):
        jf.compare_ensembles(a, a, key=KEY, at=[])
