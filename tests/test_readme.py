"""The README's code runs, and says what it says."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest

pytestmark = pytest.mark.promotes
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tour_runs_from_top_to_bottom(capsys):
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


def test_every_dependency_has_a_reason():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = re.split(r"## Dependencies, and why each", README)[1]
    for requirement in project["dependencies"]:
        name = re.match(r"[\w-]+", requirement)[0]
        assert re.search(rf"^\|.*\b{name}\b.*\|", listed, re.MULTILINE), name


def test_files_the_readme_links_to_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
