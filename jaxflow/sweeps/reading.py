"""The dataset of a finished sweep out of its folder, without the trial: nothing is traced, compiled or run.

A sweep writes what is needed for that, besides its batches, when it is finished:

    description.json         the axes as the dataset shows them, the arrays of a trial, the attributes; a checksum
"""

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxflow._disk import results
from jaxflow._disk.fingerprint import hash_bytes
from jaxflow.sweeps.design.axes import Axis, Design, number_alike
from jaxflow.sweeps.execution.batch_loop import Results
from jaxflow.sweeps.execution.blocks import cut
from jaxflow.sweeps.outputs.dataset import dataset
from jaxflow.sweeps.outputs.trial_result import Layout, Variable
from jaxflow.sweeps.storage.disk import MANIFEST
from jaxflow.sweeps.storage.store import Store

if TYPE_CHECKING:
    import xarray

DESCRIPTION = "description.json"


def read(directory: str | os.PathLike) -> "xarray.Dataset":
    """The dataset of a finished sweep, read from its folder: to draw it, you need not trace its trial again.

    **Arguments**

    - `directory`: the folder that was given to `sweep`.

    **Returns** the `xarray.Dataset` that `sweep` returned. Its attributes are those of the call that finished it.
    Only `sweep` checks whether a trial is still the same.

    **Raises** `TypeError` unless `directory` is a path; `FileNotFoundError` where there is no sweep;
    `ValueError` where it is not finished, or where its description is damaged or missing (as in folders of
    older versions), which the same call of `sweep` mends.

    >>> import tempfile, jaxflow as jf
    >>> trial = lambda hyperparameters, key: {"loss": hyperparameters["a"] ** 2}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = jf.sweep(trial, {"a": [1.0, 2.0]}, directory=folder)
    ...     print(jf.sweeps.read(folder).identical(table), jf.sweeps.read(folder)["loss"].values.ravel())
    True [1. 4.]
    """
    if not isinstance(directory, (str, os.PathLike)):
        raise TypeError(f"directory must be a path, got {directory!r}.")
    path = Path(directory)
    if not (path / MANIFEST).is_file():
        raise FileNotFoundError(f"directory must be the folder of a sweep, but {path} has no {MANIFEST}.")
    content = _content(path)
    if content is None:
        raise ValueError(
            f"directory must hold a finished sweep, but {path} has no whole {DESCRIPTION}, which is written last; "
            "call sweep as before, which goes on."
        )
    design, layout, seeds = _design(content), _layout(content), content["seeds"]
    store = Store(path, content["identity"], content["versions"])
    found, missing, total = Results(layout, design.size * seeds, store), 0, 0
    for number, group in enumerate(design.groups()):
        size = store.sizes.get(str(number))
        for index, block in enumerate(cut(group.cells, seeds, size or 1)):
            batch = None if size is None else store.read(number, index)
            total += block.cells.size * block.seeds.size
            if batch is None:
                missing += block.cells.size * block.seeds.size
            else:
                found.put(block.places(seeds), batch)
    if missing:
        raise ValueError(
            f"directory must hold a finished sweep, but {missing} of {total} trials are missing in {path}; "
            "call sweep as before, which goes on."
        )
    table = dataset(design, layout, found.arrays, found.diverged, seeds)
    spent = {"wall_time": found.seconds, "wall_time_per_trial": found.seconds / found.diverged.size}
    table.attrs = content["attributes"] | spent
    return table


def describe(store: Store, design: Design, layout: Layout, seeds: int, attributes: dict[str, Any]) -> None:
    """Write what `read` needs, unless it is there."""
    if _content(store.directory) is not None:
        return
    axes = {
        name: {
            "dtype": str(axis.labels.dtype),
            "labels": axis.labels.tolist(),
            "alike": number_alike(axis.values).tolist() if axis.static else None,
        }
        for name, axis in design.axes.items()
    }
    variables = {n: [v.dims, str(v.dtype), v.clock, v.masked] for n, v in layout.variables.items()}
    content = {
        "axes": axes,
        "dims": design.dims,
        "seeds": seeds,
        "variables": variables,
        "attributes": attributes,
        "identity": store.identity,
        "versions": store.versions,
    }
    content = json.loads(json.dumps(content))
    whole = json.dumps(content | {"checksum": _checksum(content)}) + "\n"
    with contextlib.suppress(OSError):  # all results are on the disk, which is full or read-only
        results.write(store.directory / DESCRIPTION, whole.encode())


def _content(directory: Path) -> dict[str, Any] | None:
    """The description in a folder; `None` where it is missing, damaged, or not of the sweep that is there."""
    try:
        content = json.loads((directory / DESCRIPTION).read_bytes())
        whole = content.pop("checksum") == _checksum(content)
        manifest = json.loads((directory / MANIFEST).read_bytes())
        return content if whole and manifest["identity"] == content["identity"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksum(content: dict[str, Any]) -> str:
    return hash_bytes(json.dumps(content, sort_keys=True).encode())


def _design(content: dict[str, Any]) -> Design:
    """The cells, with numbers in place of static values: equal numbers for equal values."""
    axes = {}
    for name, axis in content["axes"].items():
        labels, alike = np.array(axis["labels"], dtype=axis["dtype"]), axis["alike"]
        axes[name] = Axis(labels if alike is None else tuple(alike), labels, alike is not None)
    return Design(content["dims"], axes)


def _layout(content: dict[str, Any]) -> Layout:
    variables = content["variables"].items()
    return Layout({name: Variable(dims, np.dtype(kind), *flags) for name, (dims, kind, *flags) in variables})
