"""What is swept: a grid or a list of samples, split into the numbers one program takes and what compiles anew."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import _check

SEED, TRIAL, TIME = "seed", "trial", "time"
# The dataset uses these itself.
RESERVED = (SEED, TRIAL, TIME, "times", "diverged")


class Axis(NamedTuple):
    """One hyperparameter: the values a trial is given and those the dataset shows, by place."""

    values: Any
    labels: np.ndarray
    static: bool


class Group(NamedTuple):
    """The cells that share a program: their static hyperparameters and their numbers among all cells."""

    fixed: tuple[tuple[str, Any], ...]
    cells: np.ndarray


@dataclass(frozen=True)
class Design:
    """All cells of a sweep, numbered row by row over `dims`; seeds come after."""

    dims: dict[str, int]
    axes: dict[str, Axis]

    @property
    def size(self) -> int:
        """The number of cells."""
        return int(np.prod(list(self.dims.values()), dtype=np.int64))

    @property
    def is_grid(self) -> bool:
        """Whether every hyperparameter is a dimension, as opposed to a list of samples."""
        return TRIAL not in self.dims

    def places(self, cells: np.ndarray) -> dict[str, np.ndarray]:
        """The places of some cells on every axis."""
        if not self.is_grid:
            return dict.fromkeys(self.axes, cells)
        return dict(zip(self.dims, np.unravel_index(cells, tuple(self.dims.values())), strict=True))

    def columns(self, cells: np.ndarray) -> dict[str, np.ndarray]:
        """The traced hyperparameters of some cells."""
        places = self.places(cells)
        return {n: axis.values[places[n]] for n, axis in self.axes.items() if not axis.static}

    def groups(self) -> list[Group]:
        """The cells by their static hyperparameters, in the order of the axes."""
        cells = np.arange(self.size)
        fixed = {name: axis for name, axis in self.axes.items() if axis.static}
        if not fixed:
            return [Group((), cells)]
        places = self.places(cells)
        codes = np.stack([number_alike(axis.values)[places[name]] for name, axis in fixed.items()])
        kinds, members = np.unique(codes, axis=1, return_inverse=True)
        members = members.ravel()
        return [
            Group(
                tuple((name, axis.values[i]) for (name, axis), i in zip(fixed.items(), kind, strict=True)),
                np.flatnonzero(members == number),
            )
            for number, kind in enumerate(kinds.T)
        ]


def design(axes: Any, static: Iterable[str] | None) -> Design:
    """The cells of `axes`; what cannot be swept is refused in one sentence."""
    if static is not None and not isinstance(static, Iterable):
        raise TypeError(f"static must be names of axes, got {static!r}.")
    names = () if static is None else (static,) if isinstance(static, str) else tuple(static)
    if isinstance(axes, Mapping):
        columns, grid = dict(axes), True
    else:
        columns, grid = _columns(axes), False
    if not columns:
        raise ValueError("axes must name at least one hyperparameter, got no name.")
    for name in columns:
        if not isinstance(name, str) or not name:
            raise TypeError(f"axes must be named by strings, got the name {name!r}.")
        if name in RESERVED:
            raise ValueError(
                f"axes must not be named {name!r}: the dataset uses {', '.join(RESERVED)} itself."
            )
    for name in names:
        _check.require_choice("static", name, columns)
    made = {name: _axis(name, values, name in names) for name, values in columns.items()}
    if not grid:
        return Design({TRIAL: len(next(iter(made.values())).labels)}, made)
    for name, axis in made.items():
        _refuse_duplicates(name, axis)
    return Design({name: len(axis.labels) for name, axis in made.items()}, made)


def _columns(axes: Any) -> dict[str, Any]:
    """Samples, a list of dicts or an array with named fields, by name."""
    if isinstance(axes, np.ndarray) and axes.dtype.names:
        if axes.ndim != 1 or not axes.size:
            raise ValueError(f"axes must hold at least one sample along one axis, got shape {axes.shape}.")
        return {name: axes[name] for name in axes.dtype.names}
    if isinstance(axes, Sequence) and all(isinstance(row, Mapping) for row in axes):
        if not axes:
            raise ValueError("axes must hold at least one sample, got an empty list.")
        names = list(axes[0])
        for i, row in enumerate(axes):
            if set(row) != set(names):
                raise ValueError(
                    f"axes must name the same hyperparameters in every sample, but sample {i} has "
                    f"{sorted(row)} and sample 0 {sorted(names)}."
                )
        return {name: [row[name] for row in axes] for name in names}
    raise TypeError(
        "axes must be a dict from names to values, a list of dicts or a NumPy array with named fields, "
        f"got {type(axes).__name__}."
    )


def _axis(name: str, values: Any, static: bool) -> Axis:
    array = hasattr(values, "__array__")  # NumPy's, JAX's, a column of a data frame
    if isinstance(values, (str, bytes)) or not (isinstance(values, Sequence) or (array and values.ndim)):
        raise TypeError(f"axes[{name!r}] must be a sequence of values, got {values!r}.")
    plain = lambda v: v.item() if isinstance(v, (np.generic, jax.Array)) and v.ndim == 0 else v
    listed = np.asarray(values).tolist() if array else [plain(v) for v in values]
    if not listed:
        raise ValueError(f"axes[{name!r}] must hold at least one value, got none.")
    numbers = np.asarray(values) if array else _numbers(listed)
    if numbers is not None and jnp.issubdtype(numbers.dtype, jnp.floating) and numbers.dtype.itemsize < 4:
        numbers = numbers.astype(np.float32)  # which files know
    if numbers is not None and numbers.dtype.kind == "f" and np.isnan(numbers).any():
        raise ValueError(f"axes[{name!r}] must not hold NaN.")
    if static:
        return _static_axis(name, listed, numbers)
    if numbers is None or numbers.ndim != 1 or numbers.dtype.kind not in "biuf":
        odd = next((v for v in listed if _numbers([v]) is None), listed[0])
        raise TypeError(
            f"axes[{name!r}] must hold numbers, got {odd!r}; name it in static=({name!r},) if the program "
            "depends on it, one compilation for each of its values."
        )
    return Axis(_cast_to_traced(name, numbers), numbers, False)


def _cast_to_traced(name: str, numbers: np.ndarray) -> np.ndarray:
    """The numbers in the dtype that a trial gets; numbers that it cannot hold are refused."""
    kind = {"f": float, "b": bool}.get(numbers.dtype.kind, int)
    dtype = jax.dtypes.canonicalize_dtype(kind)
    with np.errstate(over="ignore"):
        held = numbers.astype(dtype)
    lost = (
        held != numbers
        if kind is int
        else np.isfinite(numbers) & (np.isinf(held) | ((held == 0) != (numbers == 0)))
    )
    if np.any(lost):
        first = numbers[lost][0].item()
        raise ValueError(
            f"axes[{name!r}] must hold numbers that fit {dtype}, got {first!r}; jax_enable_x64 widens it."
        )
    return held


def _static_axis(name: str, values: list, numbers: np.ndarray | None) -> Axis:
    for value in values:
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f"axes[{name!r}] is static, so its values must be hashable, got {value!r}."
            ) from None
    if numbers is None or numbers.ndim != 1:
        numbers = np.array(_number_labels(values), dtype=object)
    return Axis(tuple(values), numbers, True)


def _numbers(values: list) -> np.ndarray | None:
    """Plain numbers as an array, `None` where one of them is something else."""
    if all(isinstance(v, bool) for v in values) or all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in values
    ):
        return np.asarray(values)
    return None


def _label(value: Any) -> str:
    """What the dataset shows of a value that is no number."""
    name: Callable | str | None = getattr(value, "__name__", None)
    return name if isinstance(name, str) else re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))


def _number_labels(values: list) -> list[str]:
    """Labels; those of different values that look alike are numbered."""
    kinds = number_alike(tuple(values))
    labels = [_label(value) for value in values]
    alike = Counter(labels[i] for i in set(kinds.tolist()))
    seen: dict[str, list[int]] = {}
    told = []
    for label, code in zip(labels, kinds.tolist(), strict=True):
        members = seen.setdefault(label, [])
        if code not in members:
            members.append(code)
        told.append(label if alike[label] == 1 else f"{label} ({members.index(code) + 1})")
    return told


def number_alike(values: tuple) -> np.ndarray:
    """For each value the place of the first that equals it, type included: 1, 1.0 and True differ."""
    first: dict[Any, int] = {}
    return np.array([first.setdefault((type(value), value), i) for i, value in enumerate(values)])


def _refuse_duplicates(name: str, axis: Axis) -> None:
    seen = set()
    for value, label in zip(
        (axis.labels if axis.static else axis.values).tolist(), axis.labels.tolist(), strict=True
    ):
        if value in seen:
            raise ValueError(f"axes[{name!r}] must not hold a value twice, got {label!r} again.")
        seen.add(value)
