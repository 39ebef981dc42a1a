"""SGD's runs, paths of its SDE, and the density of its Fokker–Planck equation, from one law on one clock."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

import jaxflow as jf
from jaxflow import _check
from jaxflow._devices import memory
from jaxflow._disk import results
from jaxflow.commands.density import report
from jaxflow.commands.density.levels import Levels, Measures, measure
from jaxflow.commands.density.noisy_problem import ON_A_LINE, SCENES, NoisyProblem, from_data, from_function
from jaxflow.commands.shared.interruption import keep_on_interrupt
from jaxflow.commands.shared.programs import jit_once
from jaxflow.commands.shared.progress import CHUNKS, Progress, iterate_in_chunks, solve_in_chunks, time_run
from jaxflow.commands.shared.training import MOST_SEED, count
from jaxflow.solve.discrete.optimizer_steps import start

RECORDS = 81  # intervals; the five times shown are their thirds of thirds
FEWEST = 10  # runs that a test of their law takes
FILES = report.FILES


@dataclass(frozen=True)
class Density:
    """Follow SGD as a moving distribution: its runs, paths of its SDE, and the density that both should have.

    From one normal law and on the clock t = steps × learning rate it runs SGD many times, as many paths of its
    stochastic differential equation, and the Fokker–Planck equation, whose solution is the density of the paths. The
    loss has one or two coordinates. It is a function whose gradients get noise, of variance
    T·2·batch-size/learning-rate; or a linear model on the two leading principal components of a data set, which
    predict its target, or whether the class is in the last half of the classes, and whose noise is that of
    mini-batches. The command computes in float64, prints a table of the three at five times, tests whether the runs
    and the paths have the density, and writes density.png, density.gif, summary.json and densities.npz.
    """

    problem: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[NAME]")] = "double_well"
    """double_well or sines_minus_parabola, of one coordinate; himmelblau or muller_brown, of two."""
    data: str | None = None
    """In place of a function, a data set: digits, breast_cancer, wine, iris, diabetes, or a .npz or .csv file."""
    temperature: float | None = None
    """Temperature T of a function's noise, in units of the loss. Default: one at which the barriers are crossed."""
    penalty: float = 0.1
    """The µ in the penalty ½µ|θ|² of a data set's loss, above 0, so that there is a minimum."""
    examples: int = 300
    """The number of examples: the first ones of the data set, or all if there are fewer."""
    learning_rate: float | None = None
    """Learning rate: the time that one step stands for. Default: one that suits the problem."""
    batch_size: int = 4
    """Examples in a mini-batch, drawn independently with replacement."""
    steps: int | None = None
    """Steps of SGD. Default: a number that suits the problem."""
    seeds: int = 2000
    """The number of runs of SGD, and of paths of the SDE, each with its own key."""
    substeps: int = 4
    """Steps of the SDE for each step of SGD, at least 4, as with fewer it would not be the SDE that is compared."""
    cells: int | None = None
    """Cells of the grid along each coordinate. Default: 400 for one coordinate, 96 for two."""
    seed: int = 0
    """Seed of the starts, the mini-batches and the noise."""
    output: Path = Path("results/density")
    """Folder for the results."""
    cache: bool = True
    """Keep compiled programs in $JAX_COMPILATION_CACHE_DIR, or in this user's cache folder, for the next run."""
    x64: tyro.conf.Suppress[bool] = True


def prepare(settings: Density) -> tuple[NoisyProblem, jf.dynamics.Dynamics, jax.Array]:
    """The problem, its Fokker–Planck equation and the law at rest; every bad setting is refused here."""
    for name, least in (("batch_size", 1), ("seeds", FEWEST), ("substeps", 4), ("examples", 3)):
        count(name, getattr(settings, name), least)
    if settings.steps is not None:
        count("steps", settings.steps)
    _check.require_integer("seed", settings.seed, 0)
    _check.require("seed", settings.seed, settings.seed <= MOST_SEED, f"an integer from 0 to {MOST_SEED}")
    given = {"learning_rate": settings.learning_rate, "temperature": settings.temperature}
    _check.require_positive(**{name: value for name, value in given.items() if value is not None})
    _check.require_positive(penalty=settings.penalty)
    results.check_folder(settings.output, *FILES)
    _require_fit(settings)
    if settings.data is None:
        _check.require_choice("problem", settings.problem, SCENES)
        problem = from_function(settings)
    else:
        if settings.temperature is not None:
            raise ValueError(
                f"temperature must be left out with data, whose noise is its own, got {settings.temperature!r}: it "
                "is set by learning_rate and batch_size."
            )
        problem = from_data(settings)
    # What touches the walls is told with the results.
    equation = jf.density.fokker_planck(problem.sde, problem.grid, walls="reflecting")
    return problem, equation, jf.density.stationary(equation)


