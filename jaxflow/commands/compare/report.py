"""What the main job says of its runs: the table, the temperature and verdict, the figure, the files."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxflow as jf
from jaxflow._disk import results
from jaxflow._text.text_table import text_table
from jaxflow.commands.shared.interruption import NOTHING
from jaxflow.commands.shared.programs import jit_once
from jaxflow.commands.shared.training import score_name
from jaxflow.optim.rules.batch_size import linear
from jaxflow.optim.table import formula_of
from jaxflow.solve.trajectories.trajectory import FINISHED

ARRAYS = "trajectories.npz"
FILES = ("comparison.png", "summary.json", ARRAYS)


class Timed(NamedTuple):
    """A run with the name to show, the share of the data a gradient of it takes, and its seconds."""

    label: str
    run: jf.Trajectory
    share: float
    seconds: float


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


def part(run: jf.Trajectory, name: str) -> jf.Trajectory:
    """The run with one of the things it recorded."""
    return dataclasses.replace(run, values=run.values[name])


def distances(runs: dict[str, Timed]) -> dict[str, jf.Comparison]:
    """Each run's distance in parameters from the full-batch iterates."""
    # Without what is not compared all single runs are of one type, and so are all ensembles: two programs.
    rest = dict.fromkeys(("params", "state", "steps", "evaluations", "stopped"), ())
    bare = lambda run: jax.device_get(dataclasses.replace(part(run, "params"), **rest))
    iterates, compare = bare(runs["full_batch"].run), jit_once(jf.compare)
    return {name: jax.device_get(compare(iterates, bare(timed.run))) for name, timed in runs.items()}


def rows(problem: Any, runs: dict[str, Timed], gaps: dict[str, jf.Comparison]) -> list[Row]:
    """The lines of the table."""
    found = scores(problem, runs)
    return [_row(timed, gaps[name], found[name]) for name, timed in runs.items()]


def scores(problem: Any, runs: dict[str, Timed]) -> dict[str, np.ndarray]:
    """Each run's score at its end, one for each member; all of them by one program."""
    several = lambda run: jax.tree.map(
        lambda x: np.asarray(x)[None] if np.ndim(run.status) == 0 else x, run.params
    )
    ends = [several(timed.run) for timed in runs.values()]
    every = jit_once(jax.vmap(problem.score))(jax.tree.map(lambda *xs: np.concatenate(xs), *ends))
    sizes = [np.size(timed.run.status) for timed in runs.values()]
    return dict(zip(runs, np.split(np.asarray(every), np.cumsum(sizes)[:-1]), strict=True))


def _row(timed: Timed, gap: jf.Comparison, score: np.ndarray) -> Row:
    """A line of the table: means over the members that reached the last time."""
    run = timed.run
    good = np.atleast_1d(run.status) == FINISHED
    mean = lambda x: float(np.mean(np.atleast_1d(x)[good])) if good.any() else float("nan")
    gradients = timed.share * float(np.asarray(run.evaluations).max())
    loss = np.asarray(run.values["loss"])[..., -1]
    numbers = mean(loss), mean(score), mean(gap.final), gradients, timed.seconds
    return Row(timed.label, *numbers, _status(run))


def _status(run: jf.Trajectory) -> str:
    """How the run ended; for iterates a divergence names the step too."""
    if not np.asarray(run.status).any():
        return "finished"
    if not (np.ndim(run.status) == 0 and run.diverged and isinstance(run.state, jf.solve.IterationState)):
        return run.message
    share = float(np.searchsorted(run.times, run.stopped)) / (run.times.size - 1)
    return f"diverged by step {round(share * int(run.steps))} (t = {float(run.stopped):.6g})"


def table(rows: list[Row], score: str) -> str:
    """The rows as text."""
    head = ("method", "final loss", score, "distance from", "gradients", "seconds", "")
    under = ("", "", "", "the iterates", "(full-batch)", "", "")
    number = lambda x, form: "—" if not np.isfinite(x) else format(x, form)
    body = [
        (
            row.method,
            number(row.final_loss, ".5f"),
            number(row.test_score, ".4f"),
            number(row.distance, ".4g"),
            number(row.gradients, ".0f"),
            number(row.seconds, ".2f"),
            "" if row.status == "finished" else row.status,
        )
        for row in rows
    ]
    return text_table([head, under, *body], head=2, left=(0, len(head) - 1))


def temperature_of(settings: Any, optimizer: jf.optim.Optimizer) -> float | None:
    """The temperature of the mini-batch runs; `None` where the optimizer has no such number."""
    chosen = jf.optim.hyperparameters(optimizer)
    # The linear rule of batch sizes keeps a temperature; other rules keep something else.
    if formula_of(optimizer, "scaling") is not linear or "weight_decay" in chosen:
        return None
    beta = 0.0 if chosen.get("ema") else chosen.get("beta", 0.0)
    return float(jf.temperature(chosen["learning_rate"], settings.batch_size, beta=beta))


