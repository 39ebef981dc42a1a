"""A sweep's folder under everything that happens to folders: damage, mix-ups, full and read-only disks.

Whatever happens, good batches stay as they are (inode and time of their files), only what is missing is run, and the
dataset is the undisturbed one, byte for byte.
"""

import errno
import functools
import inspect
import io
import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import jaxflow as jf
from jaxflow.sweeps.program import Program
from jaxflow.sweeps.store import Store

pytestmark = pytest.mark.promotes

SEEDS, BATCH, LENGTH = 2, 4, 6
AXES = {"a": [0.0, 0.25, 0.5, 0.75, 1.0], "b": [0.5, 1.0], "c": [0.0, -1.0]}
TRIALS = 5 * 2 * 2 * SEEDS
BATCHES = TRIALS // BATCH
NAMES = [f"0000-{index:06d}.npz" for index in range(BATCHES)]
KEY = jax.random.key(7)


def orbit(x, hyperparameters, function, length):
    def step(x, _):
        x = function(x + hyperparameters["a"]) * hyperparameters["b"] + hyperparameters["c"]
        return x, x

    return jax.lax.scan(step, x, None, length=length)


def trial(hyperparameters, key):
    last, path = orbit(jax.random.normal(key), hyperparameters, jnp.sin, LENGTH)
    return {"last": last, "path": path.astype(jnp.float32), "positive": (path > 0).sum()}


def swept(directory=None, function=trial, axes=AXES, **settings):
    settings = {"seeds": SEEDS, "key": KEY, "batch": BATCH} | settings
    return jf.sweep(function, axes, directory=directory, **settings)


def content(dataset):
    """Everything in a dataset but its attributes, to the byte."""
    raw = lambda values: str(values.tolist()).encode() if values.dtype == object else values.tobytes()
    return {
        name: (variable.dims, str(variable.dtype), raw(variable.values))
        for name, variable in dataset.variables.items()
    }


