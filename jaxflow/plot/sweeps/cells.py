"""Drawing a number over the trials of a sweep: a line, a heat map or points, and what diverged among them."""

from typing import Any, NamedTuple

import numpy as np

from jaxflow.plot.style import COLOURS, legend_above, stroke, tidy
from jaxflow.plot.sweeps.scales import Scale, round_ticks, spans_decades

PALETTE = "viridis"  # lightness rises all along, and none of its colours is the grey of a diverged cell


class Cells(NamedTuple):
    """A metric over the trials: quantiles over the seeds that did not diverge, and the share of those that did."""

    label: str
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray
    diverged: np.ndarray
    seeds: int
    shares: bool  # the metric is a share of seeds

    @property
    def lost(self) -> np.ndarray:
        return self.diverged == 1

    @property
    def partly(self) -> np.ndarray:
        return (self.diverged > 0) & (self.diverged < 1)

    def panel(self, place: tuple[int, ...]) -> "Cells":
        """The part at a place along the leading axes."""
        low, middle, high, diverged = (a[place] for a in (self.low, self.middle, self.high, self.diverged))
        return self._replace(low=low, middle=middle, high=high, diverged=diverged)

    @property
    def all_diverged(self) -> str:
        return "diverged" if self.seeds == 1 else "diverged (all seeds)"


def line(ax: Any, cells: Cells, across: Scale) -> None:
    """The median over one axis in its band; names and samples, which nothing connects, have error bars instead."""
    at, style, many = across.points, stroke(0), cells.seeds > 1 and not cells.shares
    seen = bool(np.isfinite(cells.middle).any())
    named = ("middle 80 %", f"median of {cells.seeds} seeds") if many and seen else (None, None)
    if across.names or across.sampled:
        style["linestyle"] = "none"
        if many:
            ax.vlines(at, cells.low, cells.high, color="0.6", linewidth=1.5, zorder=1.5, label=named[0])
    elif many:
        band = {"color": style["color"], "alpha": 0.2, "linewidth": 0}
        ax.fill_between(at, cells.low, cells.high, label=named[0], **band)
    ax.plot(at, cells.middle, marker="o", markersize=4, label=named[1], **style)
    ax.set_ylabel(cells.label)
    if cells.shares:
        ax.set_ylim(-0.03, 1.03)
    elif not seen:
        ax.set_yticks([])
    elif spans_decades(np.stack([cells.low, cells.middle, cells.high])):
        ax.set_yscale("log")
    if across.names:
        ax.set_xlim(-0.5, len(across.names) - 0.5)
    _edge_crosses(ax, cells, at)
    tidy(ax, legend=not cells.diverged.any())
    if cells.diverged.any():
        legend_above(ax, room=0.8)


def _edge_crosses(ax: Any, cells: Cells, at: np.ndarray) -> None:
    """Crosses along the top edge where seeds diverged: filled for all of them, hollow for some."""
    style = {"linestyle": "none", "marker": "X", "markersize": 7, "color": COLOURS[1], "clip_on": False}
    for where, fill, name in (
        (cells.partly, "none", "some seeds diverged"),
        (cells.lost, COLOURS[1], cells.all_diverged),
    ):
        if where.any():
            top, place = np.ones(np.count_nonzero(where)), ax.get_xaxis_transform()
            ax.plot(at[where], top, transform=place, label=name, markerfacecolor=fill, **style)


def map_(ax: Any, cells: Cells, across: Scale, up: Scale, norm: Any) -> Any:
    """A heat map over two axes, without its colour bar and legend; returns what the bar is made of."""
    from matplotlib.patches import Rectangle

    columns, rows = across.edges(), up.edges()
    shown = np.ma.masked_invalid(cells.middle)
    image = ax.pcolormesh(columns, rows, shown, cmap=PALETTE, norm=norm)
    lost = cells.lost
    fills: tuple[tuple[np.ndarray, dict[str, Any], str], ...] = (
        (lost, {"facecolor": "0.85", "edgecolor": "0.45", "hatch": "////"}, cells.all_diverged),
        (shown.mask & ~lost, {"facecolor": "white", "edgecolor": "0.7"}, "no value"),
    )
    for where, fill, name in fills:
        for i, (row, column) in enumerate(np.argwhere(where)):
            (left, right), (bottom, top) = columns[column : column + 2], rows[row : row + 2]
            cell = Rectangle((left, bottom), right - left, top - bottom, linewidth=0, **fill)
            ax.add_patch(cell).set_label(name if i == 0 else None)
    row, column = np.nonzero(cells.partly)
    _mark_partly_lost(ax, across.points[column], up.points[row])
    ax.set(xlim=columns[[0, -1]], ylim=rows[[0, -1]])
    tidy(ax, legend=False).grid(False)
    return image


def points(ax: Any, cells: Cells, across: Scale, up: Scale, norm: Any) -> Any:
    """Samples in the plane of two hyperparameters, as `map_`."""
    seen, lost, partly = np.isfinite(cells.middle), cells.lost, cells.partly
    at = np.stack([across.points, up.points])
    image = ax.scatter(
        *at[:, seen], c=cells.middle[seen], cmap=PALETTE, norm=norm, s=40, edgecolors="0.3", linewidths=0.5
    )
    if lost.any():
        ax.plot(*at[:, lost], "x", color="0.5", markersize=6, label=cells.all_diverged)
    _mark_partly_lost(ax, *at[:, partly], size=4)
    tidy(ax, legend=False).grid(False)
    return image


def _mark_partly_lost(ax: Any, at: np.ndarray, height: np.ndarray, size: float = 6) -> None:
    """Crosses, white in black so that they show on any colour, where some seeds diverged."""
    if at.size:
        face = {"markerfacecolor": "white", "markeredgecolor": "black", "markeredgewidth": 0.1 * size}
        style = {"linestyle": "none", "marker": "X", "markersize": size}
        ax.plot(at, height, label="some seeds diverged", **style, **face)


def colour_bar(ax: Any, image: Any, cells: Cells) -> None:
    """The colour bar of Axes, or a list of them, if any colour is shown."""
    from matplotlib.colors import LogNorm

    seen = cells.middle[np.isfinite(cells.middle)]
    if seen.size:
        figure = (ax[0] if isinstance(ax, list) else ax).get_figure()
        bar = figure.colorbar(image, ax=ax, label=cells.label)
        if isinstance(image.norm, LogNorm):
            round_ticks(bar.ax.yaxis, seen.max() / seen.min())
        bar.outline.set_visible(False)
