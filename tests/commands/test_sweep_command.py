"""`python -m jaxflow sweep`: its numbers cell by cell, its files, its settings file, and going on after a stop."""

import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro
import xarray
from jax.flatten_util import ravel_pytree
from report_pages import report_of

import jaxflow as jf
from jaxflow.__main__ import main
from jaxflow.commands.shared.settings_file import read_settings
from jaxflow.commands.sweep import command as sweep
from jaxflow.commands.sweep import kept_flow
from jaxflow.commands.sweep.laws import inhomogeneity
from jaxflow.commands.sweep.report import table

pytestmark = pytest.mark.promotes
SMALL = ["--data", "iris", "--hidden", "4", "--steps", "10", "--seeds", "3"]
GRID = ["--learning-rates", "0.5", "0.05", "--batch-sizes", "8", "2"]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        kept = []
        made = sweep.report.add_distances
        patch.setattr(sweep.report, "add_distances", lambda *parts: kept.append(made(*parts)) or kept[0])
        assert main(["sweep", *SMALL, *GRID, "--output", str(folder)]) == 0
    return folder, kept[0]


@pytest.fixture
def problem():
    return jf.problems.mlp("iris", (4,), key=jax.random.key(0))


def flat(params):
    return np.asarray(ravel_pytree(params)[0], float)


@pytest.mark.parametrize(("rate", "size", "seed"), [(0.05, 2, 0), (0.5, 8, 2)])
def test_a_trial_is_what_the_library_computes(job, problem, rate, size, seed):
    cell = job[1].sel(learning_rate=rate, batch_size=size, seed=seed)
    key = jax.random.fold_in(jax.random.key(1), seed)
    objective, start = problem.objective, problem.params
    run = jf.iterate(jf.optim.gd(rate), objective, start, steps=10, batch_size=size, key=key)
    np.testing.assert_allclose(cell["params"], flat(run.params), atol=2e-6)
    np.testing.assert_allclose(cell["final_loss"], objective(run.params), rtol=1e-5)
    np.testing.assert_allclose(cell["test_score"], problem.score(run.params), rtol=1e-6)
    sde = jf.dynamics.sgd(objective, rate, size)
    own = jax.random.fold_in(key, 2**31 - 1)
    path = jf.integrate(sde, start, [0.0, 10 * rate], key=own, substeps=40)
    np.testing.assert_allclose(cell["sde_params"], flat(path.params), atol=1e-5)
    np.testing.assert_allclose(cell["sde_loss"], objective(path.params), rtol=1e-4)
    flow = jf.integrate(jf.dynamics.gradient_flow(objective), start, [0.0, 10 * rate], rtol=1e-6)
    gap = np.linalg.norm(flat(run.params) - flat(flow.params))
    way = np.linalg.norm(flat(flow.params) - flat(start))
    np.testing.assert_allclose(cell["distance_to_flow"], gap / way, rtol=1e-3)
    np.testing.assert_allclose(cell["flow_loss"], objective(flow.params), rtol=1e-4)


def coefficient(a, b):
    """H by the double sums that define it."""
    mean = lambda pairs: np.mean([np.sqrt(np.sum((u - v) ** 2)) for u, v in pairs])
    across = mean([(u, v) for u in a for v in b])
    inside = [mean([(u, v) for i, u in enumerate(x) for j, v in enumerate(x) if i != j]) for x in (a, b)]
    return (2 * across - sum(inside)) / (2 * across)


def test_distances_from_the_sde_are_double_sums(job):
    table = job[1].transpose("learning_rate", "batch_size", "seed", ...)
    for i, j in np.ndindex(2, 2):
        cell = table.isel(learning_rate=i, batch_size=j)
        a, b = (cell[name].values.astype(float) for name in ("params", "sde_params"))
        np.testing.assert_allclose(cell["distance_to_sde"], coefficient(a, b), rtol=1e-6, atol=1e-9)


