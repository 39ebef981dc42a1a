"""Compiled programs kept on disk, so that a command that ran before does not compile them again.

JAX keeps them. Here is where, and how several processes share a folder: when its size is limited, JAX takes a lock
for every access, so that no process reads what another has half written. A process that was killed while it wrote
leaves a half behind, which the next one removes.
"""

import contextlib
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import filelock
import jax
from platformdirs import user_cache_path

# Bytes in the folder; the programs that were used longest ago make room. For each that JAX writes it reads the ages
# of all that are there, in 16 microseconds each: with the 10,000 programs of a gigabyte that is a sixth of a second.
LARGEST = 2**28
SHORTEST = 0.02  # seconds of compilation that are worth a file
ROOM = 2**20  # bytes that must find room in the folder: most programs are smaller
# JAX's names: a program, when it was last used, and what is locked while the two are written, in this order.
PROGRAM, LAST_USE, LOCK = "-cache", "-atime", ".lockfile"


def keep_programs(part: str = "") -> Path | None:
    """Have JAX keep compiled programs in a folder from now on, and return it; `None` where that cannot be.

    The folder is `jaxflow` in `$JAX_COMPILATION_CACHE_DIR` where that is set: next to files that JAX wrote without a
    lock it could write none with one. Otherwise it is the user's cache folder for jaxflow on this platform. A `part`
    is a folder in it. Where the variable names a remote folder, JAX is left alone. A folder that cannot be written
    brings one warning, and nothing is kept.
    """
    settings: Any = jax.config  # its attributes are not declared
    if not settings.jax_enable_compilation_cache:
        return None
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if given and "://" in given:
        return None
    folder = Path(given) / "jaxflow" if given else user_cache_path("jaxflow", appauthor=False)
    folder /= part
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".") as trial:
            trial.write(bytes(ROOM))
            trial.flush()
        _remove_halves(folder)
    except OSError as error:
        warnings.warn(
            f"Compiled programs are not kept, as {folder} cannot be written ({error.strerror or error}).",
            stacklevel=2,
        )
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    jax.config.update("jax_compilation_cache_max_size", LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    return folder


def _remove_halves(folder: Path) -> None:
    """Remove programs whose writing was cut short: next to one JAX can write no other."""
    if not _halves(folder):  # in most runs, which wait for no lock
        return
    # Where other processes write all the time, the next run may try again.
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(folder / LOCK, timeout=10):
        for half in _halves(folder):
            half.unlink(missing_ok=True)


def _halves(folder: Path) -> list[Path]:
    names = set(os.listdir(folder))
    programs = (name.removesuffix(PROGRAM) for name in names if name.endswith(PROGRAM))
    return [folder / f"{name}{PROGRAM}" for name in programs if f"{name}{LAST_USE}" not in names]