def stamps(directory):
    """The file behind every name in a folder, and when it was written."""
    found = (path for path in Path(directory).rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def batches(directory):
    return {name: stamp for name, stamp in stamps(directory / "batches").items() if name.endswith(".npz")}


def torn(directory):
    return [path for path in Path(directory).rglob(".*") if path.is_file()]


def batch_file(directory, index):
    return directory / "batches" / NAMES[index]


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@functools.cache
def undisturbed():
    return content(swept())


@pytest.fixture
def runs(monkeypatch):
    """The numbers of the batches that are run, as they are run."""
    undisturbed()
    seen, claimed, claim, run = [], [], Store.claim, Program.run

    def noted(self, group, index):
        claimed.append(index)
        return claim(self, group, index)

    def logged(self, *block):
        seen.extend(claimed[-1:])  # none without a directory
        return run(self, *block)

    monkeypatch.setattr(Store, "claim", noted)
    monkeypatch.setattr(Program, "run", logged)
    return seen


def interrupted(monkeypatch, directory, target, replacement, error, match):
    """The error that a sweep ends with where something it calls is replaced."""
    with monkeypatch.context() as patch:
        patch.setattr(target, replacement)
        with pytest.raises(error, match=match) as caught:
            swept(directory)
    return caught.value


RUN = "jaxflow.sweeps.program.Program.run"


def stopping(batches, error):
    """`Program.run` that raises in place of the result of the batch after so many."""
    run, done = Program.run, []

    def stops(self, *block):
        result = run(self, *block)
        if len(done) == batches:
            raise error("stopped")
        done.append(block)
        return result

    return stops


@pytest.fixture
def whole(tmp_path):
    """The folder of a finished sweep."""
    directory = tmp_path / "sweep"
    swept(directory)
    return directory


@pytest.fixture
def half(tmp_path, monkeypatch):
    """The folder of a sweep that stopped after five batches."""
    directory = tmp_path / "sweep"
    interrupted(monkeypatch, directory, RUN, stopping(5, KeyboardInterrupt), KeyboardInterrupt, "stopped")
    return directory


def finishes(directory, runs, expected, damaged=()):
    """The next call warns of the damaged files only, runs those batches only, and returns the right dataset."""
    before = {name: stamp for name, stamp in batches(directory).items() if name not in damaged}
    runs.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = swept(directory)
    said = [str(warning.message) for warning in caught]
    assert said == [
        f"{directory / 'batches' / name} is damaged; its trials are run again." for name in damaged
    ]
    assert sorted(runs) == sorted(expected)
    assert content(dataset) == undisturbed()
    after = batches(directory)
    assert sorted(after) == NAMES
    assert before.items() <= after.items()
    assert not torn(directory)
    assert_rests(directory, runs)


def assert_rests(directory, runs):
    """Called again, a finished sweep runs nothing, writes nothing and says nothing."""
    before = stamps(directory)
    runs.clear()
    assert content(swept(directory)) == undisturbed()
    assert not runs
    assert stamps(directory) == before


def refused(directory, *parts, function=trial, error=ValueError, **changes):
    """The sentence in which a call is refused; the folder stays as it is."""
    before = stamps(directory)
    with pytest.raises(error) as caught:
        swept(directory, function, **changes)
    message = str(caught.value)
    assert "\n" not in message
    assert str(directory) in message
    for part in parts:
        assert part in message
    assert stamps(directory) == before
    return message


# The dataset itself, and a folder that nothing happens to.


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
    assert_rests(directory, runs)


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


@pytest.mark.parametrize("kind", ["tuples", "arrays", "a function made anew", "no batch size"])
def test_the_same_sweep_in_other_clothes_goes_on(half, runs, kind):
    def again(hyperparameters, key):
        last, path = orbit(jax.random.normal(key), hyperparameters, jnp.sin, LENGTH)
        return {"last": last, "path": path.astype(jnp.float32), "positive": (path > 0).sum()}

    axes = {
        "tuples": {name: tuple(values) for name, values in AXES.items()},
        "arrays": {name: jnp.array(values) for name, values in AXES.items()},
    }.get(kind, AXES)
    function = again if kind == "a function made anew" else trial
    batch = None if kind == "no batch size" else BATCH
    assert content(swept(half, function, axes, batch=batch)) == undisturbed()
    assert runs == [5, 6, 7, 8, 9]


# Damaged batches.

SIZE = 1300  # a batch's file is longer than this


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 1000, SIZE, -65, -64, -1])
def test_a_truncated_batch_is_named_and_run_again(whole, runs, length):
    path = batch_file(whole, 3)
    data = path.read_bytes()
    assert len(data) > SIZE
    path.write_bytes(data[:length])
    finishes(whole, runs, [3], damaged=[NAMES[3]])


@pytest.mark.parametrize("position", [0, 3, 40, 500, SIZE // 2, -300, -66, -65, -64, -30, -1])
def test_a_flipped_bit_is_found_wherever_it_is(whole, runs, position):
    flip(batch_file(whole, 3), position)
    finishes(whole, runs, [3], damaged=[NAMES[3]])


def test_bits_flipped_in_every_batch_are_all_found(whole, runs):
    for index in range(BATCHES):
        flip(batch_file(whole, index), 61 * index)
    finishes(whole, runs, list(range(BATCHES)), damaged=NAMES)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 5000, b"PK" + b"x" * 5000], ids=["nothing", "zeros", "garbage"]
)
def test_other_content_than_a_batch_is_found(whole, runs, data):
    batch_file(whole, 9).write_bytes(data)
    finishes(whole, runs, [9], damaged=[NAMES[9]])


def test_bytes_behind_the_checksum_are_found(whole, runs):
    path = batch_file(whole, 0)
    path.write_bytes(path.read_bytes() + b"\n")
    finishes(whole, runs, [0], damaged=[NAMES[0]])


def test_swapped_batches_are_run_again(whole, runs):
    one, other = batch_file(whole, 3), batch_file(whole, 5)
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    finishes(whole, runs, [3, 5], damaged=[NAMES[3], NAMES[5]])


def test_a_batch_copied_over_another_is_found(whole, runs):
    shutil.copy(batch_file(whole, 3), batch_file(whole, 5))
    finishes(whole, runs, [5], damaged=[NAMES[5]])


