"""`python -m jaxflow landscape`: its tables, its files, what it keeps when it is stopped, and what it refuses."""

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
from jaxflow.commands.landscape import command

pytestmark = pytest.mark.promotes
FILES = ["landscape.npz", "landscape.png", "summary.json"]
SMALL = ["--data", "iris", "--hidden", "6", "--steps", "60", "--settle", "40", "--curve-steps", "100"]
SMALL += ["--points", "7", "--penalty", "0.002"]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("landscape")
    with jax.numpy_dtype_promotion("standard"):
        assert main(["landscape", *SMALL, "--x64", "--output", str(folder)]) == 0
    with np.load(folder / "landscape.npz") as arrays:
        return folder, json.loads((folder / "summary.json").read_text()), dict(arrays)


def network(arrays, prefix, *at):
    """The network whose numbers are stored under a prefix."""
    return tuple({k: arrays[f"{prefix}/{i}/{k}"][at] for k in ("w", "b")} for i in range(2))


def loss(params, examples, penalty):
    """Written out again: tanh, softmax, cross-entropy, and the penalty µ|θ|²."""
    hidden = np.tanh(np.asarray(examples["x"]) @ params[0]["w"] + params[0]["b"])
    logits = hidden @ params[1]["w"] + params[1]["b"]
    logits = logits - logits.max(1, keepdims=True)
    chosen = logits[np.arange(len(logits)), np.asarray(examples["y"])]
    square = sum(np.sum(x**2) for layer in params for x in layer.values())
    right = (logits.argmax(1) == np.asarray(examples["y"])).mean()
    return np.mean(np.log(np.exp(logits).sum(1)) - chosen) + penalty * square, right


def test_files_are_whole_and_say_what_was_asked(job):
    folder, summary, arrays = job
    assert sorted(os.listdir(folder)) == FILES
    assert (folder / "landscape.png").read_bytes()[-8:-4] == b"IEND"
    assert summary["settings"]["networks"] == 3
    assert summary["score"] == "test accuracy"
    assert len(summary["networks"]) == 3
    assert arrays["steps"][0] == 0
    assert arrays["steps"][-1] == 100
    assert arrays["runs/0/w"].shape == (3, len(arrays["steps"]), 4, 6)


def test_losses_along_the_paths_are_those_of_the_networks_on_them(job):
    _, summary, arrays = job
    problem = jf.problems.mlp("iris", (6,))
    for name in ("straight", "aligned", "bent"):
        found = [network(arrays, f"paths/{name}", i) for i in (0, 20, 60)]
        for params, i in zip(found, (0, 20, 60), strict=True):
            train, train_score = loss(params, problem.objective.data, 0.002)
            test, test_score = loss(params, problem.test, 0)
            np.testing.assert_allclose(arrays[f"along/{name}/train"][i], train, rtol=1e-10)
            np.testing.assert_allclose(arrays[f"along/{name}/test"][i], test, rtol=1e-10)
            np.testing.assert_allclose(arrays[f"along/{name}/train_score"][i], train_score)
            np.testing.assert_allclose(arrays[f"along/{name}/test_score"][i], test_score)
        along, share = arrays[f"along/{name}/train"], arrays[f"along/{name}/share"]
        rise = np.max(along - along[0] * (1 - share) - along[-1] * share)
        np.testing.assert_allclose(summary["paths"][name]["barrier"]["train"], max(rise, 0), atol=1e-12)
    straight, bent, ends = (
        network(arrays, *at) for at in (("paths/straight", 0), ("paths/bent", 60), ("runs", 1, -1))
    )
    jax.tree.map(np.testing.assert_array_equal, straight, network(arrays, "runs", 0, -1))
    jax.tree.map(np.testing.assert_array_equal, bent, ends)


def test_the_aligned_network_is_the_second_one_in_another_order(job):
    """Its units are those of network 2 up to order and sign, and its losses the same."""
    _, summary, arrays = job
    order = arrays["permutation/0"]
    second, aligned = network(arrays, "runs", 1, -1), network(arrays, "paths/aligned", 60)
    np.testing.assert_allclose(np.abs(aligned[0]["w"]), np.abs(second[0]["w"][:, order]), rtol=1e-12)
    np.testing.assert_allclose(
        arrays["along/aligned/test"][-1], arrays["along/straight/test"][-1], rtol=1e-10
    )
    assert summary["paths"]["aligned"]["length"] < summary["paths"]["straight"]["length"]


