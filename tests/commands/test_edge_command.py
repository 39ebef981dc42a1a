"""`python -m jaxflow edge`: its table, its files, and what it refuses."""

import json
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from report_pages import report_of

import jaxflow as jf
from jaxflow.__main__ import main

pytestmark = pytest.mark.promotes
SMALL = ["--data", "iris", "--hidden", "4", "--examples", "20", "--modes", "1", "--steps", "20"]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """From random parameters, without an approach."""
    folder = tmp_path_factory.mktemp("edge")
    with jax.numpy_dtype_promotion("standard"):
        arguments = ["--learning-rate", "0.3", "--level", "0", "--seed", "1", "--output", str(folder)]
        assert main(["edge", *SMALL, *arguments]) == 0
    return folder, json.loads((folder / "summary.json").read_text())


def test_files_are_whole_and_say_what_was_asked(job):
    folder, summary = job
    assert sorted(os.listdir(folder)) == ["edge.png", "summary.json", "trajectories.npz"]
    png = (folder / "edge.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert png[-8:-4] == b"IEND"
    assert summary["settings"]["hyperparameters"] == {"learning_rate": 0.3}
    assert summary["settings"]["steps"] == 20
    assert summary["x64"] is True
    assert summary["threshold"] == 2
    assert summary["approach_time"] is None
    assert summary["central_flow"]["substeps"] >= 19
    stages = {"iterates", "central flow", "stable flow", "rod flow", "pair flow", "measures"}
    assert set(summary["seconds"]) == stages


def test_the_numbers_are_those_of_the_library(job):
    folder, summary = job
    problem = jf.problems.mlp("iris", (4,), loss="mse", key=jax.random.key(1))
    data = jax.tree.map(lambda x: x[:20], problem.objective.data)
    objective = jf.Objective(problem.objective.losses, data)
    run = jf.iterate(jf.optim.gd(0.3), objective, problem.params, steps=20, record=objective)
    with np.load(folder / "trajectories.npz") as arrays:
        np.testing.assert_allclose(arrays["times"], 0.3 * np.arange(1, 20), rtol=1e-12)
        np.testing.assert_allclose(arrays["iterates/loss"], run.values[1:-1], rtol=1e-9)
        assert arrays["central/eigenvalues"].shape == (19, 1)
        assert arrays["covariance"].shape == (19, 1, 1)
        ratio = arrays["central/loss"][9:].mean() / arrays["iterates/loss"][9:].mean()
        assert arrays["approach/times"].size == 0
        far = arrays["central/distance"][-1] / arrays["stable/distance"][-1]
    assert summary["loss_ratio"] == pytest.approx(ratio, rel=1e-9)
    assert summary["distance_ratio"] == pytest.approx(far, rel=1e-9)
    measured, _, predicted, *_ = summary["table"]
    assert measured["loss"] == pytest.approx(float(np.mean(run.values[10:-1])), rel=1e-9)
    assert predicted["loss"] == pytest.approx(measured["loss"] * ratio, rel=1e-9)
    assert measured["distance"] is None


def test_a_level_not_reached_is_one_sentence(tmp_path, capsys, monkeypatch):
    """A study that raises in its approach, as one does after 5,000 steps there."""

    def studied(chosen, watch):
        watch("approach", 0.0)
        raise ValueError("level must be one through which the effective sharpness rises, got 1.8.")

    monkeypatch.setattr("jaxflow.commands.edge.run_study", studied)
    assert main(["edge", *SMALL, "--output", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.strip() == (
        "jaxflow edge: level must be one through which the effective sharpness rises, got 1.8."
    )
    assert "iris: 20 training examples, 35 parameters; gd(learning_rate=0.35), in float64" in captured.out
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "gdd"], "Did you mean 'gd'"),
        (["--order", "9"], "order must be an integer from 1 to 8, got 9"),
        (["--steps", "3"], "steps must be an integer at least 4, got 3"),
        (["--modes", "0"], "modes must be an integer at least 1, got 0"),
        (["--level", "-1"], "level must be a finite number at least 0, got -1.0"),
        (["--examples", "0"], "examples must be an integer at least 1, got 0"),
        (["--optimizer", "rmsprop", "--set", "decay=2"], "decay must be"),
        (["--learning-rate", "nan"], "learning_rate must be"),
        (["--output", "pyproject.toml"], "is a file"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_refused_in_one_line_with_exit_code_2(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr("jaxflow.commands.edge.run", lambda *_: pytest.fail("it ran"))
    assert main(["edge", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error)


def test_the_results_become_one_page(job, tmp_path):
    folder, summary = job
    assert f"{summary['loss_ratio']:.5g}" in report_of(folder, tmp_path)
