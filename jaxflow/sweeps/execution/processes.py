"""Several processes on one sweep (`jax.distributed`): who runs what, and how all come to hold the whole.

The module that moves arrays between processes takes a while to import, and few runs need it.
"""

import jax
import numpy as np


def owner(group: int, batch: int) -> int:
    """The process that runs a batch of a group: they take turns."""
    return (group + batch) % jax.process_count()


def agree(size: int) -> int:
    """The least of a number over all processes, which may have found different ones."""
    if jax.process_count() == 1:
        return size
    from jax.experimental import multihost_utils

    return int(np.min(multihost_utils.process_allgather(np.asarray(size))))


def total(number: float) -> float:
    """The sum of a number over all processes."""
    from jax.experimental import multihost_utils

    return float(np.sum(multihost_utils.process_allgather(np.asarray(number))))


def wait() -> None:
    """Wait until every process is here."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices("jaxflow.sweep")


def exchange(array: np.ndarray, owner: np.ndarray) -> None:
    """Fill the rows of `array` that other processes own; `owner` (rows,) tells whose each row is."""
    from jax.experimental import multihost_utils

    most = int(np.bincount(owner).max())
    mine = np.zeros((most, *array.shape[1:]), array.dtype)
    mine[: np.sum(owner == jax.process_index())] = array[owner == jax.process_index()]
    gathered = np.asarray(multihost_utils.process_allgather(mine))
    for process in range(jax.process_count()):
        rows = owner == process
        array[rows] = gathered[process, : rows.sum()]