def say(settings: Any, optimizer: Any, noise: tuple[jf.NoiseScale, jf.NoiseScale], verdict: Any) -> None:
    """Print the temperature, the noise scale and the verdict."""
    temperature = temperature_of(settings, optimizer)
    if temperature is not None:
        print(f"\nTemperature T = {temperature:.4g} (learning rate {settings_rate(optimizer):g}, ", end="")
        print(f"batch {settings.batch_size}).")
    first, last = (float(scale.simple) for scale in noise)
    print(f"Noise scale tr Σ/|∇L|²: {first:.4g} at the start, {last:.4g} at the end of the full-batch run.")
    if verdict is not None:
        text = f"No verdict on the SDE: {verdict}" if isinstance(verdict, str) else str(verdict)
        print(f"\nRuns against paths of the SDE, at the last time:\n{text}")


def settings_rate(optimizer: Any) -> float:
    """The learning rate of an optimizer from the command line, a number."""
    return float(jf.optim.hyperparameters(optimizer)["learning_rate"])


def keep(settings: Any, runs: dict[str, Timed]) -> str:
    """Write the runs that are finished when the command is interrupted, and say which they are."""
    if not runs:
        return NOTHING
    results.write_arrays(settings.output / ARRAYS, _arrays(runs, distances(runs)))
    return f"Kept in {settings.output / ARRAYS}: {'; '.join(timed.label for timed in runs.values())}."


def write(settings, *, problem, optimizer, runs: dict[str, Timed], gaps, rows, noise, verdict) -> None:
    """The arrays, the summary and the figure."""
    results.write_arrays(settings.output / ARRAYS, _arrays(runs, gaps))
    summary = {
        "table": [dataclasses.asdict(row) for row in rows],
        "score": score_name(problem),
        "classes": problem.classes,
        "temperature": temperature_of(settings, optimizer),
        "noise_scale": {
            name: {"trace": scale.trace, "squared_gradient": scale.squared_gradient, "simple": scale.simple}
            for name, scale in zip(("start", "end"), noise, strict=True)
        },
        "verdict": _verdict_numbers(verdict),
        "settings": dataclasses.asdict(settings) | {"hyperparameters": _numbers(optimizer)},
        **results.provenance(),
    }
    results.write_json(settings.output / "summary.json", summary)
    _figure(settings, problem, optimizer, runs, gaps)


def _arrays(runs: dict[str, Timed], gaps: dict[str, jf.Comparison]) -> dict[str, Any]:
    """Losses, distances and last parameters by the name of their run."""
    arrays: dict[str, Any] = {"times": runs["full_batch"].run.times}
    for name, timed in runs.items():
        arrays |= {f"{name}/loss": timed.run.values["loss"], f"{name}/distance": gaps[name].distance}
        for path, leaf in jax.tree.leaves_with_path(timed.run.params):
            arrays[f"{name}/params{jax.tree_util.keystr(path)}"] = leaf
    return arrays


def _verdict_numbers(verdict: Any) -> Any:
    """The verdict's numbers by the names of its statistics."""
    if verdict is None or isinstance(verdict, str):
        return verdict
    columns = {name: getattr(verdict, name) for name in ("gap", "standard_error", "low", "high")}
    return {
        "sentence": verdict.verdict,
        "differ": verdict.differ,
        "p_value": verdict.p_value,
        "diverged": verdict.diverged,
        "statistics": {
            name: {column: values[i] for column, values in columns.items()}
            for i, name in enumerate(verdict.names)
        },
    }


def _figure(settings, problem, optimizer, runs: dict[str, Timed], gaps) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 5), layout="constrained")
    losses = {timed.label: part(timed.run, "loss") for timed in runs.values()}
    jf.plot.trajectories(losses, left, label="training loss")
    # The losses nearly coincide; their ratios show the bands.
    first = np.asarray(runs["full_batch"].run.values["loss"])
    first = np.where(np.isfinite(first) & (first != 0), first, np.nan)  # a run may diverge
    finite = lambda loss: np.where(np.isfinite(loss), loss, np.nan)
    ratio = lambda run: dataclasses.replace(run, values=finite(run.values) / first - 1)
    label = "loss / loss of the full batch − 1"
    jf.plot.trajectories({name: ratio(run) for name, run in losses.items()}, middle, log=False, label=label)
    jf.plot.comparison({runs[name].label: gap for name, gap in list(gaps.items())[1:]}, right)
    # A modified flow begins with the iterates themselves, up to rounding, which is not to be looked at.
    right.set_ylim(bottom=max(right.get_ylim()[0], 1e-6 * right.get_ylim()[1]))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    for ax in (left, middle, right):
        ax.get_legend().remove()
    shape = "–".join(map(str, settings.hidden))
    figure.suptitle(
        f"{settings.describe(problem)}, {settings.activation} network {shape}: {optimizer}", fontsize=11
    )
    results.write_figure(settings.output / "comparison.png", figure)
    plt.close(figure)


def _numbers(optimizer) -> dict[str, Any]:
    return {
        name: value if isinstance(value, (int, float, bool, str, type(None))) else repr(value)
        for name, value in jf.optim.hyperparameters(optimizer).items()
    }
