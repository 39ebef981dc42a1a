"""`python -m jaxflow density`: its table, its files, what it keeps when it is stopped, and what it refuses."""

import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from report_pages import report_of

import jaxflow as jf
from jaxflow.__main__ import main
from jaxflow.commands.density import command

pytestmark = pytest.mark.promotes
FILES = ["densities.npz", "density.gif", "density.png", "summary.json"]
SMALL = ["--seeds", "400", "--steps", "162", "--learning-rate", "0.05", "--cells", "120"]


@pytest.fixture(scope="module")
def well(tmp_path_factory):
    folder = tmp_path_factory.mktemp("density")
    with jax.numpy_dtype_promotion("standard"):
        assert main(["density", *SMALL, "--output", str(folder)]) == 0
    with np.load(folder / "densities.npz") as arrays:
        return folder, json.loads((folder / "summary.json").read_text()), dict(arrays)


def test_files_are_whole_and_say_what_was_asked(well):
    folder, summary, arrays = well
    assert sorted(os.listdir(folder)) == FILES
    assert (folder / "density.png").read_bytes()[-8:-4] == b"IEND"
    assert (folder / "density.gif").read_bytes().startswith(b"GIF8")
    assert summary["x64"] is True
    assert summary["settings"]["seeds"] == 400
    assert summary["temperature"] == 0.08
    np.testing.assert_allclose(summary["times"], 0.05 * 162 / 81 * np.array([1, 3, 9, 27, 81]))
    assert arrays["shown"].tolist() == [1, 3, 9, 27, 81]
    assert arrays["sgd"].shape == arrays["sde"].shape == (400, 82, 1)
    assert set(summary["verdicts"]) == {"sgd", "sde"}


def test_the_density_is_that_of_the_library(well):
    _, summary, arrays = well
    loss = jf.problems.double_well().objective
    grid = jf.density.Grid(-2.4, 2.4, 120)
    equation = jf.density.fokker_planck(jf.dynamics.langevin(loss, 0.08), grid)
    run = jf.integrate(equation, jf.density.gaussian(grid, 0.5, 0.01), arrays["times"])
    np.testing.assert_allclose(arrays["density"], run.values, atol=1e-6)
    gibbs = np.exp(-0.25 * (arrays["grid/x1"] ** 2 - 1) ** 2 / 0.08)
    np.testing.assert_allclose(arrays["rest"], gibbs / (gibbs.sum() * 0.04), rtol=1e-10)
    energy = 0.25 * (arrays["grid/x1"] ** 2 - 1) ** 2
    np.testing.assert_allclose(arrays["loss"], energy, rtol=1e-12)
    np.testing.assert_allclose(
        arrays["potential"] - arrays["potential"].min(), energy - energy.min(), atol=1e-9
    )
    p = arrays["density"]
    logarithm = np.log(np.where(p > 0, p, 1))
    entropy = -(p * logarithm).sum(1) * 0.04
    kl = (p * (logarithm - np.log(arrays["rest"]))).sum(1) * 0.04
    np.testing.assert_allclose(arrays["density/loss"], (p * energy).sum(1) * 0.04, rtol=1e-9)
    np.testing.assert_allclose(arrays["density/entropy"], entropy, atol=1e-9)
    np.testing.assert_allclose(arrays["density/free_energy"], 0.08 * kl, atol=1e-9)
    assert np.diff(arrays["density/kl"]).max() <= 1e-12
    # For isotropic noise the two free energies are one, and it falls by what is produced.
    np.testing.assert_allclose(
        arrays["density/naive"] - arrays["density/free_energy"],
        arrays["density/naive"][-1] - arrays["density/free_energy"][-1],
        atol=1e-9,
    )
    falls = -np.gradient(arrays["density/kl"], arrays["times"])[20:-1]
    np.testing.assert_allclose(arrays["density/production"][20:-1], falls, rtol=0.02)
    np.testing.assert_allclose(summary["largest_rise"]["free_energy"], 0, atol=1e-12)


