"""A sweep's folder on disks that are full or cannot be written, under exceptions, and after a kill within a write."""

import errno
import io
import os
import sys

import pytest
from folders import (
    BATCHES,
    KEPT,
    NAMES,
    RUN,
    alter,
    batch_file,
    batches,
    finishes,
    flipped,
    interrupted,
    rests,
    stamps,
    swept,
    torn,
)


def trouble(number=errno.ENOSPC):
    return OSError(number, os.strerror(number))


def assert_explained(error, directory, number=errno.ENOSPC):
    message = error.strerror
    assert error.errno == number
    assert "\n" not in message
    assert str(directory) in message
    assert f"could not be written ({os.strerror(number)}); finished batches" in message
    assert "kept" in message


# The manifest is written first, and once more with the batch size.
@pytest.mark.parametrize("files", [0, 1, 2, 3, 11])
@pytest.mark.parametrize("broken", ["os.fsync", "os.replace", "tempfile.mkstemp"])
def test_a_full_disk_is_told_and_costs_nothing_that_is_finished(tmp_path, runs, monkeypatch, broken, files):
    directory = tmp_path / "sweep"
    error = interrupted(monkeypatch, directory, broken, files, trouble())
    assert_explained(error, directory)
    done = max(files - 2, 0)
    assert ("manifest.json" if files < 2 else NAMES[done]) in str(error)
    assert sorted(batches(directory)) == NAMES[:done]
    assert (directory / "manifest.json").exists() == (files > 0)
    assert not torn(directory)
    finishes(directory, runs, range(done, BATCHES))


@pytest.mark.parametrize(
    "error", [trouble(), KeyboardInterrupt("stopped"), MemoryError("stopped")], ids=lambda e: type(e).__name__
)
def test_a_write_that_breaks_off_leaves_no_half_file(tmp_path, monkeypatch, runs, error):
    class HalfWritten(io.FileIO):
        def write(self, content):
            super().write(content[: len(content) // 2])
            raise error

    opened, fdopen = [], os.fdopen

    def sixth_breaks(handle, mode):
        opened.append(handle)
        return (HalfWritten if len(opened) == 6 else fdopen)(handle, mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", sixth_breaks)
        with pytest.raises(type(error), match=r"could not be written|stopped"):
            swept(tmp_path)
    assert sorted(batches(tmp_path)) == NAMES[:3]
    assert not torn(tmp_path)
    finishes(tmp_path, runs, range(3, BATCHES))


def test_a_disk_full_at_every_file_gets_there_in_the_end(tmp_path, runs, monkeypatch):
    directory = tmp_path / "sweep"
    for _ in range(BATCHES + 1):
        assert_explained(interrupted(monkeypatch, directory, "os.replace", 1, trouble()), directory)
    assert sorted(runs) == sorted([*range(BATCHES), *range(BATCHES - 1)])
    finishes(directory, runs, [9])


def test_a_full_disk_while_a_manifest_is_written_anew_keeps_the_batches(half, runs, monkeypatch):
    (half / "manifest.json").write_bytes(b"{")
    before = batches(half)
    with pytest.warns(UserWarning, match="damaged"):
        error = interrupted(monkeypatch, half, "os.fsync", 0, trouble())
    assert_explained(error, half)
    assert "manifest.json could not be" in str(error)
    assert batches(half) == before
    assert not torn(half)
    finishes(half, runs, range(KEPT, BATCHES), manifest="damaged")


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
    rests(whole, runs)


def test_a_stopped_sweep_on_a_read_only_disk_is_told(half, runs, seal):
    before = stamps(half)
    seal(half)
    with pytest.raises(OSError, match="could not be written") as caught:
        swept(half)
    assert_explained(caught.value, half, errno.EROFS)
    assert not runs
    _sealed.clear()
    assert stamps(half) == before
    finishes(half, runs, range(KEPT, BATCHES))


def test_a_damaged_batch_on_a_read_only_disk_is_told(whole, seal):
    alter(batch_file(whole, 3), flipped(99))
    seal(whole)
    with (
        pytest.warns(UserWarning, match=f"{NAMES[3]} is damaged"),
        pytest.raises(OSError, match="could not be written") as caught,
    ):
        swept(whole)
    assert_explained(caught.value, whole, errno.EROFS)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_made_is_told(tmp_path, runs, monkeypatch, number):
    directory = tmp_path / "sweep"
    assert_explained(interrupted(monkeypatch, directory, "os.mkdir", 0, trouble(number)), directory, number)
    assert not runs
    finishes(directory, runs, range(BATCHES))


@pytest.mark.parametrize("directory", ["results", "results/sweep", "results/deeper/sweep"])
def test_a_file_in_place_of_the_folder_or_one_above_is_refused(tmp_path, runs, directory):
    path = tmp_path / "results"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"directory must be a folder, but .*results is a file\."):
        swept(tmp_path / directory)
    assert path.read_text() == "mine"
    assert not runs


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError, MemoryError, SystemExit])
@pytest.mark.parametrize("index", [0, 9])
def test_an_exception_in_a_batch_keeps_those_before(tmp_path, monkeypatch, runs, kind, index):
    error = kind("stopped")
    assert interrupted(monkeypatch, tmp_path, RUN, index, error) is error
    assert sorted(batches(tmp_path)) == NAMES[:index]
    assert not torn(tmp_path)
    finishes(tmp_path, runs, range(index, BATCHES))


def test_half_files_of_a_killed_writer_are_cleaned_up(half, runs):
    for index in (5, 8):
        path = half / "batches" / f".{NAMES[index]}.k2j4x"
        path.write_bytes(batch_file(half, 0).read_bytes()[:700])
    finishes(half, runs, range(KEPT, BATCHES))


def test_half_manifests_of_a_killed_writer_are_cleaned_up(tmp_path, runs):
    """A kill within the first file of all, and another within the second."""
    (tmp_path / ".manifest.json.k2j4x").write_bytes(b'{\n "finger')
    (tmp_path / ".manifest.json.abcde").write_bytes(b"")
    (tmp_path / "lock").touch()
    finishes(tmp_path, runs, range(BATCHES))


@pytest.mark.parametrize("name", ["manifest.json", "lock", f"batches/{NAMES[0]}"])
def test_a_folder_in_place_of_a_file_is_refused(tmp_path, runs, name):
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"must hold a sweep or nothing, but .*{name} is a folder\."):
        swept(tmp_path)
    assert not runs


def test_a_file_in_place_of_the_batches_and_no_path_at_all_are_refused(tmp_path, runs):
    (tmp_path / "batches").touch()
    with pytest.raises(ValueError, match=r"but .*batches is a file\."):
        swept(tmp_path)
    with pytest.raises(ValueError, match="directory must be the path of a folder, got ''"):
        swept("")
    assert not runs
