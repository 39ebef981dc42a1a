"""The main job: iterates, full-batch and mini-batch, compared with their flows and the SDE, on one clock."""

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow as jf
from jaxflow import _check
from jaxflow._disk import results
from jaxflow.commands.compare import report
from jaxflow.commands.shared.interruption import keep_on_interrupt
from jaxflow.commands.shared.programs import jit_once
from jaxflow.commands.shared.progress import CHUNKS, Progress, iterate_in_chunks, solve_in_chunks, time_run
from jaxflow.commands.shared.training import Training, count, score_name
from jaxflow.dynamics.modified_equations.equation import HIGHEST, warm_steps
from jaxflow.dynamics.modified_equations.smoothness import roughness
from jaxflow.problems.models.networks import compute_by_columns
from jaxflow.solve.discrete.optimizer_steps import start

RECORDS = 200
FILES = report.FILES


@dataclass(frozen=True)
class Compare(Training):
    """Measure how far an optimizer's iterates leave gradient flow and their modified flow, and its SDE.

    From the same parameters and on the clock t = steps × learning rate it runs the optimizer on all data, an
    ensemble of it on mini-batches, gradient flow, the optimizer's modified equation to the orders asked, and an
    ensemble of paths of its SDE. It prints a table, the temperature, the noise scale and a verdict on the SDE, and
    writes comparison.png, summary.json and trajectories.npz.
    """

    steps: int = 200
    """Steps of the optimizer."""
    seeds: int = 32
    """The number of mini-batch runs, and of paths of the SDE, each with its own key; a verdict needs at least 20."""
    substeps: int = 8
    """Steps of the SDE for each step of the optimizer."""
    order: tuple[int, ...] = (2,)
    """Orders of the modified equation, 1 to 8; none to leave it out."""
    sde_order: int | None = None
    """Order of the SDE, where it has several; by default the dynamics' own."""
    output: Path = Path("results/compare")
    """Folder for the results."""


def prepare(settings: Compare) -> tuple[Any, jf.optim.Optimizer]:
    """The problem and the optimizer; every bad setting is refused here, before anything compiles."""
    for name, least in (("steps", 1), ("seeds", 1), ("substeps", 2)):
        count(name, getattr(settings, name), least)
    for order in settings.order:
        _check.require("order", order, 1 <= order <= HIGHEST, f"an integer from 1 to {HIGHEST}")
    made = settings.make()
    settings.require_fit("seeds", made[0], settings.batch_size, settings.seeds, settings.seeds)
    results.check_folder(settings.output, *FILES)
    return made


def run(settings: Compare, problem: Any, optimizer: jf.optim.Optimizer) -> list[report.Row]:
    """Run what `prepare` made, print and write everything; returns the rows of the table."""
    objective, params = compute_by_columns(problem.objective), problem.params
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(
        f"{settings.describe(problem)}: {objective.size} training examples, {size} parameters; {optimizer}",
        flush=True,
    )
    sde = _sde(settings, objective, optimizer)
    flows = _modified_equations(settings, objective, params, optimizer)
    runs: dict[str, report.Timed] = {}
    with keep_on_interrupt(lambda: report.keep(settings, runs)):
        _runs(settings, objective, params, optimizer, flows, sde, runs)
        verdict = _verdict(settings, params, runs) if sde is not None else None
        points = params, runs["full_batch"].run.params
        scale = jit_once(jf.noise_scale)
        noise = jax.device_get([scale(objective, point) for point in points])
        gaps = report.distances(runs)
        rows = report.rows(problem, runs, gaps)
    report.write(
        settings,
        problem=problem,
        optimizer=optimizer,
        runs=runs,
        gaps=gaps,
        rows=rows,
        noise=noise,
        verdict=verdict,
    )
    print(report.table(rows, score_name(problem)))
    report.say(settings, optimizer, noise, verdict)
    print(f"Wrote comparison.png, summary.json and trajectories.npz to {settings.output}")
    return rows


def _sde(settings: Compare, objective: Any, optimizer: jf.optim.Optimizer) -> jf.dynamics.Dynamics | None:
    """The optimizer's SDE at this batch size; `None`, with a message, where no SDE is known."""
    try:
        return jf.dynamics.sde_of(optimizer, objective, settings.batch_size, order=settings.sde_order)
    except ValueError as error:
        print(f"{error} It is left out.")
        return None


