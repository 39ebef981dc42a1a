"""The compiled heart of a sweep: one program that runs a batch of trials, vmapped and sharded over devices."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxflow._compiled import Static, combine, partition, transfers
from jaxflow._devices.memory import physical_memory
from jaxflow._devices.meshes import check_reachable, layout_of
from jaxflow._disk import fingerprint
from jaxflow.sweeps.design.axes import Design, Group
from jaxflow.sweeps.execution.blocks import Block, block_shape, cut
from jaxflow.sweeps.outputs.trial_result import Layout, layout, name_arrays

PyTree = Any
Trial = Callable[[dict[str, Any], jax.Array], PyTree]


class Settings(NamedTuple):
    """What is static about a batch: the trial's functions, its static hyperparameters, all names, the devices.

    A value carries its type, which tells True and 1.0 from 1. `version` is the fingerprint of the trial where it was
    traced anew, so that a batch is not run by a program traced before something changed that the trial reads.
    """

    trial: Static
    fixed: tuple[tuple[str, type, Any], ...]
    names: tuple[str, ...]
    mesh: Mesh | None = None
    over_seeds: bool = False  # whether the devices share the seeds out, not the cells
    version: str = ""


def _call(settings: Settings, dynamic: list, column: dict[str, Any], key: jax.Array) -> PyTree:
    """The trial on its hyperparameters, in the order of the axes."""
    given = column | {name: value for name, _, value in settings.fixed}
    return combine(dynamic, settings.trial)({name: given[name] for name in settings.names}, key)


@functools.partial(jax.jit, static_argnames="settings")
def _batch(settings: Settings, dynamic, columns, seeds, key):
    """All pairs of some cells, given as (numbers, hyperparameters), and some seeds; leaves (cells, seeds, …).

    What a trial makes of its key alone, such as the draw of a mini-batch, is then made once for all cells.
    """

    def lanes(dynamic, columns, seeds, key):
        run = lambda cell, key: name_arrays(_call(settings, dynamic, cell[1], key))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, seeds)
        return jax.vmap(jax.vmap(run, (None, 0)), (0, None))(columns, keys)

    if settings.mesh is not None:
        # Each device runs lanes of its own: left to the partitioner, loops would wait for one another.
        split, whole = PartitionSpec(settings.mesh.axis_names), PartitionSpec()
        inner, out = (
            ((whole, split), PartitionSpec(None, *split)) if settings.over_seeds else ((split, whole), split)
        )
        specs = (whole, *inner, whole)
        lanes = jax.shard_map(lanes, mesh=settings.mesh, in_specs=specs, out_specs=out, check_vma=False)
    return lanes(dynamic, columns, seeds, key)


def compilations() -> int:
    """The number of programs for batches of trials; `jax.clear_caches()` forgets them."""
    return _batch._cache_size()  # type: ignore[attr-defined]


_KNOWN: dict[tuple, Any] = {}


def _remember(key: tuple, make: Callable[[], Any]) -> Any:
    """What was found out about a program before: asking JAX again takes longer than running a small one.

    It is forgotten with JAX's own caches, by `jax.clear_caches()`.
    """
    if len(_KNOWN) > 256 or not compilations():
        _KNOWN.clear()
    if key not in _KNOWN:
        _KNOWN[key] = make()
    return _KNOWN[key]


class Program:
    """The program of one group of cells."""

    def __init__(
        self, trial: Trial, design: Design, group: Group, seeds: int, key: jax.Array, mesh: Mesh | None
    ):
        # Numbers and arrays of the trial itself (a `jax.tree_util.Partial`) are arguments too.
        self.dynamic, functions = partition(_copy_to_each(trial, mesh))
        fixed = tuple((name, type(value), value) for name, value in group.fixed)
        self.design, self.group, self.seeds, self.key = design, group, seeds, key
        self.devices = 1 if mesh is None else mesh.devices.size
        self.settings = Settings(functions, fixed, tuple(design.axes), mesh)
        self.shared = self.dynamic, key
        if mesh is not None:
            self.shared = jax.device_put(self.shared, NamedSharding(mesh, PartitionSpec()))

    @property
    def trials(self) -> int:
        """The number of trials of the group."""
        return self.group.cells.size * self.seeds

    def shape(self, size: int) -> tuple[int, int]:
        """The most cells and seeds of a batch of `size` trials."""
        return block_shape(self.group.cells.size, self.seeds, size)

    def blocks(self, size: int) -> list[Block]:
        """The batches of at most `size` trials."""
        return cut(self.group.cells, self.seeds, size)

    @functools.cached_property
    def traced(self) -> Any:
        """One trial traced, by itself and anew; `TypeError` where it needs a hyperparameter's concrete value."""
        column = {name: values[0] for name, values in self.design.columns(self.group.cells[:1]).items()}
        one = jax.jit(lambda *arguments: name_arrays(_call(self.settings, *arguments)))
        try:
            return one.trace(self.dynamic, column, self.key)
        except Exception as error:
            forced = self._forced_names(column)
            if forced is None:
                raise
            raise TypeError(_advice(forced, error)) from error

    def pin(self) -> str:
        """Keep to the trial as it is now, because a folder outlives what made it; the program's fingerprint."""
        closed = self.traced.jaxpr
        program, constants = fingerprint.hash_program(closed), fingerprint.hash_constants(closed)
        self.settings = self.settings._replace(version=f"{program} {constants}")
        return self.settings.version

    def layout(self) -> Layout:
        """What a trial returns."""
        return _remember(self._key(0), lambda: layout(self.traced.out_info[0], self.design.axes))

    def _forced_names(self, column: dict[str, Any]) -> list[str] | None:
        """The fewest hyperparameters whose concrete values let the trial be traced; `None` if nothing does."""

        def works(concrete: list[str]) -> bool:
            traced = {name: value for name, value in column.items() if name not in concrete}
            fixed = tuple((name, type(column[name].item()), column[name].item()) for name in concrete)
            settings = self.settings._replace(fixed=self.settings.fixed + fixed)
            try:
                jax.eval_shape(
                    lambda c, k: name_arrays(_call(settings, self.dynamic, c, k)), traced, self.key
                )
            except Exception:
                return False
            return True

        concrete = list(column)
        if not concrete or not works(concrete):
            return None
        for name in list(column):
            fewer = [other for other in concrete if other != name]
            if works(fewer):
                concrete = fewer
        return concrete

    def compile(self, size: int) -> int:
        """Compile a batch of that size, unless that is done; the bytes it needs on a device, 0 where not told."""

        def needed_memory() -> int:
            first = self._pad(self.blocks(size)[0], size)
            used = _batch.lower(*self._arguments(first, size)).compile().memory_analysis()
            return 0 if used is None else used.temp_size_in_bytes + used.output_size_in_bytes

        return _remember(self._key(size), needed_memory)

    def _key(self, size: int) -> tuple:
        """What the program of a batch depends on."""
        column = self.design.columns(self.group.cells[:1])
        leaves = [*self.dynamic, *column.values(), self.key]
        shapes = tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
        return self.settings, size and self._lanes(size), shapes, bool(jax.config.read("jax_enable_x64"))

    def batch_size(self, wanted: int) -> int:
        """The trials a batch may hold: those wanted, or fewer where the compiled program needs too much memory."""
        size, budget = min(wanted, self.trials), memory_of_device() / 2
        while (need := self.compile(size)) > budget and size > self.devices:
            size = max(int(0.9 * size * budget / need), self.devices)
        return size

    def run(self, block: Block, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The trials of a block, one of those of this size: their arrays, and which diverged."""
        with transfers():
            found = jax.device_get(_batch(*self._arguments(self._pad(block, size), size)))
        kept = block.cells.size, block.seeds.size
        flat = lambda array: array[: kept[0], : kept[1]].reshape(kept[0] * kept[1], *array.shape[2:])
        return jax.tree.map(flat, found)

    def _splits_seeds(self, size: int) -> bool:
        """Whether the devices divide the seeds of a batch among them, and not its cells."""
        cells, seeds = self.shape(size)
        return cells < min(self.devices, seeds)

    def _lanes(self, size: int) -> tuple[int, int]:
        """The cells and seeds of a batch as it is run: those that are divided are a multiple of the devices."""
        lanes = list(self.shape(size))
        split = int(self._splits_seeds(size))
        lanes[split] = -(-lanes[split] // self.devices) * self.devices
        return lanes[0], lanes[1]

    def _pad(self, block: Block, size: int) -> Block:
        """The last blocks are filled up, as another shape would compile anew."""
        return Block(*(np.resize(part, n) for part, n in zip(block, self._lanes(size), strict=True)))

    def _arguments(self, block: Block, size: int) -> tuple:
        # The cells' numbers make lanes of them where no hyperparameter is traced.
        columns, seeds = (block.cells, self.design.columns(block.cells)), block.seeds
        if self.settings.mesh is not None:
            split = NamedSharding(self.settings.mesh, PartitionSpec(self.settings.mesh.axis_names))
            if self._splits_seeds(size):
                seeds = jax.device_put(seeds, split)
            else:
                columns = jax.device_put(columns, split)
        dynamic, key = self.shared
        settings = self.settings._replace(over_seeds=self._splits_seeds(size))
        return settings, dynamic, columns, seeds, key


def _copy_to_each(trial: Trial, mesh: Mesh | None) -> Trial:
    """The trial with its arrays whole on every device, as each runs trials of its own."""
    dynamic, functions = partition(trial)
    if mesh is None:
        return trial
    layout = NamedSharding(mesh, PartitionSpec())

    def gather(x):
        if layout_of(x) is None:
            return x
        check_reachable(x)
        return jax.device_put(x, layout)

    return combine([gather(x) for x in dynamic], functions)


def _advice(forced: list[str], error: Exception) -> str:
    names = " and ".join(map(repr, forced))
    inside = ", ".join(map(repr, forced)) + ("," if len(forced) == 1 else "")
    first = str(error).splitlines()[0] if str(error) else "no message"
    return (
        f"trial needs the concrete value of {names}, which a vmapped sweep traces; name it in "
        f"static=({inside}), one compilation for each of its values. ({type(error).__name__}: {first})"
    )


def memory_of_device() -> float:
    """Bytes of a local device, or its share of the machine's memory."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    return physical_memory() / jax.local_device_count()


def local_mesh(mesh: Mesh | None) -> Mesh | None:
    """This process's devices of a mesh, in one line; `None` for the only default device.

    Raises `TypeError` unless `mesh` is a `jax.sharding.Mesh`, `ValueError` where it has no device here, or another
    is set around the call, under which JAX runs nothing on these.
    """
    if not jax.sharding.get_abstract_mesh().empty:
        raise ValueError("mesh must be given as an argument: call sweep outside of jax.set_mesh.")
    if mesh is None:
        devices = jax.local_devices()
        if len(devices) == 1:
            return None
    elif not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}.")
    else:
        devices = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
        if not devices:
            raise ValueError(f"mesh must have a device of this process, got {mesh.devices.size} devices.")
    return Mesh(np.array(devices), ("trials",), axis_types=(AxisType.Auto,))
