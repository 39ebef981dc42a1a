"""`kill -9` at twenty random moments: what is finished is neither lost nor run again."""

import functools
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tqdm import tqdm

import jaxflow as jf
from jaxflow.sweeps.execution.compiled_batch import Program
from jaxflow.sweeps.storage.store import Store

AXES = {
    "a": np.linspace(0.0, 1.0, 20),
    "b": np.linspace(0.5, 1.0, 4),
    "c": [0.0, -1.0],
}
SEEDS, BATCH = 2, 4
BATCHES = 20 * 4 * 2 * SEEDS // BATCH
KILLS, EARLY = 20, 4  # early: at any moment since the start of the process, mostly before its first batch
# A batch takes at least 40 ms, and a child lives 150 ms past its first on average: twenty kills end before the sweep.
SLEEP, SYNC, LIFE = 0.03, 0.01, 0.3
PATIENCE = 60


def trial(hyperparameters, key):
    def step(x, _):
        x = jnp.sin(x + hyperparameters["a"]) * hyperparameters["b"] + hyperparameters["c"]
        return x, x

    last, path = jax.lax.scan(step, jax.random.normal(key), None, length=6)
    return {"last": last, "path": path.astype(jnp.float32), "positive": (path > 0).sum()}


def swept(directory=None):
    return jf.sweep(trial, AXES, seeds=SEEDS, batch=BATCH, directory=directory, key=jax.random.key(7))


def child(directory, log, output):
    """The sweep in a process of its own, with slow batches and a slow disk; every batch is logged as it begins."""
    jax.config.update("jax_enable_x64", True)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaves behind
    claim, run, sync, claimed = Store.claim, Program.run, os.fsync, []

    def noted(self, group, index):
        claimed.append(index)
        return claim(self, group, index)

    def slow_run(self, *block):
        with open(log, "a") as file:
            file.write(f"{claimed[-1]}\n")
        time.sleep(SLEEP)
        return run(self, *block)

    def slow_sync(handle):
        time.sleep(SYNC)
        sync(handle)

    Store.claim, Program.run, os.fsync = noted, slow_run, slow_sync
    dataset = swept(directory)
    np.savez(output, **{str(name): variable.values for name, variable in dataset.variables.items()})


@pytest.fixture
def start():
    """Start a child; none is left in the end."""
    context = multiprocessing.get_context("forkserver")  # imports the library once for all children
    context.set_forkserver_preload(["jaxflow", "pytest", "xarray"])
    children = []

    def begin(*arguments):
        process = context.Process(target=child, args=arguments)
        process.start()
        children.append(process)
        return process

    yield begin
    for process in children:
        process.kill()
        process.join(PATIENCE)


def logged(log):
    """The number of every batch begun, in order."""
    return [int(line) for line in log.read_text().splitlines()] if log.exists() else []


def stamps(directory):
    """The file behind every finished batch, by number, and when it was written."""
    return {
        int(path.stem.split("-")[1]): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in (directory / "batches").glob("*.npz")
    }


def wait_until(condition, process):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.is_alive(), f"the child ended by itself: {process.exitcode}"
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.001)


@functools.cache
def undisturbed():
    return {str(name): variable.values for name, variable in swept().variables.items()}


def test_twenty_kills_cost_nothing_but_the_batches_in_flight(tmp_path, start):
    directory, log, output = tmp_path / "sweep", tmp_path / "log", tmp_path / "dataset.npz"
    rng = np.random.default_rng(0)
    kept, hits = {}, []
    for number in range(KILLS):
        begun, before = time.monotonic(), len(logged(log))
        process = start(directory, log, output)
        if number < EARLY:
            time.sleep(rng.uniform(0, 1))
        else:
            wait_until(lambda before=before: len(logged(log)) > before, process)
            time.sleep(rng.uniform(0, LIFE))
        process.kill()
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL, f"ended by itself after {time.monotonic() - begun:.2f} s"
        found, lines = stamps(directory), logged(log)
        assert kept.items() <= found.items()  # nothing finished is written again
        kept = found
        if len(lines) > before:
            *others, last = lines[before:]
            assert set(others) <= set(kept)  # only the last one of a life can be lost
            hits += [last] if last not in kept else []
    assert len(kept) < BATCHES
    assert len(hits) >= KILLS // 3, f"only {len(hits)} kills hit a batch in flight"

    process = start(directory, log, output)
    process.join(PATIENCE)
    assert process.exitcode == 0
    found = stamps(directory)
    assert kept.items() <= found.items()
    assert sorted(found) == list(range(BATCHES))
    assert not [path for path in Path(directory).rglob(".*") if path.is_file()]
    runs = logged(log)
    assert sorted(runs) == sorted([*range(BATCHES), *hits])
    with np.load(output) as dataset:
        assert set(dataset) == set(undisturbed())
        for name, values in undisturbed().items():
            assert dataset[name].dtype == values.dtype
            assert dataset[name].shape == values.shape
            assert dataset[name].tobytes() == values.tobytes()
    # What children left is a finished sweep to this process too, which has not run a batch of it.
    for name, variable in swept(directory).variables.items():
        assert variable.values.tobytes() == undisturbed()[str(name)].tobytes()
    assert stamps(directory) == found
    assert logged(log) == runs
