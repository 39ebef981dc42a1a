"""Reading examples from a user's `.csv` or `.npz` file; one sentence says what is wrong with a bad file."""

import csv
import zipfile
from pathlib import Path

import numpy as np

from jaxflow.problems.data import table_columns as columns
from jaxflow.problems.data.table_columns import Column


def read(path: Path, encode: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The arrays x and y of a file: of a `.npz` those of these names; of a `.csv` y is the last column.

    - `encode`: turn a `.csv`'s columns of words, and its blank cells, into numbers, as `load` describes.

    Raises `FileNotFoundError` when there is no file, `ValueError` when it is not a file, has another ending, is
    empty, or cannot be read as what its ending says.
    """
    ending = path.suffix.lower()
    if ending not in (".csv", ".npz"):
        raise ValueError(f"A data file must end in .csv or .npz, got {str(path)!r}.")
    if not path.exists():
        raise FileNotFoundError(f"There is no data file {str(path)!r}.")
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not a file.")
    if path.stat().st_size == 0:
        raise ValueError(f"The data file {str(path)!r} is empty.")
    return _read_csv(path, encode) if ending == ".csv" else _read_npz(path)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    wrong = f"{str(path)!r} is not a readable .npz archive of numbers"
    try:
        # Opened here, because np.load leaves its own file open when the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in ("x", "y") if name not in archive]
            if not missing:
                return archive["x"], archive["y"]
            found = ", ".join(archive) or "nothing"
    except NotImplementedError:
        raise ValueError(
            f"{wrong}: it is compressed in another way than by numpy.savez_compressed."
        ) from None
    except MemoryError:
        raise ValueError(f"{wrong} that fit in memory.") from None
    except Exception as error:
        flags = 0 if not zipfile.is_zipfile(path) else _flags(path)
        said = ": it is encrypted" if isinstance(error, RuntimeError) and flags & 1 else ""
        raise ValueError(f"{wrong}{said}.") from None
    raise ValueError(
        f"{str(path)!r} must hold arrays x and y: {' and '.join(missing)} missing, found {found}."
    )


def _flags(path: Path) -> int:
    """The flags of all files of an archive, of which 1 is for encryption."""
    with zipfile.ZipFile(path) as archive:
        return int(np.bitwise_or.reduce([0, *(info.flag_bits for info in archive.infolist())]))


def _read_csv(path: Path, encode: bool) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [
                (reader.line_num, [*map(str.strip, line)]) for line in reader if any(map(str.strip, line))
            ]
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{str(path)!r} is not a text file of comma-separated values.") from None
    width = len(lines[0][1]) if lines else 0
    header = columns.header(str(path), [line for _, line in lines if len(line) == width])
    lines = lines[header is not None :]
    if not lines:
        raise ValueError(f"The data file {str(path)!r} holds no examples.")
    if width < 2:
        raise ValueError(
            f"{str(path)!r} must have at least two comma-separated columns, features and the target."
        )
    for number, line in lines:
        if len(line) != width:
            raise ValueError(
                f"Line {number} of {str(path)!r} has {len(line)} entries, the lines before it {width}."
            )
    numbers, rows = zip(*lines, strict=True)
    *features, target = (
        Column(str(path), i, numbers, entries, i == width)
        for i, entries in enumerate(zip(*rows, strict=True), 1)
    )
    if columns.is_index(header, features[0].entries):
        features = features[1:] or features
    x = np.concatenate(
        [feature.encode() if encode else feature.numbers()[:, None] for feature in features], 1
    )
    return x, np.array(target.entries) if target.words else target.numbers()
