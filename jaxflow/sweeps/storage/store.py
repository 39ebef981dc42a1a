"""A sweep's folder: its manifest, its finished batches, and how processes share it.

    manifest.json            what is swept, by fingerprint, and the batch sizes
    batches/0000-000012.npz  a finished batch: group 0, batch 12; an .npz with a checksum behind it
    description.json         what `read` needs besides, once all batches are there; see reading.py
    lock                     a byte for each batch, locked while a process runs it; a killed process lets go

Every file appears whole, by a rename. What is there and right is never written again.
"""

import contextlib
import hashlib
import io
import json
import mmap
import os
import re
import sys
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxflow._disk import results
from jaxflow._disk.fingerprint import hash_bytes
from jaxflow.sweeps.storage.disk import (
    BATCHES,
    LOCK,
    MANIFEST,
    DirectoryError,
    check_directory,
    explain_trouble,
)

try:
    import fcntl
except ImportError:  # not a POSIX system: processes that share a folder may run a batch twice
    fcntl = None  # type: ignore[assignment]

DIGEST = 64  # hexadecimal digits of SHA-256
_THREADS: dict[Path, threading.Lock] = {}
INFO = "batch.json"  # in a batch, with its arrays: where it belongs and what it took


class Batch(NamedTuple):
    """A finished batch: its arrays, which of its trials diverged, and the seconds it took."""

    arrays: dict[str, np.ndarray]
    diverged: np.ndarray
    seconds: float


