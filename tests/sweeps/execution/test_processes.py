"""Several processes on one sweep: on one folder at once, and under `jax.distributed`."""

import functools
import multiprocessing
import socket
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from tqdm import tqdm

import jaxflow as jf
from jaxflow.sweeps.execution.compiled_batch import Program

# Two programs, of seven batches and of two; the last ones of both are not full.
LENGTHS = [3, 3, 3, 5, 3, 3, 5, 3, 3, 5, 3, 3, 3, 3, 3, 3]
SAMPLES = [
    {"number": number, "a": number / 10, "b": 0.5 + number / 7, "length": length}
    for number, length in enumerate(LENGTHS)
]
SEEDS, BATCH = 2, 4
LONG = LENGTHS.count(5)
SHORT = len(LENGTHS) - LONG
BATCHES = tuple(-(-cells * SEEDS // BATCH) for cells in (SHORT, LONG))
SLEEP, PATIENCE = 0.12, 90
RUN = Program.run
OUT = {"last": "float64", "path": "float32", "positive": "bool", "which": "int64", "wave": "complex128"}


def trial(hyperparameters, key):
    def step(x, _):
        x = jnp.sin(x + hyperparameters["a"]) * hyperparameters["b"]
        return x, x

    last, path = jax.lax.scan(step, jax.random.normal(key), None, length=hyperparameters["length"])
    return {
        "last": last,
        "path": path[-3:].astype(jnp.float32),
        "positive": last > 0,
        # Which trial this is, told apart by its key too.
        "which": hyperparameters["number"] + 100 * jax.random.randint(key, (), 0, 1000),
        "wave": jax.lax.complex(jnp.cos(last), jnp.sin(last)),
    }


def swept(directory=None, batch=BATCH):
    return jf.sweep(
        trial,
        SAMPLES,
        seeds=SEEDS,
        batch=batch,
        directory=directory,
        static=("length",),
        key=jax.random.key(7),
        progress=False,
    )


def content(dataset):
    return {
        str(name): (variable.dims, str(variable.dtype), variable.values.tobytes())
        for name, variable in dataset.variables.items()
    }


@functools.cache
def undisturbed():
    return content(swept())


def of_the_trials():
    """What tells trials apart, by NumPy."""
    keys = [jax.random.fold_in(jax.random.key(7), seed) for seed in range(SEEDS)]
    draws = [int(jax.random.randint(key, (), 0, 1000)) for key in keys]
    return np.array([[number + 100 * draw for draw in draws] for number in range(len(SAMPLES))])


def logging(log, hold=0.0):
    """Let this process log the trials of every batch as it ends; wait in the first, if asked, for a kill."""

    def logged(self, *block):
        with open(log, "a") as file:
            file.write("begins\n")
        time.sleep(hold or SLEEP)
        arrays, diverged = RUN(self, *block)
        with open(log, "a") as file:
            file.write(" ".join(map(str, np.ravel(arrays["which"]).tolist())) + "\n")
        return arrays, diverged

    Program.run = logged


def begin():
    jax.config.update("jax_enable_x64", True)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaves behind
    warnings.simplefilter("error")


def save(dataset, output):
    np.savez(output, **{str(name): variable.values for name, variable in dataset.variables.items()})


def alone(barrier, directory, log, output, hold=0.0):
    """One of several processes that know nothing of each other but the folder."""
    begin()
    logging(log, hold)
    jax.block_until_ready(jnp.zeros(()))
    barrier.wait(PATIENCE)
    save(swept(directory), output)


def distributed(port, number, folder):
    """One of two processes under `jax.distributed`."""
    begin()
    warnings.simplefilter("default")  # what the start of gloo may say is not ours
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, number, local_device_ids=None)
    warnings.simplefilter("error")
    assert jax.process_count() == 2
    assert jax.local_device_count() * 2 == jax.device_count()
    logging(folder / f"memory-{number}.log")
    table = swept()
    table.drop_vars("wave").to_netcdf(folder / f"memory-{number}.nc", engine="scipy")
    save(table, folder / f"memory-{number}.npz")
    logging(folder / f"folder-{number}.log")
    table = swept(folder / "sweep")
    table.drop_vars("wave").to_netcdf(folder / f"folder-{number}.nc", engine="scipy")
    save(table, folder / f"folder-{number}.npz")
    logging(folder / f"again-{number}.log")
    save(swept(folder / "sweep", batch=None), folder / f"again-{number}.npz")
    save(swept(folder / "default", batch=None), folder / f"default-{number}.npz")
    jax.distributed.shutdown()


@pytest.fixture
def start():
    """Start a process; none is left in the end."""
    context = multiprocessing.get_context("forkserver")  # imports the library once for all
    context.set_forkserver_preload(["jaxflow", "pytest", "xarray"])
    processes = []

    def starts(function, *arguments):
        process = context.Process(target=function, args=arguments)
        process.start()
        processes.append(process)
        return process

    starts.barrier = context.Barrier
    yield starts
    for process in processes:
        process.kill()
        process.join(PATIENCE)


def ends(*processes):
    """All end by themselves, and well."""
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
    assert [process.exitcode for process in processes] == [0] * len(processes)


def wait_for(log, process):
    deadline = time.monotonic() + PATIENCE
    while not log.exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def logged(log):
    """The trials of each batch that a process ran, and how many batches it began."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [[int(n) for n in line.split()] for line in lines if line != "begins"], lines.count("begins")


def assert_each_trial_once(*logs):
    run = [number for log in logs for batch in logged(log)[0] for number in batch]
    assert sorted(run) == sorted(of_the_trials().ravel().tolist())


def assert_undisturbed(output):
    with np.load(output) as found:
        assert set(found) == set(undisturbed())
        for name, (_, dtype, raw) in undisturbed().items():
            assert str(found[name].dtype) == dtype
            assert found[name].tobytes() == raw, name


def test_the_trials_are_those_asked_for():
    dataset = swept()
    assert {name: str(dataset[name].dtype) for name in OUT} == OUT
    np.testing.assert_array_equal(dataset["which"], of_the_trials())
    assert len(set(of_the_trials().ravel())) == len(SAMPLES) * SEEDS


def test_two_processes_share_one_folder(tmp_path, start):
    barrier, directory = start.barrier(2), tmp_path / "sweep"
    logs, outputs = ([tmp_path / f"{n}.{kind}" for n in range(2)] for kind in ("log", "npz"))
    ends(*(start(alone, barrier, directory, logs[n], outputs[n]) for n in range(2)))
    for output in outputs:
        assert_undisturbed(output)
    assert_each_trial_once(*logs)
    counts = [logged(log)[1] for log in logs]
    assert sum(counts) == sum(BATCHES)
    assert min(counts) > 0
    assert content(swept(directory)) == undisturbed()


def test_a_process_goes_on_where_another_was_killed_with_a_batch(tmp_path, start):
    barrier, directory, output = start.barrier(1), tmp_path / "sweep", tmp_path / "dataset.npz"
    logs = [tmp_path / f"{n}.log" for n in range(2)]
    holder = start(alone, barrier, directory, logs[0], tmp_path / "never.npz", 600.0)
    wait_for(logs[0], holder)
    other = start(alone, barrier, directory, logs[1], output)
    deadline = time.monotonic() + PATIENCE
    while len(logged(logs[1])[0]) < BATCHES[0] - 1:
        assert other.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.5)
    # The batch that is held is waited for.
    assert other.is_alive()
    assert logged(logs[1])[1] < sum(BATCHES)
    holder.kill()
    ends(other)
    assert logged(logs[0]) == ([], 1)
    assert logged(logs[1])[1] == sum(BATCHES)
    assert_each_trial_once(logs[1])
    assert_undisturbed(output)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_under_jax_distributed_each_runs_its_share_and_all_return_the_whole(tmp_path, start):
    port = free_port()
    ends(*(start(distributed, port, number, tmp_path) for number in range(2)))
    single = swept()
    single.drop_vars("wave").to_netcdf(tmp_path / "single.nc", engine="scipy")
    for kind in ("memory", "folder"):
        shares = [logged(tmp_path / f"{kind}-{number}.log") for number in range(2)]
        assert sum(count for _, count in shares) == sum(BATCHES)
        assert abs(shares[0][1] - shares[1][1]) <= 2  # they take turns in each of the two groups
        assert_each_trial_once(*(tmp_path / f"{kind}-{number}.log" for number in range(2)))
        for number in range(2):
            assert_undisturbed(tmp_path / f"{kind}-{number}.npz")
            with (
                xarray.open_dataset(tmp_path / f"{kind}-{number}.nc", engine="scipy") as found,
                xarray.open_dataset(tmp_path / "single.nc", engine="scipy") as expected,
            ):
                assert content(found) == content(expected)
    for number in range(2):
        assert_undisturbed(tmp_path / f"again-{number}.npz")
        assert_undisturbed(tmp_path / f"default-{number}.npz")
    # Alone with the folder of two: a finished sweep.
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "sweep").rglob("*"))
    assert content(swept(tmp_path / "sweep")) == undisturbed()
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "sweep").rglob("*")) == before
