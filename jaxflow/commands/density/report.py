"""What the command says: a heading, the table, sentences on rest and verdicts; and the files it writes."""

import dataclasses
from typing import Any

import numpy as np

import jaxflow as jf
from jaxflow._disk import results
from jaxflow._text.text_table import text_table
from jaxflow.commands.density import pictures
from jaxflow.commands.density.levels import Levels, Measures
from jaxflow.commands.density.noisy_problem import NoisyProblem
from jaxflow.commands.shared.interruption import NOTHING
from jaxflow.density.density_dynamics import TOUCHING

ARRAYS = "densities.npz"
FILES = ("density.png", "density.gif", "summary.json", ARRAYS)
NAMES = {"sgd": "SGD", "sde": "SDE", "density": "density"}


def heading(settings: Any, problem: NoisyProblem) -> str:
    """What is about to be run."""
    law = f"N({np.round(problem.start, 4).tolist()}, {problem.width:.3g}²)"
    cells = " × ".join(map(str, problem.grid.shape))
    return (
        f"{problem.described}\n"
        f"gd(learning_rate={problem.learning_rate:g}), batch {problem.batch_size}, {problem.steps} steps: "
        f"temperature T = {problem.temperature:.4g}\n"
        f"{settings.seeds} runs and as many paths from {law}; {cells} cells"
    )


def text(problem: NoisyProblem, levels: Levels, measures: Measures) -> str:
    """The table and the sentences under it."""
    return "\n\n".join(
        [
            text_table(_rows(levels, measures), head=2),
            *_verdicts(measures),
            _sentences_at_rest(problem, measures),
        ]
    )


def _rows(levels: Levels, measures: Measures) -> list[tuple[str, ...]]:
    """Losses, distances and p-values at the times shown."""
    head = ("time t", "mean loss", "", "", "L1 distance from the density", "", "", "p-value", "")
    under = ("", "SGD", "SDE", "density", "SGD", "SDE", "by chance", "SGD", "SDE")
    rows = [head, under]
    sgd, sde = (measures.verdicts[name] for name in ("sgd", "sde"))
    for k, i in enumerate(levels.shown):
        losses = [measures.losses["sgd"][0][i], measures.losses["sde"][0][i], measures.over_time.loss[i]]
        apart = [sgd.l1[k], sde.l1[k], sde.l1_by_chance[k]]
        numbers = [*(f"{x:.5g}" for x in losses), *(f"{x:.3f}" for x in apart)]
        chances = [f"{x:.2g}" if x >= 1e-4 else "< .0001" for x in (sgd.p_value[k], sde.p_value[k])]
        rows.append((f"{float(levels.density.times[i]):.4g}", *numbers, *chances))
    return rows


def _verdicts(measures: Measures) -> list[str]:
    return [f"{NAMES[name]}: {found.message}" for name, found in measures.verdicts.items()]


def _sentences_at_rest(problem: NoisyProblem, measures: Measures) -> str:
    """What is said of the law at rest, of the way to it, and of the grid."""
    over, rest, rises = measures.over_time, measures.at_rest, measures.rises
    first, last, largest = over.free_energy[0], over.free_energy[-1], rises["free_energy"]
    if largest <= 1e-9 * abs(first):
        rise = f"it never rises (largest rise between two records {largest:.1g})"
    else:
        rise = f"it rises by up to {largest:.3g}, because there are too few cells or digits"
    said = [
        f"At rest: mean loss {rest.loss:.5g}, entropy {rest.entropy:.4g} nats; the slowest deviation falls to 1/e in "
        f"t = {measures.relaxation:.4g}.",
        f"Free energy above that at rest, T·KL: {first:.4g} at the start, {last:.3g} at the end; {rise}.",
    ]
    if problem.isotropic:
        said.append("The noise is the same in every direction: nothing circulates at rest.")
    else:
        said.append(
            f"The potential Φ = −T log p at rest is not the loss: they differ by "
            f"{_distance_from_loss(problem, measures):.3g} T on average. At rest probability sweeps an area of "
            f"{rest.circulation:.3g} in a unit of time, and {rest.production:.3g} nats of entropy are produced in it."
        )
    said.append(f"Mass at the walls of the grid: {measures.at_walls:.2g} at most.")
    if measures.at_walls > TOUCHING:
        said.append(
            "The grid is too small for the density: what is said of it holds for reflecting walls there."
        )
    return "\n".join(said)


