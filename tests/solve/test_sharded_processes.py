"""Data of which each of two processes under `jax.distributed` holds one half, against all of them in one process."""

import multiprocessing
import socket
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxflow as jf

PATIENCE = 120  # seconds


def losses(params, batch):
    margin = (batch["x"] @ params["w"] + params["b"]) * (1 - 2 * batch["y"])
    return jnp.log1p(jnp.exp(margin))


def runs(objective, mesh=None):
    """What the processes run together; members of an ensemble lie on one axis of the mesh, the data on the other."""
    params, rate, key = {"w": np.full(3, 0.1), "b": np.zeros(())}, jf.optim.gd(0.1), jax.random.key(0)
    descend = lambda params, **options: jf.iterate(rate, objective, params, steps=6, batch_size=16, **options)
    sgd, first = jf.dynamics.sgd(objective, 0.1, 16), descend(params, key=key)
    keys = jax.random.split(key, 3)
    members = jf.ensemble(lambda key: descend(params, key=key).params["w"], keys, mesh)
    return {
        "all data": jf.iterate(rate, objective, params, steps=6).values,
        "batches": first.values,
        "resumed": descend(first.params, key=key, state=first.state).values,
        "flow": jf.integrate(jf.dynamics.gradient_flow(objective), params, [0.0, 1.0]).values,
        "SDE": jf.integrate(sgd, params, np.linspace(0, 0.4, 3), key=key).values,
        "members": members,
    }


def compare(port, number):
    """One of the two processes."""
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("default")  # what the start of gloo may say is not ours
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, number, local_device_ids=None)
    warnings.simplefilter("error")
    assert jax.process_count() == 2
    draws = np.random.default_rng(0)
    data = {"x": draws.normal(size=(48, 3)), "y": draws.integers(0, 2, 48)}
    expected = runs(jf.Objective(losses, data))
    for kind in (AxisType.Auto, AxisType.Explicit):
        # The second axis, that of the examples, crosses the processes.
        devices = np.array(jax.devices()).reshape(2, -1).T
        mesh = Mesh(devices, ("runs", "data"), axis_types=(kind, kind))
        layout = NamedSharding(mesh, PartitionSpec("data"))
        half = {name: leaf[24 * number : 24 * (number + 1)] for name, leaf in data.items()}
        whole = {name: jax.make_array_from_process_local_data(layout, leaf) for name, leaf in half.items()}
        assert not whole["x"].is_fully_addressable
        found = runs(jf.Objective(losses, whole), mesh)
        for shard in found["members"].addressable_shards:
            np.testing.assert_allclose(shard.data, expected["members"][shard.index], rtol=1e-12)
        del found["members"]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12),
            found,
            {name: expected[name] for name in found},
        )
        with pytest.raises(ValueError, match="checkpoint must be None for data that several processes hold"):
            jf.iterate(
                jf.optim.gd(0.1),
                jf.Objective(losses, whole),
                {"w": np.full(3, 0.1), "b": np.zeros(())},
                steps=2,
                checkpoint="nowhere",
            )
        with pytest.raises(ValueError, match="data of a sweep must be on devices of this process"):
            jf.sweep(
                jax.tree_util.Partial(lambda x, h, key: h["a"], whole["x"]), {"a": [1.0]}, progress=False
            )
    jax.distributed.shutdown()


def test_two_processes_train_on_the_data_of_both():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jaxflow", "pytest", "xarray"])
    processes = [context.Process(target=compare, args=(port, number)) for number in range(2)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(PATIENCE)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.join()
