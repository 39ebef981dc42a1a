"""`python -m jaxflow sweep`: learning rates × batch sizes × seeds, compared with gradient flow and the SDE."""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.flatten_util import ravel_pytree

import jaxflow as jf
from jaxflow import _check
from jaxflow._disk import results
from jaxflow.commands.shared.interruption import keep_on_interrupt
from jaxflow.commands.shared.training import Training, count
from jaxflow.commands.sweep import kept_flow, report
from jaxflow.commands.sweep.cells import number_of
from jaxflow.commands.sweep.laws import FEWEST
from jaxflow.solve.trajectories.trajectory import FINISHED
from jaxflow.sweeps import sweep
from jaxflow.sweeps.design.axes import design
from jaxflow.sweeps.storage.disk import BATCHES, DirectoryError

FILES = report.FILES
MULTIPLES = (0.2, 0.5, 1.2, 3.0, 8.0, 20.0, 50.0, 120.0)
# Networks run at once on a CPU, whose working memory then stays in the cache.
AT_ONCE = 8
PATHS = 2**31 - 1  # folded into a trial's key for its path of the SDE; steps fold in smaller numbers
# Settings that a file may not hold.
HIDDEN = ("learning_rate", "batch_size", "file")
# The flow is followed as long as it takes: its solver takes few steps, but rates may be far too large.
MOST_STEPS = 20_000


class Refused(Exception):
    """A request that cannot be met; the message is one sentence."""


@dataclass(frozen=True)
class Sweep(Training):
    """Map an optimizer over learning rates and batch sizes: its loss, its distance from gradient flow and the SDE.

    Every combination of learning rate and batch size is run for K steps with several seeds, all from the same
    parameters, and so is its SDE up to the same time t = K × learning rate. The command prints a table of final
    losses. It writes sweep.png, three maps with the lines learning rate = 2/sharpness and of equal temperature;
    sweep.nc, the numbers of every run by name; and summary.json. Finished trials are kept in the folder trials.
    """

    learning_rates: tuple[float, ...] = ()
    """Learning rates. Default: eight, from 1/5 to 120 times the optimizer's own, which is 0.1 where it has none."""
    batch_sizes: tuple[int, ...] = (4, 16, 64, 256)
    """Batch sizes, drawn independently with replacement."""
    seeds: int = 8
    """The number of runs, and of paths of the SDE, for each combination; a distance from the SDE needs at least 2."""
    steps: int = 100
    """Steps of the optimizer."""
    substeps: int = 4
    """Steps of the SDE for each step of the optimizer."""
    output: Path = Path("results/sweep")
    """Folder for the results."""
    resume: bool = False
    """Go on with the trials that are in the folder; it must be the same sweep."""
    file: Path | None = None
    """A TOML file with these settings; those on the command line take precedence."""
    learning_rate: tyro.conf.Suppress[float | None] = None
    batch_size: tyro.conf.Suppress[int] = 1

    @property
    def trials(self) -> Path:
        """The folder of the finished trials."""
        return self.output / "trials"


class Flow(NamedTuple):
    """Gradient flow at the times K·η: how far its parameters have come and their sharpness, and that at the start."""

    start: np.ndarray
    ends: np.ndarray
    losses: np.ndarray
    sharpness: np.ndarray
    message: str


def prepare(settings: Sweep) -> tuple[Sweep, Any, jf.optim.Optimizer]:
    """The settings with their defaults filled in, the problem and the optimizer; bad ones are refused here."""
    for name in ("seeds", "steps", "substeps"):
        count(name, getattr(settings, name))
    for rate in settings.learning_rates:
        _check.require_positive(learning_rates=rate)
    for size in settings.batch_sizes:
        _check.require_integer("batch_sizes", size, 1)
    results.check_folder(settings.output, *FILES)
    results.check_folder(settings.trials)
    if not settings.resume and settings.trials.exists() and any(settings.trials.iterdir()):
        raise ValueError(
            f"{settings.trials} holds trials already: go on with them by --resume, or choose another folder by "
            "--output."
        )
    problem, optimizer = settings.make()
    for size in settings.batch_sizes:
        settings.require_fit("batch_sizes", problem, size)
    own = jf.optim.hyperparameters(optimizer).get("learning_rate")
    if own is None or not _check.is_concrete(own):
        raise ValueError(f"optimizer must be one with a learning rate to sweep, got {settings.optimizer}.")
    rates = settings.learning_rates or tuple(float(f"{m * own:.6g}") for m in MULTIPLES)
    for name, values in (("learning_rates", rates), ("batch_sizes", settings.batch_sizes)):
        if not values:
            raise ValueError(f"{name} must hold at least one value, got none.")
        _check.require(name, values, len({*values}) == len(values), "distinct")
    design({"learning_rate": rates, "batch_size": settings.batch_sizes}, None)
    if len(rates) * len(settings.batch_sizes) == 1:
        raise ValueError("learning_rates or batch_sizes must hold at least two values, got one of each.")
    sizes = tuple(sorted(settings.batch_sizes))
    made = dataclasses.replace(settings, learning_rates=tuple(sorted(rates)), batch_sizes=sizes)
    return made, problem, optimizer


