"""Whether a sweep can be kept in a folder, found out before any trial is run; and disk trouble, explained."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from jaxflow._disk import results

MANIFEST, BATCHES, LOCK = "manifest.json", "batches", "lock"


class DirectoryError(ValueError):
    """A directory in which a sweep cannot go on, as it holds something else."""


def check_directory(directory: str | os.PathLike) -> Path:
    """The path of a folder in which a sweep can be kept; others are refused before any trial is run.

    Raises `DirectoryError` where something else is in its place, `OSError` where it cannot be written.
    """
    if not os.fspath(directory):
        raise DirectoryError(f"directory must be the path of a folder, got {directory!r}.")
    path = Path(directory)
    if not os.path.isfile(path / MANIFEST):  # a finished sweep can be read from a disk that cannot be written
        with contextlib.suppress(OSError, ValueError):
            path.mkdir(parents=True, exist_ok=True)  # to stay, as other processes may be at this very point
        trouble = _trouble(path)
        if isinstance(trouble, OSError):
            with explain_trouble(path, path):
                raise trouble
        if trouble is not None:
            raise DirectoryError(str(trouble))
    kinds = {path / MANIFEST: "file", path / LOCK: "file", path / BATCHES: "folder"}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(path / BATCHES) as entries:
        kinds |= {path / BATCHES / entry.name: "file" for entry in entries if entry.name.endswith(".npz")}
    for part, kind in kinds.items():
        if part.exists() and part.is_dir() != (kind == "folder"):
            found = "file" if kind == "folder" else "folder"
            raise DirectoryError(f"directory {path} must hold a sweep or nothing, but {part} is a {found}.")
    return path


def _trouble(path: Path) -> Exception | None:
    """The reason why a folder cannot be made or written, if there is one."""
    try:
        results.check_folder(path, argument="directory")
    except ValueError as error:
        return error.__cause__ if isinstance(error.__cause__, OSError) else error
    return None


@contextlib.contextmanager
def explain_trouble(path: Path, directory: Path) -> Iterator[None]:
    """Disk trouble, in a sentence that says what is safe."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror}); finished batches in {directory} are "
            "kept, and the same sweep goes on from them",
        ) from error
