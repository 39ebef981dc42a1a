"""A finished sweep is read from its folder as the call that made it returned it, and without its trial."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.sweeps.execution.compiled_batch import Program


def relu_like(x):
    return jnp.maximum(x, 0.0)


def trial(hyperparameters, key):
    function = {"sin": jnp.sin}.get(hyperparameters["name"], relu_like)
    x = function(hyperparameters["a"] + jax.random.normal(key, (3,)))
    lost = jnp.where(hyperparameters["a"] > 1, jnp.nan, 1.0)
    times = jnp.arange(3.0)
    return {
        "x": x * lost,
        "times": times,
        "count": (x > 0).sum(),
        "z": x[0].astype(complex),
        "deep": {"w": x[:2]},
    }


GRID = {"a": [0.0, 0.5, 2.0], "name": ["sin", "other", "third"]}
SAMPLES = [{"a": 0.1, "name": "sin"}, {"a": 1.5, "name": "other"}, {"a": 0.3, "name": "sin"}]


def swept(folder, axes=GRID, **changed):
    return jf.sweep(trial, axes, static="name", **({"seeds": 3, "batch": 2, "directory": folder} | changed))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    return folder, swept(folder)


@pytest.mark.parametrize("axes", [GRID, SAMPLES], ids=["grid", "samples"])
def test_what_is_read_is_what_was_returned_and_no_program_is_made(tmp_path, monkeypatch, axes):
    table = swept(tmp_path, axes)

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(Program, "__init__", refuse)
    found = jf.sweeps.read(str(tmp_path))
    assert found.identical(table)
    assert bool(found["diverged"].any())
    assert [found[name].dtype for name in found.variables] == [table[name].dtype for name in found.variables]


def test_one_program_alone(tmp_path):
    table = jf.sweep(lambda h, key: h["a"], {"a": np.array([3, 1], np.int32)}, directory=tmp_path)
    assert jf.sweeps.read(tmp_path).identical(table)


def test_a_sweep_that_is_not_finished_is_refused(kept, tmp_path):
    folder, table = kept
    for file in ("manifest.json", "description.json"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    with pytest.raises(ValueError, match=r"must hold a finished sweep, but 27 of 27 trials are missing"):
        jf.sweeps.read(tmp_path)
    (tmp_path / "batches").mkdir()
    first = sorted((folder / "batches").iterdir())[0]
    (tmp_path / "batches" / first.name).write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"but 25 of 27 trials are missing in .*call sweep as before"):
        jf.sweeps.read(tmp_path)
    assert swept(tmp_path).equals(table)


@pytest.mark.parametrize("damage", ["missing", "torn", "edited", "of another sweep"])
def test_a_description_that_is_not_whole_is_refused_and_mended(kept, damage):
    folder, table = kept
    path = folder / "description.json"
    whole = path.read_text()
    content = json.loads(whole)
    if damage == "missing":
        path.unlink()
    else:
        content["seeds" if damage == "edited" else "identity"] = 2
        path.write_text(whole[:100] if damage == "torn" else json.dumps(content))
    with pytest.raises(
        ValueError, match=r"a finished sweep, but .* has no whole description\.json, .*call sweep as before"
    ):
        jf.sweeps.read(folder)
    swept(folder)
    assert jf.sweeps.read(folder).identical(table)


def test_a_sweep_that_was_interrupted_is_refused(tmp_path, monkeypatch):
    run, ran = Program.run, []

    def stop(self, *block):
        ran.append(block)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return run(self, *block)

    monkeypatch.setattr(Program, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path)
    with pytest.raises(ValueError, match=r"has no whole description\.json, which is written last"):
        jf.sweeps.read(tmp_path)
    assert swept(tmp_path).identical(jf.sweeps.read(tmp_path))


def test_what_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder of a sweep, but .* has no manifest\.json"):
        jf.sweeps.read(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(TypeError, match="directory must be a path, got 3"):
        jf.sweeps.read(3)
