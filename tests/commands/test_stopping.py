"""Ctrl-C: two lines, exit code 130, and what is finished is kept and named."""

import gc
import json
import signal
import time

import jax
import numpy as np
import pytest

import jaxflow as jf
from jaxflow.__main__ import main
from jaxflow.commands import edge, order, temperature
from jaxflow.commands.compare import command as compare
from jaxflow.commands.shared import interruption as stopping
from jaxflow.commands.sweep import command as sweep

pytestmark = pytest.mark.promotes
SMALL = ["--data", "iris", "--hidden", "4"]
RUNS = [*SMALL, "--steps", "10", "--seeds", "2"]


def stop(*_, **__):
    raise KeyboardInterrupt


def told(capsys, command):
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"jaxflow {command}: stopped by Ctrl-C."
    return second


def test_runs_that_are_finished_are_kept_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "solve_in_chunks", stop)
    assert main(["compare", *RUNS, "--output", str(tmp_path)]) == 130
    kept = tmp_path / "trajectories.npz"
    assert told(capsys, "compare") == f"Kept in {kept}: gd, full batch; gd, batch 32 (2 runs)."
    problem = jf.problems.mlp("iris", (4,), key=jax.random.key(0))
    run = jf.iterate(jf.optim.gd(0.1), problem.objective, problem.params, steps=10, record=problem.objective)
    with np.load(kept) as arrays:
        np.testing.assert_allclose(arrays["full_batch/loss"], run.values, rtol=1e-6)
        assert arrays["mini_batch/loss"].shape == (2, 11)


def test_orders_that_are_finished_are_kept_and_named(tmp_path, monkeypatch, capsys):
    def first(*arguments):
        yield next(by_order(*arguments))
        raise KeyboardInterrupt

    by_order = order.fit_each_order
    monkeypatch.setattr(order, "fit_each_order", first)
    few = [*SMALL, "--examples", "20", "--orders", "1", "2", "--learning-rate", "0.05"]
    assert main(["order", "gd", *few, "--output", str(tmp_path)]) == 130
    assert told(capsys, "order") == f"Kept in {tmp_path}: order.png and order.json of order 1."
    assert list(json.loads((tmp_path / "order.json").read_text())["orders"]) == ["1"]


@pytest.mark.parametrize(
    ("module", "where"), [(compare, "_runs"), (order, "_study"), (edge, "_study"), (sweep, "follow")]
)
def test_where_nothing_is_finished_that_is_said(module, where, tmp_path, monkeypatch, capsys):
    command = module.__name__.split(".")[2]
    monkeypatch.setattr(module, where, stop)
    assert main([command, *SMALL, "--output", str(tmp_path / "results")]) == 130
    assert told(capsys, command) == "Nothing was finished, and nothing is written."
    assert not (tmp_path / "results").exists()


def test_a_command_that_writes_nothing_stops_as_well(monkeypatch, capsys):
    monkeypatch.setattr(temperature, "run", stop)
    assert main(["temperature", *SMALL]) == 130
    assert "Nothing" in told(capsys, "temperature")


def test_finished_batches_of_a_sweep_are_named(tmp_path, monkeypatch, capsys):
    def begun(*_, directory, **__):
        (directory / "batches").mkdir(parents=True)
        (directory / "batches" / "0000-000000.npz").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "sweep", begun)
    monkeypatch.setattr(sweep, "follow", lambda *_: sweep.Flow(*[np.zeros(1)] * 4, ""))
    assert main(["sweep", *RUNS, "--output", str(tmp_path)]) == 130
    assert told(capsys, "sweep") == (
        f"The finished trials are kept in {tmp_path / 'trials'}; --resume goes on with them."
    )


def test_files_that_are_written_are_named_where_the_last_is_not(tmp_path, monkeypatch, capsys):
    def half(settings, *_):
        (settings.output / "summary.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(edge, "run", half)
    (tmp_path / "edge.png").touch()  # of another time
    assert main(["edge", *SMALL, "--output", str(tmp_path)]) == 130
    assert told(capsys, "edge") == f"Kept in {tmp_path}: summary.json."


@pytest.fixture(autouse=True)
def listening():
    """A shell's background jobs begin with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pressed_in(act):
    """How a piece of work ends in which Ctrl-C is pressed."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    @stopping.stop_on_interrupt()
    def served():
        act()
        for _ in range(100):
            time.sleep(0.05)

    with pytest.raises(stopping.Stopped, match="Nothing"):
        served()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_in_a_callback_of_a_compiled_program_stops_it():
    def press(x):
        signal.raise_signal(signal.SIGINT)
        return x

    shape = jax.ShapeDtypeStruct((), "float32")
    program = jax.jit(lambda x: jax.pure_callback(press, shape, x))
    pressed_in(lambda: jax.block_until_ready(program(np.float32(1))))


def test_an_interrupt_that_python_swallows_is_pressed_again():
    def press(phase, _):
        gc.callbacks.remove(press)
        signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(press)
    pressed_in(gc.collect)
