"""Ctrl-C in a sweep that a script calls: two lines, nothing that is finished is lost, and it can still be caught."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.sweeps.execution.compiled_batch import Program

SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
import jaxflow as jf
from jaxflow.sweeps.execution.compiled_batch import Program
run = Program.run
def slow(self, *block):
    time.sleep(0.2)
    return run(self, *block)
Program.run = slow
def trial(hyperparameters, key):
    return hyperparameters["a"] ** 2
jf.sweep(trial, {"a": [float(i) for i in range(400)]}, batch=4, directory=sys.argv[1])
"""


def trial(hyperparameters, key):
    return hyperparameters["a"] ** 2


@pytest.fixture(autouse=True)
def hook():
    """What prints errors is as before."""
    before = sys.excepthook
    yield
    sys.excepthook = before


@pytest.fixture
def interrupted(monkeypatch):
    """The third batch is stopped by Ctrl-C."""
    run, ran = Program.run, []

    def stop(self, *block):
        ran.append(block)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return run(self, *block)

    monkeypatch.setattr(Program, "run", stop)
    return ran


def swept(directory=None):
    return jf.sweep(trial, {"a": jnp.arange(8.0)}, batch=2, directory=directory)


def test_a_script_prints_two_lines_and_dies_of_the_signal(tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "kept"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(
        [sys.executable, script, folder],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    finished = lambda: sorted((folder / "batches").glob("*.npz"))
    until = time.monotonic() + 60
    while len(finished()) < 2 and child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert said.splitlines() == [
        f"The sweep was stopped by Ctrl-C. {len(finished())} finished batches are kept in {folder}.",
        "The same call goes on from there.",
    ]
    assert child.returncode == -signal.SIGINT


def test_what_is_finished_is_kept_and_the_same_call_goes_on(tmp_path, interrupted):
    with pytest.raises(
        KeyboardInterrupt, match=r"2 finished batches are kept in .*\nThe same call goes on"
    ) as caught:
        swept(tmp_path / "a")
    assert type(caught.value) is KeyboardInterrupt
    np.testing.assert_array_equal(swept(tmp_path / "a")["value"].squeeze("seed"), np.arange(8.0) ** 2)
    assert len(interrupted) == 3 + 2


def test_without_a_directory_that_is_said(interrupted):
    with pytest.raises(KeyboardInterrupt, match=r"Nothing is kept, .*\nWith directory= it keeps every"):
        swept()


def test_before_any_batch_that_is_said(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Program, "pin", stop)
    with pytest.raises(KeyboardInterrupt, match=r"No batch was finished"):
        swept(tmp_path / "a")


def test_notebooks_find_the_lines_and_other_errors_are_printed_as_before(interrupted, capsys, monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: printed.append(error))
    error = None
    for _ in range(2):  # the second time nothing more is installed
        interrupted.clear()
        try:
            swept()
        except KeyboardInterrupt as stopped:
            error = stopped
    assert error is not None
    lines = str(error).splitlines()
    assert error._render_traceback_() == lines
    assert pickle.loads(pickle.dumps(error)).args == error.args
    sys.excepthook(type(error), error, error.__traceback__)
    assert capsys.readouterr().err.splitlines() == lines
    other = KeyboardInterrupt()
    sys.excepthook(KeyboardInterrupt, other, None)
    assert printed == [(KeyboardInterrupt, other, None)]
