"""Reading examples from a user's `.csv` or `.npz` file; whatever is wrong with it is said in one sentence."""

import csv
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The arrays x and y of a file: of a `.npz` those of these names, of a `.csv` y is the last column.

    Raises `FileNotFoundError` when there is none, `ValueError` when it is not a file, has another ending, is
    empty, or cannot be read as what its ending says.
    """
    readers = {".csv": _read_csv, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise ValueError(f"A data file must end in .csv or .npz, got {str(path)!r}.")
    if not path.exists():
        raise FileNotFoundError(f"There is no data file {str(path)!r}.")
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not a file.")
    if path.stat().st_size == 0:
        raise ValueError(f"The data file {str(path)!r} is empty.")
    return readers[path.suffix.lower()](path)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        # Opened here, because np.load leaves its own file open when the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in ("x", "y") if name not in archive]
            if not missing:
                return archive["x"], archive["y"]
            found = ", ".join(archive) or "nothing"
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise ValueError(f"{str(path)!r} is not a readable .npz archive of numbers.") from None
    raise ValueError(
        f"{str(path)!r} must hold arrays x and y: {' and '.join(missing)} missing, found {found}."
    )


def _read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, line) for line in reader if any(map(str.strip, line))]
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{str(path)!r} is not a text file of comma-separated values.") from None
    if lines and not any(map(_is_number, lines[0][1])):
        header, lines = lines[0][1], lines[1:]
        width = len(header)
    else:
        width = len(lines[0][1]) if lines else 0
    if not lines:
        raise ValueError(f"The data file {str(path)!r} holds no examples.")
    if width < 2:
        raise ValueError(
            f"{str(path)!r} must have at least two comma-separated columns, features and the target."
        )
    rows = np.array([_numbers(path, number, line, width) for number, line in lines])
    return rows[:, :-1], rows[:, -1]


def _is_number(entry: str) -> bool:
    try:
        float(entry)
    except ValueError:
        return False
    return True


def _numbers(path: Path, number: int, line: list[str], width: int) -> list[float]:
    if len(line) != width:
        raise ValueError(
            f"Line {number} of {str(path)!r} has {len(line)} entries, the lines before it {width}."
        )
    for column, entry in enumerate(line, 1):
        if not _is_number(entry) or not math.isfinite(float(entry)):
            raise ValueError(
                f"Every entry of {str(path)!r} must be a finite number, "
                f"got {entry!r} in line {number}, column {column}."
            )
    return [float(entry) for entry in line]