def test_a_batch_of_another_sweep_is_found(whole, tmp_path, runs):
    swept(tmp_path / "other", key=jax.random.key(8))
    shutil.copy(batch_file(tmp_path / "other", 3), batch_file(whole, 3))
    finishes(whole, runs, [3], damaged=[NAMES[3]])


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_batch_of_the_same_sweep_in_other_batches_is_found(whole, tmp_path, runs, size):
    """One of size 1 would be broadcast over four trials."""
    swept(tmp_path / "other", batch=size)
    shutil.copy(batch_file(tmp_path / "other", 3), batch_file(whole, 3))
    finishes(whole, runs, [3], damaged=[NAMES[3]])


@pytest.mark.parametrize("gone", [[0], [9], [2, 3, 7], list(range(10))])
def test_deleted_batches_are_run_again(whole, runs, gone):
    for index in gone:
        batch_file(whole, index).unlink()
    finishes(whole, runs, gone)


def test_a_deleted_folder_of_batches_is_run_again(whole, runs):
    shutil.rmtree(whole / "batches")
    finishes(whole, runs, list(range(BATCHES)))


def test_a_deleted_lock_is_no_loss(half, runs):
    (half / "lock").unlink()
    finishes(half, runs, [5, 6, 7, 8, 9])


@pytest.mark.parametrize("damaged", ["manifest.json", f"batches/{NAMES[3]}"])
def test_the_warning_points_at_the_call(whole, damaged):
    """At the line that calls `jf.sweep`, not into the library and not further up."""
    flip(whole / damaged, 99)
    with pytest.warns(UserWarning, match="damaged") as caught:
        swept(whole)
    lines, first = inspect.getsourcelines(swept)
    assert caught[0].filename == __file__
    assert caught[0].lineno in range(first, first + len(lines))


# The manifest.

