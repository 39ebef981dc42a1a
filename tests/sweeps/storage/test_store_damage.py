"""A sweep's folder with batches or its manifest torn, altered, exchanged or gone."""

import inspect
import shutil

import jax
import pytest
from folders import (
    AXES,
    BATCHES,
    KEPT,
    LENGTH,
    NAMES,
    alter,
    batch_file,
    content,
    finishes,
    flipped,
    recursion,
    refused,
    swept,
)
from jax import numpy as jnp

# Around 64: the checksum behind a batch has so many digits.
TORN = {f"cut at {at}": lambda data, at=at: data[:at] for at in (0, 63, 64, 65, 1000, -65, -64, -1)}
FLIPPED = {f"bit flipped at {at}": flipped(at) for at in (0, 40, 500, -300, -65, -64, -1)}
OTHER = {
    "zeros": lambda data: b"\0" * len(data),
    "garbage": lambda data: b"PK" + b"x" * len(data),
    "a byte more": lambda data: data + b"\n",
}
BATCH_DAMAGES = TORN | FLIPPED | OTHER


@pytest.mark.parametrize("damage", BATCH_DAMAGES)
def test_a_damaged_batch_is_named_and_run_again(whole, runs, damage):
    alter(batch_file(whole, 3), BATCH_DAMAGES[damage])
    finishes(whole, runs, [3], damaged=[NAMES[3]])


def test_bits_flipped_in_every_batch_are_all_found(whole, runs):
    for index in range(BATCHES):
        alter(batch_file(whole, index), flipped(61 * index))
    finishes(whole, runs, range(BATCHES), damaged=NAMES)


def test_swapped_batches_are_run_again(whole, runs):
    one, other = batch_file(whole, 3), batch_file(whole, 5)
    kept = one.read_bytes()
    shutil.copy(other, one)
    other.write_bytes(kept)
    finishes(whole, runs, [3, 5], damaged=[NAMES[3], NAMES[5]])


@pytest.mark.parametrize(
    "settings",
    [{"key": jax.random.key(8)}, {"batch": 1}, {"batch": 8}],
    ids=["another key", "a batch of 1", "a batch of 8"],
)
def test_a_batch_from_another_folder_is_found(whole, tmp_path, runs, settings):
    """One of size 1 would be broadcast over four trials."""
    swept(tmp_path / "other", **settings)
    shutil.copy(batch_file(tmp_path / "other", 3), batch_file(whole, 3))
    finishes(whole, runs, [3], damaged=[NAMES[3]])


def test_a_static_axis_keeps_its_groups_apart(tmp_path, runs):
    settings = {
        "function": lambda h, key: recursion(jnp.sin, h["length"])(h, key)["last"],
        "axes": AXES | {"length": [LENGTH, 3]},
        "static": ("length",),
    }
    expected = swept(**settings)
    assert content(swept(tmp_path, **settings)) == content(expected)
    one, other = (tmp_path / "batches" / f"{group:04d}-000003.npz" for group in range(2))
    shutil.copy(one, other)
    runs.clear()
    with pytest.warns(UserWarning, match=other.name):
        again = swept(tmp_path, **settings)
    assert runs == [3]
    assert content(again) == content(expected)


@pytest.mark.parametrize("gone", [[0], [2, 3, 9]], ids=["one", "three"])
def test_deleted_batches_are_run_again(whole, runs, gone):
    for index in gone:
        batch_file(whole, index).unlink()
    finishes(whole, runs, gone)


def test_the_folder_of_batches_and_the_lock_may_be_deleted(whole, runs):
    shutil.rmtree(whole / "batches")
    (whole / "lock").unlink()
    finishes(whole, runs, range(BATCHES))


@pytest.mark.parametrize("damaged", ["manifest.json", f"batches/{NAMES[3]}"])
def test_the_warning_points_at_the_call(whole, damaged):
    """At the line that calls `jf.sweep`, not into the library and not further up."""
    alter(whole / damaged, flipped(99))
    with pytest.warns(UserWarning, match="damaged") as caught:
        swept(whole)
    lines, first = inspect.getsourcelines(swept)
    assert caught[0].filename == inspect.getsourcefile(swept)
    assert caught[0].lineno in range(first, first + len(lines))


