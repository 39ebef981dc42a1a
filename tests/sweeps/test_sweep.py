"""What a sweep returns: every cell in its place, named, labelled, NaN where it diverged."""

import io
import itertools
import json
import mmap
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from jax.sharding import Mesh

import jaxflow as jf
from jaxflow.sweeps.execution import batch_loop

pytestmark = pytest.mark.promotes


def place(hyperparameters, key):
    """Where a trial stands, in digits, and a number of its seed's key."""
    a, b = hyperparameters["a"], hyperparameters["b"]
    return {"number": 100 * a + b, "drawn": jax.random.uniform(key)}


def descent(hyperparameters, key):
    """Gradient descent on ½|x|², which multiplies x by 1 − η a step."""
    start = jnp.asarray([1.0, 2.0])
    loss = lambda x: 0.5 * jnp.sum(x**2)
    return jf.iterate(jf.optim.gd(hyperparameters["learning_rate"]), loss, start, steps=8, every=2)


@pytest.mark.parametrize("batch", [None, 1, 4, 100])
def test_every_cell_is_in_its_place(batch):
    a, b = [3, 1, 2], [0.5, 0.25]
    table = jf.sweep(place, {"a": a, "b": b}, seeds=2, key=jax.random.key(7), batch=batch)
    assert table["number"].dims == ("a", "b", "seed")
    for x, y, seed in itertools.product(a, b, range(2)):
        cell = table.sel(a=x, b=y, seed=seed)
        assert cell["number"].item() == 100 * x + y
        drawn = jax.random.uniform(jax.random.fold_in(jax.random.key(7), seed))
        assert cell["drawn"].item() == drawn.item()
    assert table["a"].values.tolist() == a
    assert table["number"].dtype == float
    assert not table["diverged"].any()


def test_samples_are_trials_with_their_hyperparameters_beside():
    rows = [{"a": 1, "b": 0.5}, {"b": 0.25, "a": 2}, {"a": 1, "b": 0.5}]
    fields = np.array([(1, 0.5), (2, 0.25), (1, 0.5)], [("a", int), ("b", float)])
    for axes in (rows, fields):
        table = jf.sweep(place, axes, seeds=2)
        assert table["number"].dims == ("trial", "seed")
        assert table["number"].values[:, 0].tolist() == [100.5, 200.25, 100.5]
        assert table["b"].dims == ("trial",)
        assert table["a"].values.tolist() == [1, 2, 1]


def test_static_axes_are_given_as_they_are_and_everything_stays_in_its_place():
    seen = set()

    def trial(h, key):
        seen.add((h["shape"], h["name"]))
        assert isinstance(h["x"], jax.core.Tracer)
        return jnp.ones(h["shape"]).sum() * h["x"] + {"plus": 1000, "minus": -1000}[h["name"]]

    axes = {"x": [1.0, 2.0], "shape": [(2,), (3, 2)], "y": [0, 1], "name": ["plus", "minus"]}
    table = jf.sweep(trial, axes, static=("shape", "name"), batch=3)
    assert table["value"].dims == ("x", "shape", "y", "name", "seed")
    assert table["shape"].values.tolist() == ["(2,)", "(3, 2)"]
    for x, name in itertools.product([1.0, 2.0], ["plus", "minus"]):
        for shape, size in (("(2,)", 2), ("(3, 2)", 6)):
            cell = table.sel(x=x, shape=shape, name=name, y=0, seed=0)["value"]
            assert cell.item() == size * x + (1000 if name == "plus" else -1000)
    assert seen == set(itertools.product([(2,), (3, 2)], ["plus", "minus"]))


def test_static_samples_share_a_program_where_they_are_alike():
    traces = []

    def trial(h, key):
        traces.append(h["n"])
        return h["x"] * h["n"]

    axes = [{"x": float(i), "n": n} for i, n in enumerate([2, 3, 2, True, 1])]
    table = jf.sweep(trial, axes, static=["n"])
    assert table["value"].values[:, 0].tolist() == [0, 3, 4, 3, 4]
    assert {(type(n), n) for n in traces} == {(int, 2), (int, 3), (bool, True), (int, 1)}


def test_1_and_true_are_programs_of_their_own():
    trial = lambda h, key: jnp.asarray(10.0 if h["flag"] is True else 1.0) * h["x"]
    table = jf.sweep(trial, [{"x": 1.0, "flag": 1}, {"x": 1.0, "flag": True}], static="flag")
    assert table["value"].values[:, 0].tolist() == [1, 10]