def test_inhomogeneity_is_0_for_one_law_and_1_far_apart():
    draw = np.random.default_rng(0)
    found = np.array([inhomogeneity(*draw.normal(size=(2, 12, 3))) for _ in range(200)])
    # Unbiased, and above its noise one time in twenty.
    assert abs(found[:, 0].mean()) < 3 * found[:, 0].std() / np.sqrt(200)
    assert 0.01 < np.mean(found[:, 0] > found[:, 1]) < 0.11
    far, noise = inhomogeneity(draw.normal(size=(9, 3)), 1000 + draw.normal(size=(7, 3)))
    assert 0.99 < far <= 1
    assert noise < far
    one = np.ones((4, 2))
    assert inhomogeneity(one, one)[0] == 0
    assert inhomogeneity(one, one + 1)[0] == 1
    lost = np.array([[np.nan, 1.0], [np.inf, 0.0], [0.0, 0.0]])
    assert np.isnan(inhomogeneity(lost, one)).all()
    assert inhomogeneity(np.concatenate([lost, 3 * one]), one) == inhomogeneity(
        np.concatenate([lost[2:], 3 * one]), one
    )


def test_files_are_whole(job):
    folder, dataset = job
    assert sorted(os.listdir(folder)) == ["summary.json", "sweep.nc", "sweep.png", "trials"]
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    with xarray.open_dataset(folder / "sweep.nc") as read:
        assert read.sizes == {"learning_rate": 2, "batch_size": 2, "seed": 3}
        assert read["learning_rate"].values.tolist() == [0.05, 0.5]
        for name in ("final_loss", "distance_to_flow", "distance_to_sde", "distance_to_sde_noise"):
            np.testing.assert_array_equal(read[name], dataset[name])
        assert not read["diverged"].any()
    summary = json.loads((folder / "summary.json").read_text())
    means = dataset["final_loss"].mean("seed")
    assert summary["best"]["final_loss"] == pytest.approx(float(means.min()), rel=1e-6)
    assert summary["best"]["learning_rate"] == 0.5
    assert summary["settings"]["batch_sizes"] == [2, 8]
    assert summary["temperature_per_rate"] == 0.5
    assert summary["versions"]["jax"] == jax.__version__


def test_the_sharpness_is_the_hessians(job, problem):
    start, unravel = ravel_pytree(problem.params)
    hessian = jax.jit(jax.hessian(lambda x: problem.objective(unravel(x))))(start)
    largest = float(jnp.linalg.eigvalsh(hessian)[-1])
    summary = json.loads((job[0] / "summary.json").read_text())
    assert summary["sharpness"]["start"] == pytest.approx(largest, rel=1e-2)
    assert summary["two_over_sharpness"]["start"] == pytest.approx(2 / largest, rel=1e-2)