class Store:
    """The folder of one sweep, which its `identity` (JSON, entry by entry) tells from others."""

    def __init__(self, directory: str | os.PathLike, identity: dict[str, Any], versions: dict[str, str]):
        self.directory = check_directory(directory)
        self.identity, self.versions = json.loads(json.dumps(identity)), versions
        self.fingerprint = hash_bytes(json.dumps(self.identity, sort_keys=True).encode())
        self.torn: dict[str, list[Path]] = {}
        self.sizes = self._open()
        self.torn = self._leftovers()

    def _leftovers(self) -> dict[str, list[Path]]:
        """What killed processes left of files they were writing, for each file; or what others are writing now."""
        torn: dict[str, list[Path]] = {}
        with contextlib.suppress(OSError):  # a read-only disk
            if any(self.directory.glob(f".{MANIFEST}.*")):
                with self._lock(0):
                    for path in self.directory.glob(f".{MANIFEST}.*"):
                        path.unlink()
            for path in (self.directory / BATCHES).glob(".*.npz.*"):
                if path.is_dir():
                    continue
                name = path.name[1:].rpartition(".")[0]
                if path.with_name(name).exists():  # nobody writes it again
                    path.unlink(missing_ok=True)
                else:
                    torn.setdefault(name, []).append(path)
        return torn

    def _open(self) -> dict[str, int]:
        """The batch sizes by group of what is there; a new manifest where nothing is."""
        sizes, _ = self._manifest()
        if sizes is None:
            with self._lock(0):  # another process may be here as well
                sizes, state = self._manifest()
                if sizes is None:
                    sizes = self._sizes_of_batches(state)
                    self._write_manifest(sizes)
        return sizes

    def _manifest(self) -> tuple[dict[str, int] | None, str]:
        """The batch sizes that the manifest tells, if it is there and whole; otherwise what is wrong with it."""
        try:
            manifest = json.loads((self.directory / MANIFEST).read_bytes())
            if manifest.pop("checksum") != _checksum(manifest):
                return None, "damaged"
        except FileNotFoundError:
            return None, "missing"
        except (ValueError, KeyError, TypeError, AttributeError):  # not JSON, or not ours
            return None, "damaged"
        self._compare(manifest)
        return manifest["sizes"], "whole"

    def _compare(self, manifest: dict[str, Any]) -> None:
        """Refuse a folder of another sweep, and say in what it differs."""
        found = list(_differences(manifest["identity"], self.identity))
        if not found:
            return
        then = manifest["versions"]
        newer = [f"{n} {then.get(n)} there, {v} here" for n, v in self.versions.items() if then.get(n) != v]
        hint = f" (Versions differ too: {'; '.join(newer)}.)" if newer else ""
        raise DirectoryError(
            f"directory {self.directory} holds another sweep: {'; '.join(found)}. Nothing in it was "
            f"touched; choose another directory, or the same sweep.{hint}"
        )

    def _sizes_of_batches(self, state: str) -> dict[str, int]:
        """What the batches tell where the manifest does not: whether they belong to this sweep, and their sizes."""
        sizes: dict[str, int] = {}
        for file in sorted((self.directory / BATCHES).glob("*.npz")):
            try:
                info, _ = self._parse(file)
            except ValueError:
                raise DirectoryError(
                    f"directory {self.directory} holds batches, but its {MANIFEST} is {state} and {file.name} is "
                    "damaged or of another sweep. Nothing in it was touched; choose another directory."
                ) from None
            sizes[str(info["group"])] = info["size"]
        path = self.directory / MANIFEST
        if not sizes and state == "damaged":
            raise DirectoryError(
                f"directory {self.directory} holds a {MANIFEST} that is damaged or not a sweep's, and no batches "
                "from which to write it anew. Nothing in it was touched; choose another directory."
            )
        if sizes:
            warnings.warn(
                f"{path} is {state}; it is written anew from the batches in its folder.",
                stacklevel=_stacklevel_outside(),
            )
        return sizes

    def _write_manifest(self, sizes: dict[str, int]) -> None:
        content = {
            "fingerprint": self.fingerprint,
            "identity": self.identity,
            "versions": self.versions,
            "sizes": sizes,
        }
        self._write(self.directory / MANIFEST, _json(content | {"checksum": _checksum(content)}))

    def size(self, group: int, wanted: int) -> int:
        """The batch size of a group: as on disk, otherwise the one wanted, which is then written."""
        if str(group) not in self.sizes:
            with self._lock(0):
                self.sizes = {str(group): wanted} | self.sizes | (self._manifest()[0] or {})
                self._write_manifest(self.sizes)
        return self.sizes[str(group)]

    def read(self, group: int, index: int, quiet: bool = False) -> Batch | None:
        """A finished batch; `None` where there is none, or, with a warning unless `quiet`, a damaged one."""
        path = self._path(group, index)
        try:
            info, arrays = self._parse(path)
            if (info["group"], info["index"], info["size"]) != (group, index, self.sizes[str(group)]):
                raise ValueError("another batch")
        except FileNotFoundError:
            return None
        except ValueError:
            if not quiet:
                warnings.warn(
                    f"{path} is damaged; its trials are run again.", stacklevel=_stacklevel_outside()
                )
            return None
        return Batch(arrays, arrays.pop("diverged"), info["seconds"])

    def write(self, group: int, index: int, batch: Batch) -> None:
        """Keep a finished batch."""
        info = {"group": group, "index": index, "size": self.sizes[str(group)], "seconds": batch.seconds}
        payload = _pack(info, batch.arrays | {"diverged": batch.diverged})
        path = self._path(group, index)
        self._write(path, payload + self._digest(payload))

    @contextlib.contextmanager
    def claim(self, group: int, index: int) -> Iterator[bool]:
        """Whether this process may run a batch; not while another one does."""
        with self._lock(1 + (group << 32) + index, wait=False) as mine:
            yield mine

    @contextlib.contextmanager
    def _lock(self, byte: int, wait: bool = True) -> Iterator[bool]:
        """A lock on one byte of the lock file; a process holds one at a time, as closing the file frees all."""
        threads = _THREADS.setdefault(self.directory.absolute(), threading.Lock())
        if not threads.acquire(blocking=wait):
            yield False
            return
        try:
            yield from self._lock_file(byte, wait)
        finally:
            threads.release()

    def _lock_file(self, byte: int, wait: bool) -> Iterator[bool]:
        if fcntl is None:
            yield True
            return
        path, mine = self.directory / LOCK, True
        with self.explain_trouble(path):
            self.directory.mkdir(parents=True, exist_ok=True)
            file = open(path, "ab")  # noqa: SIM115 - closed below, where what fails is not the disk
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
            except (BlockingIOError, PermissionError):
                mine = False
            yield mine

    def scratch(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array in a file without a name in the folder, for results larger than memory."""
        count = int(np.prod(shape, dtype=np.int64))
        size = max(1, count) * np.dtype(dtype).itemsize
        with self.explain_trouble(self.directory), tempfile.TemporaryFile(dir=self.directory) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, and a crash later
            else:
                file.truncate(size)
            return np.frombuffer(mmap.mmap(file.fileno(), size), dtype)[:count].reshape(shape)

    def _path(self, group: int, index: int) -> Path:
        return self.directory / BATCHES / f"{group:04d}-{index:06d}.npz"

    def _parse(self, path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """A batch from its file; `ValueError` where its checksum, which knows the sweep, is wrong."""
        content = path.read_bytes()
        payload, digest = content[:-DIGEST], content[-DIGEST:]
        if self._digest(payload) != digest:
            raise ValueError("checksum")
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            info = json.loads(archive.read(INFO))
            names = [name for name in archive.namelist() if name != INFO]
            arrays = {name.removesuffix(".npy"): _array(archive.read(name)) for name in names}
        return info, arrays

    def _digest(self, payload: bytes) -> bytes:
        return hashlib.sha256(self.fingerprint.encode() + payload).hexdigest().encode()

    def _write(self, path: Path, content: bytes) -> None:
        with self.explain_trouble(path):
            results.write(path, content)
        for torn in self.torn.pop(path.name, []):
            torn.unlink(missing_ok=True)

    def explain_trouble(self, path: Path) -> contextlib.AbstractContextManager[None]:
        """Disk trouble, in a sentence that says what is safe."""
        return explain_trouble(path, self.directory)


def _stacklevel_outside() -> int:
    """The `stacklevel` of the line outside of this package that a call comes from."""
    frame, level, package = sys._getframe(1), 1, os.path.dirname(os.path.dirname(__file__))
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package + os.sep):
        frame, level = frame.f_back, level + 1
    return level


def _differences(there: Any, here: Any, path: str = "") -> Iterator[str]:
    """What differs between two pieces of JSON, entry by entry."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in [*there, *(n for n in here if n not in there)]:
            where = f"{path}.{name}" if path else name
            if name not in here or name not in there:
                yield f"{where} is only {'there' if name in there else 'here'}"
            else:
                yield from _differences(there[name], here[name], where)
    elif there != here:
        shown = [re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1…", f"{value}") for value in (there, here)]
        yield f"{path} is {shown[0]} there, {shown[1]} here"


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _checksum(manifest: dict[str, Any]) -> str:
    return hash_bytes(json.dumps(manifest, sort_keys=True).encode())


def _pack(info: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """An `.npz`, as `numpy.load` reads it, for arrays of any name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(INFO), json.dumps(info))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def _array(content: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
