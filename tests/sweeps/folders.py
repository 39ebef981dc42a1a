"""A small sweep kept in a folder, what its batches and manifest were, and how the folder comes through damage.

Whatever happens to it, good batches stay as they are (inode and time of their files), only what is missing is run,
and the dataset is the undisturbed one, byte for byte.
"""

import functools
import pkgutil
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxflow as jf
from jaxflow.sweeps.execution.compiled_batch import Program
from jaxflow.sweeps.storage.store import Store

SEEDS, BATCH, LENGTH = 2, 4, 6
AXES = {"a": [0.0, 0.25, 0.5, 0.75, 1.0], "b": [0.5, 1.0], "c": [0.0, -1.0]}
TRIALS = 5 * 2 * 2 * SEEDS
BATCHES = TRIALS // BATCH
NAMES = [f"0000-{index:06d}.npz" for index in range(BATCHES)]
KEPT = 5  # finished batches in the folder `half`
KEY = jax.random.key(7)
RUN = "jaxflow.sweeps.execution.compiled_batch.Program.run"


def recursion(function, length):
    """A trial that iterates x ← b function(x + a) + c from a random start."""

    def trial(hyperparameters, key):
        def step(x, _):
            x = function(x + hyperparameters["a"]) * hyperparameters["b"] + hyperparameters["c"]
            return x, x

        last, path = jax.lax.scan(step, jax.random.normal(key), None, length=length)
        return {"last": last, "path": path.astype(jnp.float32), "positive": (path > 0).sum()}

    return trial


trial = recursion(jnp.sin, LENGTH)


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


@functools.cache
def undisturbed():
    return content(swept())


def stamps(directory):
    """The file behind every name in a folder, and when it was written."""
    found = (path for path in Path(directory).rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def batches(directory):
    return {name: stamp for name, stamp in stamps(directory / "batches").items() if name.endswith(".npz")}


def batch_file(directory, index):
    return directory / "batches" / NAMES[index]


def torn(directory):
    """The files that a write has begun under another name."""
    return [path for path in Path(directory).rglob(".*") if path.is_file()]


def flipped(position):
    """What flips a bit there."""

    def flip(data):
        changed = bytearray(data)
        changed[position] ^= 1
        return bytes(changed)

    return flip


def alter(path, change):
    good = path.read_bytes()
    path.write_bytes(change(good))
    assert path.read_bytes() != good


def failing(function, calls, error):
    """`function` for so many calls, then an error."""
    left = iter(range(calls))

    def call(*args, **kwargs):
        if next(left, None) is None:
            raise error
        return function(*args, **kwargs)

    return call


def interrupted(monkeypatch, directory, target, calls, error):
    """The error that a sweep ends with where something it calls fails after so many calls."""
    with monkeypatch.context() as patch:
        patch.setattr(target, failing(pkgutil.resolve_name(target), calls, error))
        with pytest.raises(type(error)) as caught:
            swept(directory)
    return caught.value


# Fixtures, for all files of tests by way of conftest.py.


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


@pytest.fixture
def whole(tmp_path):
    """The folder of a finished sweep."""
    directory = tmp_path / "sweep"
    swept(directory)
    return directory


@pytest.fixture
def half(tmp_path, monkeypatch):
    """The folder of a sweep that stopped after `KEPT` batches."""
    directory = tmp_path / "sweep"
    interrupted(monkeypatch, directory, RUN, KEPT, KeyboardInterrupt())
    return directory


# What the next call does.


def finishes(directory, runs, expected, damaged=(), manifest=None, **settings):
    """It warns of the damaged files only, runs those batches only, and returns the right dataset."""
    before = {name: stamp for name, stamp in batches(directory).items() if name not in damaged}
    runs.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = swept(directory, **settings)
    sentences = [f"{directory / 'batches' / name} is damaged; its trials are run again." for name in damaged]
    if manifest is not None:
        path = directory / "manifest.json"
        sentences.insert(0, f"{path} is {manifest}; it is written anew from the batches in its folder.")
    assert [str(warning.message) for warning in caught] == sentences
    assert runs == list(expected)
    assert content(dataset) == undisturbed()
    after = batches(directory)
    assert sorted(after) == NAMES
    assert before.items() <= after.items()
    assert not torn(directory)
    rests(directory, runs)


def rests(directory, runs):
    """Of a finished sweep it runs nothing, writes nothing and says nothing."""
    before = stamps(directory)
    runs.clear()
    assert content(swept(directory)) == undisturbed()
    assert not runs
    assert stamps(directory) == before


def refused(directory, runs, *parts, **changes):
    """It is refused, in the sentence returned; nothing is run, and the folder stays as it is."""
    before = stamps(directory)
    runs.clear()
    with pytest.raises(ValueError, match=r".") as caught:
        swept(directory, **changes)
    message = str(caught.value)
    assert "\n" not in message
    assert str(directory) in message
    for part in parts:
        assert part in message
    assert not runs
    assert stamps(directory) == before
    return message
