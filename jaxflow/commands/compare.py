"""The main job: an optimizer's iterates, full-batch and mini-batch, against gradient flow, on one clock."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxflow as jf
from jaxflow import _check
from jaxflow.commands import results
from jaxflow.commands.choose import make_optimizer
from jaxflow.commands.chunks import Progress, flow_in_chunks, iterate_in_chunks
from jaxflow.solve.stepping import start

RECORDS = 200


@dataclass(frozen=True)
class Compare:
    """Measure how far an optimizer's iterates leave gradient flow.

    Runs, from the same parameters and on the clock t = steps × learning rate: the optimizer on all data, the
    optimizer on mini-batches (several seeds), and gradient flow. Prints a table and writes comparison.png,
    summary.json and trajectories.npz.
    """

    data: str = "digits"
    """Data set: digits, breast_cancer, wine, iris, diabetes, or a .npz file (arrays x, y) or .csv file (last
    column the target)."""
    hidden: tuple[int, ...] = (32,)
    """Widths of the hidden layers."""
    activation: str = "tanh"
    """Activation of the hidden layers: tanh, relu, gelu, silu, sigmoid, …"""
    loss: str | None = None
    """cross_entropy or mse. Default: cross_entropy for classes, mse for real targets."""
    optimizer: str = "gd"
    """Any optimizer that `python -m jaxflow optimizers` lists."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE …")] = ()
    """The optimizer's other hyperparameters, such as b1=0.95 b2=0.99."""
    learning_rate: float | None = None
    """Learning rate: the time one step stands for. Default: the optimizer's own, 0.1 where it has none."""
    batch_size: int = 32
    """Examples in a mini-batch, drawn independently with replacement."""
    steps: int = 1000
    """Steps of the optimizer."""
    seeds: int = 8
    """Mini-batch runs, each with a key of its own."""
    seed: int = 0
    """Seed of the initial parameters and of the mini-batches."""
    x64: bool = False
    """Compute in float64."""
    output: Path = Path("results/compare")
    """Folder for the results."""


@dataclass(frozen=True)
class Row:
    """One method's line of the table; means over members for an ensemble."""

    method: str
    final_loss: float
    test_score: float
    distance: float
    gradients: float
    seconds: float
    status: str


def prepare(settings: Compare) -> tuple[Any, jf.optim.Optimizer]:
    """The problem and the optimizer; every bad setting is refused here, before anything compiles."""
    for name in ("steps", "seeds", "batch_size"):
        _check.integer(name, getattr(settings, name), 1)
    optimizer = make_optimizer(settings.optimizer, settings.learning_rate, settings.set, settings.seed)
    key = jax.random.key(settings.seed)
    problem = jf.problems.mlp(settings.data, settings.hidden, settings.activation, settings.loss, key=key)
    for folder in (settings.output, *settings.output.parents):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"output must be a folder, but {folder} is a file.")
    return problem, optimizer


