"""What cannot be done is said in one sentence before the job: folders, seeds, sizes."""

import os
from pathlib import Path

import pytest

from jaxflow.__main__ import main
from jaxflow._disk import results
from jaxflow.commands import edge, order, temperature
from jaxflow.commands.compare import command as compare
from jaxflow.commands.sweep import command as sweep

pytestmark = pytest.mark.promotes
MODULES = {"compare": compare, "order": order, "edge": edge, "sweep": sweep, "temperature": temperature}
SMALL = ["--data", "iris", "--hidden", "4"]
HUGE = str(2**70)


def refused(arguments, capsys, monkeypatch):
    monkeypatch.setattr(MODULES[arguments[0]], "run", lambda *_: pytest.fail("it ran"))
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.skipif(not Path("/proc").exists(), reason="has no folder that nobody can write")
@pytest.mark.parametrize("command", ["compare", "order", "edge", "sweep"])
def test_a_folder_that_nobody_can_write(command, capsys, monkeypatch):
    line = refused([command, *SMALL, "--output", "/proc/results"], capsys, monkeypatch)
    assert "output must be a folder that can be written, got '/proc/results" in line


@pytest.mark.parametrize("command", ["compare", "order", "edge", "sweep"])
def test_a_folder_in_place_of_a_result(command, tmp_path, capsys, monkeypatch):
    name = MODULES[command].FILES[-1]
    (tmp_path / name).mkdir()
    line = refused([command, *SMALL, "--output", str(tmp_path)], capsys, monkeypatch)
    assert line == (
        f"jaxflow {command}: output must leave room for {name}, but {tmp_path / name} is a folder."
    )


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "loop/x"])
def test_names_that_no_folder_has(name, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ValueError, match="output must be a"):
        results.check_folder(tmp_path / name)


def test_trying_a_folder_leaves_nothing(tmp_path):
    results.check_folder(tmp_path / "a" / "b", "result.json")
    results.check_folder(tmp_path)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["compare", "--seed", HUGE],
            "seed must be an integer from 0 to 4294967293, got 1180591620717411303424.",
        ),
        (["compare", "--seed", str(2**32)], "seed must be an integer from 0"),  # in 32 bits the same key as 0
        (["sweep", "--seed", HUGE], "seed must be an integer from 0"),
        (["compare", "--seeds", HUGE], "seeds must be an integer from 1"),
        (["compare", "--steps", HUGE], "steps must be an integer from 1"),
        (["temperature", "--steps", HUGE], "steps must be an integer from 0"),
        (["edge", "--steps", HUGE], "steps must be an integer from 1"),
        (
            ["compare", "--batch-size", str(10**12)],
            "batch_size must fit in memory, got 1000000000000, which takes",
        ),
        (["compare", "--seeds", str(2 * 10**9)], "seeds must fit in memory, got 2000000000, which takes"),
        (["sweep", "--batch-sizes", "4", str(10**12)], "batch_sizes must fit in memory, got 1000000000000"),
        (
            ["compare", "--hidden", "10000000", "10000000"],
            "hidden must fit in memory, got (10000000, 10000000)",
        ),
        (
            ["compare", "--set", "beta=.5"],
            "set must be left out: gd has no other hyperparameter, got 'beta=.5'.",
        ),
        (["compare", "--encode"], "encode must be left out unless dataset is a .csv file, got True."),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_sizes_and_seeds(arguments, said, capsys, monkeypatch, tmp_path):
    command, *more = arguments
    output = [] if command == "temperature" else ["--output", str(tmp_path)]
    assert said in refused([command, *SMALL, *output, *more], capsys, monkeypatch)


def test_a_file_of_settings_with_a_byte_order_mark(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbfsteps = 0\n")
    line = refused(["sweep", "--file", str(tmp_path / "mine.toml")], capsys, monkeypatch)
    assert line == "jaxflow sweep: steps must be an integer at least 1, got 0."
