"""The README's code runs, and says what it says."""

import operator
import re
import tomllib
from pathlib import Path

import jax.numpy as jnp
import pytest

import jaxflow as jf

pytestmark = pytest.mark.promotes
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tour_runs_from_top_to_bottom(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where it writes files
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 5
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "% of the path travelled" in printed
    assert "diverged at t = " in printed
    assert 0.9 < float(re.search(r"slope +(\S+) ±", printed)[1]) < 1.1
    assert names["late"].evaluations < 1000
    assert jnp.isfinite(jnp.asarray(names["flow"].params[0]["w"])).all()


def test_code_that_needs_what_is_not_installed_is_python():
    """Blocks marked `py` are shown and not run, as flax is no dependency."""
    (block,) = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    compile(block, "README.md", "exec")
    assert block.count("jf.problems.wrap(") == 3


def test_every_dependency_has_a_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = re.split(r"## Dependencies, and why each", README)[1]
    for requirement in project["dependencies"]:
        name = re.match(r"[\w-]+", requirement)[0]
        assert re.search(rf"^\|.*\b{name}\b.*\|", listed, re.MULTILINE), name


def test_files_the_readme_links_to_exist():
    for target in re.findall(r"\]\(((?!https:)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_names_in_the_readme_exist():
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    names = re.findall(r"`jf\.([a-z_.A-Z0-9]+)", text)
    assert len(names) > 30
    for name in names:
        operator.attrgetter(name.rstrip("."))(jf)


def test_there_is_one_version():
    """pyproject.toml reads it from the package; the citations repeat it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in settings["project"]["dynamic"]
    source = (ROOT / settings["tool"]["hatch"]["version"]["path"]).read_text()
    assert re.search(r'^__version__ = "(.+?)"', source, re.MULTILINE)[1] == jf.__version__
    assert f"version: {jf.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{jf.__version__}}}" in README


def test_what_the_test_command_leaves_out_is_run_with_every_change():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert re.findall(r"-m '([^']*)'", settings["addopts"]) == ["not slow"]
    assert (ROOT / ".ci" / "run").read_text().endswith("\npython -m pytest -n 2 -m slow\n")