def test_slices_are_losses_on_planes_with_the_runs_where_they_end(job):
    _, _, arrays = job
    problem = jf.problems.mlp("iris", (6,))
    first = network(arrays, "runs", 0, -1)
    for name in ("random", "minima", "curve"):
        directions = [network(arrays, f"slices/{name}/directions", i) for i in (0, 1)]
        x, y = (arrays[f"slices/{name}/x{i}"][k] for i, k in ((1, 5), (2, 2)))
        point = jax.tree.map(lambda p, d, e, x=x, y=y: p + x * d + y * e, first, *directions)
        there = loss(point, problem.objective.data, 0.002)[0]
        np.testing.assert_allclose(arrays[f"slices/{name}/losses"][5, 2], there, rtol=1e-9)
    assert arrays["slices/random/losses"].shape == (7, 7)
    np.testing.assert_allclose(arrays["slices/random/network 1"][-1], 0, atol=1e-12)
    for unit in range(6):
        size = np.linalg.norm(first[0]["w"][:, unit])
        np.testing.assert_allclose(np.linalg.norm(arrays["slices/random/directions/0/w"][0][:, unit]), size)
    a, b, c = (arrays[f"slices/minima/network {i}"][-1] for i in (1, 2, 3))
    apart = lambda i, j: np.sqrt(
        sum(
            np.sum((x - y) ** 2)
            for x, y in zip(*(jax.tree.leaves(network(arrays, "runs", k, -1)) for k in (i, j)), strict=True)
        )
    )
    np.testing.assert_allclose([np.linalg.norm(a - b), np.linalg.norm(a - c)], [apart(0, 1), apart(0, 2)])


def test_it_says_what_it_found(tmp_path, capsys):
    assert main(["landscape", *SMALL, "--activation", "relu", "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "with a new sign" not in said
    for name in ("straight", "aligned", "bent"):
        assert f"{summary['paths'][name]['barrier']['test']:.4g}" in said
    assert "Of the motion of the runs the random plane holds" in said
    assert summary["alignment"] in said
    assert jnp.asarray(1.0).dtype == jnp.float64  # as before


def test_what_is_finished_is_kept_and_named(tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measure_along", stop)
    assert main(["landscape", *SMALL, "--output", str(tmp_path)]) == 130
    kept = tmp_path / "landscape.npz"
    assert capsys.readouterr().err.splitlines()[1] == f"Kept in {kept}: the runs, their ends, the paths."
    with np.load(kept) as arrays:
        assert arrays["paths/bent/losses"].shape == (61,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "2"], "networks must be an integer at least 3, got 2"),
        (["--networks", "2000000000"], "networks must fit in memory, got 2000000000"),
        (["--steps", "0"], "steps must be an integer at least 1, got 0"),
        (["--settle", "0"], "settle must be an integer at least 1, got 0"),
        (["--curve-steps", "0"], "curve_steps must be"),
        (["--penalty", "0"], "penalty must be a finite number above 0, got 0.0"),
        (["--span", "nan"], "span must be"),
        (["--points", "1"], "points must be an integer at least 2, got 1"),
        (["--points", "1000000"], "points must fit in memory, got 1000000"),
        (["--hidden"], "hidden must have at least one layer"),
        (["--optimizer", "momentun"], "momentum"),
        (["--data", "irs"], "irs"),
        (["--seed", "-1"], "seed must be"),
        (["--output", "pyproject.toml"], "is a file"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_refused_in_one_line_with_exit_code_2(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr(command, "run", lambda *_: pytest.fail("it ran"))
    assert main(["landscape", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error)


def test_the_results_become_one_page(job, tmp_path):
    folder, summary, _ = job
    told = report_of(folder, tmp_path)
    assert f"straight {summary['paths']['straight']['barrier']['train']:.5g}" in told
