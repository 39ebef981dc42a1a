"""Experiments in their quick form, each run once for all tests of a file.

A fifth of the suite's time is theirs: what runs one is marked as slow, which `.ci/run` runs after all other tests.
"""

from pathlib import Path

import jax
import pytest

from experiments.catalogue import script


@pytest.hookimpl(tryfirst=True)  # before markers are selected
def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents and "run" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run(name)`: what the script returned and where it wrote; each script runs once."""
    done = {}

    def once(name):
        if name not in done:
            output = tmp_path_factory.mktemp(name)
            with jax.numpy_dtype_promotion("standard"):
                done[name] = script(name).main(["--quick", "--output", str(output)]), output
        return done[name]

    return once


@pytest.fixture
def measured(run):
    """`measured(name)`: the headline numbers that were measured."""
    return lambda name: {key: pair["measured"] for key, pair in run(name)[0]["headlines"].items()}
