"""Another sweep in a folder is refused, saying in what it differs; the same one, however it is put, goes on."""

import jax.numpy as jnp
import optax
import pytest
from folders import (
    AXES,
    BATCH,
    BATCHES,
    KEPT,
    LENGTH,
    content,
    finishes,
    recursion,
    refused,
    rests,
    swept,
    trial,
)
from jax.tree_util import Partial

import jaxflow as jf

pytestmark = pytest.mark.promotes

CLOTHES = {
    "tuples": {"axes": {name: tuple(values) for name, values in AXES.items()}},
    "arrays": {"axes": {name: jnp.array(values) for name, values in AXES.items()}},
    "a function made anew": {"function": recursion(jnp.sin, LENGTH)},
    "no batch size": {"batch": None},
}


@pytest.mark.parametrize("clothes", CLOTHES)
def test_the_same_sweep_in_other_clothes_goes_on(half, runs, clothes):
    finishes(half, runs, range(KEPT, BATCHES), **CLOTHES[clothes])


def other_number(hyperparameters, key):
    result = trial(hyperparameters, key)
    return result | {"last": result["last"] + 1e-13}


def more(hyperparameters, key):
    return trial(hyperparameters, key) | {"square": hyperparameters["a"] ** 2}


CHANGES = {
    "a value in the middle": (
        {"axes": AXES | {"a": [0.0, 0.25, 0.5 + 1e-15, 0.75, 1.0]}},
        ["axes.a is 5 × (0 … 1)", "there, 5 × (0 … 1)", "here"],
    ),
    "one value more": (
        {"axes": AXES | {"b": [0.5, 1.0, 2.0]}},
        ["axes.b is 2 × (0.5 … 1)", "there, 3 × (0.5 … 2)", "here"],
    ),
    "values in another order": (
        {"axes": AXES | {"a": AXES["a"][::-1]}},
        ["axes.a is 5 × (0 … 1)", "there, 5 × (1 … 0)", "here"],
    ),
    "whole numbers for floats": (
        {"axes": AXES | {"c": [0, -1]}},
        ["axes.c is 2 × (0 … -1)", "there, 2 × (0 … -1)", "here"],
    ),
    "axes in another order": (
        {"axes": {name: AXES[name] for name in "bac"}},
        ["axes.order is a, b, c there, b, a, c here"],
    ),
    "one axis more": (
        {"axes": AXES | {"d": [1.0]}},
        ["axes.order is a, b, c there, a, b, c, d here", "axes.d is only here"],
    ),
    "one axis less": (
        {"axes": {name: AXES[name] for name in "ab"}, "function": lambda h, key: trial(h | {"c": 0.0}, key)},
        ["axes.order is a, b, c there, a, b here", "axes.c is only there"],
    ),
    "samples": (
        {"axes": [{"a": a, "b": 1.0, "c": 0.0} for a in AXES["a"]]},
        ["kind is grid there, samples here", "axes.b is 2 × (0.5 … 1)", "there, 5 × (1 … 1)"],
    ),
    "seeds": ({"seeds": 3}, ["seeds is 2 there, 3 here"]),
    "key": ({"key": None}, ["key is ", " there, ", " here"]),
    "static": ({"static": ("b",)}, ["static is [] there, ['b'] here"]),
    "the function": (
        {"function": recursion(jnp.cos, LENGTH)},
        ["trial.program (jaxpr) is", "there,", "here"],
    ),
    "the length": (
        {"function": recursion(jnp.sin, LENGTH + 1)},
        ["trial.returns.path is float32[6] there, float32[7] here"],
    ),
    "a number": ({"function": other_number}, ["trial.program (jaxpr) is", "there,", "here"]),
    "what it returns": (
        {"function": more},
        ["trial.returns.square is only here", "trial.program (jaxpr) is"],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_sweep_is_refused_saying_in_what_it_differs(whole, runs, change):
    changes, parts = CHANGES[change]
    message = refused(whole, runs, *parts, **changes)
    assert "Nothing in it was touched" in message
    assert "ersions differ" not in message
    # Whatever is said to differ is said in both versions, and those are not the same.
    for entry in message.split("another sweep: ")[1].split(". Nothing in it")[0].split("; "):
        if "is only" not in entry:
            there, here = entry.split(" is ", 1)[1].removesuffix(" here").split(" there, ")
            assert there != here
    rests(whole, runs)


def test_axes_in_another_order_are_refused_whatever_they_are_called(tmp_path, runs):
    """An axis may be called "order", as of an approximation."""
    function = lambda hyperparameters, key: 10 * hyperparameters["order"] + hyperparameters["a"]
    axes = {"order": [1.0, 2.0], "a": [3.0, 4.0, 5.0]}
    dataset = swept(tmp_path, function, axes, seeds=1)
    assert dataset["value"].values[..., 0].tolist() == [[13, 14, 15], [23, 24, 25]]
    turned = {name: axes[name] for name in ("a", "order")}
    refused(tmp_path, runs, "order, a there, a, order here", function=function, axes=turned, seeds=1)


@pytest.mark.parametrize("holds", ["closure", "partial"])
def test_other_data_are_refused(tmp_path, runs, holds):
    def function(data, hyperparameters, key):
        return hyperparameters["a"] * data.sum()

    def made(data):
        return Partial(function, data) if holds == "partial" else lambda h, key: function(data, h, key)

    axes = {"a": AXES["a"]}
    data = jnp.linspace(0.0, 1.0, 50)
    swept(tmp_path, made(data), axes)
    other = {"function": made(data.at[25].add(1e-12)), "axes": axes}
    message = refused(tmp_path, runs, "trial.arrays it uses is ", " there, ", **other)
    assert message.count(" there, ") == 1
    swept(tmp_path, made(data.copy()), axes)  # equal data are the same sweep
    assert not runs


@pytest.mark.parametrize("kind", ["jaxflow", "optax"])
def test_optimizers_made_anew_are_the_same_sweep(tmp_path, runs, kind):
    """As after a kill: functions are elsewhere in memory then."""

    def function(hyperparameters, key):
        loss = lambda x: 0.5 * hyperparameters["a"] * jnp.sum(x**2)
        run = jf.iterate(hyperparameters["optimizer"], loss, jnp.ones(2), steps=3, every=None)
        return run.params

    def settings(rate):
        one, other = (jf.optim.gd, jf.optim.adam) if kind == "jaxflow" else (optax.sgd, optax.adam)
        axes = {"optimizer": [one(rate), other(rate)], "a": [1.0, 2.0]}
        return {"function": function, "axes": axes, "static": ("optimizer",)}

    first = swept(tmp_path, **settings(0.1))
    runs.clear()
    again = swept(tmp_path, **settings(0.1))
    assert not runs
    assert content(again) == content(first)
    refused(tmp_path, runs, " there, ", " here", **settings(0.2))


@pytest.mark.parametrize("size", [1, 8])
def test_another_batch_size_is_refused(half, runs, size):
    refused(half, runs, f"batch must be {BATCH}, as in ", "or left out", f"got {size}.", batch=size)
    finishes(half, runs, range(KEPT, BATCHES))
