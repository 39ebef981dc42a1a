"""Gradient flow in the folder of the trials, so that it is not followed again where a finished sweep is drawn."""

import io
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxflow._disk import results
from jaxflow._disk.fingerprint import hash_arrays, hash_bytes, hash_constants, hash_program

NAME, KEY = "flow.npz", "of"


def key_of(settings: Any, problem: Any) -> str:
    """What the flow depends on: the problem, the times, and the versions of what computes it."""
    loss = jax.make_jaxpr(lambda objective, params: objective(params))(problem.objective, problem.params)
    given = settings.learning_rates, settings.steps, jax.config.read("jax_enable_x64"), results.versions()
    arrays = hash_arrays((problem.objective, problem.params))
    return hash_bytes(
        repr(given).encode(), arrays.encode(), hash_program(loss).encode(), hash_constants(loss).encode()
    )


def read(folder: Path, key: str) -> dict[str, Any] | None:
    """The parts of the flow by name; `None` where none is kept, or another, or a damaged one."""
    try:
        with np.load(io.BytesIO((folder / NAME).read_bytes()), allow_pickle=False) as file:
            parts = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    if str(parts.pop(KEY, "")) != key:
        return None
    return {name: array if array.dtype.kind != "U" else str(array) for name, array in parts.items()}


def write(folder: Path, key: str, parts: dict[str, Any]) -> None:
    """Keep the flow."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(part) for name, part in parts.items()}
    np.savez(buffer, **arrays, **{KEY: np.array(key)})  # type: ignore[arg-type]
    results.write(folder / NAME, buffer.getvalue())
