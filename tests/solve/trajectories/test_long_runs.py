"""Runs in pieces: they are the whole run to the bit, end at Ctrl-C with what is done, and survive `kill -9`."""

import json
import multiprocessing
import os
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recorders import way
from tqdm import tqdm

import jaxflow as jf
from jaxflow.solve.trajectories.trajectory import FINISHED, INTERRUPTED, MAX_STEPS

jax.config.update("jax_enable_x64", True)  # in the processes that are killed, too
pytestmark = pytest.mark.promotes
metrics = jf.solve.metrics
DATA = jf.Objective(
    lambda p, x: jnp.log(jnp.cosh(x @ p["w"] + p["b"])), jnp.linspace(-1, 2, 24).reshape(8, 3)
)
PARAMS = {"w": jnp.array([0.3, -0.2, 0.5]), "b": jnp.array(0.1)}


WATCHED = {"cosine": metrics.update_cosine, "way": metrics.at_stride(way(1.0), 4)}
COSINE = {"cosine": metrics.update_cosine}
SUM = lambda p: jnp.sum(p["w"] ** 2)
KILLS, WAIT = 10, 60


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def run(steps=120, rate=0.05, every=7, **others):
    chosen = {"batch_size": 2, "key": jax.random.key(1), "metrics": WATCHED, "record": DATA} | others
    return jf.iterate(jf.optim.adam(rate), DATA, PARAMS, steps=steps, every=every, **chosen)


@pytest.mark.parametrize("every", [1, 7, None])
def test_iterates_in_pieces_are_those_of_one_program(every, tmp_path):
    whole = run(every=every)
    for others in ({"progress": True}, {"checkpoint": tmp_path / "run"}):
        parts = run(every=every, **others)
        same((parts.times, parts.values, parts.params, parts.state.step), (
            whole.times, whole.values, whole.params, whole.state.step
        ))  # fmt: skip
        # Metrics may be summed in another order in a program of another length.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), parts.metrics, whole.metrics)
        assert jax.tree.structure(parts) == jax.tree.structure(whole)
    same(run(every=every, checkpoint=tmp_path / "run"), parts)  # read, not run


def test_a_record_without_metrics_in_pieces():
    whole, parts = (run(metrics=None, progress=progress) for progress in (False, True))
    same(parts, whole)
    assert jax.tree.structure(parts) == jax.tree.structure(whole)


DYNAMICS = {
    "flow": (jf.dynamics.gradient_flow(DATA), {}),
    "sde": (jf.dynamics.sgd(DATA, 0.1, 2), {"key": jax.random.key(2)}),
    "many pages": (jf.dynamics.sgd(DATA, 0.1, 2), {"key": jax.random.key(2), "substeps": 70}),
    "modified": (jf.dynamics.modified(jf.optim.adam(0.05), DATA, order=2), {}),
    "central": (jf.dynamics.central_flow(jf.optim.gd(0.1), DATA), {}),
}


@pytest.mark.parametrize("name", DYNAMICS)
def test_a_solve_in_pieces_is_the_whole(name):
    dynamics, others = DYNAMICS[name]
    times = np.linspace(0.0, 8.0, 160 if name in ("flow", "sde") else 161)  # of 160 the last piece is shorter
    solve = lambda **more: jf.integrate(dynamics, PARAMS, times, record=DATA, **others, **more)
    whole, parts = solve(), solve(progress=True)
    np.testing.assert_array_equal(parts.times, whole.times)
    assert parts.status == FINISHED
    if "key" in others:  # the same noise
        same((parts.values, parts.params, parts.steps), (whole.values, whole.params, whole.steps))
    # Adaptive steps begin anew in every piece, with errors of the solver's tolerance, 1e-8 a step.
    np.testing.assert_allclose(parts.values, whole.values, rtol=1e-5, atol=1e-9)
    if name == "central":
        np.testing.assert_allclose(parts.observed.eigenvalues, whole.observed.eigenvalues, atol=1e-12)


def test_a_solve_that_fails_in_a_piece_has_no_values_after_it():
    flow = jf.dynamics.gradient_flow(lambda x: 50 * jnp.sum(x**2))
    path = jf.integrate(flow, jnp.ones(1), np.linspace(0, 50, 51), max_steps=3, progress=True)
    assert path.status == MAX_STEPS
    assert jnp.isnan(path.values[-1]).all()
    assert jnp.isnan(path.params).all()
    assert path.stopped < 1


class Pressed:
    """Ctrl-C at the n-th piece."""

    def __init__(self, monkeypatch, n):
        self.left, self.wait = n, jax.block_until_ready
        monkeypatch.setattr(jax, "block_until_ready", self)

    def __call__(self, thing):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.wait(thing)


