"""The columns of a table of text: which lines are names, which entries are numbers, words or blank."""

import math
import re
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# As other programs write them: `float` takes 1_0, nan and the digits of every script as well.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
COUNT = re.compile(r"\d+", re.ASCII)
MANY = 10  # examples from which on a first line beyond all others is no accident


def header(name: str, lines: list[list[str]]) -> list[str] | None:
    """The first line where it names the columns, by what the whole table says; `None` where it is an example.

    Words alone are names, and so are numbers that count the columns from 0 or 1 (pandas' own names), or that stand
    among words at equal distances (years, wavelengths). It warns where the numbers might be an example all the same.
    """
    if not lines:
        return None
    first, rest = lines[0], lines[1:]
    numbers = [entry for entry in first if _is_like_number(entry)]
    if not numbers:
        return first
    counts = all(COUNT.fullmatch(entry) for entry in numbers)
    steps = np.diff([float(entry) for entry in numbers])
    counted = counts and float(numbers[0]) in (0, 1) and bool((steps == 1).all())
    if len(numbers) < len(first):
        even = len(numbers) > 2 and steps[0] > 0 and np.allclose(steps, steps[0])
        return first if (counted or even) and all(map(NUMBER.fullmatch, numbers)) else None
    shown = ", ".join(first if len(first) < 6 else [*first[:2], "…", first[-1]])
    if counted and len(first) > 1 and rest:
        if not _stands_out(first, rest):
            warnings.warn(
                f"The first line of {name!r}, {shown}, is taken for names, as it counts the columns; if it is an "
                "example, put a line of names above it.",
                stacklevel=2,
            )
        return first
    if counts and len(first) > 2 and len(rest) >= MANY and (steps > 0).all() and _is_beyond(first, rest):
        warnings.warn(
            f"The first line of {name!r}, {shown}, is taken for an example, though it is unlike all others; if it "
            "holds names, write them as words.",
            stacklevel=2,
        )
    return None


def _stands_out(first: list[str], rest: list[list[str]]) -> bool:
    """Whether integers are unlike the lines below: in a column of fractions, or as a label that no line below has."""
    *features, labels = zip(*rest, strict=True)
    if any(not any(map(COUNT.fullmatch, column)) for column in (*features, labels)):
        return True
    return all(map(COUNT.fullmatch, labels)) and first[-1] not in labels and len({*labels}) <= MANY


def _is_beyond(first: list[str], rest: list[list[str]]) -> bool:
    """Whether every number is outside of what its column spans."""
    columns = zip(first, zip(*rest, strict=True), strict=True)
    return all(
        all(map(NUMBER.fullmatch, column))
        and not min(map(float, column)) <= float(entry) <= max(map(float, column))
        for entry, column in columns
    )


def is_index(names: list[str] | None, entries: tuple[str, ...]) -> bool:
    """Whether a column without a name counts the lines, as pandas writes it, and is no feature of the examples."""
    return bool(names) and names[0] == "" and list(entries) == [str(i) for i in range(len(entries))]


@dataclass(frozen=True)
class Column:
    """The entries of one column, with the lines that they stand in and the file's name."""

    name: str
    place: int
    lines: tuple[int, ...]
    entries: tuple[str, ...]
    target: bool = False

    @cached_property
    def words(self) -> bool:
        """Whether every entry is a word."""
        return all(entry and not _is_like_number(entry) for entry in self.entries)

    def numbers(self, blanks: bool = False) -> np.ndarray:
        """The entries as numbers, (N,); blank ones are NaN if they are allowed.

        Raises a `ValueError` that names the first entry which is no number and what can be done.
        """
        good = lambda entry: blanks if not entry else NUMBER.fullmatch(entry) and math.isfinite(float(entry))
        bad = [i for i, entry in enumerate(self.entries) if not good(entry)]
        if bad:
            words = not any(map(_is_like_number, self.entries))
            i = next((i for i in bad if words and not self.entries[i]), bad[0])
            raise ValueError(
                f"Every entry of {self.name!r} must be a finite number, got {self.entries[i]!r} in line "
                f"{self.lines[i]}, column {self.place}{self._advice(self.entries[i])}."
            )
        return np.array([float(entry or "nan") for entry in self.entries])

    def _advice(self, entry: str) -> str:
        if self.target:
            return "" if entry and _is_like_number(entry) else ": labels must all be words or all be numbers"
        if not entry:
            return ": fill it in, leave its line out, or encode blank cells (encode=True, --encode)"
        if self.words:
            return ": give a column of words as numbers, or encode it (encode=True, --encode)"
        return ""

    def encode(self) -> np.ndarray:
        """The column as numbers, (N, K): for words a column of 0 and 1 for each; otherwise as `load` describes."""
        entries = np.array(self.entries)
        if not any(map(_is_like_number, self.entries)):
            return (entries[:, None] == np.unique(entries)).astype(float)
        numbers = self.numbers(blanks=True)
        blank = np.isnan(numbers)
        if not blank.any():
            return numbers[:, None]
        return np.stack([np.where(blank, numbers[~blank].mean(), numbers), blank.astype(float)], 1)


def _is_like_number(entry: str) -> bool:
    try:
        float(entry)
    except ValueError:
        return False
    return True
