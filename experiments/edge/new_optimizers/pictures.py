"""The pictures of `discovery`, a panel for each question; names of optimizers are rows in the upper three."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.edge.new_optimizers.methods import ROWS
from jaxflow.plot.style import COLOURS, stroke, tidy

SHOWN = "AdEMAMix"  # the optimizer whose run past the edge is drawn


def draw_names(ax, names, title, xlabel):
    """A chart of dots with a line for each optimizer."""
    ax.set_yticks(range(len(names)), names)
    ax.set(ylim=(len(names) - 0.5, -0.5), title=title, xlabel=xlabel)
    tidy(ax, legend=False)
    ax.grid(True, axis="y", color="0.88", linewidth=0.6)


def draw_thresholds(ax, found):
    for i, (name, one) in enumerate(found.items()):
        row = ROWS[name]
        ax.plot(
            row.threshold, i, "o", color=COLOURS[2], markersize=13, markerfacecolor="white", markeredgewidth=2
        )
        ax.plot(one["threshold"], i, "x", color=COLOURS[1], markersize=8, markeredgewidth=2)
        if np.isfinite(one["library"]):
            ax.plot(one["library"], i, ".", color=COLOURS[0], markersize=5)
        else:
            ax.annotate("library: none", (2, i), va="center", fontsize="small", color="0.4")
        ax.annotate(
            f"{row.threshold:.4g}",
            (row.threshold, i),
            (11, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    ax.set_xscale("log")
    ax.set_xlim(0.4, 500)
    keys = [
        Line2D([], [], marker="o", linestyle="", color=COLOURS[2], markerfacecolor="white", label="derived"),
        Line2D([], [], marker="x", linestyle="", color=COLOURS[1], label="measured by bisection"),
        Line2D([], [], marker=".", linestyle="", color=COLOURS[0], label="found by the library"),
    ]
    draw_names(
        ax, list(found), "Where it becomes unstable", "largest stable a = learning rate × curvature / P"
    )
    ax.legend(handles=keys, frameon=False, fontsize="small", loc="lower left")


def draw_slow(ax, found):
    for i, (name, one) in enumerate(found.items()):
        ax.plot(
            ROWS[name].slow,
            i,
            "o",
            color=COLOURS[2],
            markersize=13,
            markerfacecolor="white",
            markeredgewidth=2,
        )
        ax.plot(one["slow"], i, "x", color=COLOURS[1], markersize=8, markeredgewidth=2)
    ax.set_xscale("log")
    draw_names(ax, list(found), "How fast flat directions fall", "effective learning rate, in η/P")


def draw_orders(ax, found):
    for i, (name, one) in enumerate(found.items()):
        measured = one.get("slopes", [np.nan] * 3)
        for order, (marker, colour) in enumerate(
            zip("osD", (COLOURS[0], COLOURS[1], COLOURS[5]), strict=True)
        ):
            ax.plot(
                measured[order],
                i,
                marker,
                color=colour,
                markersize=7,
                label=f"order {order + 1}" if i == 0 else None,
            )
        if not np.isfinite(measured).any():
            ax.annotate("as above", (1, i), ha="center", va="center", fontsize="small", color="0.4")
        elif name == "Sophia":
            ax.annotate("a curvature of single steps", (0.2, i), va="center", fontsize="small", color="0.4")
    ax.set(xlim=(-0.4, 4), xticks=range(4))
    draw_names(ax, list(found), "Order of its modified equations", "slope of the error in the step size")
    ax.legend(frameon=False, fontsize="small", loc="lower left")


def draw_cycles(ax, ends):
    for i, (name, (rates, half, expected)) in enumerate(ends.items()):
        colour, width = COLOURS[(1, 0, 5)[i]], np.where(half > 1e-6, half, 0) / rates
        for line in np.atleast_2d(expected):
            ax.plot(rates, line / rates, color=colour, linewidth=1)
        ax.plot(rates[::2], width[::2], "osD"[i], color=colour, markersize=4, linestyle="", label=name)
    ax.set(xscale="log", ylim=(-0.05, 2.3), title="A sign ends in a cycle", xlabel="learning rate η")
    ax.set_ylabel("half-width of the cycle / η (lines: derived)")
    tidy(ax)
    ax.legend(frameon=False, fontsize="small", loc="upper right", ncols=3)


def draw_past(ax, found):
    path = found["path"]
    x, steps = path["iterates"][:, 0], np.arange(len(path["iterates"]))
    ax.plot(steps[::2], x[::2], "o", color=COLOURS[2], markersize=4, label="every second iterate")
    ax.plot(steps[1::2], x[1::2], "o", color="0.75", markersize=4, label="those between")
    ax.plot(steps[::2], path["pairs"][:, 0], **stroke(0), label="flow of pairs, order 3")
    ax.plot(steps[::2], path["order 1"][:, 0], **stroke(1), label="modified equation, order 1")
    for side in (-1, 1):
        ax.axhline(side * found["width"][1], color="0.4", linewidth=0.8, linestyle=":")
    ax.set(
        title=f"Past the edge in pairs: {SHOWN}",
        xlabel="step",
        ylabel="sharp coordinate (dotted: derived ±A)",
    )
    tidy(ax)


def draw_averages(ax, t, y, exact):
    for i, beta in enumerate((0.5, 0.9)):
        ax.plot(
            t[::40],
            y[i, ::40],
            "os"[i],
            color=COLOURS[(1, 5)[i]],
            markersize=4,
            label=f"iterates, β = {beta}",
        )
        ax.plot(t, exact[i], color=COLOURS[(1, 5)[i]], linewidth=1.2, label="closed form")
    ax.plot(t, np.exp(-t), color="0.5", linestyle=":", label="gradient flow")
    ax.set(
        xlim=(0, 30),
        title="Schedule-free SGD on a quadratic",
        xlabel="time t = kη, in 1/curvature",
        ylabel="y",
    )
    tidy(ax)


def draw(found, ends, motion):
    figure = Figure(figsize=(16, 9.5), layout="constrained")
    top, bottom = figure.subplots(2, 3)
    for ax, panel in zip(top, (draw_thresholds, draw_slow, draw_orders), strict=True):
        panel(ax, found)
    for ax in top[1:]:
        ax.tick_params(labelleft=False)
    draw_cycles(bottom[0], ends)
    draw_past(bottom[1], found[SHOWN])
    draw_averages(bottom[2], *motion)
    return figure
