"""Scales of a sweep's axes and colours: linear or logarithmic, where cells end, which values get a tick."""

from typing import Any, NamedTuple

import numpy as np

from jaxflow.plot.style import drawable_values

FEW = 8  # up to this number values are labelled one by one
CHARACTER, LINE = 0.085, 0.19  # inches a tick label takes


class Scale(NamedTuple):
    """The values of one hyperparameter along an axis: numbers, or names at 0, 1, 2, …

    A logarithmic axis that must hold 0 too, or both signs, is linear between ± `least`, the smallest magnitude.
    """

    label: str
    points: np.ndarray
    log: bool
    names: list[str] | None = None
    sampled: bool = False  # drawn at random, so no values to put ticks at
    least: float | None = None

    @classmethod
    def of(cls, coordinate: Any, sampled: bool = False) -> "Scale":
        """The scale of a coordinate, an `xarray.DataArray` of one dimension."""
        values, label = coordinate.values, label_of(coordinate)
        if not is_numeric(coordinate):
            return cls(label, np.arange(float(values.size)), False, [str(value) for value in values])
        numbers = drawable_values(values)
        if not sampled and (np.isnan(numbers).any() or np.unique(numbers).size < numbers.size):
            return cls(
                label, np.arange(float(values.size)), False, [compact_number(value) for value in values]
            )
        sizes = np.unique(np.abs(numbers[(numbers != 0) & np.isfinite(numbers)]))
        log, signs = sizes.size > 1 and is_geometric(sizes), np.unique(np.sign(numbers[np.isfinite(numbers)]))
        if (
            log and not (signs == 1).all()
        ):  # not [0, 0.5, 10], whose zero is no farther from 0.5 than it looks
            return cls(label, numbers, False, sampled=sampled, least=float(sizes[0]))
        return cls(label, numbers, log and is_geometric(numbers[np.isfinite(numbers)]), sampled=sampled)

    def edges(self) -> np.ndarray:
        """Where the cells around the sorted points meet: half-way, on a log axis half-way in the logarithm."""
        points = self._place(self.points)
        middle = (points[1:] + points[:-1]) / 2
        edges = np.concatenate([[2 * points[0] - middle[0]], middle, [2 * points[-1] - middle[-1]]])
        if self.log:
            return np.exp(edges)
        if self.least is None:
            return edges
        sizes = np.abs(edges)
        return np.sign(edges) * self.least * np.where(sizes <= 1, sizes, 10 ** np.maximum(sizes - 1, 0))

    def _place(self, values: np.ndarray) -> np.ndarray:
        """Places along the axis, at which equal distances look equal."""
        if self.log:
            return np.log(values)
        if self.least is None:
            return values
        sizes = np.abs(values) / self.least
        return np.sign(values) * np.where(sizes <= 1, sizes, 1 + np.log10(np.maximum(sizes, 1)))

    def put(self, ax: Any, which: str) -> None:
        """Name the axis `which`, "x" or "y", and make it logarithmic if it is; before anything is drawn."""
        # With 0.9 the linear part has the length of a decade on either side, as in `_place`.
        kind = {"value": "log"} if self.log else {"value": "linear"}
        if self.least is not None:
            kind = {"value": "symlog", "linthresh": self.least, "linscale": 0.9}
        getattr(ax, f"set_{which}scale")(**kind)
        getattr(ax, f"set_{which}label")(self.label)

    def tick(self, ax: Any, which: str) -> None:
        """Ticks at the values, with labels on as many of them as fit; to be called when all is drawn and the limits
        are set.
        """
        axis, at = getattr(ax, f"{which}axis"), np.unique(self.points[np.isfinite(self.points)])
        if not at.size:
            return axis.set_ticks([])
        if self.sampled and self.least is not None:
            return None
        if self.names is None and (at.size > FEW or at.size == self.points.size) and self.sampled:
            return round_ticks(axis, at[-1] / at[0]) if self.log else None
        if self.names is None and at.size > FEW and not self.log and self.least is None:
            return None
        labels = self.names or [compact_number(value) for value in at]
        step = next(k for k in range(1, at.size + 1) if _fit(ax, which, at[::k], labels[::k]))
        if self.names and which == "x" and step > 1:
            axis.set_ticks(at, labels, rotation=30, ha="right", rotation_mode="anchor")
        else:
            axis.set_ticks(at[::step], labels[::step])
            axis.set_ticks([] if self.names else at, minor=True)
            _remove_labels(axis)
        return None


def is_numeric(coordinate: Any) -> bool:
    """Whether an array holds numbers, not names or truth values."""
    return coordinate.dtype.kind in "iuf"


def is_geometric(values: np.ndarray) -> bool:
    """Positive numbers over a factor of ten or more, more evenly spaced in their logarithm than as they are."""
    ordered = np.sort(values)
    if not (ordered[0] > 0 and ordered[-1] > 9.999 * ordered[0]):
        return False
    return _unevenness(np.log(ordered)) <= _unevenness(ordered)


def spans_decades(values: np.ndarray) -> bool:
    """Whether results, NaN left out, call for a logarithmic scale: positive and over a factor of 30."""
    seen = values[np.isfinite(values)]
    return bool(seen.size and seen.min() > 0 and seen.max() > 30 * seen.min())


def colours(values: np.ndarray, shares: bool = False) -> Any:
    """The norm from values to colours; of shares always 0 to 1."""
    from matplotlib.colors import LogNorm, Normalize

    seen = values[np.isfinite(values)]
    if shares or not seen.size:
        return Normalize(0, 1)
    return (LogNorm if spans_decades(values) else Normalize)(seen.min(), seen.max())


def round_ticks(axis: Any, span: float) -> None:
    """Ticks of a logarithmic axis at 1, 10, 100, … and, where it spans few decades, between."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_major_locator(
        LogLocator(subs=(1.0,) if span >= 1000 else (1.0, 3.0) if span >= 50 else (1.0, 2.0, 5.0))
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: compact_number(value)))
    _remove_labels(axis)


def label_of(array: Any) -> str:
    """The name of a coordinate or variable as a label, with its units if it has any."""
    units = array.attrs.get("units")
    return str(array.name).replace("_", " ") + (f" ({units})" if units else "")


def compact_number(value: float) -> str:
    """A number as a tick label: 0.02, 4, 1e-05."""
    text = f"{value:g}"
    return text if len(text) <= 7 else f"{value:.3g}"


def _unevenness(ordered: np.ndarray) -> float:
    """How far sorted numbers are from evenly spaced ones, as a fraction of what they span."""
    at = (ordered - ordered[0]) / (ordered[-1] - ordered[0])
    return float(np.abs(at - np.linspace(0, 1, at.size)).max())


def _fit(ax: Any, which: str, at: np.ndarray, labels: list[str]) -> bool:
    """Whether labels at these places do not overlap."""
    ax.autoscale_view()  # brings the limits up to date
    pixels = getattr(ax, f"get_{which}axis_transform")().transform(np.column_stack([at, at]))
    gaps = np.diff(pixels[:, "xy".index(which)]) / ax.get_figure().dpi
    widths = np.array([len(label) for label in labels])
    needed = LINE if which == "y" else CHARACTER * (1.5 + (widths[1:] + widths[:-1]) / 2)
    return bool(np.all(np.abs(gaps) >= needed))


def _remove_labels(axis: Any) -> None:
    from matplotlib.ticker import NullFormatter

    axis.set_minor_formatter(NullFormatter())
