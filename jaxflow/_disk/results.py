"""Results on disk: each file appears whole or not at all, and tells the versions that made it."""

import contextlib
import functools
import importlib.metadata
import io
import json
import math
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxflow._version import __version__

PACKAGES = ("jax", "jaxlib", "optax", "diffrax", "numpy")


def check_folder(output: Path, *names: str, argument: str = "output") -> None:
    """Refuse a folder in which results of these names could not be written, before there are any.

    It tries to write, as permissions do not tell (for /proc, for a full or read-only disk), and leaves nothing
    behind. Raises a `ValueError` of one sentence.
    """
    if "\0" in str(output):
        raise ValueError(f"{argument} must be a path without a null character, got {str(output)!r}.")
    made: list[Path] = []
    try:
        for folder in (output, *output.parents):
            if folder.exists() and not folder.is_dir():
                raise ValueError(f"{argument} must be a folder, but {folder} is a file.")
        for name in names:
            if (output / name).is_dir():
                raise ValueError(f"{argument} must leave room for {name}, but {output / name} is a folder.")
        for folder in reversed((output, *output.parents)):
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                made.append(folder)
        with tempfile.NamedTemporaryFile(dir=output, prefix=".") as file:
            file.write(b"tried")
    except (OSError, RuntimeError) as error:  # the latter of links in a circle
        raise ValueError(
            f"{argument} must be a folder that can be written, got {str(output)!r} "
            f"({getattr(error, 'strerror', None) or error})."
        ) from error
    finally:
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # another process may be at work in it
                folder.rmdir()


def write(path: Path, content: bytes) -> None:
    """Write a file atomically: under another name, flushed to disk, then renamed into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON; numbers that are not finite become null, which JSON has, unlike NaN."""
    write(path, (json.dumps(_drop_nonfinite(content), indent=2) + "\n").encode())


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write a compressed `.npz`."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()}
    )
    write(path, buffer.getvalue())


def write_figure(path: Path, figure: Any) -> None:
    """Write a matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write(path, buffer.getvalue())


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and the packages that numbers depend on."""
    # jaxflow's is that of the code that runs, whatever an older installation says.
    return {"python": platform.python_version(), "jaxflow": __version__} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def provenance() -> dict[str, Any]:
    """Versions and device of this run."""
    return {
        "versions": versions(),
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()}, {jax.device_count()} devices)",
        "x64": bool(jax.config.read("jax_enable_x64")),
    }


def _drop_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _drop_nonfinite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_drop_nonfinite(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return _drop_nonfinite(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
