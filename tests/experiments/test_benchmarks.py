"""The benchmarks' own machinery: fair turns, bounds that can be missed, and quick measurements that run."""

import time

import jax
import numpy as np
import pytest

from experiments.benchmarks import compilation
from experiments.benchmarks.analysis import density, density_peers, kernels, landscape, landscape_peers
from experiments.benchmarks.figures import FIGURES, Figure, choose_figures
from experiments.benchmarks.runs import speed
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


def test_the_figures_of_one_module_are_chosen_by_its_name():
    named = {figure.what for figure in choose_figures("modified")}
    assert len(named) == 5
    assert "its compile time, order 4 / order 1" in named
    assert len(choose_figures("density")) >= 8  # and more where peers are installed
    assert not choose_figures("--quick")


def test_the_double_wells_reference_is_converged():
    """Fewer modes and poles say the same; moments are those of another scheme, converged, and a law's."""
    (values, averages), x = density_peers.reference(4000), density_peers.middles(4000)
    for fewer, found in zip(density_peers.reference(4000, 160, 24), (values, averages), strict=True):
        assert np.abs(fewer - found).mean() < 1e-11
    assert values.min() > -1e-12
    moments = [(averages * power).mean() * 2 * density_peers.END for power in (1, x, x * x, x > 0)]
    moments[1:3] = np.array(moments[1:3]) - [-0.9639186, 0.9556016]
    np.testing.assert_allclose(moments, [1, 0, 0, 0.00126667], rtol=3e-5, atol=2e-7)


def test_quick_figures_of_densities_run():
    error = density.double_well(quick=True)
    assert error["ratio"] < 1e-6
    assert 1e-4 < error["taken as averages over cells"] < 4e-4  # h² ∫|p″| / 24
    assert density.gibbs(quick=True) < 1e-13
    assert abs(density.covariance_order(quick=True) - 2) < 0.3
    assert density.memory_a_cell(quick=True)["ratio"] < 1.2


def test_a_peer_is_timed_beside_ours(monkeypatch):
    """With one that knows the answer, whatever is installed."""
    known = density_peers.reference(density.CELLS)[0]
    knows = ("", lambda cells: lambda: known, density.CELLS)
    monkeypatch.setitem(density.INSTALLED, "one who knows", knows)
    found = density.measure_speedup("one who knows", quick=True)
    assert found["its error"] == 0 < found["ours"] < 1e-6
    assert found["ratio"] == pytest.approx(found["its ms"] / found["our ms"])


def test_the_peers_surface_is_ours():
    place = np.array([-0.3, 0.7])
    value, slope = landscape_peers.surface(place)
    np.testing.assert_allclose(landscape.SURFACE(place), value, rtol=1e-13)
    np.testing.assert_allclose(jax.grad(landscape.SURFACE)(place), slope, rtol=1e-12)
    for saddle in landscape_peers.SADDLES:
        value, slope = landscape_peers.surface(saddle.place)
        assert abs(value - saddle.height) < 1e-12
        assert np.abs(slope).max() < 1e-8


def test_quick_figures_of_landscapes_run(monkeypatch):
    """With a peer that knows the saddles, whatever is installed."""
    knows = lambda saddle, tolerance: landscape_peers.Found(saddle.height, 1000)
    monkeypatch.setitem(landscape_peers.BANDS, "one who knows", knows)
    found = landscape.evaluations("one who knows", quick=True)
    assert found["ratio"] == max(found[name] for name in found if name.endswith("ours")) / 1000
    assert landscape.saddles(quick=True)["ratio"] < 1e-9
    assert landscape.filter_normalisation(quick=True) < 1e-12
    assert landscape.random_walk(quick=True) < 0.03
    for how in ("inside", "outside"):
        assert landscape.slice_speed(how, quick=True)["ratio"] > 0
    assert landscape.slice_memory(quick=True)["ratio"] < 1.2


def test_quick_figures_of_kernels_run():
    assert kernels.error(quick=True)["ratio"] < 1e-12
    assert len(choose_figures("kernels")) == 4
    for which in ("block", "trace", "product"):
        found = kernels.share(which, quick=True)
        assert found["ratio"] == pytest.approx(found["ms"] / found["ms of the contraction"])
        assert 0 < found["s to compile"] < 60


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
    found = compilation.measure_programs("(one(x), one(y), other(x))", setting)
    assert {name: program["number"] for name, program in found["programs"].items()} == {"one": 2, "other": 1}
    assert found["number"] == 3
    assert all(program["compile"] > 0 for program in found["programs"].values())