def run(settings: Sweep, made: Sweep, problem: Any, optimizer: jf.optim.Optimizer) -> Any:
    """Run what `prepare` made, print and write everything; returns the dataset."""
    axes = (
        (len(made.learning_rates), "learning rate"),
        (len(made.batch_sizes), "batch size"),
        (made.seeds, "seed"),
    )
    cells = " × ".join(number_of(*axis) for axis in axes)
    size = sum(leaf.size for leaf in jax.tree.leaves(problem.params))
    print(
        f"{made.describe(problem)}: {problem.objective.size} training examples, {size} parameters; "
        f"{' '.join((made.optimizer, *made.set))}, {cells}, {made.steps} steps each",
        flush=True,
    )
    key = kept_flow.key_of(made, problem)
    known = kept_flow.read(made.trials, key)
    flow = follow(made, problem) if known is None else Flow(**known)
    if flow.message:
        print(flow.message)
    with keep_on_interrupt(lambda: _kept_sentence(made)):
        dataset = trials(made, problem, optimizer)
        if known is None:  # after the trials, which refuse the folder of another sweep
            kept_flow.write(made.trials, key, flow._asdict())
        dataset = report.add_distances(dataset, flow)
    report.write(made, problem, optimizer, dataset)
    report.say(made, problem, optimizer, dataset)
    print(f"Wrote sweep.png, sweep.nc and summary.json to {made.output}")
    return dataset


def _kept_sentence(settings: Sweep) -> str:
    """A sentence on the trials that are in the folder when the command was stopped."""
    if not any(settings.trials.glob(f"{BATCHES}/*.npz")):
        return f"No batch of trials was finished; begin again in {settings.trials} by --resume."
    return f"The finished trials are kept in {settings.trials}; --resume goes on with them."


def follow(settings: Sweep, problem: Any) -> Flow:
    """Gradient flow from the initial parameters at the times K·η of all learning rates, and its sharpness there."""
    times = np.concatenate([[0.0], settings.steps * np.asarray(settings.learning_rates)])
    dynamics = jf.dynamics.gradient_flow(problem.objective)
    gauge = lambda p: jf.dynamics.convergence(jf.optim.gd(1.0), problem.objective, p).radius[0]
    look = lambda p: (ravel_pytree(p)[0], problem.objective(p), gauge(p))
    state, seen, message = dynamics.init(problem.params), [look(problem.params)], ""
    # From one time to the next, so that a time too late to be reached leaves those before it.
    for begin, end in itertools.pairwise(times):
        span = np.array([begin, end])
        part = jf.integrate(dynamics, problem.params, span, solver="auto", max_steps=MOST_STEPS, state=state)
        if int(part.status) != FINISHED:
            message = f"Gradient flow {part.message}: there is no distance from it after t = {begin:g}."
            break
        state = part.state
        seen.append(look(part.params))
    lost = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), seen[0])
    seen += [lost] * (times.size - len(seen))
    points, losses, sharpness = (np.stack(column) for column in zip(*seen, strict=True))
    return Flow(points[0], points[1:], losses, sharpness, message)


def trials(settings: Sweep, problem: Any, optimizer: jf.optim.Optimizer) -> Any:
    """Every trial in one sweep, which keeps them in the folder, as a dataset."""
    diffuses = settings.seeds >= FEWEST
    try:
        jf.dynamics.sde_of(optimizer, problem.objective, settings.batch_sizes[0])
        if not diffuses:
            print(f"The distance from the SDE takes at least {FEWEST} seeds. It is left out.")
    except ValueError as error:
        print(f"{error} It is left out.")
        diffuses = False
    trial = Trial(settings.steps, settings.substeps, max(settings.batch_sizes), diffuses)
    axes = {"learning_rate": list(settings.learning_rates), "batch_size": list(settings.batch_sizes)}
    # A folder that is gone on with knows its own batches.
    batch = AT_ONCE if jax.default_backend() == "cpu" and not settings.trials.exists() else None
    key = jax.random.key(settings.seed + 1)
    part = jax.tree_util.Partial(trial, problem, optimizer)
    try:
        return sweep(part, axes, seeds=settings.seeds, key=key, batch=batch, directory=settings.trials)
    except DirectoryError as error:
        raise Refused(f"{error} Choose another folder by --output.") from error


@dataclass(frozen=True)
class Trial:
    """One trial: a run on mini-batches and, where its SDE is known, a path of that with noise of its own."""

    steps: int
    substeps: int
    largest: int
    diffuses: bool

    def __call__(self, problem: Any, optimizer: Any, hyperparameters: dict[str, Any], key: jax.Array) -> Any:
        """The end of a trial; the run has its key as it is, the path `fold_in(key, 2³¹ − 1)`."""
        rate, batch_size = hyperparameters["learning_rate"], hyperparameters["batch_size"]
        optimizer = optimizer.replace(learning_rate=rate)
        objective, params = problem.objective, problem.params
        estimator = jf.solve.masked_draws(batch_size, self.largest)
        run = jf.iterate(
            optimizer, objective, params, steps=self.steps, estimator=estimator, key=key, every=None
        )
        loss = objective(run.params)
        ends = {
            "final_loss": loss,
            "test_score": problem.score(run.params),
            "params": ravel_pytree(run.params)[0],
            # Of the run alone: a path that its solver loses says nothing of the run.
            "diverged": run.diverged | ~jnp.isfinite(loss),
        }
        if self.diffuses:
            sde = jf.dynamics.sde_of(optimizer, objective, batch_size)
            times = jnp.stack([jnp.zeros_like(rate), self.steps * rate])
            own, substeps = jax.random.fold_in(key, PATHS), self.steps * self.substeps
            path = jf.integrate(sde, params, times, key=own, substeps=substeps)
            ends |= {"sde_loss": objective(path.params), "sde_params": ravel_pytree(path.params)[0]}
        return ends
