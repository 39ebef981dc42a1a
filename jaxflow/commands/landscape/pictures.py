"""The command's figure: three planes above, and below the losses and scores along the paths."""

from typing import Any

from matplotlib.figure import Figure

import jaxflow as jf
from jaxflow.commands.landscape.between_two import Along
from jaxflow.commands.shared.training import score_name
from jaxflow.plot.style import COLOURS, set_logarithmic, tidy

STROKES = {"straight": "-", "aligned": "-.", "bent": "--"}


def figure(settings: Any, problem: Any, found: Any) -> Figure:
    """The whole figure."""
    made = Figure(figsize=(17, 9.6), layout="constrained")
    axes: Any = made.subplots(2, 3)
    titles = {
        "random": "around network 1: random directions, filter by filter",
        "minima": "through the minima of three networks",
        "curve": "in the plane of the curve from network 1 to 2",
    }
    for ax, (name, title) in zip(axes[0], titles.items(), strict=True):
        plane = found.slices[name]
        jf.plot.landscape(plane.slice, plane.paths, ax, label="training loss")
        ax.set_title(title)
    axes[0, 1].set(xlabel="towards network 2", ylabel="towards network 3, across")
    axes[0, 2].set(xlabel="towards network 2", ylabel="towards the bend, across")
    score = score_name(problem)
    draw_along(axes[1, 0], found.along, "train", "training loss", "barrier")
    draw_along(axes[1, 1], found.along, "test", "test loss", "barrier")
    draw_along(axes[1, 2], found.along, "test_score", score, "falls by")
    steps = f"{settings.optimizer}, {settings.steps} + {settings.settle} steps"
    made.suptitle(
        f"{settings.data}, hidden layers {settings.hidden}, {settings.activation}; {steps}", fontsize=11
    )
    return made


def draw_along(ax: Any, found: dict[str, Along], name: str, label: str, said: str) -> None:
    """One quantity along the three paths."""
    for i, (path, along) in enumerate(found.items()):
        number = along.barrier(name) if said == "barrier" else along.drop(name)
        line = {"color": COLOURS[i], "linestyle": STROKES[path], "linewidth": 1.8}
        ax.plot(along.share, getattr(along, name), label=f"{path}: {said} {number:.3g}", **line)
    if said == "barrier":
        set_logarithmic(ax, *(getattr(along, name) for along in found.values()))
    ax.set(xlabel="share of the way from network 1 to 2", ylabel=label)
    tidy(ax, legend=False)
    # Where a path leaves room: a hill has it below its sides, a dip above them.
    ax.margins(y=0.3)
    ax.legend(loc="upper right" if said == "barrier" else "lower left", frameon=False, fontsize="small")