def _distance_from_loss(problem: NoisyProblem, measures: Measures) -> float:
    """The standard deviation of (Φ − L)/T under the law at rest."""
    weight = measures.rest / measures.rest.sum()
    gap = np.where(np.isfinite(measures.potential), measures.potential - measures.loss, 0)
    mean = (weight * gap).sum()
    return float(np.sqrt((weight * (gap - mean) ** 2).sum()) / problem.temperature)


def keep(settings: Any, levels: dict[str, Any]) -> str:
    """Write the levels that are finished when the command is interrupted, and say which they are."""
    if not levels:
        return NOTHING
    arrays = {"times": next(iter(levels.values())).times}
    results.write_arrays(
        settings.output / ARRAYS, arrays | {name: run.values for name, run in levels.items()}
    )
    return f"Kept in {settings.output / ARRAYS}: {'; '.join(NAMES[name] for name in levels)}."


def write(settings: Any, problem: NoisyProblem, levels: Levels, measures: Measures) -> None:
    """The arrays, the summary and the figure."""
    shown = levels.shown
    arrays: dict[str, Any] = {
        "times": levels.density.times,
        "shown": np.asarray(shown),
        **{f"grid/x{axis + 1}": problem.grid.centers(axis) for axis in range(problem.grid.dimensions)},
        **{name: getattr(levels, name).values for name in NAMES},
        "loss": measures.loss,
        "rest": measures.rest,
        "potential": measures.potential,
        "currents": measures.currents,
        "rest_current": measures.rest_current,
        **{f"density/{name}": value for name, value in measures.over_time._asdict().items()},
    }
    for name, (mean, error) in measures.losses.items():
        arrays |= {f"{name}/loss": mean, f"{name}/loss_error": error}
    results.write_arrays(settings.output / ARRAYS, arrays)
    results.write_json(settings.output / "summary.json", _summary(settings, problem, levels, measures))
    results.write_figure(settings.output / "density.png", pictures.figure(problem, levels, measures))


def _summary(settings: Any, problem: NoisyProblem, levels: Levels, measures: Measures) -> dict[str, Any]:
    shown = levels.shown
    at = lambda values: np.asarray(values)[shown]
    return {
        "problem": problem.described,
        "temperature": problem.temperature,
        "learning_rate": problem.learning_rate,
        "steps": problem.steps,
        "times": at(levels.density.times),
        "mean_loss": {name: at(mean) for name, (mean, _) in measures.losses.items()}
        | {"density": at(measures.over_time.loss)},
        "over_time": {name: at(value) for name, value in measures.over_time._asdict().items()},
        "at_rest": measures.at_rest._asdict(),
        "relaxation_time": measures.relaxation,
        "largest_rise": measures.rises,
        "mass_at_walls": measures.at_walls,
        "verdicts": {
            name: {
                "sentence": found.message,
                "differ": found.differ,
                "p_value": found.adjusted,
                "l1": found.l1,
            }
            for name, found in measures.verdicts.items()
        },
        "settings": dataclasses.asdict(settings),
        **results.provenance(),
    }


def animate(settings: Any, problem: NoisyProblem, levels: Levels) -> None:
    """The moving picture."""
    from matplotlib.figure import Figure

    ax = Figure(
        figsize=(6.4, 4.8 if problem.grid.dimensions == 2 else 3.6), layout="constrained"
    ).add_subplot()
    points = np.asarray(levels.sgd.values)
    jf.plot.animate_density(levels.density, problem.grid, settings.output / "density.gif", ax, points=points)
