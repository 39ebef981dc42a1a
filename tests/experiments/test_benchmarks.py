"""The benchmarks' own machinery: fair turns, bounds that can be missed, and quick measurements that run."""

import time

import pytest

from experiments.benchmarks import compilation, speed
from experiments.benchmarks.__main__ import FIGURES, Figure
from experiments.benchmarks.timing import medians

pytestmark = pytest.mark.promotes


def test_contestants_take_turns_and_the_first_round_is_not_counted():
    calls = []

    def contestant(name, seconds):
        calls.append(name)
        time.sleep(seconds * (10 if calls.count(name) == 1 else 1))

    seconds = medians({"a": lambda: contestant("a", 0.02), "b": lambda: contestant("b", 0.04)}, 3)
    assert calls == ["a", "b"] * 4
    assert 0.02 <= seconds["a"] < 0.2
    assert seconds["a"] < seconds["b"]


@pytest.mark.parametrize(
    ("value", "bounds", "reached", "asked"),
    [
        (1.0, {"most": 1.1, "unit": " ×"}, True, "≤ 1.1 ×"),
        (1.2, {"most": 1.1}, False, "≤ 1.1"),
        (7.9, {"least": 8}, False, "≥ 8"),
        (1.0, {"least": 0.95, "most": 1.05}, True, "0.95 … 1.05"),
        (float("nan"), {"most": 1.0}, False, "≤ 1"),
    ],
)
def test_a_figure_is_reached_or_missed(value, bounds, reached, asked):
    row = Figure("it", lambda quick: value, **bounds).row(quick=True)
    assert (row["reached"], row["asked"]) == (reached, asked)


def test_details_are_kept_beside_the_ratio():
    row = Figure("it", lambda quick: {"ratio": 9.0, "sharpness": 95.0}, least=8).row(quick=True)
    assert (row["measured"], row["sharpness"], row["reached"]) == (9.0, 95.0, True)


def test_every_figure_has_a_bound_and_its_own_name():
    assert all(figure.least > -float("inf") or figure.most < float("inf") for figure in FIGURES)
    assert len({figure.what for figure in FIGURES}) == len(FIGURES)


def test_a_quick_timing_runs():
    assert 0 < speed.iterate_plane(quick=True) < 100
    assert speed.plain_call(quick=True) < 1e5


def test_a_first_call_is_told_program_by_program():
    """Two programs, of which one is compiled for two shapes; whatever was compiled before the call is left out."""
    setting = """
import jax, jax.numpy as jnp
x, y = jnp.arange(3.0), jnp.arange(4.0)
def one(x): return x + x
def other(x): return x * x
one, other = jax.jit(one), jax.jit(other)
"""
    found = compilation.measured("(one(x), one(y), other(x))", setting)
    assert {name: program["number"] for name, program in found["programs"].items()} == {"one": 2, "other": 1}
    assert found["number"] == 3
    assert all(program["compile"] > 0 for program in found["programs"].values())