def _modified_equations(settings: Compare, objective, params, optimizer) -> dict[int, jf.dynamics.Dynamics]:
    """The optimizer's modified equation to each order asked; where there is none, a message says so."""
    if not settings.order:
        return {}
    try:
        rough = roughness(optimizer, params, optimizer.init(params))
        warm = min(warm_steps(optimizer, params, None), settings.steps // 2)
    except ValueError as error:
        print(f"{error} Its modified equation is left out.")
        return {}
    if rough:
        print(rough)
    make = lambda order: jf.dynamics.modified(optimizer, objective, order=order, warmup=warm)
    return {order: make(order) for order in sorted(set(settings.order))}


def _runs(settings: Compare, objective, params, optimizer, flows, sde, runs) -> None:
    """Put every run into `runs` by a short name, each made in pieces behind one progress bar."""
    # Losses and parameters are both wanted along the way: one for the picture, the other for distances.
    record = jax.tree_util.Partial(_observe, objective)
    every = max(1, settings.steps // RECORDS)
    seeds, batch, name = settings.seeds, settings.batch_size, settings.optimizer
    key = jax.random.key(settings.seed + 1)
    begin, keys, members, path_states = jit_once(_starts, static_argnames="seeds")(
        seeds, optimizer, sde, params, key
    )
    common: dict[str, Any] = {"every": every, "record": record}
    # On a CPU some members, whose products are one large product, still fit in the cache.
    at_once = 16 if jax.default_backend() == "cpu" else None

    def run_full_batch(params, state, steps):
        return jf.iterate(optimizer, objective, params, steps=steps, state=state, **common)

    def run_sampled(members, states, steps):
        one = lambda m: jf.iterate(
            optimizer, objective, m[1], steps=steps, batch_size=batch, key=m[0], state=m[2], **common
        )
        return jf.ensemble(one, (keys[0], members, states))

    def flow(state, times, piece):
        dynamics = jf.dynamics.gradient_flow(objective)
        return jf.integrate(dynamics, params, times, solver="auto", record=record, state=state)

    # A field that jumps would be followed in ever smaller steps.
    most = max(4096, 20 * settings.steps)

    def run_corrected(dynamics, times):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The update of")  # said before
            return jf.integrate(dynamics, params, times, solver="auto", record=record, max_steps=most)

    def paths(states, times, piece):
        substeps = settings.substeps * every
        one = lambda m: jf.integrate(
            sde, params, times, key=m[0], substeps=substeps, record=record, state=m[1]
        )
        return jf.ensemble(one, (keys[1 + piece], states), at_once=at_once)

    shares = {"full batch": 1.0, "mini-batches": 1.0, "gradient flow": 1.0}
    shares |= ({} if sde is None else {"SDE": 12.0}) | {f"order {order}": 1.0 for order in flows}
    with Progress(shares) as progress:
        discrete, seconds = iterate_in_chunks(run_full_batch, params, begin, settings.steps, every, progress)
        runs["full_batch"] = report.Timed(f"{name}, full batch", discrete, 1.0, seconds)
        points, states = members
        batches, seconds = iterate_in_chunks(run_sampled, points, states, settings.steps, every, progress)
        label = f"{name}, batch {batch} ({seeds} runs)"
        runs["mini_batch"] = report.Timed(label, batches, batch / objective.size, seconds)
        # Few pieces, as each measures the stiffness and finds its first step anew.
        solution, seconds = solve_in_chunks(flow, params, discrete.times, progress, chunks=3)
        runs["gradient_flow"] = report.Timed("gradient flow", solution, 1.0, seconds)
        if sde is not None:
            solution, seconds = solve_in_chunks(paths, path_states, discrete.times, progress)
            runs["sde"] = report.Timed(
                f"SDE of {name}, batch {batch} ({seeds} paths)", solution, 1.0, seconds
            )
        for order, dynamics in flows.items():
            # In one piece: its first steps are the optimizer's own, and must not be cut.
            solution, seconds = time_run(partial(run_corrected, dynamics, discrete.times), progress)
            label = f"modified flow of {name}, order {order}"
            runs[f"modified_{order}"] = report.Timed(label, solution, float(order), seconds)


def _starts(seeds: int, optimizer, sde, params, key):
    """Where all runs start, in one program: operations on the host would each be one of their own.

    It returns the state of the optimizer; the keys of the mini-batch runs and, for each piece, those of the paths;
    the parameters and states of the mini-batch runs; and the states of the paths.
    """
    repeated = lambda tree: jax.tree.map(lambda x: jnp.broadcast_to(x, (seeds, *x.shape)), tree)
    begin = start(optimizer, params)
    states = () if sde is None else repeated(sde.init(params))
    return begin, jax.random.split(key, (1 + CHUNKS, seeds)), repeated((params, begin)), states


def _observe(objective, params):
    return {"loss": objective(params), "params": params}


def _verdict(settings: Compare, params: Any, runs: dict[str, report.Timed]) -> Any:
    """Whether the mini-batch runs and the SDE's paths end with one law of loss and distance from the start.

    It compares two numbers per run, as few runs could not tell more apart. Where there are too few even for that,
    it returns the reason.
    """
    ends = [_ends(params, runs[name].run) for name in ("mini_batch", "sde")]
    try:
        return jax.device_get(jit_once(jf.compare_ensembles)(*ends, key=jax.random.key(settings.seed + 2)))
    except ValueError as error:
        return str(error)


def _ends(params: Any, run: jf.Trajectory) -> dict[str, np.ndarray]:
    """The last loss of every member, and how far it is from the start."""
    ends = jax.tree.leaves(run.values["params"])
    with np.errstate(over="ignore", invalid="ignore"):  # a run may diverge
        moved = [x[:, -1] - np.asarray(x0) for x, x0 in zip(ends, jax.tree.leaves(params), strict=True)]
        squares = np.sum([np.square(x).reshape(len(x), -1).sum(1) for x in moved], axis=0)
    return {"loss": run.values["loss"][:, -1], "distance from the start": np.sqrt(squares)}
