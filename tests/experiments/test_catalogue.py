"""The list of results against the scripts there are, the claims they make, and the commands that run them."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import experiments
from experiments import common, every
from experiments.__main__ import main
from experiments.catalogue import CHAPTERS, FOLDERS

HOME = Path(experiments.__file__).parent


def test_every_script_that_shows_a_result_is_in_the_catalogue_once():
    there = {
        (folder, path.stem)
        for folder in CHAPTERS
        for path in (HOME / folder).glob("*.py")
        if "common.start(" in path.read_text()
    }
    listed = [(folder, name) for folder, chapter in CHAPTERS.items() for name in chapter.results]
    assert set(listed) == there
    assert len(listed) == len(FOLDERS)


def test_claims_are_reached_inside_their_intervals_only():
    assert common.near(1.02, 1.0, by=0.03).reached is True
    assert common.near(1.04, 1.0, by=0.03).reached is False
    assert common.near([-2.1, -1.95], -2.0, relative=0.06).reached is True
    assert common.near([-2.1, -1.7], -2.0, relative=0.06).reached is False
    assert common.within(3.0, 2).reached is True
    assert common.within(np.array([3.0, np.nan]), 2).reached is False
    assert common.within([], 2).reached is False
    assert common.Headline(3.0, 2.0).reached is None


def test_saved_claims_tell_their_interval_and_verdict(tmp_path, capsys):
    run = common.Experiment("some", True, tmp_path, 0.0)
    lines = {"a": common.near(1.0, 1.1, by=0.2), "b": common.within(5.0, high=4.0), "c": (1.0, 2.0)}
    returned = run.save(Figure(), lines)
    kept = json.loads((tmp_path / "some.json").read_text())["headlines"]
    assert kept["a"] == {
        "measured": 1.0,
        "expected": 1.1,
        "interval": pytest.approx([0.9, 1.3]),
        "reached": True,
    }
    assert kept["b"]["reached"] is False
    assert kept["b"]["interval"] == [None, 4.0]
    assert kept["c"] == {"measured": 1.0, "expected": 2.0, "interval": None, "reached": None}
    assert returned["headlines"].keys() == kept.keys()
    printed = capsys.readouterr().out
    assert "MISSED" in printed
    assert "≤ 4" in printed


def test_names_that_are_none_are_refused_with_the_nearest(capsys):
    assert main(["ravines"]) == 2
    assert "did you mean 'ravine'?" in capsys.readouterr().err
    assert main([]) == 0
    assert "ravine" in capsys.readouterr().out


def test_all_tells_what_was_kept_missed_and_broken(tmp_path, capsys, monkeypatch):
    """Two results, of which one is there already and misses a claim, and one whose script fails."""
    monkeypatch.setattr(every, "FOLDERS", {"some": "teaching", "no_such_result": "teaching"})
    run = common.Experiment("some", True, tmp_path / "some", 0.0)
    run.save(Figure(), {"a": common.within(5.0, high=4.0), "b": common.within(5.0, low=4.0)})
    before = (tmp_path / "some" / "some.json").read_bytes()
    assert main(["all", "--quick", "--output", str(tmp_path), "--jobs", "1"]) == 1
    assert (tmp_path / "some" / "some.json").read_bytes() == before
    printed = capsys.readouterr().out
    assert "1 of 2" in printed
    assert "kept" in printed
    assert "NAME must be" in printed
    assert "0 of 2 results without a failure" in printed
