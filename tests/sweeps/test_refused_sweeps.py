"""What a sweep refuses, in one sentence that names the argument: axes, settings, trials and what they return."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import jaxflow as jf

pytestmark = pytest.mark.promotes


def total(hyperparameters, key):
    return hyperparameters["a"] + hyperparameters["b"]


def refused(error, match, trial, axes, **settings):
    with pytest.raises(error, match=match) as caught:
        jf.sweep(trial, axes, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("axes", "error", "match"),
    [
        ({}, ValueError, "axes must name at least one hyperparameter"),
        ([], ValueError, "empty list"),
        (3, TypeError, "axes must be a dict from names to values"),
        (np.ones((3, 2)), TypeError, "NumPy array with named fields"),
        ({"a": []}, ValueError, r"axes\['a'\] must hold at least one value"),
        ({"a": 0.1}, TypeError, r"axes\['a'\] must be a sequence of values, got 0.1"),
        ({"a": "adam"}, TypeError, r"axes\['a'\] must be a sequence of values, got 'adam'"),
        ({"a": {1, 2}}, TypeError, "must be a sequence"),
        ({"a": [1, 2, 1]}, ValueError, r"axes\['a'\] must not hold a value twice, got 1 again"),
        ({"a": [1, 1.0]}, ValueError, "twice"),
        ({"a": [1.0, float("nan")]}, ValueError, r"axes\['a'\] must not hold NaN"),
        ({"a": ["x", "y"]}, TypeError, r"axes\['a'\] must hold numbers, got 'x'; name it in static="),
        ({"a": [1.0, None]}, TypeError, r"must hold numbers, got None"),
        ({"a": np.ones((2, 2))}, TypeError, r"axes\['a'\] must hold numbers"),
        ({"a": [1j]}, TypeError, "must hold numbers"),
        ({"seed": [1, 2]}, ValueError, "axes must not be named 'seed'"),
        ({"time": [1, 2]}, ValueError, "axes must not be named 'time'"),
        ({1: [1, 2]}, TypeError, "named by strings, got the name 1"),
        ([{"a": 1}, {"b": 1}], ValueError, r"sample 1 has \['b'\] and sample 0 \['a'\]"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_bad_axes_are_refused(axes, error, match):
    refused(error, match, lambda h, key: 1.0, axes)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"seeds": 0}, ValueError, "seeds must be an integer at least 1"),
        ({"seeds": 2.0}, TypeError, "seeds must be an integer"),
        ({"batch": 0}, ValueError, "batch must be"),
        ({"key": 3}, TypeError, "key must be a PRNG key .* got 3"),
        ({"key": jax.random.split(jax.random.key(0))}, TypeError, r"key must be a PRNG key.* shape \(2,\)"),
        ({"key": jax.random.key(0, impl="rbg")}, ValueError, "key must be of an implementation"),
        ({"directory": 3}, TypeError, "directory must be a path, got 3"),
        ({"static": 3}, TypeError, "static must be names of axes, got 3"),
        ({"static": ["rate"]}, ValueError, "static must be one of a, b; got 'rate'"),
        ({"mesh": 4}, TypeError, "mesh must be a jax.sharding.Mesh"),
        ({"mesh": Mesh(np.array([]), ("x",))}, ValueError, "mesh must have a device of this process"),
    ],
    ids=[
        "no seeds",
        "seeds",
        "batch",
        "key",
        "keys",
        "rbg",
        "directory",
        "statics",
        "static",
        "mesh",
        "empty mesh",
    ],
)
def test_bad_settings_are_refused(settings, error, match):
    refused(error, match, total, {"a": [1], "b": [2]}, **settings)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([2**40, 1], "fit int32, got 1099511627776"),
        (np.array([2**63 + 5, 1], np.uint64), "fit int32, got 9223372036854775813"),
        ([1.0, 1e300], r"fit float32, got 1e\+300"),
        ([1.0, 1e-50], "fit float32, got 1e-50"),
        ([0.1, 0.1000000001], "twice, got 0.1000000001 again"),
    ],
    ids=["int", "uint", "large", "small", "alike"],
)
def test_numbers_that_float32_does_not_hold_are_refused(values, match):
    with jax.enable_x64(False):
        refused(ValueError, match, lambda h, key: h["a"], {"a": values})


def test_unhashable_static_values_are_refused():
    refused(TypeError, r"must be hashable, got \[1\]", total, {"a": [[1], [2]], "b": [1]}, static=["a"])


def test_a_trial_that_is_no_function_is_refused():
    refused(TypeError, "trial must be a function", 3, {"a": [1]})


def test_a_trial_that_needs_a_concrete_value_is_told_which():
    def branches(h, key):
        return jnp.zeros(()) if h["b"] > 0 else h["a"]

    def counts(h, key):
        return jnp.zeros(h["b"]).sum() + h["a"]

    def checks(h, key):
        loss = lambda x: 0.5 * jnp.sum(x**2)
        return jf.iterate(jf.optim.gd(h["a"]), loss, jnp.ones(1), steps=h["b"]).params

    for trial in (branches, counts, checks):
        refused(
            TypeError, r"needs the concrete value of 'b'.* static=\('b',\)", trial, {"a": [0.5], "b": [1, 2]}
        )

    def both(h, key):
        return float(h["a"]) + float(h["b"]) + jnp.zeros(())

    refused(TypeError, r"'a' and 'b'.* static=\('a', 'b'\)", both, {"a": [0.5], "b": [1], "c": [2]})


def test_an_error_of_the_trial_itself_is_left_as_it_is():
    def trial(h, key):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        jf.sweep(trial, {"a": [1.0]})


def test_trials_that_do_not_agree_in_what_they_return_are_refused():
    trial = lambda h, key: {"x": jnp.zeros(h["n"]) + h["a"]}
    axes = {"a": [1.0], "n": [2, 3]}
    refused(
        ValueError,
        r"for \{'n': 2\} and \{'n': 3\} 'x' is float64\[2\] and float64\[3\]",
        trial,
        axes,
        static="n",
    )
    trial = lambda h, key: {"x": h["a"], **({"y": h["a"]} if h["n"] == 3 else {})}
    refused(ValueError, "only one of them returns 'y'", trial, axes, static="n")


@pytest.mark.parametrize(
    ("result", "error", "match"),
    [
        ({}, TypeError, "at least one array"),
        ({"a": 1.0}, ValueError, "trial must not return 'a', the name of an axis"),
        ({"x": {"y": 1.0}, "x.y": 2.0}, ValueError, "'x.y' again"),
        ({"times": np.ones(3), "time": 1.0}, ValueError, "must not return 'time', the name of"),
        ({"times": np.ones(3), "time": np.ones(3)}, ValueError, "either time or times"),
        ({"seed": 1.0}, ValueError, "must not return 'seed'"),
        ({"trial": 1.0}, ValueError, "must not return 'trial'"),
        ({"diverged": np.ones(2, bool)}, TypeError, "one flag as 'diverged'"),
        ({"diverged": 1.0, "x": 1.0}, TypeError, "one flag as 'diverged'"),
        ({"key": jax.random.key(0)}, TypeError, "'key' holds keys"),
        ({"x": "text"}, TypeError, "'x'.* 'text'"),
    ],
    ids=[
        "nothing",
        "collision",
        "twice",
        "time",
        "clocks",
        "seed",
        "trial",
        "flags",
        "no flag",
        "keys",
        "text",
    ],
)
def test_results_that_no_dataset_can_hold_are_refused(result, error, match):
    refused(error, match, lambda h, key: result, {"a": [1.0, 2.0]})
