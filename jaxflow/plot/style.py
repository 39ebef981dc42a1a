"""Colours and strokes that tell lines apart in colour, to the colour-blind and in grayscale."""

from typing import Any

import numpy as np

# Okabe & Ito (2008), ordered so that neighbours differ in lightness too.
COLOURS = ("#000000", "#D55E00", "#56B4E9", "#009E73", "#E69F00", "#0072B2", "#CC79A7")
STROKES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 1)), (0, (8, 3)))
LARGEST = 1e250  # past it matplotlib's margins overflow
CLOCK = "time t (steps × learning rate)"
STEPS = "time t (steps)"  # where no learning rate is known


def stroke(i: int) -> dict[str, Any]:
    """Colour and dash of the i-th line."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": STROKES[i % len(STROKES)], "linewidth": 1.7}


def drawable_values(values: Any) -> np.ndarray:
    """Numbers as floats, with NaN in place of infinities and of numbers too large for an axis."""
    values = np.asarray(values, float)
    return np.where(np.abs(values) < LARGEST, values, np.nan)


def set_logarithmic(ax: Any, *values: Any) -> None:
    """A logarithmic vertical axis, if any of the values drawn on it is positive: the others it cannot show."""
    if any(np.any(drawable_values(some) > 0) for some in values):
        ax.set_yscale("log")


def lone_marker(values: np.ndarray) -> dict[str, Any]:
    """A marker for a line of one point, which would otherwise be invisible."""
    return {"marker": "o", "markersize": 4} if np.count_nonzero(np.isfinite(values)) == 1 else {}


def axes(ax: Any) -> Any:
    """The given Axes, or the current ones; pyplot is imported only here, when a picture is made."""
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.gca()
    return ax


def several_axes(ax: Any, count: int, what: str) -> list[Any]:
    """As many Axes as there are panels: the given ones, or new ones, one below another, on a new figure."""
    if ax is None:
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=(6.4, 1 + 2.2 * count), layout="constrained")
        return list(figure.subplots(count, 1, sharex=True))
    given = list(np.ravel(np.asarray(ax, object)))
    if len(given) != count:
        raise ValueError(f"ax must be {count} Axes, or be left out, for the panels {what}, got {len(given)}.")
    return given


def tidy(ax: Any, legend: bool = True) -> Any:
    """A light grid, no box, and a legend if anything is named."""
    ax.grid(True, which="major", color="0.88", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if legend and ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize="small")
    return ax


def legend_above(ax: Any, room: float, columns: int = 2) -> None:
    """A legend above the axes, where it hides nothing, if anything is named."""
    if ax.get_legend_handles_labels()[0]:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": room, "ncols": columns}
        ax.legend(frameon=False, fontsize="small", handletextpad=0.5, columnspacing=1.2, **place)