def test_a_trajectory_keeps_time_record_and_end_and_divergence_leaves_what_was_finite():
    rates = np.array([0.5, 1.5, 1e60])
    table = jf.sweep(descent, {"learning_rate": rates}, seeds=2)
    assert table["values"].dims == ("learning_rate", "seed", "time", "values_1")
    assert table["times"].dims == ("learning_rate", "time")
    np.testing.assert_allclose(table["times"], rates[:, None] * np.array([0, 2, 4, 6, 8]), rtol=1e-15)
    expected = np.array([1.0, 2.0]) * (1 - rates[:2, None, None]) ** np.array([0, 2, 4, 6, 8])[:, None]
    np.testing.assert_allclose(table["values"].values[:2, 0], expected, rtol=1e-12)
    assert table["diverged"].values.tolist() == [[False, False], [False, False], [True, True]]
    lost = table["values"].sel(learning_rate=1e60)
    assert np.isfinite(lost).all(("seed", "values_1")).values.tolist() == [True, True, True, False, False]
    assert np.isnan(lost.values[:, 3:]).all()
    assert (table["status"].values == [[0, 0], [0, 0], [2, 2]]).all()
    assert np.isfinite(table["stopped"]).all()
    assert table["times"].attrs["units"] == "steps × learning rate"


def test_time_is_a_coordinate_where_all_trials_share_it():
    loss = lambda x: 0.5 * jnp.sum(x**2)
    times = jnp.linspace(0.0, 1.0, 5)

    def trial(h, key):
        flow = jf.integrate(jf.dynamics.gradient_flow(loss), h["scale"] * jnp.ones(2), times, record=loss)
        return {
            "flow": flow,
            "gap": jf.compare(flow, flow),
            "first": jnp.arange(5),
            "other": jnp.zeros((3, 5)),
        }

    table = jf.sweep(trial, {"scale": [1.0, 2.0]})
    assert table.indexes["time"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(table["flow.values"].sel(time=1.0, scale=2.0), 4 * np.exp(-2), rtol=1e-4)
    assert table["gap.distance"].dims == ("scale", "seed", "time")
    assert table["first"].dims == ("scale", "seed", "first_0")
    assert table["other"].dims == ("scale", "seed", "other_0", "other_1")


def test_two_clocks_of_different_lengths_are_two_dimensions():
    trial = lambda h, key: {
        "a": {"times": jnp.arange(3.0), "x": jnp.zeros((3, 2))},
        "b": {"times": h["r"] * jnp.arange(4.0), "x": jnp.zeros(4)},
    }
    table = jf.sweep(trial, {"r": [1.0, 2.0]})
    assert table["a.x"].dims == ("r", "seed", "a.time", "a.x_1")
    assert table["a.time"].values.tolist() == [0, 1, 2]
    assert table["b.x"].dims == ("r", "seed", "b.time")
    assert table["b.times"].values.tolist() == [[0, 1, 2, 3], [0, 2, 4, 6]]


@pytest.mark.parametrize("own", [False, True])
def test_a_number_that_is_not_finite_means_diverged_unless_the_trial_says(own):
    def trial(h, key):
        result = {"passage": jnp.where(h["x"] > 1, jnp.inf, h["x"]), "other": h["x"], "count": jnp.int32(3)}
        return result | ({"diverged": h["x"] < 1} if own else {})

    table = jf.sweep(trial, {"x": [0.5, 1.0, 2.0]}).isel(seed=0)
    if own:
        assert table["diverged"].values.tolist() == [True, False, False]
        np.testing.assert_array_equal(table["passage"], [np.nan, 1, np.inf])
        np.testing.assert_array_equal(table["other"], [np.nan, 1, 2])
    else:
        assert table["diverged"].values.tolist() == [False, False, True]
        np.testing.assert_array_equal(table["other"], [0.5, 1, np.nan])
    assert table["count"].values.tolist() == [3, 3, 3]


def test_a_run_stopped_by_its_event_has_not_diverged():
    loss = lambda x: 0.5 * jnp.sum(x**2)
    times = jnp.linspace(0.0, 4.0, 5)

    def trial(h, key):
        event = jf.gradient_norm_below(0.3)
        flow = jf.dynamics.gradient_flow(loss)
        return jf.integrate(flow, h["x"] * jnp.ones(1), times, event=event, record=loss)

    table = jf.sweep(trial, {"x": [1.0, 100.0]}).isel(seed=0)
    assert not table["diverged"].any()
    assert np.isnan(table["values"].values[0]).any()


def test_the_dataset_survives_netcdf(tmp_path):
    axes = {"learning_rate": [0.5, 1e60], "kind": ["a", "b"]}
    table = jf.sweep(lambda h, key: descent(h, key), axes, seeds=2, static=["kind"])
    table.to_netcdf(tmp_path / "sweep.nc")
    with xarray.open_dataset(tmp_path / "sweep.nc") as read:
        assert read.equals(table)
        assert json.loads(read.attrs["settings"])["axes"] == {"learning_rate": 2, "kind": 2}
        assert read.attrs["version_jax"] == jax.__version__
        assert read.attrs["wall_time_per_trial"] > 0
        assert read.attrs["float64"] == 1
        assert "units" not in read["learning_rate"].attrs  # a trial need not have jaxflow's clock


def test_small_floats_are_kept_as_float32_and_flags_and_integers_as_they_are():
    trial = lambda h, key: {
        "half": h["x"].astype(jnp.bfloat16),
        "flag": h["x"] > 1,
        "count": jnp.uint8(3),
    }
    table = jf.sweep(trial, {"x": [1.0, 1.5]})
    assert table["half"].dtype == np.float32
    assert table["half"].values.ravel().tolist() == [1, 1.5]
    assert table["flag"].values.ravel().tolist() == [False, True]
    assert table["count"].dtype == np.uint8


def test_arrays_of_the_trial_itself_are_arguments():
    traces = []

    def trial(data, h, key):
        traces.append(1)
        return (data["x"] * h["scale"]).sum()

    for data in ({"x": jnp.arange(4.0)}, {"x": jnp.ones(4)}):
        table = jf.sweep(jax.tree_util.Partial(trial, data), {"scale": [1.0, 2.0]})
        assert table["value"].values.ravel().tolist() == [data["x"].sum(), 2 * data["x"].sum()]
    assert len(traces) == 2  # once by itself, once vmapped


def test_results_that_would_fill_the_memory_stay_on_disk(tmp_path, monkeypatch):
    trial = lambda h, key: {"x": h["a"] * jnp.ones(100), "n": jnp.int32(1)}
    axes = {"a": np.arange(50.0)}
    monkeypatch.setattr(batch_loop, "physical_memory", lambda: 10_000)
    with pytest.raises(ValueError, match=r"directory must be given: the results take .* GiB"):
        jf.sweep(trial, axes)
    table = jf.sweep(trial, axes, directory=tmp_path, batch=7)
    array = table["x"].values
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", getattr(array, "obj", None))
    assert array is not None
    np.testing.assert_array_equal(table["x"].values[:, 0], np.arange(50.0)[:, None] * np.ones(100))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "batches",
        "description.json",
        "lock",
        "manifest.json",
    ]


