"""The loop of a sweep: batch after batch, read where it is finished, run and kept where it is not."""

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxflow._devices.memory import physical_memory
from jaxflow.sweeps.execution import processes
from jaxflow.sweeps.execution.blocks import Block
from jaxflow.sweeps.execution.compiled_batch import Program
from jaxflow.sweeps.outputs.trial_result import Layout
from jaxflow.sweeps.storage.store import Batch, Store

# Batches by default: a sixteenth of the trials, as a kill loses the batch in flight, but enough lanes to be worth
# vmapping, and not more than help.
PARTS, FEWEST, MOST = 16, 64, 4096
PATIENCE = 0.2  # seconds between looks at batches that another process runs


class Results:
    """The arrays of all trials, in memory, or, where they would fill a quarter of it, in a file without a name."""

    def __init__(self, layout: Layout, trials: int, store: Store | None):
        self.layout, self.seconds, self.lost = layout, 0.0, 0
        size, memory = trials * layout.nbytes, physical_memory()
        if store is None and size > memory:
            raise ValueError(
                f"directory must be given: the results take {size / 2**30:.3g} GiB, more than the memory of "
                f"{memory / 2**30:.3g} GiB."
            )
        self.diverged = np.zeros(trials, bool)
        empty = np.empty if store is None or 4 * size < memory else store.scratch
        self.arrays = {name: empty((trials, *v.shape), v.dtype) for name, v in layout.variables.items()}

    def put(self, places: np.ndarray, batch: Batch) -> None:
        """The trials of a batch into their places."""
        self.diverged[places] = batch.diverged
        self.seconds += batch.seconds
        self.lost += int(batch.diverged.sum())
        for name, array in self.layout.mask(batch.arrays, batch.diverged).items():
            self.arrays[name][places] = array


def run(
    programs: list[Program], store: Store | None, wanted: int | None, results: Results, bar: Any
) -> list[int]:
    """This process's batches, group by group; returns their sizes. Batches held by others come last."""
    sizes, held = [], []
    for group, program in enumerate(programs):
        size = _size(program, group, store, wanted)
        sizes.append(size)
        for index, block in enumerate(program.blocks(size)):
            if processes.owner(group, index) == jax.process_index():
                where = {"group": group, "index": index, "block": block, "size": size}
                take = partial(_batch, program, **where, store=store, results=results, bar=bar)
                held += [] if take() else [take]
    while held:
        time.sleep(PATIENCE)
        held = [take for take in held if not take()]
    return sizes


def _size(program: Program, group: int, store: Store | None, wanted: int | None) -> int:
    """The number of trials in a batch: that of the batches on disk, or as asked, or what memory allows."""
    if store is not None and str(group) in store.sizes:
        known = store.sizes[str(group)]
        if wanted is not None and wanted != known:
            raise ValueError(f"batch must be {known}, as in {store.directory}, or left out, got {wanted}.")
        return known
    if wanted is None:
        share = -(-program.trials // PARTS)
        wanted = processes.agree(program.batch_size(min(max(share, FEWEST), MOST)))
    return wanted if store is None else store.size(group, wanted)


def _batch(
    program, *, group, index, block: Block, size: int, store: Store | None, results: Results, bar
) -> bool:
    """One batch into the results; `False` while another process runs it."""
    places = block.places(program.seeds)
    if store is None:
        batch = _compute(program, block, size)
    elif (batch := store.read(group, index)) is not None:
        if not bar.disable:  # what is only read does not count for the trials a second
            bar.initial += places.size
            bar.last_print_n += places.size
    else:
        with store.claim(group, index) as mine:
            if not mine:
                return False
            batch = store.read(group, index, quiet=True)
            if batch is None:
                batch = _compute(program, block, size)
                store.write(group, index, batch)
    results.put(places, batch)
    bar.update(places.size)
    bar.set_postfix(diverged=results.lost)
    return True


def _compute(program: Program, block: Block, size: int) -> Batch:
    program.compile(size)  # outside of the time it takes
    began = time.perf_counter()
    arrays, diverged = program.run(block, size)
    return Batch(arrays, diverged, time.perf_counter() - began)


@contextlib.contextmanager
def progress(trials: int, wanted: bool) -> Iterator[Any]:
    """A bar with trials per second, the time left and the number diverged; quiet where there is no terminal."""
    from tqdm import tqdm  # here, as `import jaxflow` need not wait for it

    quiet = None if wanted and jax.process_index() == 0 else True
    with tqdm(total=trials, desc="sweep", unit=" trials", disable=quiet, leave=False) as bar:
        yield bar


def gather_processes(
    programs: list[Program], sizes: list[int], store: Store | None, results: Results
) -> None:
    """Fetch what the other processes ran: from the folder they share, or from them."""
    if jax.process_count() == 1:
        return
    processes.wait()
    owners = np.zeros(results.diverged.size, np.int32)
    for group, (program, size) in enumerate(zip(programs, sizes, strict=True)):
        for index, block in enumerate(program.blocks(size)):
            places, owner = block.places(program.seeds), processes.owner(group, index)
            owners[places] = owner
            if store is not None and owner != jax.process_index():
                batch = store.read(group, index)
                if batch is None:
                    raise ValueError(
                        f"directory must be one that all processes share, but {store.directory} lacks batch "
                        f"{index} of process {owner} here."
                    )
                results.put(places, batch)
    if store is None:
        for array in (results.diverged, *results.arrays.values()):
            processes.exchange(array, owners)
        results.seconds = processes.total(results.seconds)
