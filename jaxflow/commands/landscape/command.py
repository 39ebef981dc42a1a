"""A few networks, the slices of the loss around them, and the paths between two of their minima."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

import jaxflow as jf
from jaxflow import _check
from jaxflow._devices import memory
from jaxflow._disk import results
from jaxflow.commands.landscape import report
from jaxflow.commands.landscape.between_two import connect_two, measure_along
from jaxflow.commands.landscape.networks import losses_of, measure_ends, train
from jaxflow.commands.landscape.planes import slices_of
from jaxflow.commands.shared.interruption import keep_on_interrupt
from jaxflow.commands.shared.progress import Progress, time_run
from jaxflow.commands.shared.training import Training, count

FILES = report.FILES
FEWEST = 3  # networks: through as many minima there is one plane


@dataclass(frozen=True)
class Landscape(Training):
    """Draw the loss around a few trained networks, and measure the barrier between two of them.

    It trains networks from different starts, on mini-batches and then on all data. It draws the loss on three planes,
    with the runs projected on them: two random directions, scaled filter by filter, around the first network; the
    plane through three of the minima; and that of a Bézier curve between two. Along the straight line between the
    first two networks, along that line after the units of the second were put into the order of the first, and along
    the curve it measures losses and scores, of training and of test data. It prints a table, and writes
    landscape.png, summary.json and landscape.npz.
    """

    optimizer: str = "momentum"
    """Any optimizer that `python -m jaxflow optimizers` lists."""
    networks: int = 3
    """The number of networks, at least 3."""
    steps: int = 1000
    """Steps on mini-batches."""
    settle: int = 500
    """Further steps on all data, which bring a network near to its minimum."""
    penalty: float = 5e-4
    """The µ in the penalty µ|θ|² of the training loss, above 0, so that it has minima."""
    curve_steps: int = 2000
    """Steps in which the bend of the curve is trained, by Adam at the rate 0.003."""
    span: float = 1.0
    """How far the slice reaches along its random directions, in units of the norms of the network's filters."""
    points: int = 41
    """Points of each slice along each direction."""
    output: Path = Path("results/landscape")
    """Folder for the results."""


def prepare(settings: Landscape) -> tuple[Any, jf.optim.Optimizer]:
    """The problem and the optimizer; every bad setting is refused here, before anything compiles."""
    least = {"networks": FEWEST, "steps": 1, "settle": 1, "curve_steps": 1, "points": 2}
    for name, few in least.items():
        count(name, getattr(settings, name), few)
    _check.require_positive(penalty=settings.penalty, span=settings.span)
    if not settings.hidden:
        raise ValueError("hidden must have at least one layer, whose units are put into order, got ().")
    made = settings.make()
    settings.require_fit("networks", made[0], settings.batch_size, settings.networks, settings.networks)
    memory.require_fit("points", settings.points, 8 * float(settings.points) ** 2)
    results.check_folder(settings.output, *FILES)
    return made


def run(settings: Landscape, problem: Any, optimizer: jf.optim.Optimizer) -> report.Found:
    """Run what `prepare` made, print and write everything."""
    losses = losses_of(problem, settings.penalty)
    size = sum(leaf.size for leaf in jax.tree.leaves(problem.params))
    print(report.heading(settings, problem, optimizer, size), flush=True)
    found: dict[str, Any] = {}
    shares = {"training": 3.0, "settling": 3.0, "curve": 4.0, "measures": 1.0, "slices": 4.0}
    with Progress(shares) as bar, keep_on_interrupt(lambda: report.keep(settings, found)):
        found["runs"] = train(settings, losses.train, optimizer, bar)
        found["ends"] = measure_ends(problem, losses, found["runs"])
        found["paths"], _ = time_run(lambda: connect_two(settings, losses.train, found["runs"]), bar)
        found["along"], _ = time_run(lambda: measure_along(problem, losses, found["paths"]), bar)
        found["slices"], _ = time_run(lambda: slices_of(settings, losses.train, found), bar)
    done = report.Found(**found)
    report.write(settings, problem, done)
    print(report.text(problem, done))
    print(f"Wrote {', '.join(FILES[:-1])} and {FILES[-1]} to {settings.output}")
    return done