def test_a_batch_that_needs_too_much_memory_is_made_smaller(monkeypatch):
    from jaxflow.sweeps.execution import compiled_batch

    def trial(h, key):
        table = jnp.outer(jnp.arange(200.0), jnp.arange(200.0) * h["a"])  # 320 kB a lane
        return jnp.linalg.norm(jnp.sin(table) @ jnp.cos(table))

    axes = {"a": np.linspace(0, 1, 64)}
    whole = jf.sweep(trial, axes, mesh=Mesh(np.array(jax.devices()[:1]), ("d",)))
    monkeypatch.setattr(compiled_batch, "memory_of_device", lambda: 20e6)
    sizes, run = [], compiled_batch.Program.run
    monkeypatch.setattr(
        compiled_batch.Program, "run", lambda self, t, size: sizes.append(size) or run(self, t, size)
    )
    parts = jf.sweep(trial, axes, mesh=Mesh(np.array(jax.devices()[:1]), ("d",)))
    assert 1 <= sizes[0] < 32
    np.testing.assert_allclose(parts["value"], whole["value"], rtol=1e-12)


def test_the_bar_counts_trials_and_divergence_on_a_terminal_only(monkeypatch):
    class Terminal(io.StringIO):
        terminal = True

        def isatty(self):
            return self.terminal

    for terminal, wanted in itertools.product([True, False], [True, False]):
        screen = Terminal()
        screen.terminal = terminal
        monkeypatch.setattr(sys, "stderr", screen)
        jf.sweep(descent, {"learning_rate": [0.5, 1e60]}, seeds=3, progress=wanted)
        shown = screen.getvalue()
        if terminal and wanted:
            assert "6/6" in shown
            assert "trials/s" in shown
            assert "diverged=3" in shown
        else:
            assert shown == ""