def test_runs_and_paths_are_those_of_the_noise_asked(well):
    """Members have the density's mean, variance and loss within 4.5 standard errors: 1 false alarm in 10⁴ runs."""
    _, summary, arrays = well
    n, x, volume = 400, arrays["grid/x1"], 0.04
    for level in ("sgd", "sde"):
        for i in (0, 3, 27):
            members, p = arrays[level][:, i, 0], arrays["density"][i] * volume
            mean, variance = (p * x).sum(), (p * x * x).sum() - (p * x).sum() ** 2
            fourth = (p * (x - mean) ** 4).sum()
            assert abs(members.mean() - mean) < 4.5 * np.sqrt(variance / n)
            # A step of η = .05 adds up to ηλ/2 = 5 % to the variance of SGD.
            room = 0.05 * variance if level == "sgd" else 0
            assert abs(members.var() - variance) < room + 4.5 * np.sqrt((fourth - variance**2) / n)
        losses = 0.25 * (arrays[level][..., 0] ** 2 - 1) ** 2
        np.testing.assert_allclose(arrays[f"{level}/loss"], losses.mean(0), rtol=1e-9)
        assert summary["verdicts"][level]["sentence"].count("400 members") == 1


def test_a_data_set_turns_about_its_minimum(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command.report, "animate", lambda *_: None)
    small = ["--seeds", "20", "--steps", "41", "--cells", "24"]
    assert main(["density", "--data", "iris", *small, "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    rest = summary["at_rest"]
    # The Ornstein–Uhlenbeck law at the minimum, of the model written out again.
    data = jf.problems.load("iris")
    x = (data.x - data.x.mean(0)) / data.x.std(0)
    features = np.linalg.svd(x, full_matrices=False)[0][:, :2] * np.sqrt(len(x))
    losses = lambda w, b: jnp.logaddexp(0, b[0] @ w) - b[1] * (b[0] @ w) + 0.05 * w @ w
    objective = jf.Objective(losses, (jnp.asarray(features), jnp.asarray(data.y >= 1, float)))
    minimum = jf.iterate(jf.optim.newton(), objective, jnp.zeros(2), steps=20, every=None).params
    law = jf.density.ou_limit(objective, minimum, 0.1, 4)
    turned = abs(2 * float(law.current[0, 1]))
    assert abs(rest["circulation"]) == pytest.approx(turned, rel=0.2)
    assert rest["production"] == pytest.approx(float(law.entropy_production), rel=0.2)
    assert f"sweeps an area of {rest['circulation']:.3g}" in said
    assert "20 members" in said
    assert (tmp_path / "density.png").read_bytes()[-8:-4] == b"IEND"


def test_levels_that_are_finished_are_kept_and_named(tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "solve_in_chunks", stop)
    assert main(["density", *SMALL, "--output", str(tmp_path)]) == 130
    kept = tmp_path / "densities.npz"
    assert capsys.readouterr().err.splitlines()[1] == f"Kept in {kept}: SGD."
    with np.load(kept) as arrays:
        assert arrays["sgd"].shape == (400, 82, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["doublewell"], "Did you mean 'double_well'"),
        (["beale"], "problem must be one of"),
        (["--temperature", "0"], "temperature must be a finite number above 0, got 0.0"),
        (["--temperature", "1e-6"], "equation must have noise that its cells resolve"),
        (["--learning-rate", "nan"], "learning_rate must be"),
        (["--seeds", "9"], "seeds must be an integer at least 10, got 9"),
        (["--seeds", "2000000000"], "seeds must fit in memory, got 2000000000, which takes"),
        (["--batch-size", "1000000000"], "batch_size must fit in memory, got 1000000000"),
        (["himmelblau", "--cells", "100000"], "cells must fit in memory, got 100000"),
        (["--steps", "0"], "steps must be an integer at least 1, got 0"),
        (["--cells", "3"], "cells must be an integer at least 8, got 3"),
        (["--batch-size", "0"], "batch_size must be an integer at least 1, got 0"),
        (["--seed", "-1"], "seed must be"),
        (["--substeps", "3"], "substeps must be an integer at least 4, got 3"),
        (["--data", "iris", "--temperature", "1"], "temperature must be left out with data"),
        (["--data", "iris", "--penalty", "0"], "penalty must be a finite number above 0, got 0.0"),
        (["--data", "irs"], "irs"),
        (["--output", "pyproject.toml"], "is a file"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_refused_in_one_line_with_exit_code_2(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr(command, "run", lambda *_: pytest.fail("it ran"))
    assert main(["density", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error)


def test_the_results_become_one_page(well, tmp_path):
    folder, summary, _ = well
    told = report_of(folder, tmp_path)
    assert summary["verdicts"]["sgd"]["sentence"] in told
    assert "data:image/gif;base64," in told
