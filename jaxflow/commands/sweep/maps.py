"""The maps of the sweep: loss, distance from gradient flow, distance from the SDE, and the lines theory draws."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

import jaxflow as jf
from jaxflow.commands.sweep.cells import CELL, mean, number_of, sharpness, unit
from jaxflow.plot.style import COLOURS

LOSS, FLOW, SDE = (
    "final training loss",
    "distance from gradient flow, in lengths of its way",
    "distance from the SDE, H",
)
TITLES = {LOSS: "Loss", FLOW: "Distance from gradient flow", SDE: "Distance from the law of the SDE"}


def maps(settings: Any, problem: Any, optimizer: Any, dataset: Any) -> Figure:
    """The figure: means over seeds, as maps or, where one axis has a single value, as lines."""
    shown = _maps_to_draw(dataset)
    metrics = [name for name in TITLES if name in shown]
    flat = min(shown.sizes[name] for name in CELL) == 1
    figure = Figure(figsize=(5.2 * len(metrics), 4.9), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    named: dict[str, Any] = {}
    for ax, metric in zip(axes, metrics, strict=True):
        jf.plot.sweep(shown, metric, ax, **({} if flat else {"x": "learning_rate", "y": "batch_size"}))
        ax.set_title(TITLES[metric], fontsize=11, pad=26 if ax.get_legend() else None)
        limits = ax.get_xlim(), ax.get_ylim()
        if shown.sizes["learning_rate"] > 1:
            named |= _edges(ax, dataset)
        if not flat:
            named |= _isotherms(ax, dataset, unit(settings, optimizer))
            if metric == SDE:
                named |= _mark_alike(ax, dataset)
                _scale(ax)
        ax.set(xlim=limits[0], ylim=limits[1])
    if named:
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=4, frameon=False)
    shape = "–".join(map(str, settings.hidden))
    title = f"{settings.describe(problem)}, {settings.activation} network {shape}: {settings.optimizer}, "
    title += f"{settings.steps} steps"
    figure.suptitle(f"{title}, {number_of(settings.seeds, 'seed')}", fontsize=11)
    return figure


def _maps_to_draw(dataset: Any) -> Any:
    """What is drawn: the means over seeds, by the names on the colour bars."""
    shown = dataset[["diverged"]]
    shown[LOSS] = (CELL, mean(dataset, "final_loss"))
    shown[FLOW] = (CELL, mean(dataset, "distance_to_flow"))
    if "distance_to_sde" in dataset:
        shown[SDE] = (CELL, np.clip(dataset["distance_to_sde"].transpose(*CELL).values, 0, 1))
    for name in CELL:
        shown[name].attrs = {}
    return shown


def _scale(ax: Any) -> None:
    """Colours by the root of H, as H is small where many parameters each have a little noise of their own."""
    from matplotlib.colors import PowerNorm

    mesh = ax.collections[0]
    if np.isfinite(top := float(np.ma.max(mesh.get_array()))):
        mesh.set_norm(PowerNorm(0.5, 0, max(top, 0.1)))


def _outline(line: Any, width: float = 3.5) -> Any:
    """A line with a border, that shows on dark and on light."""
    from matplotlib.patheffects import Normal, Stroke

    light = line.get_color() == "white"
    line.set_path_effects([Stroke(linewidth=width, foreground="black" if light else "white"), Normal()])
    return line


def _edges(ax: Any, dataset: Any) -> dict[str, Any]:
    """Where the learning rate is 2/sharpness: at the start, and at the end of the flow."""
    ends = dict(zip(("at the start", "at the flow's end"), sharpness(dataset), strict=True))
    if abs(np.log(ends["at the flow's end"] / ends["at the start"])) < 0.1:
        del ends["at the flow's end"]
    drawn, (low, high) = {}, ax.get_xlim()
    for (when, value), dash in zip(ends.items(), ("-", ":"), strict=False):
        if value > 0 and low < 2 / value < high:
            line = ax.axvline(2 / value, color=COLOURS[1], linestyle=dash, linewidth=2)
            drawn[f"learning rate = 2 / sharpness {when}"] = _outline(line)
    return drawn


def _isotherms(ax: Any, dataset: Any, per_rate: float | None) -> dict[str, Any]:
    """Lines of equal temperature, a decade apart, or more where there are many."""
    if per_rate is None:
        return {}
    # The cells of an axis that is not logarithmic may reach to 0.
    least = [dataset[name].values.min() / 2 for name in CELL]
    reach = lambda limits, low: np.array([limits[0] if limits[0] > 0 else low, limits[1]])
    rates, sizes = map(reach, (ax.get_xlim(), ax.get_ylim()), least)
    across = np.geomspace(*rates)
    coldest, hottest = per_rate * rates[0] / sizes[1], per_rate * rates[1] / sizes[0]
    plain = per_rate == 0.5
    formula = "learning rate / (2 · batch size)" if plain else f"{per_rate:g} · learning rate / batch size"
    first, last = int(np.ceil(np.log10(coldest))), int(np.floor(np.log10(hottest)))
    drawn = {}
    for power in range(first, last + 1, 1 + (last - first) // 6):
        ratio = per_rate / 10.0**power  # the batch size at learning rate 1
        (line,) = ax.plot(across, ratio * across, color="white", linestyle="--", linewidth=1.2)
        drawn[f"equal temperature T = {formula}"] = _outline(line, 2.4)
        _name(ax, f"$10^{{{power}}}$", ratio, rates, sizes)
    return drawn


def _name(ax: Any, text: str, ratio: float, rates: np.ndarray, sizes: np.ndarray) -> None:
    """A line's temperature, near the middle of the part of it that is seen."""
    left, right = max(rates[0], sizes[0] / ratio), min(rates[1], sizes[1] / ratio)
    if right / left > 2:
        at = left**0.6 * right**0.4  # off the middle of the map, where a cell's mark may be
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "boxstyle": "round,pad=0.12"}
        ax.text(at, ratio * at, text, ha="center", va="center", fontsize=8, bbox=box, clip_on=True)


def _mark_alike(ax: Any, dataset: Any) -> dict[str, Any]:
    """Cells whose distance from the SDE is within its noise."""
    gap, noise = (
        dataset[name].transpose(*CELL).values for name in ("distance_to_sde", "distance_to_sde_noise")
    )
    i, j = np.nonzero(gap <= noise)
    if not i.size:
        return {}
    at = dataset["learning_rate"].values[i], dataset["batch_size"].values[j]
    (dots,) = ax.plot(*at, "o", color="white", markeredgecolor="black", markersize=5, zorder=4)
    return {"H within its noise": dots}