@pytest.mark.parametrize("devices", [1, 4])
def test_all_axes_may_be_static(devices):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("d",))
    trial = lambda h, key: {"x": h["n"] * jax.random.uniform(key), "same": jnp.float32(2)}
    drawn = [jax.random.uniform(jax.random.fold_in(jax.random.key(0), s)).item() for s in range(3)]
    table = jf.sweep(trial, {"n": [1, 2]}, static="n", seeds=3, mesh=mesh)
    np.testing.assert_allclose(table["x"], [drawn, np.multiply(drawn, 2)], rtol=1e-15)
    assert (table["same"] == 2).all()
    table = jf.sweep(trial, [{"n": 2}, {"n": 1}, {"n": 2}], static="n", mesh=mesh)
    np.testing.assert_allclose(table["x"][:, 0], np.multiply(drawn[0], [2, 1, 2]), rtol=1e-15)


def test_runs_within_a_trial_keep_their_own_dimension():
    loss = lambda x: 0.5 * jnp.sum(x**2)

    def trial(h, key):
        run = lambda k: jf.iterate(
            jf.optim.gd(h["rate"]), loss, jax.random.normal(k, (2,)), steps=700, every=350
        )
        keys = jax.random.split(key, 3)
        return {"together": jf.ensemble(run, keys), "mapped": jax.vmap(run)(keys)}

    table = jf.sweep(trial, {"rate": [0.5, 5.0]})
    assert table["diverged"].values.tolist() == [[False], [True]]
    assert table["together.values"].shape == (2, 1, 3, 3, 2)
    assert table["mapped.times"].shape == (2, 1, 3, 3)


def test_a_trial_is_traced_anew_for_a_folder(tmp_path):
    class Experiment:
        scale = 1.0

        def run(self, h, key):
            return self.scale * h["a"]

    experiment, axes = Experiment(), {"a": [1.0, 2.0]}
    jf.sweep(experiment.run, axes, directory=tmp_path / "one")
    experiment.scale = 3.0
    with pytest.raises(ValueError, match=r"trial\.program"):
        jf.sweep(experiment.run, axes, directory=tmp_path / "one")
    table = jf.sweep(experiment.run, axes, directory=tmp_path / "three")
    assert table["value"].values.ravel().tolist() == [3, 6]


def test_other_results_after_caches_are_cleared():
    returned = ["x"]
    trial = lambda h, key: dict.fromkeys(returned, h["a"])
    assert set(jf.sweep(trial, {"a": [1.0]}).data_vars) == {"x", "diverged"}
    returned.append("y")
    jax.clear_caches()
    assert set(jf.sweep(trial, {"a": [1.0]}).data_vars) == {"x", "y", "diverged"}


def test_the_attributes_name_the_function_and_the_state_of_its_repository(tmp_path, monkeypatch):
    from jaxflow.sweeps.outputs import dataset

    class Trial:
        func = "relu"

        def __call__(self, h, key):
            return h["a"]

    assert jf.sweep(Trial(), {"a": [1.0]}).attrs["trial"].endswith("Trial")
    part = jax.tree_util.Partial(place)
    assert jf.sweep(part, {"a": [1], "b": [2]}).attrs["trial"].endswith("test_sweep.place")
    git = lambda *words: subprocess.run(
        ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e@x", *words],
        check=True,
        capture_output=True,
    )
    assert dataset.git_describe(str(tmp_path)) is None
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    git("tag", "v1")
    monkeypatch.setattr(dataset, "PATIENCE", 1e-9)
    assert dataset.git_describe(str(tmp_path)) == "v1"
    (tmp_path / "file").write_text("2")
    assert dataset.git_describe(str(tmp_path)) == "v1-dirty"


def test_threads_share_a_folder(tmp_path):
    axes, found = {"a": np.arange(60.0)}, []
    trial = lambda h, key: h["a"] ** 2
    work = lambda: found.append(jf.sweep(trial, axes, directory=tmp_path, batch=2))
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for table in found:
        np.testing.assert_array_equal(table["value"][:, 0], axes["a"] ** 2)


def test_short_numbers_reach_a_file(tmp_path):
    trial = lambda h, key: {
        "half": h["a"].astype(jnp.float16),
        "four": jnp.int4(-3),
        "column": h["b"],
    }
    axes = {"a": jnp.asarray([0.5, 1.5], jnp.float16), "b": [jnp.float32(0.5), 2.0]}
    table = jf.sweep(trial, axes)
    table.to_netcdf(tmp_path / "short.nc")
    with xarray.open_dataset(tmp_path / "short.nc") as read:
        assert read["half"].sel(a=1.5, b=2.0, seed=0).item() == 1.5
        assert read["four"].values.ravel().tolist() == [-3] * 4


def test_old_keys_are_the_same_keys():
    new, old = (
        jf.sweep(place, {"a": [1], "b": [2]}, key=key) for key in (jax.random.key(5), jax.random.PRNGKey(5))
    )
    assert new["drawn"].item() == old["drawn"].item()