DAMAGES = {
    "empty": lambda data: b"",
    "truncated by half": lambda data: data[: len(data) // 2],
    "without its last brace": lambda data: data[:-3],
    "garbage": lambda data: b"\xff\xfe\x00 garbage",
    "zeros": lambda data: b"\0" * len(data),
    "a list": lambda data: b"[1, 2]",
    "null": lambda data: b"null",
    "a string": lambda data: b'"text"',
    "an empty object": lambda data: b"{}",
    "another batch size": lambda data: data.replace(b'"0": 4', b'"0": 8'),
    "another seed": lambda data: data.replace(b'"seeds": 2', b'"seeds": 3'),
    "another version": lambda data: data.replace(b'"numpy": "', b'"numpy": "9'),
    "without sizes": lambda data: data.replace(b'"sizes"', b'"sixes"'),
    "without checksum": lambda data: data.replace(b'"checksum"', b'"chequesum"'),
} | {
    f"flipped bit at {tenth}/12": lambda data, tenth=tenth: (
        data[: (at := tenth * len(data) // 12)] + bytes([data[at] ^ 1]) + data[at + 1 :]
    )
    for tenth in range(12)
}


def rewrites_the_manifest(directory, runs, state, expected):
    before = batches(directory)
    runs.clear()
    path = directory / "manifest.json"
    with pytest.warns(UserWarning, match="written anew") as caught:
        dataset = swept(directory)
    assert [str(warning.message) for warning in caught] == [
        f"{path} is {state}; it is written anew from the batches beside it."
    ]
    assert runs == expected
    assert content(dataset) == undisturbed()
    assert before.items() <= batches(directory).items()
    assert_rests(directory, runs)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_written_anew(whole, runs, damage):
    path = whole / "manifest.json"
    good = path.read_bytes()
    path.write_bytes(DAMAGES[damage](good))
    assert path.read_bytes() != good
    rewrites_the_manifest(whole, runs, "damaged", [])
    assert path.read_bytes() == good


def test_a_missing_manifest_is_written_anew(whole, runs):
    path = whole / "manifest.json"
    good = path.read_bytes()
    path.unlink()
    rewrites_the_manifest(whole, runs, "missing", [])
    assert path.read_bytes() == good


@pytest.mark.parametrize("state", ["damaged", "missing"])
def test_without_its_manifest_a_stopped_sweep_goes_on(half, runs, state):
    path = half / "manifest.json"
    path.unlink()
    if state == "damaged":
        path.write_bytes(b"{")
    rewrites_the_manifest(half, runs, state, [5, 6, 7, 8, 9])


def test_without_its_manifest_a_sweep_keeps_its_batch_size(half, runs):
    (half / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="missing"):
        dataset = swept(half, batch=None)
    assert content(dataset) == undisturbed()
    assert runs == [5, 6, 7, 8, 9]


def test_without_its_manifest_another_batch_size_is_refused(half):
    (half / "manifest.json").unlink()
    with (
        pytest.warns(UserWarning, match="missing"),
        pytest.raises(ValueError, match=r"batch must be 4, as in .*, got 8"),
    ):
        swept(half, batch=8)


@pytest.mark.parametrize("state", ["missing", "damaged"])
@pytest.mark.parametrize("change", [{"key": jax.random.key(8)}, {"seeds": 3}], ids=["key", "seeds"])
def test_without_its_manifest_the_batches_of_another_sweep_are_refused(whole, runs, change, state):
    path = whole / "manifest.json"
    path.unlink()
    if state == "damaged":
        path.write_bytes(b"{")
    refused(whole, f"manifest.json is {state}", NAMES[0], "another sweep", **change)
    assert not runs


def test_without_its_manifest_a_damaged_batch_is_refused_by_name(whole, runs):
    """It may be of another sweep: nothing tells."""
    (whole / "manifest.json").unlink()
    flip(batch_file(whole, 6), 50)
    refused(whole, "manifest.json is missing", NAMES[6], "damaged")
    assert not runs


def test_the_manifest_of_another_sweep_is_refused(whole, tmp_path, runs):
    swept(tmp_path / "other", seeds=3)
    runs.clear()
    shutil.copy(tmp_path / "other" / "manifest.json", whole / "manifest.json")
    refused(whole, "seeds is 3 there, 2 here")
    assert not runs


# Another sweep in the same folder.


def other_program(hyperparameters, key):
    last, path = orbit(jax.random.normal(key), hyperparameters, jnp.cos, LENGTH)
    return {"last": last, "path": path.astype(jnp.float32), "positive": (path > 0).sum()}


def longer(hyperparameters, key):
    last, path = orbit(jax.random.normal(key), hyperparameters, jnp.sin, LENGTH + 1)
    return {"last": last, "path": path.astype(jnp.float32), "positive": (path > 0).sum()}


def other_number(hyperparameters, key):
    result = trial(hyperparameters, key)
    return result | {"last": result["last"] + 1e-13}


def more(hyperparameters, key):
    return trial(hyperparameters, key) | {"square": hyperparameters["a"] ** 2}


def without(name):
    return {other: values for other, values in AXES.items() if other != name}


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
    "samples": (
        {"axes": [{"a": a, "b": 1.0, "c": 0.0} for a in AXES["a"]]},
        ["kind is grid there, samples here", "axes.b is 2 × (0.5 … 1)", "there, 5 × (1 … 1)"],
    ),
    "seeds": ({"seeds": 3}, ["seeds is 2 there, 3 here"]),
    "key": ({"key": jax.random.key(8)}, ["key is ", " there, ", " here"]),
    "no key": ({"key": None}, ["key is ", " there, ", " here"]),
    "the kind of key": ({"key": jax.random.PRNGKey(7)}, ["key is ", " there, ", " here"]),
    "static": ({"static": ("b",)}, ["static is [] there, ['b'] here"]),
    "the function": ({"function": other_program}, ["trial.program (jaxpr) is", "there,", "here"]),
    "the length": ({"function": longer}, ["trial.returns.path is float32[6] there, float32[7] here"]),
    "a number": ({"function": other_number}, ["trial.program (jaxpr) is", "there,", "here"]),
    "what it returns": (
        {"function": more},
        ["trial.returns.square is only here", "trial.program (jaxpr) is"],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_sweep_is_refused_saying_in_what_it_differs(whole, runs, change):
    changes, parts = CHANGES[change]
    message = refused(whole, *parts, **changes)
    assert not runs
    assert "Nothing in it was touched" in message
    assert "ersions differ" not in message
    # Whatever is said to differ is said in both versions, and those are not the same.
    for entry in message.split("another sweep: ")[1].split(". Nothing in it")[0].split("; "):
        if "is only" not in entry:
            there, here = entry.split(" is ", 1)[1].removesuffix(" here").split(" there, ")
            assert there != here
    assert_rests(whole, runs)


def test_an_axis_less_is_refused(tmp_path):
    two = lambda hyperparameters, key: hyperparameters["a"] + hyperparameters.get("b", 0.0)
    swept(tmp_path, two, {"a": [1.0, 2.0], "b": [3.0]})
    refused(
        tmp_path,
        "axes.order is a, b there, a here",
        "axes.b is only there",
        function=two,
        axes={"a": [1.0, 2.0]},
    )


def test_axes_in_another_order_are_refused_whatever_they_are_called(tmp_path):
    """An axis may be called "order", as of an approximation."""
    function = lambda hyperparameters, key: 10 * hyperparameters["order"] + hyperparameters["a"]
    axes = {"order": [1.0, 2.0], "a": [3.0, 4.0, 5.0]}
    dataset = swept(tmp_path, function, axes, seeds=1)
    assert dataset["value"].values[..., 0].tolist() == [[13, 14, 15], [23, 24, 25]]
    turned = {name: axes[name] for name in ("a", "order")}
    refused(tmp_path, "order, a there, a, order here", function=function, axes=turned, seeds=1)


@pytest.mark.parametrize("holds", ["closure", "partial"])
def test_other_data_are_refused(tmp_path, runs, holds):
    def function(data, hyperparameters, key):
        return hyperparameters["a"] * data.sum()

    def made(data):
        return Partial(function, data) if holds == "partial" else lambda h, key: function(data, h, key)

    axes = {"a": AXES["a"]}
    data = jnp.linspace(0.0, 1.0, 50)
    swept(tmp_path, made(data), axes)
    runs.clear()
    message = refused(tmp_path, "trial.arrays it uses is ", function=made(data.at[25].add(1e-12)), axes=axes)
    assert " there, " in message
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

    def axes(rate):
        one, other = (jf.optim.gd, jf.optim.adam) if kind == "jaxflow" else (optax.sgd, optax.adam)
        return {"optimizer": [one(rate), other(rate)], "a": [1.0, 2.0]}

    first = swept(tmp_path, function, axes(0.1), static=("optimizer",))
    runs.clear()
    again = swept(tmp_path, function, axes(0.1), static=("optimizer",))
    assert not runs
    assert content(again) == content(first)
    refused(tmp_path, " there, ", " here", function=function, axes=axes(0.2), static=("optimizer",))


@pytest.mark.parametrize("size", [1, 3, 8, 40])
def test_another_batch_size_is_refused(half, runs, size):
    refused(half, f"batch must be {BATCH}, as in ", "or left out", f"got {size}.", batch=size)
    finishes(half, runs, [5, 6, 7, 8, 9])


def test_a_static_axis_keeps_its_groups_apart(tmp_path, runs):
    axes = AXES | {"length": [3, 5]}

    def function(hyperparameters, key):
        last, _ = orbit(jax.random.normal(key), hyperparameters, jnp.sin, hyperparameters["length"])
        return last

    settings = {"function": function, "axes": axes, "static": ("length",)}
    expected = swept(**settings)
    assert content(swept(tmp_path, **settings)) == content(expected)
    one, other = (tmp_path / "batches" / f"{group:04d}-000003.npz" for group in range(2))
    shutil.copy(one, other)
    runs.clear()
    with pytest.warns(UserWarning, match=other.name):
        again = swept(tmp_path, **settings)
    assert runs == [3]
    assert content(again) == content(expected)


# Disks that are full or cannot be written.


def raising(number, allowed, function, when=lambda *_: True):
    """`function` for so many calls, then an error."""
    left = [allowed]

    def call(*args, **kwargs):
        if when(*args):
            if not left[0]:
                raise OSError(number, os.strerror(number))
            left[0] -= 1
        return function(*args, **kwargs)

    return call


class HalfWritten(io.BytesIO):
    """A file whose disk fills up within a write."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.file.close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def assert_explained(error, directory, number):
    message = error.strerror
    assert error.errno == number
    assert "\n" not in message
    assert str(directory) in message
    assert os.strerror(number) in message
    assert "finished batches" in message
    assert "kept" in message


# The manifest is written first, and once more with the batch size.
@pytest.mark.parametrize("files", [0, 1, 2, 3, 7, 11])
@pytest.mark.parametrize("broken", ["os.fsync", "os.replace", "tempfile.mkstemp"])
def test_a_full_disk_is_told_and_costs_nothing_that_is_finished(tmp_path, runs, monkeypatch, broken, files):
    directory = tmp_path / "sweep"
    module, name = broken.split(".")
    function = getattr(sys.modules[module], name)
    breaks = raising(errno.ENOSPC, files, function)
    error = interrupted(monkeypatch, directory, broken, breaks, OSError, "could not be written")
    assert_explained(error, directory, errno.ENOSPC)
    done = max(files - 2, 0)
    assert ("manifest.json" if files < 2 else NAMES[done]) in str(error)
    assert sorted(batches(directory) if done else []) == NAMES[:done]
    assert (directory / "manifest.json").exists() == (files > 0)
    assert not torn(directory)
    finishes(directory, runs, range(done, BATCHES))


def test_a_disk_that_fills_up_within_a_file_leaves_no_half_file(tmp_path, runs, monkeypatch):
    directory, opened, fdopen = tmp_path / "sweep", [], os.fdopen

    def half(handle, *args):
        opened.append(handle)
        file = fdopen(handle, *args)
        return HalfWritten(file) if len(opened) == 6 else file

    error = interrupted(monkeypatch, directory, "os.fdopen", half, OSError, "could not be written")
    assert_explained(error, directory, errno.ENOSPC)
    assert sorted(batches(directory)) == NAMES[:3]
    assert not torn(directory)
    finishes(directory, runs, range(3, BATCHES))


def test_a_disk_full_at_every_file_gets_there_in_the_end(tmp_path, runs, monkeypatch):
    directory, replace = tmp_path / "sweep", os.replace
    for _ in range(BATCHES + 1):
        breaks = raising(errno.ENOSPC, 1, replace)
        interrupted(monkeypatch, directory, "os.replace", breaks, OSError, "No space left")
    assert sorted(runs) == sorted([*range(BATCHES), *range(BATCHES - 1)])
    finishes(directory, runs, [9])


def test_a_full_disk_while_a_manifest_is_written_anew_keeps_the_batches(half, runs, monkeypatch):
    (half / "manifest.json").write_bytes(b"{")
    before = batches(half)
    breaks = raising(errno.ENOSPC, 0, os.fsync)
    with pytest.warns(UserWarning, match="damaged"):
        error = interrupted(monkeypatch, half, "os.fsync", breaks, OSError, r"manifest\.json could not be")
    assert_explained(error, half, errno.ENOSPC)
    assert batches(half) == before
    assert not torn(half)
    rewrites_the_manifest(half, runs, "damaged", [5, 6, 7, 8, 9])


_sealed: list[str] = []
WRITES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.utime", "os.chmod", "os.link"}


def _as_a_read_only_disk(event, args):
    if not _sealed or (event != "open" and event not in WRITES):
        return
    if not isinstance(args[0], (str, bytes, os.PathLike)):
        return
    path = os.fsdecode(os.fspath(args[0]))
    if not path.startswith(_sealed[0]):
        return
    if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
        return
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)


@pytest.fixture(scope="module")
def audit():
    sys.addaudithook(_as_a_read_only_disk)  # stays, and does nothing while nothing is sealed


@pytest.fixture
def seal(audit):
    """Make all below a folder read-only, for a superuser too."""
    yield lambda directory: _sealed.append(str(directory))
    _sealed.clear()


def test_a_finished_sweep_is_read_from_a_read_only_disk(whole, runs, seal):
    seal(whole)
    with pytest.raises(OSError, match="Read-only"):
        (whole / "test").write_text("the seal holds")
    assert_rests(whole, runs)


def test_a_stopped_sweep_on_a_read_only_disk_is_told(half, runs, seal):
    before = stamps(half)
    seal(half)
    with pytest.raises(OSError, match="could not be written") as caught:
        swept(half)
    assert_explained(caught.value, half, errno.EROFS)
    assert not runs
    _sealed.clear()
    assert stamps(half) == before
    finishes(half, runs, [5, 6, 7, 8, 9])


def test_a_damaged_batch_on_a_read_only_disk_is_told(whole, seal):
    flip(batch_file(whole, 3), 99)
    seal(whole)
    with (
        pytest.warns(UserWarning, match=f"{NAMES[3]} is damaged"),
        pytest.raises(OSError, match="could not be written") as caught,
    ):
        swept(whole)
    assert_explained(caught.value, whole, errno.EROFS)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_folder_that_cannot_be_made_is_told(tmp_path, runs, monkeypatch, number):
    directory = tmp_path / "sweep"
    breaks = raising(number, 0, os.mkdir)
    error = interrupted(monkeypatch, directory, "os.mkdir", breaks, OSError, "could not be written")
    assert_explained(error, directory, number)
    assert not runs
    finishes(directory, runs, range(BATCHES))


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, runs):
    path = tmp_path / "results"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"directory must be a folder, but .*results is a file\."):
        swept(path)
    assert path.read_text() == "mine"
    assert not runs


@pytest.mark.parametrize("below", ["results/sweep", "results/deeper/sweep"])
def test_a_file_in_place_of_a_folder_above_is_refused(tmp_path, runs, below):
    path = tmp_path / "results"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"directory must be a folder, but .*results is a file\."):
        swept(tmp_path / below)
    assert path.read_text() == "mine"
    assert not runs


# Interruptions.


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError, SystemExit])
@pytest.mark.parametrize("index", [0, 4, 9])
def test_an_exception_in_a_batch_keeps_those_before(tmp_path, monkeypatch, runs, error, index):
    interrupted(monkeypatch, tmp_path, RUN, stopping(index, error), error, "stopped")
    assert sorted(batches(tmp_path) if index else []) == NAMES[:index]
    assert not torn(tmp_path)
    finishes(tmp_path, runs, range(index, BATCHES))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_exception_within_a_write_leaves_no_half_file(tmp_path, monkeypatch, runs, error):
    calls = []

    def stops(handle):
        calls.append(handle)
        if len(calls) == 6:
            raise error("stopped")

    interrupted(monkeypatch, tmp_path, "os.fsync", stops, error, "stopped")
    assert not torn(tmp_path)
    assert sorted(batches(tmp_path)) == NAMES[:3]
    finishes(tmp_path, runs, range(3, BATCHES))


def test_half_files_of_a_killed_writer_are_cleaned_up(half, runs):
    for index in (5, 8):
        path = half / "batches" / f".{NAMES[index]}.k2j4x"
        path.write_bytes(batch_file(half, 0).read_bytes()[:700])
    finishes(half, runs, [5, 6, 7, 8, 9])


def test_half_manifests_of_a_killed_writer_are_cleaned_up(tmp_path, runs):
    """A kill within the first file of all, and another within the second."""
    (tmp_path / ".manifest.json.k2j4x").write_bytes(b'{\n "finger')
    (tmp_path / ".manifest.json.abcde").write_bytes(b"")
    (tmp_path / "lock").touch()
    finishes(tmp_path, runs, range(BATCHES))


class Verdict(NamedTuple):
    diverged: jax.Array
    loss: jax.Array


def test_no_array_of_a_trial_is_lost_to_the_flag_of_divergence(tmp_path):
    """Refused, or kept under a name: an array called `diverged` that is not in a dict."""
    function = lambda hyperparameters, key: Verdict(hyperparameters["a"] * 3, hyperparameters["a"])
    try:
        dataset = swept(tmp_path, function, {"a": AXES["a"]})
    except (TypeError, ValueError) as error:
        assert "diverged" in str(error)  # noqa: PT017 - either outcome is right
    else:
        kept = [v.values[:, 0].tolist() for v in dataset.data_vars.values()]
        assert [3 * a for a in AXES["a"]] in kept
