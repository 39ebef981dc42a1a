"""A sweep's folder that nothing happens to: what it holds, and that a finished sweep is read and not run."""

import json
from typing import NamedTuple

import jax
import numpy as np
import pytest
from folders import (
    AXES,
    BATCH,
    BATCHES,
    KEY,
    LENGTH,
    NAMES,
    SEEDS,
    TRIALS,
    batch_file,
    batches,
    content,
    rests,
    stamps,
    swept,
    torn,
    trial,
    undisturbed,
)

from jaxflow.sweeps.execution.compiled_batch import Program


def test_the_undisturbed_dataset_is_the_recursion_in_numpy():
    dataset = swept()
    assert dict(dataset.sizes) == {"a": 5, "b": 2, "c": 2, "seed": SEEDS, "path_0": LENGTH}
    for seed in range(SEEDS):
        start = float(jax.random.normal(jax.random.fold_in(KEY, seed)))
        a, b, c = np.meshgrid(*AXES.values(), indexing="ij")
        x, path = np.full(a.shape, start), []
        for _ in range(LENGTH):
            x = np.sin(x + a) * b + c
            path.append(x)
        np.testing.assert_allclose(dataset["last"].sel(seed=seed), x, rtol=1e-12)
        np.testing.assert_allclose(dataset["path"].sel(seed=seed), np.stack(path, -1), rtol=1e-6)
        np.testing.assert_array_equal(dataset["positive"].sel(seed=seed), np.sum(np.stack(path) > 0, axis=0))


def test_a_directory_changes_nothing_and_each_batch_is_run_once(tmp_path, runs):
    directory = tmp_path / "a" / "folder" / "to be made"
    assert content(swept(str(directory))) == undisturbed()
    assert runs == list(range(BATCHES))
    assert sorted(batches(directory)) == NAMES
    assert not torn(directory)
    rests(directory, runs)


def test_a_finished_sweep_runs_no_trial_by_a_count_inside_the_trial(tmp_path):
    seen = []

    def counted(hyperparameters, key):
        # What depends on a hyperparameter alone is made once for all its seeds.
        jax.debug.callback(lambda a, _: seen.append(float(a)), hyperparameters["a"], jax.random.uniform(key))
        return trial(hyperparameters, key)

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("trials",))
    first = swept(tmp_path, counted, mesh=mesh)
    jax.effects_barrier()
    assert sorted(seen) == sorted(AXES["a"] * (TRIALS // 5))
    again = swept(tmp_path, counted, mesh=mesh)
    jax.effects_barrier()
    assert len(seen) == TRIALS
    assert content(again) == content(first)


def test_a_finished_sweep_does_not_even_reach_the_program(whole, monkeypatch):
    def never(*_):
        raise AssertionError("a trial is run or compiled")

    for name in ("run", "compile", "batch_size"):
        monkeypatch.setattr(Program, name, never)
    assert content(swept(whole)) == undisturbed()
    assert content(swept(whole, batch=None)) == undisturbed()


def test_batches_are_what_numpy_loads(whole):
    flat = {
        name: np.frombuffer(raw, dtype).reshape(TRIALS, -1)
        for name, (dims, dtype, raw) in undisturbed().items()
        if "seed" in dims and len(dims) > 1
    }
    assert set(flat) == {"last", "path", "positive", "diverged"}
    rows = lambda arrays: [
        tuple(arrays[name][i].ravel().tolist() for name in flat) for i in range(len(arrays["last"]))
    ]
    found = []
    for index in range(BATCHES):
        with np.load(batch_file(whole, index), allow_pickle=False) as file:
            assert all(file[name].dtype == flat[name].dtype for name in flat)
            assert len(file["last"]) == BATCH
            found += rows(file)
    assert sorted(found) == sorted(rows(flat))


def test_the_manifest_says_what_is_swept(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["identity"]["seeds"] == SEEDS
    assert manifest["identity"]["axes"]["a"].startswith("5 × (0 … 1)")
    assert manifest["sizes"] == {"0": BATCH}
    assert manifest["versions"]["jax"] == jax.__version__


class Verdict(NamedTuple):
    diverged: jax.Array
    loss: jax.Array


def test_a_flag_of_divergence_in_a_named_tuple_is_one(tmp_path):
    table = swept(tmp_path, lambda h, key: Verdict(h["a"] > 0.6, h["b"]))
    np.testing.assert_array_equal(table["diverged"], (table["a"] > 0.6).broadcast_like(table["diverged"]))
    assert np.isnan(table["loss"].sel(a=1.0)).all()


def test_an_array_in_the_place_of_the_flag_of_divergence_is_refused(tmp_path):
    with pytest.raises(TypeError, match="one flag as 'diverged', got float64"):
        swept(tmp_path, lambda h, key: Verdict(h["a"], h["b"]))
    assert not stamps(tmp_path)
