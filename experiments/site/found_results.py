"""The results that are on disk, and those that are not."""

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

from experiments.catalogue import FOLDERS


class Found(NamedTuple):
    """A result on disk: its figure, the size of that in pixels, what its JSON holds, and what moves, if anything."""

    name: str
    figure: Path
    size: tuple[int, int]
    content: dict[str, Any]
    moving: Path | None = None

    @property
    def claims(self) -> tuple[int, int]:
        """How many claims were reached, of how many."""
        verdicts = [line.get("reached") for line in self.content["headlines"].values()]
        return verdicts.count(True), len(verdicts) - verdicts.count(None)

    @property
    def version(self) -> str:
        return self.content.get("versions", {}).get("jaxflow", "an unknown version")


def find_results(folder: Path) -> tuple[dict[str, Found], list[str]]:
    """The results in `folder/NAME`, in the order of the catalogue, and the names of those that are not there.

    Raises `ValueError` where a file is there and is not what an experiment writes.
    """
    found = {name: one for name in FOLDERS if (one := _read(folder / name, name)) is not None}
    return found, [name for name in FOLDERS if name not in found]


def _read(folder: Path, name: str) -> Found | None:
    figure, numbers = folder / f"{name}.png", folder / f"{name}.json"
    if not (figure.is_file() and numbers.is_file()):
        return None
    try:
        content = json.loads(numbers.read_text())
        lines = list(content["headlines"].values())
        whole = all({"measured", "expected"} <= line.keys() for line in lines) and "seconds" in content
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(f"{numbers} is not what an experiment writes; python -m experiments {name} does.")
    head = figure.read_bytes()[:24]
    if head[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"{figure} is not a PNG picture; python -m experiments {name} makes it.")
    moving = folder / f"{name}.webp"
    size = struct.unpack(">II", head[16:24])
    return Found(name, figure, size, content, moving if moving.is_file() else None)