def test_ctrl_c_returns_what_is_done_and_a_checkpoint_goes_on(monkeypatch, tmp_path):
    whole = run(every=1, checkpoint=tmp_path / "whole")
    with monkeypatch.context() as context:
        Pressed(context, 9)
        part = run(every=1, checkpoint=tmp_path / "part")
    done = int(part.steps)
    assert 0 < done < 120
    assert part.status == INTERRUPTED
    assert part.message == f"was interrupted at t = {part.times[-1]:.6g}"
    same((part.values, part.metrics), jax.tree.map(lambda x: x[: done + 1], (whole.values, whole.metrics)))
    # It goes on by its folder, of which nothing is run again.
    with monkeypatch.context() as context:
        pressed = Pressed(context, 1000)
        resumed = run(every=1, checkpoint=tmp_path / "part")
    assert 1000 - pressed.left == 40 - 9
    same(resumed, whole)
    with monkeypatch.context() as context:
        Pressed(context, 0)
        nothing = run(progress=True)
    assert (nothing.steps, nothing.status, nothing.times.size) == (0, INTERRUPTED, 1)


@pytest.mark.parametrize("every", [50, None])
def test_a_run_that_is_interrupted_between_records_goes_on_from_where_it_is(monkeypatch, every):
    alone = lambda params, steps, **more: jf.iterate(
        jf.optim.adam(0.05), DATA, params, steps=steps, every=every, batch_size=2, record=DATA, **more
    )
    whole = alone(PARAMS, 120, key=jax.random.key(1))
    with monkeypatch.context() as context:
        Pressed(context, 11)
        part = alone(PARAMS, 120, key=jax.random.key(1), progress=True)
    done = int(part.steps)
    assert 0 < done < 50
    assert (part.status, part.times[-1], part.stopped) == (INTERRUPTED, part.state.time, part.state.time)
    np.testing.assert_allclose(part.times, [0, done * 0.05])
    np.testing.assert_allclose(part.values, [DATA(PARAMS), DATA(part.params)], rtol=1e-14)
    rest = alone(part.params, 120 - done, state=part.state)
    same(rest.params, whole.params)
    assert jf.solve.join(part, rest).steps == 120


def test_ctrl_c_before_a_step_of_a_stream_leaves_it_out():
    drawn, optimizer = jf.Objective(DATA.losses), jf.optim.gd(0.1)
    batches = [DATA.data[:2], DATA.data[2:4], DATA.data[4:6]]

    def stopped():
        yield from batches[:2]
        raise KeyboardInterrupt

    go = lambda stream, **more: jf.iterate(optimizer, drawn, PARAMS, steps=3, estimator=stream, **more)
    part = go(stopped(), progress=True)
    assert (part.steps, part.status, part.times.size) == (2, INTERRUPTED, 3)
    same(part.values, jax.tree.map(lambda x: x[:3], go(batches).values))
    with pytest.raises(KeyboardInterrupt):
        go(stopped())


def test_ctrl_c_while_records_are_kept_loses_no_more_than_that_piece(monkeypatch, tmp_path):
    from jaxflow.solve.trajectories.kept_pieces import KeptPieces

    add = KeptPieces.add

    def pressed(self, number, *others):
        if number == 5:
            raise KeyboardInterrupt
        add(self, number, *others)

    with monkeypatch.context() as context:
        context.setattr(KeptPieces, "add", pressed)
        part = run(every=1, checkpoint=tmp_path / "run")
    assert (part.status, part.steps) == (INTERRUPTED, 5 * 3)
    same(run(every=1, checkpoint=tmp_path / "run").params, run(every=1).params)


def child(folder, output):
    """The run in a process of its own, on a slow disk."""
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaves behind
    sync = os.fsync

    def slow_sync(handle):
        time.sleep(0.01)
        sync(handle)

    os.fsync = slow_sync
    run(every=1, checkpoint=folder, metrics=COSINE).save(output)


