"""Notebooks of experiments: all are valid, and three of them run in a kernel, in their quick form."""

import json
import os
import subprocess
import sys

import nbformat
import pytest

from experiments.catalogue import FOLDERS
from experiments.site.docstrings import ROOT, path_of
from experiments.site.notebooks import notebook, write_notebook


@pytest.mark.parametrize("name", FOLDERS)
def test_a_notebook_is_valid_and_holds_all_of_the_code(name):
    made = notebook(name)
    nbformat.validate(made)
    code = "\n".join("".join(cell["source"]) for cell in made["cells"][2:-1])
    squeezed = lambda text: [line for line in text.splitlines() if line.strip()]
    assert squeezed((ROOT / path_of(name)).read_text())[-len(squeezed(code)) :] == squeezed(code)
    for cell in made["cells"][1:]:
        compile("".join(cell["source"]), name, "exec")


@pytest.mark.parametrize("name", ["moving_averages", "ravine", "dirac_gan"])
def test_a_notebook_runs(name, tmp_path):
    write_notebook(tmp_path / f"{name}.ipynb", name)
    start = [sys.executable, "-c", "from nbclient.cli import main; main()"]
    done = subprocess.run(
        [*start, "--inplace", "--timeout=300", f"{name}.ipynb"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    last = json.loads((tmp_path / f"{name}.ipynb").read_text())["cells"][-1]["outputs"]
    assert any("image/png" in output.get("data", {}) for output in last)
    assert (tmp_path / "results" / name / f"{name}.json").exists()