MANIFEST_DAMAGES = {
    "empty": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "without its last brace": lambda data: data[:-3],
    "garbage": lambda data: b"\xff\xfe\x00 garbage",
    "a list": lambda data: b"[1, 2]",
    "null": lambda data: b"null",
    "an empty object": lambda data: b"{}",
    "another batch size": lambda data: data.replace(b'"0": 4', b'"0": 8'),
    "another seed": lambda data: data.replace(b'"seeds": 2', b'"seeds": 3'),
    "another version": lambda data: data.replace(b'"numpy": "', b'"numpy": "9'),
    "without sizes": lambda data: data.replace(b'"sizes"', b'"sixes"'),
    "without checksum": lambda data: data.replace(b'"checksum"', b'"chequesum"'),
} | {f"bit flipped at {at}": flipped(at) for at in (0, *range(1, 1000, 123), -1)}


def lose(directory, state):
    """Leave a folder without its manifest, which is then missing or damaged."""
    path = directory / "manifest.json"
    path.unlink()
    if state == "damaged":
        path.write_bytes(b"{")


@pytest.mark.parametrize("damage", MANIFEST_DAMAGES)
def test_a_damaged_manifest_is_written_anew(whole, runs, damage):
    path = whole / "manifest.json"
    good = path.read_bytes()
    alter(path, MANIFEST_DAMAGES[damage])
    finishes(whole, runs, [], manifest="damaged")
    assert path.read_bytes() == good


def test_a_missing_manifest_is_written_anew(whole, runs):
    path = whole / "manifest.json"
    good = path.read_bytes()
    path.unlink()
    finishes(whole, runs, [], manifest="missing")
    assert path.read_bytes() == good


@pytest.mark.parametrize("settings", [{}, {"batch": None}], ids=["as before", "no batch size"])
@pytest.mark.parametrize("state", ["damaged", "missing"])
def test_without_its_manifest_a_stopped_sweep_goes_on(half, runs, state, settings):
    lose(half, state)
    finishes(half, runs, range(KEPT, BATCHES), manifest=state, **settings)


def test_without_its_manifest_another_batch_size_is_refused(half):
    lose(half, "missing")
    with (
        pytest.warns(UserWarning, match="missing"),
        pytest.raises(ValueError, match=r"batch must be 4, as in .*, got 8"),
    ):
        swept(half, batch=8)


@pytest.mark.parametrize("state", ["missing", "damaged"])
def test_without_its_manifest_the_batches_of_another_sweep_are_refused(whole, runs, state):
    lose(whole, state)
    refused(whole, runs, f"manifest.json is {state}", NAMES[0], "another sweep", key=jax.random.key(8))


def test_without_its_manifest_a_damaged_batch_is_refused_by_name(whole, runs):
    """It may be of another sweep: nothing tells."""
    lose(whole, "missing")
    alter(batch_file(whole, 6), flipped(50))
    refused(whole, runs, "manifest.json is missing", NAMES[6], "damaged")


def test_the_manifest_of_another_sweep_is_refused(whole, tmp_path, runs):
    swept(tmp_path / "other", seeds=3)
    shutil.copy(tmp_path / "other" / "manifest.json", whole / "manifest.json")
    refused(whole, runs, "seeds is 3 there, 2 here")


def test_a_manifest_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(ValueError, match=r"holds a manifest.json that is damaged or not a sweep's"):
        swept(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != "lock"] == ["manifest.json"]
    assert (tmp_path / "manifest.json").read_text() == '{"name": "a web page"}'


def test_files_that_others_hide_in_a_folder_stay(half):
    names = [half / ".DS_Store", half / "batches" / ".DS_Store", half / "batches" / ".nfs.0001"]
    for path in names:
        path.write_text("theirs")
    swept(half)
    assert all(path.read_text() == "theirs" for path in names)