def test_ten_kills_cost_nothing(tmp_path):
    context = multiprocessing.get_context("forkserver")  # imports the library once for all children
    context.set_forkserver_preload(["jaxflow", "pytest", "xarray"])
    folder, output = tmp_path / "run", tmp_path / "end.npz"
    rng = np.random.default_rng(0)
    pieces = lambda: len([*folder.glob("records-*.npz")]) if folder.exists() else 0
    counts = [0]
    for number in range(KILLS + 1):
        process = context.Process(target=child, args=(folder, output))
        process.start()
        deadline = time.monotonic() + WAIT
        while number < KILLS and pieces() <= counts[-1] and time.monotonic() < deadline:
            time.sleep(0.001)
        if number < KILLS:
            time.sleep(rng.uniform(0, 0.06))
            process.kill()
        process.join(WAIT)
        counts.append(pieces())
    assert process.exitcode == 0
    assert (np.diff(counts[:-1]) > 0).all()
    assert counts[-2] < 40  # the kills ended before the run
    whole = run(every=1, metrics=COSINE)
    end = jf.Trajectory.load(output, whole)
    same((end.params, end.values, end.times), (whole.params, whole.values, whole.times))
    same(end.metrics, run(every=1, metrics=COSINE, checkpoint=tmp_path / "undisturbed").metrics)


def test_a_folder_of_another_run_is_refused_with_the_difference(tmp_path):
    folder = tmp_path / "run"
    run(checkpoint=folder)
    other = jf.Objective(DATA.losses, DATA.data + 1)
    for again, message in (
        (lambda: run(rate=0.1, checkpoint=folder), r"its optimizer is adam\(learning_rate=0.05.*, not adam\(l.*=0.1"),
        (lambda: run(steps=121, checkpoint=folder), "its steps is 120, not 121"),
        (lambda: run(key=jax.random.key(3), checkpoint=folder), "its key differs"),
        (lambda: run(metrics=None, checkpoint=folder), r"its metrics is \['cosine', 'way'\], not None"),
        (
            lambda: jf.iterate(jf.optim.adam(0.05), SUM, {"w": jnp.ones(3)}, steps=3, checkpoint=folder),
            r"its params \(.*\) is .*, not",
        ),
        (lambda: jf.iterate(jf.optim.adam(0.05), other, PARAMS, steps=120, checkpoint=folder), "its data differs"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"checkpoint {folder} holds another run: {message}"):
            again()
    facts = json.loads((folder / "run.json").read_text())
    facts["versions"]["jax"] = "0.1"
    (folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"its versions \(jax\) is 0\.1, not"):
        run(checkpoint=folder)
    facts["versions"]["jax"] = jax.__version__
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "records-00003.npz").unlink()
    with pytest.raises(ValueError, match=r"lacks records-00003\.npz, a part of its run"):
        run(checkpoint=folder)
    (folder / "run.json").unlink()
    with pytest.raises(ValueError, match="holds a state without the description of its run"):
        run(checkpoint=folder)


def test_what_the_host_does_is_refused_in_a_program(tmp_path):
    with pytest.raises(ValueError, match="progress must not be given under jit, vmap or grad"):
        jax.jit(lambda p: jf.iterate(jf.optim.gd(0.1), DATA, p, steps=2, progress=True).params)(PARAMS)
    flow, drawn = jf.dynamics.gradient_flow(DATA), jf.Objective(DATA.losses)
    with pytest.raises(ValueError, match="checkpoint must not be given under jit, vmap or grad"):
        jax.jit(lambda p: jf.integrate(flow, p, [0.0, 1.0], checkpoint=tmp_path / "a").params)(PARAMS)
    with pytest.raises(ValueError, match="checkpoint must be None for a stream of batches"):
        jf.iterate(jf.optim.gd(0.1), drawn, PARAMS, steps=1, estimator=[DATA.data], checkpoint=tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="checkpoint must be a folder"):
        run(checkpoint=tmp_path / "file")
    with pytest.raises(ValueError, match="event must be None for a solve with progress= or checkpoint="):
        jf.integrate(flow, PARAMS, [0.0, 1.0], event=jf.gradient_norm_below(0.1), progress=True)


def test_an_ensemble_shows_groups_and_returns_those_that_are_done(monkeypatch):
    alone = lambda key: jf.iterate(
        jf.optim.gd(0.1), DATA, PARAMS, steps=3, batch_size=2, key=key, record=DATA
    )
    keys = jax.random.split(jax.random.key(0), 25)
    whole = jf.ensemble(alone, keys)
    close = lambda a, b: np.testing.assert_allclose(
        a, b, rtol=1e-12
    )  # other sizes are summed in another order
    close(jf.ensemble(alone, keys, progress=True).values, whole.values)
    Pressed(monkeypatch, 4)
    with pytest.warns(UserWarning, match=r"The ensemble was interrupted after \d+ of 25 members"):
        part = jf.ensemble(alone, keys, progress=True)
    done = part.values.shape[0]  # four groups, whose size is a multiple of the number of devices
    assert done in (12, 16)
    close(part.values, whole.values[:done])
    with pytest.raises(ValueError, match="progress must not be given under jit, vmap or grad"):
        jax.jit(lambda keys: jf.ensemble(alone, keys, progress=True).values)(keys)
