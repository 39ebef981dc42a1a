"""A sweep over three or four hyperparameters: a map over two of them for each value of the others."""

from typing import Any

import numpy as np

from jaxflow.plot.sweeps.cells import Cells, colour_bar, map_
from jaxflow.plot.sweeps.scales import Scale, colours, compact_number, is_numeric, label_of

SIDE = 2.4, 2.1  # inches of a panel


def panels(ax: Any, columns: Any, rows: Any | None) -> np.ndarray:
    """The Axes of the panels, (rows, columns): the given ones, or new ones.

    Raises `ValueError` where the given ones are not as many.
    """
    shape = 1 if rows is None else rows.size, columns.size
    if ax is None:
        import matplotlib.pyplot as plt

        size = SIDE[0] * shape[1] + 1.6, SIDE[1] * shape[0] + 0.9
        figure = plt.figure(figsize=size, layout="constrained")
        return figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    given = np.asarray(ax, object)
    if given.size != np.prod(shape):
        over = f"{columns.name} across" + ("" if rows is None else f" and {rows.name} down")
        raise ValueError(
            f"ax must be {shape[0]} × {shape[1]} Axes, or be left out, for panels of {over}, got {given.size}."
        )
    return given.reshape(shape)


def maps(
    every: np.ndarray, cells: Cells, scales: tuple[Scale, Scale], columns: Any, rows: Any | None
) -> None:
    """Draw the maps of `cells` over rows, if any, and columns of panels, with one scale of colours and one legend."""
    first = 0 if rows is not None else 1  # of the places that the cells have
    norm, images = colours(cells.middle, cells.shares), []
    for place, ax in np.ndenumerate(every):
        for which, scale in zip("xy", scales, strict=True):
            scale.put(ax, which)
        images.append(map_(ax, cells.panel(place[first:]), *scales, norm))
        chosen = [(columns, place[1])] if rows is None else [(rows, place[0]), (columns, place[1])]
        ax.set_title("\n".join(_say_value(*one) for one in chosen), fontsize="medium")
        for which, scale in zip("xy", scales, strict=True):
            scale.tick(ax, which)
    colour_bar(list(every.flat), images[0], cells)
    named = {
        label: handle
        for ax in every.flat
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if named:
        place = {"loc": "outside lower left", "ncols": len(named), "frameon": False, "fontsize": "small"}
        every[0, 0].get_figure().legend(named.values(), named.keys(), **place)


def _say_value(coordinate: Any, index: int) -> str:
    """The value that a panel stands for, such as `momentum = 0.9`."""
    value = coordinate.values[index]
    return f"{label_of(coordinate)} = {compact_number(value) if is_numeric(coordinate) else value}"