def test_a_folder_of_trials_is_not_written_to_unless_told(job, capsys):
    folder, _ = job
    before = (folder / "summary.json").stat()
    assert main(["sweep", *SMALL, *GRID, "--output", str(folder)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "--resume" in error
    assert "--output" in error
    assert (folder / "summary.json").stat() == before


def test_resuming_reads_the_trials_and_the_flow_that_are_there(job, capsys, monkeypatch):
    folder, _ = job
    monkeypatch.setattr(sweep, "follow", lambda *_: pytest.fail("the flow is followed again"))
    trials = lambda: [
        (f, f.stat().st_ino, f.stat().st_mtime_ns) for f in (folder / "trials/batches").iterdir()
    ]
    before, kept = trials(), xarray.load_dataset(folder / "sweep.nc")
    assert main(["sweep", *SMALL, *GRID, "--output", str(folder), "--resume"]) == 0
    capsys.readouterr()
    assert trials() == before
    assert len(before) > 0
    assert kept.equals(xarray.load_dataset(folder / "sweep.nc"))
    # With other settings it is another sweep, and the folder stays as it is.
    assert main(["sweep", *SMALL, *GRID, "--output", str(folder), "--resume", "--seeds", "4"]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(r"holds another sweep: .*seeds is 3 there, 4 here.*--output", error)
    assert trials() == before


@pytest.mark.parametrize("kept", ["damaged", "of another problem"])
def test_a_flow_that_is_not_this_one_is_followed_again(tmp_path, kept):
    made = lambda *words: sweep.prepare(tyro.cli(sweep.Sweep, args=[*SMALL, *GRID, *words]))
    settings, problem, _ = made("--output", str(tmp_path))
    key = kept_flow.key_of(settings, problem)
    parts = {"start": np.arange(3.0), "message": ""}
    kept_flow.write(tmp_path, key, parts)
    read = kept_flow.read(tmp_path, key)
    np.testing.assert_array_equal(read["start"], parts["start"])
    assert (read["message"], sorted(read)) == ("", ["message", "start"])
    if kept == "damaged":
        path = tmp_path / kept_flow.NAME
        path.write_bytes(path.read_bytes()[:-40])
    others = [
        made(*words) for words in (["--seed", "3"], ["--steps", "3"], ["--learning-rates", "0.1", "0.3"])
    ]
    keys = {kept_flow.key_of(*other[:2]) for other in others} | {key}
    assert len(keys) == 4
    for other in keys - {key} if kept == "of another problem" else keys:
        assert kept_flow.read(tmp_path, other) is None


def test_a_fault_of_ours_is_not_hidden(tmp_path, monkeypatch, capsys):
    def wrong(*_, **__):
        raise ValueError("shapes do not match")

    monkeypatch.setattr(sweep, "sweep", wrong)
    with pytest.raises(ValueError, match="shapes"):
        main(["sweep", *SMALL, *GRID, "--output", str(tmp_path)])

    def full(*_, **__):
        raise OSError(28, "batch could not be written (No space left on device)")

    monkeypatch.setattr(sweep, "sweep", full)
    assert main(["sweep", *SMALL, *GRID, "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "jaxflow sweep: batch could not be written (No space left on device)\n"


@pytest.fixture
def chosen(monkeypatch):
    """`chosen(*arguments)`: the settings that arrive."""
    seen = []
    monkeypatch.setattr(sweep, "prepare", lambda settings: seen.append(settings) or (settings, None, None))
    monkeypatch.setattr(sweep, "run", lambda *_: None)

    def call(*arguments):
        assert main(["sweep", *arguments]) == 0
        return seen[-1]

    return call


TOML = """
data = "iris"
hidden = [4, 4]
optimizer = "momentum"
learning-rates = [0.05, 1]
batch_sizes = [2]
steps = 7
output = "there"
resume = true
[set]
beta = 0.5
ema = true
"""


def test_a_file_is_its_flags_and_flags_win(chosen, tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(TOML)
    read = chosen("--file", str(file))
    flags = "--data iris --hidden 4 4 --optimizer momentum --learning-rates 0.05 1 --batch-sizes 2 --steps 7"
    more = "--output there --resume --set beta=0.5 ema=true"
    assert read == chosen(*flags.split(), *more.split(), "--file", str(file))
    assert read.learning_rates == (0.05, 1.0)
    assert isinstance(read.learning_rates[1], float)
    assert read.output == Path("there")
    assert read.set == ("beta=0.5", "ema=true")
    won = chosen("--batch-sizes", "3", "5", f"--file={file}", "--no-resume", "--set", "beta=0.1")
    assert (won.batch_sizes, won.resume, won.set, won.steps) == ((3, 5), False, ("beta=0.1",), 7)
    file.write_text('set = ["beta=0.3"]')
    assert chosen("--file", str(file)).set == ("beta=0.3",)
    assert chosen().file is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stepz = 3", "keys of .* must be one of .*; got 'stepz'. Did you mean 'steps'"),
        ("learning_rate = 0.1", "Did you mean 'learning_rates'"),
        ("file = 'x'", "got 'file'"),
        ("steps = 'many'", "steps in .* must be an integer, got 'many'"),
        ("steps = 1.5", "steps in .* must be an integer, got 1.5"),
        ("steps = true", "steps in .* must be an integer, got True"),
        ("x64 = 1", "x64 in .* must be true or false, got 1"),
        ("output = 3", "output in .* must be a string, got 3"),
        ("loss = 3", "loss in .* must be a string, got 3"),
        ("learning_rates = 0.1", "learning_rates in .* must be a list, got 0.1"),
        ("learning_rates = ['a']", "learning_rates in .*: each entry must be a number, got 'a'"),
        ("set = 3", "set in .* must be a list"),
        ("batch-sizes = [1]\nbatch_sizes = [1]", "must give batch_sizes once"),
        ("steps = \nseeds = 3", r"is not TOML: .*\(at line 1, column 9\)"),
    ],
)
def test_bad_files(content, message, tmp_path, capsys):
    file = tmp_path / "bad.toml"
    file.write_text(content)
    assert main(["sweep", "--file", str(file)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error)


def test_a_file_that_cannot_be_read(tmp_path, capsys):
    for path in (tmp_path / "nowhere.toml", tmp_path):
        assert main(["sweep", "--file", str(path)]) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1
        assert f"file {path} could not be read: " in error
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not TOML"):
        read_settings(sweep.Sweep, tmp_path / "bytes.toml", sweep.HIDDEN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning-rates", "0.1", "0"], "learning_rates must be a finite number above 0, got 0.0"),
        (["--learning-rates", "0.1", "nan"], "learning_rates must be a finite number above 0"),
        (["--learning-rates", "0.1", "0.1"], "learning_rates must be distinct"),
        (["--batch-sizes", "0"], "batch_sizes must be an integer at least 1, got 0"),
        (["--batch-sizes", "4", "4"], "batch_sizes must be distinct"),
        (
            ["--batch-sizes", "4", "1" + "0" * 20],
            "batch_sizes must fit in memory, got 10{20}, ",
        ),
        (["--batch-sizes"], "batch_sizes must hold at least one value"),
        (["--batch-sizes", "4", "--learning-rates", "1"], "at least two values"),
        (["--seeds", "0"], "seeds must be an integer at least 1, got 0"),
        (["--steps", "0"], "steps must be"),
        (["--substeps", "0"], "substeps must be"),
        (["--optimizer", "genetic"], "with a learning rate to sweep, got genetic"),
        (["--optimizer", "lookahead"], "with a learning rate to sweep, got lookahead"),
        (["--optimizer", "addam"], "Did you mean 'adam'"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--output", "pyproject.toml"], "is a file"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_settings(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr(sweep, "run", lambda *_: pytest.fail("it ran"))
    assert main(["sweep", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error)


def test_divergence_is_shown_and_an_optimizer_without_an_sde_runs_all_the_same(tmp_path, capsys):
    wild = ["--activation", "relu", "--loss", "mse", "--optimizer", "radam", "--batch-sizes", "4"]
    assert main(["sweep", *SMALL, *wild, "--learning-rates", "0.05", "1e6", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "No SDE is known for radam" in text
    assert re.search(r"^ +4 +0\.\d+ +×$", text, re.MULTILINE)
    assert "× all seeds diverged" in text
    assert "Diverged: 3 of 6 runs." in text
    assert "Best: learning rate 0.05, batch 4" in text
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["diverged"] == 3
    assert "sde" not in summary
    assert summary["temperature_per_rate"] is None
    with xarray.open_dataset(tmp_path / "sweep.nc") as read:
        assert read["diverged"].sum("seed").values.ravel().tolist() == [0, 3]
        assert read["final_loss"].isnull().sum("seed").values.ravel().tolist() == [0, 3]


def test_a_cell_where_some_seeds_diverged_is_marked():
    dims = ("learning_rate", "batch_size", "seed")
    dataset = xarray.Dataset(
        {
            "final_loss": (dims, [[[1.0, 3.0]], [[0.5, np.nan]], [[np.nan, np.nan]]]),
            "diverged": (dims, [[[False, False]], [[False, True]], [[True, True]]]),
        },
        {"learning_rate": [0.1, 1.0, 10.0], "batch_size": [4]},
    )
    *_, row, marks = table(dataset).splitlines()
    assert row.split() == ["4", "2", "0.5·×", "×"]
    assert marks == "× all seeds diverged; ·× some did, mean of the others"


def test_the_results_become_one_page(job, tmp_path):
    folder, _ = job
    assert "Diverged: " in report_of(folder, tmp_path)
