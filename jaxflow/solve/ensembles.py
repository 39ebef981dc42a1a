"""Many runs at once: one compiled program vmapped over keys, spread over the available devices."""

import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxflow import _check
from jaxflow._compiled import transfers
from jaxflow._devices.meshes import automatic
from jaxflow._text.progress import Bar
from jaxflow.solve.discrete import host_batches
from jaxflow.solve.trajectories.long_runs import check_host
from jaxflow.solve.trajectories.trajectory import Trajectory

PyTree = Any
GROUPS = 10  # shown in a bar


def ensemble(
    run: Callable[[Any], PyTree],
    keys: PyTree,
    mesh: Mesh | None = None,
    *,
    at_once: int | None = None,
    progress: bool = False,
) -> PyTree:
    """Run `run(key)` for every key in one vmapped program, with the keys spread over the devices.

    **Arguments**

    - `run`: any pure function of a key; it usually calls `iterate` or `integrate`. The verbs inside are compiled
      once, also when `run` is a new lambda at every call.
    - `keys` (n, …): `jax.random.split(key, n)`, or any pytree of arrays with a leading axis n.
    - `mesh`: a `jax.sharding.Mesh`, whose first axis the keys are spread over; all local devices by default. n need
      not be a multiple of its length. Other axes are for data: where the objective's data are laid over the second
      axis by their examples, every member's gradients are shared out among the devices of that axis.
    - `at_once`: the number of members that run together, one group after another. It helps where all of them would
      not fit in memory or, on a CPU, in its cache. By default all run together.
    - `progress`: whether to show a bar, over groups of `at_once` members, by default a tenth of them (more where
      there are more devices). Ctrl-C ends the ensemble after the groups that are done, which are returned, with a
      warning.

    **Returns** what `run` returns, with a leading axis n on every leaf. A `Trajectory` keeps its `times` only once,
    as all members share one clock. A member that diverges is marked so and costs the others nothing.

    **Raises** `TypeError` unless `mesh` is a mesh; `ValueError` when there are no keys, when `at_once` < 1, when the
    keys are of a kind whose draws change under `vmap`, or when the members' times differ (this is checked when they
    are concrete and on devices of this process).

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> objective = jf.Objective(lambda w, c: 0.5 * (w - c) ** 2, jnp.array([-1.0, 1.0]))
    >>> runs = jf.ensemble(
    ...     lambda key: jf.iterate(jf.optim.gd(0.1), objective, 1.0, steps=10, batch_size=1, key=key),
    ...     jax.random.split(jax.random.key(0), 64),
    ... )
    >>> runs.values.shape, runs.times.shape
    ((64, 11), (11,))
    """
    leaves = jax.tree.leaves(keys)
    n = np.shape(leaves[0])[0] if leaves and np.ndim(leaves[0]) else 0
    if n == 0:
        raise ValueError("keys must hold at least one key along a leading axis.")
    for leaf in leaves:
        is_key = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        if is_key and "rbg" in str(jax.random.key_impl(leaf)):
            raise ValueError(
                "keys must be of a kind whose draws vmap leaves alone, so that a member is the run alone, such as "
                f"jax.random.key(0, impl='threefry2x32'), got {jax.random.key_impl(leaf)}."
            )
    if at_once is not None:
        _check.require_integer("at_once", at_once, 1)
    if progress:
        check_host(keys, progress=progress, checkpoint=None)
        devices = len(jax.local_devices()) if mesh is None else mesh.devices.size
        at_once = at_once or devices * -(-n // (devices * GROUPS))
    if at_once is not None and at_once < n:
        return _run_in_groups(run, keys, mesh, n, at_once, progress)
    if mesh is not None and not (isinstance(mesh, Mesh) and mesh.axis_names):
        raise TypeError(f"mesh must be a jax.sharding.Mesh with at least one axis, got {mesh!r}.")
    if mesh is None:
        mesh = jax.make_mesh(
            (len(jax.local_devices()),), ("runs",), axis_types=(AxisType.Auto,), devices=jax.local_devices()
        )
    if not any(isinstance(leaf, Tracer) for leaf in leaves):
        keys = _spread(keys, n, mesh)
    with host_batches.refuse_streams():
        members = jax.vmap(run)(keys)
    with transfers():
        if jax.tree.leaves(members)[0].shape[0] != n:
            members = _first_members(members, n)  # without the padding
    return jax.tree.map(
        lambda part: share_clock(part) if _is_trajectory(part) else part, members, is_leaf=_is_trajectory
    )


def _run_in_groups(run, keys, mesh, n: int, size: int, progress: bool) -> PyTree:
    """Run an ensemble one group at a time; the last group is filled up, as another size would compile anew."""
    parts = []
    with Bar("ensemble", n, "members", shown=progress) as bar:
        for first in range(0, n, size):
            with transfers():
                chosen = _choose_members(keys, np.arange(first, first + size) % n)
            try:
                part = ensemble(run, chosen, mesh)
                parts.append(jax.block_until_ready(part) if progress else part)
            except KeyboardInterrupt:
                if not (progress and parts):
                    raise
                warnings.warn(f"The ensemble was interrupted after {first} of {n} members.", stacklevel=3)
                n = first
                break
            bar.advance(min(size, n - first))
    with transfers():
        whole = _join_groups(parts, n)
    return jax.tree.map(
        lambda part: share_clock(part) if _is_trajectory(part) else part, whole, is_leaf=_is_trajectory
    )


@jax.jit
def _choose_members(keys: PyTree, members: jax.Array) -> PyTree:
    """The keys of some members: one program, whatever the number of leaves."""
    return jax.tree.map(lambda k: k[members], keys)


@partial(jax.jit, static_argnames="n")
def _first_members(members: PyTree, n: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[:n], members)


@partial(jax.jit, static_argnames="n")
def _join_groups(parts: list[PyTree], n: int) -> PyTree:
    """The first n members of all groups; of trajectories the times of every group, (groups, T)."""

    def join(*parts):
        if not _is_trajectory(parts[0]):
            return jnp.concatenate(parts)[:n]
        members = [dataclasses.replace(part, times=None) for part in parts]
        return dataclasses.replace(
            jax.tree.map(join, *members), times=jnp.stack([part.times for part in parts])
        )

    return jax.tree.map(join, *parts, is_leaf=_is_trajectory)


def _is_trajectory(part: Any) -> bool:
    return isinstance(part, Trajectory)


def share_clock(run: Trajectory) -> Trajectory:
    """An ensemble with its times kept once."""
    times = run.times
    if not isinstance(times, Tracer) and getattr(times, "is_fully_addressable", True):
        times = np.asarray(times)
        different = (times != times[:1]).any(1)
        if different.any():
            i = int(np.argmax(different))
            raise ValueError(
                f"The members of an ensemble must share their times, but member {i} differs from member 0."
            )
        return dataclasses.replace(run, times=jax.device_put(times[0]))
    return dataclasses.replace(run, times=times[0])


@transfers()
def _spread(keys: PyTree, n: int, mesh: Mesh) -> PyTree:
    """Keys laid over the first axis of the mesh, padded by repetition to a multiple of its length."""
    devices = mesh.devices.shape[0]
    padded = -(-n // devices) * devices
    index = np.arange(padded) % n
    sharding = NamedSharding(automatic(mesh), PartitionSpec(mesh.axis_names[0]))
    return _lay(_choose_members(keys, index) if padded != n else keys, sharding)


def _lay(keys: PyTree, sharding: NamedSharding) -> PyTree:
    if sharding.is_fully_addressable:
        return jax.device_put(keys, sharding)

    def lay(leaf):  # JAX lays only plain numbers over the devices of several processes
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.device_put(leaf, sharding)
        bits = jax.device_put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))

    return jax.tree.map(lay, keys)
