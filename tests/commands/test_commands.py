"""The command line: the main job end to end on small settings, its files, and how bad input is refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from report_pages import report_of

import jaxflow as jf
from jaxflow.__main__ import main
from jaxflow._disk import results

pytestmark = pytest.mark.promotes
SMALL = [
    "--data",
    "iris",
    "--hidden",
    "4",
    "--steps",
    "50",
    "--seeds",
    "2",
    "--batch-size",
    "8",
    "--substeps",
    "4",
]


_compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **said: _compiled.append(said.get("fun_name", "")) if "backend_compile" in name else None
)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    jax.clear_caches()  # or programs of other tests would not be counted
    before = len(_compiled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: jax.devices()[:1])  # as on a machine without accelerators
        assert main(["compare", *SMALL, "--order", "2", "1", "--output", str(folder)]) == 0
    return folder, json.loads((folder / "summary.json").read_text()), _compiled[before:]


def test_it_compiles_few_programs(job):
    """Two for each of six runs, one for what each of them begins with, and some for the numbers of the report."""
    assert 10 < len(job[2]) <= 25, " ".join(job[2])


def test_the_table_is_what_the_library_computes(job):
    _, summary, _ = job
    problem = jf.problems.mlp("iris", (4,), key=jax.random.key(0))
    run = jf.iterate(jf.optim.gd(0.1), problem.objective, problem.params, steps=50)
    flow = jf.integrate(jf.dynamics.gradient_flow(problem.objective), problem.params, run.times)
    full, batches, continuous, paths, *corrected = summary["table"]
    np.testing.assert_allclose(full["final_loss"], problem.objective(run.params), rtol=1e-6)
    np.testing.assert_allclose(full["test_score"], problem.score(run.params), rtol=1e-12)
    np.testing.assert_allclose(continuous["distance"], jf.compare(run, flow).final, rtol=1e-3)
    assert (full["distance"], full["gradients"]) == (0, 50)
    np.testing.assert_allclose(batches["gradients"], 50 * 8 / problem.objective.size)
    assert batches["distance"] > continuous["distance"] > 0
    assert 0.2 < paths["distance"] / batches["distance"] < 5
    assert paths["gradients"] == 50 * 4
    assert [row["method"] for row in corrected] == [f"modified flow of gd, order {p}" for p in (1, 2)]
    np.testing.assert_allclose(corrected[0]["distance"], continuous["distance"], rtol=1e-3)
    assert corrected[1]["distance"] < 0.2 * continuous["distance"]
    assert corrected[1]["gradients"] % 2 == 0


def test_the_temperature_and_noise_scale_are_told(job):
    _, summary, _ = job
    problem = jf.problems.mlp("iris", (4,), key=jax.random.key(0))
    assert summary["temperature"] == pytest.approx(0.1 / 16)
    scale = jf.noise_scale(problem.objective, problem.params).simple
    np.testing.assert_allclose(summary["noise_scale"]["start"]["simple"], scale, rtol=1e-6)
    assert "20 members" in summary["verdict"]  # two runs are too few, and it says how many are needed


def test_a_verdict_on_the_sde_with_enough_runs_and_hyperparameters_by_name(tmp_path, capsys):
    arguments = ["--optimizer", "momentum", "--set", "beta=0.5", "ema=true", "--learning-rate", "0.2"]
    more = ["--seeds", "32", "--steps", "20", "--order", "--output", str(tmp_path)]
    assert main(["compare", *SMALL, *arguments, *more]) == 0
    verdict = json.loads((tmp_path / "summary.json").read_text())["verdict"]
    assert 0 < verdict["p_value"] <= 1
    text = capsys.readouterr().out
    assert verdict["sentence"] in text
    assert any("loss" in name for name in verdict["statistics"])
    assert "momentum(learning_rate=0.2, beta=0.5, ema=True, debias=False)" in text


def test_divergence_is_reported_by_its_step_and_an_optimizer_without_an_sde_runs_all_the_same(
    tmp_path, capsys
):
    arguments = ["--learning-rate", "1e6", "--activation", "relu", "--loss", "mse", "--optimizer", "radam"]
    assert main(["compare", *SMALL, *arguments, "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "diverged by step" in text
    assert "No SDE is known for radam" in text
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["table"]) == 4
    assert summary["table"][3]["method"] == "modified flow of radam, order 2"
    assert summary["table"][0]["final_loss"] is None
    assert summary["verdict"] is None
    assert summary["temperature"] is None


def test_temperature_prints_equivalents_at_other_batch_sizes(capsys):
    small = ["--data", "iris", "--hidden", "4", "--steps", "10", "--batch-size", "8"]
    assert main(["temperature", *small, "--batch-sizes", "4", "16"]) == 0
    text = capsys.readouterr().out
    assert "temperature T = 0.00625" in text
    assert "noise scale" in text
    assert re.search(r"^ +4 +learning_rate 0\.05", text, re.MULTILINE)
    assert re.search(r"^ +16 +learning_rate 0\.2", text, re.MULTILINE)
    assert main(["temperature", *small, "--optimizer", "adam", "--batch-sizes", "32"]) == 0
    assert "learning_rate 0.002, b1 0.6" in capsys.readouterr().out
    assert main(["temperature", *small, "--optimizer", "adagrad"]) == 0
    assert "No equivalents: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "batch_size must be an integer at least 1, got 0"),
        (["--batch-sizes", "8", "-1"], "batch_sizes must be an integer at least 1, got -1"),
        (["--steps", "-1"], "steps must be"),
        (["--optimizer", "addam"], "Did you mean 'adam'"),
    ],
)
def test_bad_temperature(arguments, message, capsys):
    assert main(["temperature", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_order_prints_the_slopes_and_writes_them(tmp_path, capsys):
    small = ["--data", "iris", "--hidden", "4", "--examples", "20", "--orders", "2", "1"]
    assert main(["order", "gd", *small, "--learning-rate", "0.05", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "20 training examples, 35 parameters; gd(learning_rate=0.05), in float64" in text
    assert re.search(r"step size +order 1 +order 2", text)
    assert re.search(r"slope +1\.\d\d ± .* +(1\.9|2\.0)\d ± ", text)
    summary = json.loads((tmp_path / "order.json").read_text())
    assert abs(summary["orders"]["2"]["slope"] - 2) < 0.1
    assert len(summary["orders"]["1"]["errors"]) == len(summary["step_sizes"]) == 8
    assert all(summary["orders"]["2"]["fitted"])
    assert summary["settings"]["examples"] == 20
    assert sorted(os.listdir(tmp_path)) == ["order.json", "order.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lookahead"], "optimizer must be one with a known family .* got lookahead"),
        (["genetic"], "known family"),
        (["addam"], "Did you mean 'adam'"),
        (["adam", "--orders", "9"], "orders must be integers from 1 to 8, got 9"),
        (["adam", "--orders", "1", "1"], "distinct"),
        (["adam", "--examples", "0"], "examples must be an integer at least 1, got 0"),
        (["adam", "--time", "-1"], "time must be a finite number above 0, got -1.0"),
        (["adam", "--warmup", "0.0123456789"], "warmup must be a simple fraction of time"),
        (["adam", "--output", "pyproject.toml"], "is a file"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_order(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr("jaxflow.commands.order.run", lambda *_: pytest.fail("it ran"))
    assert main(["order", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error)


def test_every_setting_and_version_is_kept(job):
    _, summary, _ = job
    assert summary["settings"]["steps"] == 50
    assert summary["settings"]["hyperparameters"] == {"learning_rate": 0.1}
    assert {"jax", "jaxlib", "optax", "diffrax", "jaxflow"} <= summary["versions"].keys()


def test_arrays_and_picture_are_whole(job):
    folder, *_ = job
    with np.load(folder / "trajectories.npz") as arrays:
        assert arrays["mini_batch/loss"].shape == (2, arrays["times"].size)
        np.testing.assert_allclose(arrays["times"][-1], 5.0)
        assert arrays["gradient_flow/distance"][0] == 0
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir(folder)) == ["comparison.png", "summary.json", "trajectories.npz"]


def test_chunks_change_nothing(job):
    """37 steps are no multiple of a chunk, 41 no multiple of the steps between two records."""
    from jaxflow.commands.shared.progress import Progress, iterate_in_chunks, solve_in_chunks
    from jaxflow.solve.discrete.optimizer_steps import start

    loss, point = jf.problems.rosenbrock().objective, jnp.array([-0.5, 0.5])
    gradient_flow = jf.dynamics.gradient_flow(loss)
    solve = lambda state, times, piece: jf.integrate(gradient_flow, point, times, state=state)
    for steps, every in ((37, 1), (41, 3)):
        run = lambda p, s, n, e=every: jf.iterate(jf.optim.adam(0.01), loss, p, steps=n, every=e, state=s)
        with Progress({"a": 1.0, "b": 2.0}) as progress:
            begin = start(jf.optim.adam(0.01), point)
            whole, _ = iterate_in_chunks(run, point, begin, steps, every, progress)
            flow, _ = solve_in_chunks(solve, point, whole.times, progress)
        alone = jf.iterate(jf.optim.adam(0.01), loss, point, steps=steps, every=every)
        np.testing.assert_array_equal(whole.values, alone.values)
        np.testing.assert_allclose(whole.times, alone.times, rtol=1e-14)
        assert whole.steps == steps
        direct = jf.integrate(jf.dynamics.gradient_flow(loss), point, whole.times)
        np.testing.assert_allclose(flow.values, direct.values, atol=1e-5)


def test_distances_keep_the_order_of_the_runs():
    """The picture takes its colours by order, and pytrees of JAX sort their names."""
    from jaxflow.commands.compare.report import Timed, distances

    loss, record = lambda x: 0.5 * jnp.sum(x**2), lambda x: {"params": x}
    run = lambda rate: jf.iterate(
        jf.optim.gd(0.1 * rate), loss, jnp.ones(1), steps=2, time_step=1.0, record=record
    )
    names = ["full_batch", "m", "a", "b"]
    found = distances({name: Timed(name, run(rate), 1.0, 0.0) for rate, name in enumerate(names, 1)})
    assert list(found) == names
    np.testing.assert_allclose(
        [gap.final for gap in found.values()], 0.9**2 - np.array([0.9, 0.8, 0.7, 0.6]) ** 2
    )


@pytest.mark.parametrize("name", [name for name in jf.optim.OPTIMIZERS if name != "newton"])
def test_every_optimizer_can_be_named(name):
    from jaxflow.commands.shared.optimizer_names import make_optimizer

    optimizer = make_optimizer(name, None, (), 0)
    run = jf.iterate(optimizer, jf.problems.himmelblau().objective, jnp.zeros(2), steps=5)
    assert run.message == "reached the last time"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "addam"], "Did you mean 'adam'"),
        (["--data", "digit"], "digits"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--steps", "0"], "steps must be an integer at least 1, got 0"),
        (["--batch-size", "-3"], "batch_size must be"),
        (["--substeps", "1"], "substeps must be an integer at least 2, got 1"),
        (["--order", "9"], "order must be an integer from 1 to 8, got 9"),
        (["--learning-rate", "-1"], "learning_rate must be a finite number at least 0, got -1.0"),
        (["--learning-rate", "nan"], "learning_rate must be"),
        (["--optimizer", "adam", "--set", "b3=1"], "b1"),
        (["--optimizer", "adam", "--set", "b1=x"], "set b1 must be a number"),
        (["--optimizer", "adam", "--set", "b1"], "NAME=VALUE"),
        (["--optimizer", "adam", "--set", "b1=1.5"], r"b1 must be in \[0, 1\)"),
        (["--optimizer", "genetic", "--learning-rate", "1"], "genetic has none"),
        (["--activation", "tanhh"], "tanh"),
        (["--data", "diabetes", "--loss", "cross_entropy"], "cross_entropy"),
        (["--hidden", "0"], "hidden"),
        (["--output", "pyproject.toml"], "is a file"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxflow.commands.compare.command.run", lambda *_: pytest.fail("it ran"))
        assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error)


def test_a_bad_option_or_command_exits_with_2(capsys):
    for arguments in (["compare", "--stepz", "3"], ["compare", "--steps", "many"], ["compair"], []):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
    capsys.readouterr()


def test_optimizers_lists_all(capsys):
    assert main(["optimizers"]) == 0
    listed = capsys.readouterr().out
    for name in (*jf.optim.OPTIMIZERS, *jf.optim.SCHEDULES):
        assert f"  {name}(" in listed


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in ("--data", "--hidden", "--optimizer", "--set", "--learning-rate", "--x64", "--output"):
        assert option in text


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    results.write_json(path, {"x": float("nan"), "y": np.float32(1)})
    assert json.loads(path.read_text()) == {"x": None, "y": 1.0}

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        results.write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": None, "y": 1.0}
    assert os.listdir(tmp_path) == ["a.json"]


def test_import_leaves_pictures_data_sets_and_solvers_alone():
    heavy = (
        "matplotlib.pyplot",
        "sklearn",
        "xarray",
        "tyro",
        "tqdm",
        "pandas",
        "scipy.stats",
        "diffrax",
        "equinox",
    )
    code = f"import sys, jaxflow; print([m for m in {heavy!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_results_become_one_page(job, tmp_path):
    folder, summary, _ = job
    told = report_of(folder, tmp_path)
    assert "No verdict on the SDE" in told  # of two seeds
    assert f"{summary['table'][0]['final_loss']:.5g}" in told
