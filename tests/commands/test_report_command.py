"""`python -m jaxflow report`: a folder of results as one page, and folders that it refuses."""

import json
import shutil

import pytest
from report_pages import report_of

from experiments.catalogue import script
from jaxflow import __version__
from jaxflow.__main__ import JOBS, main
from jaxflow.commands.one_page import verdicts
from jaxflow.commands.one_page.reading import KINDS

pytestmark = pytest.mark.promotes


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moving_averages")
    script("moving_averages").main(["--quick", "--output", str(folder)])
    return folder


@pytest.fixture
def copied(experiment, tmp_path):
    return shutil.copytree(experiment, tmp_path / "copied")


def change(folder, **content):
    """Change parts of the JSON of an experiment."""
    path = folder / "moving_averages.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | content))


def test_every_command_that_writes_files_has_a_kind_with_its_pictures():
    writes = {name: module.FILES for name, module in JOBS.values() if module.FILES and name != "report"}
    kinds = {kind.name: kind for kind in KINDS if kind.name != "experiment"}
    assert kinds.keys() == writes.keys()
    for name, kind in kinds.items():
        assert set(kind.pictures) == {file for file in writes[name] if file.endswith((".png", ".gif"))}


def test_orders_become_one_page(tmp_path):
    small = ["--data", "iris", "--hidden", "4", "--orders", "1", "--examples", "20"]
    assert main(["order", "gd", *small, "--output", str(tmp_path / "made")]) == 0
    (tmp_path / "copy").mkdir()
    text = report_of(tmp_path / "made", tmp_path / "copy")
    (fit,) = json.loads((tmp_path / "made" / "order.json").read_text())["orders"].values()
    assert f"Order 1: slope {fit['slope']:.5g} ± " in text


def test_an_experiment_becomes_one_page_with_its_claims(copied):
    lines = {
        "a": {"measured": 1.5, "expected": 1, "interval": [0.5, 2.0], "reached": True},
        "<b>": {"measured": None, "expected": 2, "interval": [None, 1.0], "reached": False},
        "c": {"measured": [1, 2], "expected": None, "interval": None, "reached": None},
    }
    change(copied, headlines=lines, versions={"jaxflow": "0.0.9"})
    assert main(["report", str(copied)]) == 0
    text = (copied / "report.html").read_text()
    assert "1 of 2 claims reached (the quick version)." in text
    assert "&lt;b&gt;" in text
    assert "<td>—</td>" in text
    assert "<td>0.0.9</td>" in text
    assert f"This page was written by jaxflow {__version__}." in text
    assert main(["report", str(copied)]) == 0  # once more, over the page that is there


@pytest.mark.parametrize(
    ("work", "flow"), [(None, "flow of pairs"), ({"substeps": 3}, "central flow")], ids=["pairs", "central"]
)
def test_the_verdict_on_an_edge_names_the_flow_that_its_numbers_are_of(work, flow):
    """Without a central flow the numbers are those of the pairs."""
    content = {"central_flow": work, "loss_ratio": 0.9, "stable_loss_ratio": 0.5, "distance_ratio": 0.1}
    (said,) = verdicts.judge_edge(content)
    assert f"predicted by the {flow} 0.9, of the stable flow 0.5." in said
    assert f"Last distance of the {flow} from the iterates" in said


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda folder: shutil.rmtree(folder),
            "must be the output folder of a command, but {folder!r} is not there.",
        ),
        (lambda folder: (folder / "moving_averages.json").unlink(), "but {folder!r} holds no JSON file."),
        (
            lambda folder: (folder / "moving_averages.json").write_text("{"),
            "but moving_averages.json is in a format that report does not know.",
        ),
        (lambda folder: change(folder, versions=None), "is in a format that report does not know."),
        (
            lambda folder: (folder / "moving_averages.png").unlink(),
            "must hold the figure moving_averages.png too",
        ),
        (
            lambda folder: shutil.copy(folder / "moving_averages.json", folder / "other.json"),
            "has those of several: moving_averages.json, other.json.",
        ),
    ],
)
def test_folders_that_are_refused(spoil, said, copied, capsys):
    spoil(copied)
    assert main(["report", str(copied)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxflow report: folder must ")
    assert said.format(folder=str(copied)) in line
    assert not (copied / "report.html").exists()


def test_a_file_and_a_folder_in_place_of_the_page_are_refused(copied, capsys):
    assert main(["report", str(copied / "moving_averages.png")]) == 2
    assert "is a file." in capsys.readouterr().err
    (copied / "report.html").mkdir()
    assert main(["report", str(copied)]) == 2
    assert "folder must leave room for report.html" in capsys.readouterr().err