def run(settings: Compare, problem: Any, optimizer: jf.optim.Optimizer) -> list[Row]:
    """Run what `prepare` made, print and write everything; returns the rows of the table."""
    objective, params = problem.objective, problem.params
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{settings.data}: {objective.size} training examples, {size} parameters; {optimizer}", flush=True)

    # Losses and parameters are both wanted along the way: one for the picture, the other for distances.
    record = jax.tree_util.Partial(_observe, objective)
    every = max(1, settings.steps // RECORDS)
    keys = jax.random.split(jax.random.key(settings.seed + 1), settings.seeds)
    common: dict[str, Any] = {"every": every, "record": record}

    def full(params, state, steps):
        return jf.iterate(optimizer, objective, params, steps=steps, state=state, **common)

    def sampled(members, states, steps):
        batch = settings.batch_size
        one = lambda member: jf.iterate(
            optimizer,
            objective,
            member[1],
            steps=steps,
            batch_size=batch,
            key=member[0],
            state=member[2],
            **common,
        )
        return jf.ensemble(one, (keys, members, states))

    name = settings.optimizer
    begin = jax.jit(lambda params: start(optimizer, params))
    members = jax.tree.map(lambda x: jnp.tile(x, (settings.seeds,) + (1,) * x.ndim), params)
    states = jax.tree.map(lambda x: jnp.tile(x, (settings.seeds,) + (1,) * x.ndim), begin(params))
    with Progress(("full batch", "mini-batches", "gradient flow")) as progress:
        discrete, time_full = iterate_in_chunks(full, params, begin(params), settings.steps, every, progress)
        batches, time_sampled = iterate_in_chunks(sampled, members, states, settings.steps, every, progress)
        flow, time_flow = flow_in_chunks(
            jf.dynamics.gradient_flow(objective), params, discrete.times, record, progress
        )

    runs = {
        f"{name}, full batch": (discrete, 1.0, time_full),
        f"{name}, batch {settings.batch_size}": (batches, settings.batch_size / objective.size, time_sampled),
        "gradient flow": (flow, 1.0, time_flow),
    }
    gaps = {
        label: jf.compare(_part(discrete, "params"), _part(r, "params")) for label, (r, _, _) in runs.items()
    }
    rows = [_row(label, problem, r, gaps[label], share, time) for label, (r, share, time) in runs.items()]
    score = "test accuracy" if jnp.issubdtype(problem.test["y"].dtype, jnp.integer) else "test R²"
    print(table(rows, score, settings.seeds))
    _write(settings, optimizer, runs, gaps, rows, score)
    print(f"Wrote comparison.png, summary.json and trajectories.npz to {settings.output}")
    return rows


def _observe(objective, params):
    return {"loss": objective(params), "params": params}


def _part(run: jf.Trajectory, name: str) -> jf.Trajectory:
    return dataclasses.replace(run, values=run.values[name])


def _row(label, problem, run: jf.Trajectory, gap: jf.Comparison, share: float, seconds: float) -> Row:
    """A line of the table: means over the members that are still finite."""
    score = jax.jit(jax.vmap(problem.score) if np.ndim(run.status) else problem.score)(run.params)
    good = ~np.atleast_1d(run.diverged)
    mean = lambda x: float(np.mean(np.atleast_1d(x)[good])) if good.any() else float("nan")
    gradients = share * float(np.max(run.evaluations))
    loss = np.asarray(run.values["loss"])[..., -1]
    return Row(label, mean(loss), mean(score), mean(gap.final), gradients, seconds, _status(run))


def _status(run: jf.Trajectory) -> str:
    """How the run ended; for iterates divergence is told by the step too."""
    if not np.any(run.status):
        return "finished"
    if not (np.ndim(run.status) == 0 and run.diverged and isinstance(run.state, jf.solve.IterationState)):
        return run.message
    share = float(np.searchsorted(run.times, run.stopped)) / (run.times.size - 1)
    return f"diverged by step {round(share * int(run.steps))} (t = {float(run.stopped):.6g})"


def table(rows: list[Row], score: str, seeds: int) -> str:
    """The rows as text."""
    head = ("method", "final loss", score, "distance from", "gradients", "seconds", "")
    under = ("", "", "", "the iterates", "(full-batch)", "", "")
    number = lambda x, form: "—" if not np.isfinite(x) else format(x, form)
    body = [
        (
            row.method + (f" ({seeds} seeds)" if "batch " in row.method and seeds > 1 else ""),
            number(row.final_loss, ".5f"),
            number(row.test_score, ".4f"),
            number(row.distance, ".4g"),
            number(row.gradients, ".0f"),
            number(row.seconds, ".2f"),
            "" if row.status == "finished" else row.status,
        )
        for row in rows
    ]
    lines = [head, under, *body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rule = "─" * (sum(widths[:-1]) + 2 * (len(widths) - 2))
    show = lambda line: "  ".join(
        cell.ljust(w) if i in (0, len(line) - 1) else cell.rjust(w)
        for i, (cell, w) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    return "\n".join([show(head), show(under), rule, *map(show, body)])


def _write(settings, optimizer, runs, gaps, rows, score) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    jf.plot.trajectories(
        {label: _part(r, "loss") for label, (r, _, _) in runs.items()}, left, label="training loss"
    )
    jf.plot.comparison(dict(list(gaps.items())[1:]), right)
    shape = "–".join(map(str, settings.hidden))
    figure.suptitle(f"{settings.data}, {settings.activation} network {shape}: {optimizer}", fontsize=11)
    results.write_figure(settings.output / "comparison.png", figure)
    plt.close(figure)
    arrays = {"times": next(iter(runs.values()))[0].times}
    for i, (label, (r, _, _)) in enumerate(runs.items()):
        slug = ("full_batch", "mini_batch", "gradient_flow")[i]
        arrays |= {f"{slug}/loss": r.values["loss"], f"{slug}/distance": gaps[label].distance}
        for path, leaf in jax.tree.leaves_with_path(r.params):
            arrays[f"{slug}/params{jax.tree_util.keystr(path)}"] = leaf
    results.write_arrays(settings.output / "trajectories.npz", arrays)
    summary = {
        "table": [dataclasses.asdict(row) for row in rows],
        "score": score,
        "settings": dataclasses.asdict(settings) | {"hyperparameters": _numbers(optimizer)},
        **results.provenance(),
    }
    results.write_json(settings.output / "summary.json", summary)


def _numbers(optimizer) -> dict[str, Any]:
    return {
        name: value if isinstance(value, (int, float, bool, str, type(None))) else repr(value)
        for name, value in jf.optim.hyperparameters(optimizer).items()
    }