def _require_fit(settings: Density) -> None:
    """Refuse members, batches or cells that would not fit in memory, as numbers of 8 bytes."""
    dimensions = 1 if settings.data is None and settings.problem in ON_A_LINE else 2
    memory.require_fit("seeds", settings.seeds, 8 * settings.seeds * dimensions * 2 * RECORDS)
    memory.require_fit("batch_size", settings.batch_size, 8 * settings.seeds * settings.batch_size)
    if settings.cells is not None:
        memory.require_fit("cells", settings.cells, 8 * float(settings.cells) ** dimensions * RECORDS)


def run(
    settings: Density, problem: NoisyProblem, equation: jf.dynamics.Dynamics, rest: jax.Array
) -> Measures:
    """Run what `prepare` made, print and write everything."""
    print(report.heading(settings, problem), flush=True)
    levels: dict[str, Any] = {}
    with (
        Progress(
            {"SGD": 1.0, "paths of the SDE": 4.0, "density": 1.0, "measures": 1.0, "animation": 2.0}
        ) as bar,
        keep_on_interrupt(lambda: report.keep(settings, levels)),
    ):
        _runs(settings, problem, equation, levels, bar)
        done = Levels(**levels)
        measures, _ = time_run(lambda: measure(problem, equation, rest, done), bar)
        report.write(settings, problem, done, measures)
        time_run(lambda: report.animate(settings, problem, done), bar)
    print(report.text(problem, done, measures))
    print(f"Wrote {', '.join(FILES[:-1])} and {FILES[-1]} to {settings.output}")
    return measures


def _runs(settings: Density, problem: NoisyProblem, equation, levels: dict[str, Any], bar: Progress) -> None:
    """Put the runs, the paths and the densities into `levels`, each made in pieces."""
    every = max(1, problem.steps // RECORDS)
    sgd = jf.optim.gd(problem.learning_rate)
    starts, begin, keys = jit_once(_starts, static_argnames="seeds")(
        settings.seed, settings.seeds, problem.start, problem.width
    )

    def members(points, states, steps):
        one = lambda m: jf.iterate(
            sgd,
            problem.objective,
            m[1],
            steps=steps,
            batch_size=problem.batch_size,
            key=m[0],
            every=every,
            state=m[2],
        )
        return jf.ensemble(one, (keys[0], points, states))

    def paths(states, times, piece):
        substeps = settings.substeps * every
        one = lambda m: jf.integrate(problem.sde, m[1], times, key=m[0], substeps=substeps, state=m[2])
        return jf.ensemble(one, (keys[2 + piece], starts[1], states))

    def densities(state, times, piece):
        return jf.integrate(equation, state.density, times, state=state)

    levels["sgd"], _ = iterate_in_chunks(members, starts[0], begin, problem.steps, every, bar)
    times = levels["sgd"].times
    states = jax.vmap(problem.sde.init)(starts[1])
    levels["sde"], _ = solve_in_chunks(paths, states, times, bar)
    state = equation.init(jf.density.gaussian(problem.grid, problem.start, problem.width**2))
    levels["density"], _ = solve_in_chunks(densities, state, times, bar)


def _starts(seed, seeds: int, mean, width):
    """The starts (2, n, d) of the runs and of the paths, the state of the optimizer, and keys, for each piece."""
    key, starts = jax.random.split(jax.random.key(seed))
    draws = jax.random.normal(starts, (2, seeds, len(mean)))
    points = mean[None, None] + width * draws
    # A rate of any size has the same state.
    return (
        points,
        jax.vmap(lambda x: start(jf.optim.gd(0.0), x))(points[0]),
        jax.random.split(key, (2 + CHUNKS, seeds)),
    )
