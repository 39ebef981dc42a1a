"""`python -m jaxflow edge`: past the edge of stability, the iterates and the flows that stand for them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import jaxflow as jf
from jaxflow import _check
from jaxflow._disk import results
from jaxflow._text.text_table import text_table
from jaxflow.commands.shared.progress import Progress
from jaxflow.commands.shared.training import Training, count
from jaxflow.commands.sweep.command import Refused
from jaxflow.comparison.edge.experiment import STAGES, run_study
from jaxflow.comparison.edge.results import NAMES, OF_CENTRAL, is_below_edge
from jaxflow.comparison.edge.study_plan import Plan, plan

# Shares of the whole time, about, on a small network.
SHARES = {
    "approach": 3.0,
    "iterates": 0.5,
    "stable flow": 1.5,
    "central flow": 5.0,
    "rod flow": 4.0,
    "pair flow": 5.0,
    "measures": 4.0,
}
# Rates at which the default network is soon past the edge.
RATES = {
    "gd": 0.35,
    "momentum": 0.5,
    "nesterov": 0.27,
    "rmsprop": 1e-3,
    "scalar_rmsprop": 0.02,
    "adam": 2e-3,
    "nadam": 2e-3,
}
TITLES = NAMES | {"iterates": "iterates (measured)", "central": "central flow (predicted)"}
FILES = ("edge.png", "summary.json", "trajectories.npz")


@dataclass(frozen=True)
class Edge(Training):
    """Follow an optimizer past the edge of stability, together with the flows that stand for it there.

    The stable flow is followed from random parameters until its effective sharpness (of the loss, divided by the
    preconditioner, in units in which the edge of stability is at 2) rises through the level. From there, on the clock
    t = steps × learning rate, the command runs the optimizer on all data; the stable flow, which leaves oscillations
    out; the flow of pairs of iterates and the rod flow, which follow them; and, for gd, scalar_rmsprop, rmsprop and
    adagrad, the central flow, which predicts their average. It computes in float64, prints a table, and
    writes edge.png, summary.json and trajectories.npz.
    """

    optimizer: str = "gd"
    """Any optimizer that `python -m jaxflow optimizers` lists."""
    learning_rate: float | None = None
    """Learning rate: the time of a step. Default: .35 for gd, .5 for momentum, .002 for adam, else the usual one."""
    steps: int = 500
    """Steps of the optimizer, after the approach."""
    modes: int = 3
    """Leading eigenvalues that are measured and that the central flow follows; include all that may oscillate."""
    order: int = 2
    """Order of the flow of pairs, from 1 to 8; for momentum above .8 and for Adam take 1 or 2."""
    level: float = 1.8
    """Effective sharpness at which to begin; 0 to begin at the random parameters."""
    hidden: tuple[int, ...] = (16, 16, 16)
    """Widths of the hidden layers."""
    loss: str | None = "mse"
    """cross_entropy or mse."""
    examples: int = 400
    """The number of training examples: the first ones of the data, or all if there are fewer."""
    seed: int = 2
    """Seed of the initial parameters."""
    output: Path = Path("results/edge")
    """Folder for the results."""
    batch_size: tyro.conf.Suppress[int] = 1
    x64: tyro.conf.Suppress[bool] = True


def prepare(settings: Edge) -> tuple[Plan]:
    """What will be studied; every bad setting is refused here, before anything compiles."""
    _check.require_integer("examples", settings.examples, 1)
    count("steps", settings.steps)
    _check.require_nonnegative(level=settings.level)
    results.check_folder(settings.output, *FILES)
    rate = settings.learning_rate
    rate = RATES.get(settings.optimizer) if rate is None else rate
    problem, optimizer = dataclasses.replace(settings, learning_rate=rate).make()
    whole: Any = problem.objective
    objective = jf.Objective(whole.losses, jax.tree.map(lambda leaf: leaf[: settings.examples], whole.data))
    level = settings.level or None
    chosen = plan(
        optimizer=optimizer,
        objective=objective,
        params=problem.params,
        steps=settings.steps,
        modes=settings.modes,
        order=settings.order,
        level=level,
    )
    return (chosen,)


def run(settings: Edge, chosen: Plan) -> jf.EdgeStudy:
    """Study what `prepare` made; print and write everything."""
    size = sum(leaf.size for leaf in jax.tree.leaves(chosen.params))
    objective: Any = chosen.objective
    what = f"{settings.data}: {objective.size} training examples, {size} parameters; {chosen.optimizer}"
    print(f"{what}, in float64", flush=True)
    study, seconds = _study(chosen)
    rows = _rows(study, seconds)
    _write(settings, chosen, study, rows, seconds)
    if study.approach_times.size:
        print(
            f"Effective sharpness {float(np.asarray(study.approach_sharpness)[-1]):.4g} reached at "
            f"t = {float(np.asarray(study.approach_times)[-1]):.6g} of the stable flow, where all begin."
        )
    print(f"\n{_table(rows)}\n\n{_findings(study)}")
    print(f"Wrote edge.png, summary.json and trajectories.npz to {settings.output}")
    return study


def _study(chosen: Plan) -> tuple[jf.EdgeStudy, dict[str, float]]:
    """The study behind one bar, and the seconds of its stages."""
    planned = {"approach": chosen.level is not None, "central flow": chosen.central}
    shares = {name: share for name, share in SHARES.items() if planned.get(name, True)}
    seconds = {}

    with Progress(shares) as progress:

        def watch(stage: str, done: float) -> None:
            if stage not in seconds:
                progress.start()
            seconds[stage] = progress.seconds
            progress.reach(done)

        try:
            return run_study(chosen, watch), seconds
        except ValueError as error:
            if set(seconds) == {"approach"}:  # the level is not reached, which only trying tells
                raise Refused(str(error)) from None
            raise


def _rows(study: jf.EdgeStudy, seconds: dict[str, float]) -> list[dict[str, Any]]:
    """The table's lines: means over the last half of the time, the distance at the end."""
    half = study.times.size // 2
    late = lambda values: float(np.mean(np.asarray(values)[half:]))
    rows = []
    for kind, path in {"iterates": study.iterates, **study.flows}.items():
        stage = STAGES.get(kind, kind)
        rows.append(
            {
                "path": TITLES[kind],
                "loss": late(path.loss),
                "squared_gradient": late(path.squared_gradient),
                "sharpness": late(np.asarray(path.eigenvalues)[:, 0]),
                "distance": float(np.asarray(path.distance)[-1]) if kind != "iterates" else None,
                "seconds": seconds[stage],
            }
        )
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, with the ratios to the first."""
    number = lambda x, form: "—" if x is None or not np.isfinite(x) else format(x, form)
    head = ("", "loss", "of the", "effective", "distance at the", "seconds")
    under = ("", "(last half)", "iterates'", "sharpness", "end from iterates", "")
    first, stable = rows[0]["loss"], rows[1]["distance"]
    body = []
    for row in rows:
        far = number(row["distance"], ".4g")
        if row is not rows[0] and row is not rows[1]:
            far = (
                f"{far} ({number(row['distance'] / stable if stable else None, '.3f')} of the stable flow's)"
            )
        numbers = (
            number(row["loss"], ".5g"),
            number(row["loss"] / first, ".4f"),
            number(row["sharpness"], ".3f"),
        )
        body.append((row["path"], *numbers, far, number(row["seconds"], ".1f")))
    return text_table([head, under, *body], head=2)


def _findings(study: jf.EdgeStudy) -> str:
    """The edge, and what the central flow spent on it."""
    paths = {"iterates": study.iterates, **study.flows}
    lost = [NAMES[name] for name, path in paths.items() if not np.isfinite(np.asarray(path.loss)).all()]
    diverged = f" Not finite to the end: {', '.join(lost)}." if lost else ""
    edge = f"The edge of stability is at effective sharpness 2{_unreached_sentence(study)}.{diverged}"
    told: Any = study
    if study.central is None:
        return edge
    return (
        f"{edge}\nThe central flow took {int(told.substeps)} substeps, {int(told.products)} Hessian products and "
        f"{int(told.third_derivatives)} third derivatives; residuals {float(told.eigenvector_residual):.1g} of its "
        f"eigenvectors, {float(told.complementarity_residual):.1g} of its complementarity problems."
    )


def _unreached_sentence(study: jf.EdgeStudy) -> str:
    """What to say of a study that stayed below the edge."""
    if not is_below_edge(study):
        return ""
    most = float(np.asarray(study.iterates.eigenvalues).max())
    more = f"more than {2 / most:.3g} times as large " if most > 0 else ""
    return (
        f" and was not reached: the iterates' was {most:.4g} at most, where the flows are one; more steps or a "
        f"learning rate {more}may reach it"
    )


def _write(settings: Edge, chosen: Plan, study: jf.EdgeStudy, rows, seconds) -> None:
    """The arrays, the summary and the figure."""
    names = ["times", "averaged_loss", "averaged_squared_gradient", *["covariance"] * chosen.central]
    arrays: dict[str, Any] = {name: getattr(study, name) for name in names}
    arrays |= {f"approach/{name}": getattr(study, f"approach_{name}") for name in ("times", "sharpness")}
    for kind, path in {"iterates": study.iterates, **study.flows}.items():
        for name in ("loss", "squared_gradient", "eigenvalues", "distance"):
            arrays[f"{kind}/{name}"] = getattr(path, name)
        for where, leaf in jax.tree.leaves_with_path(path.params):
            arrays[f"{kind}/params{jax.tree_util.keystr(where)}"] = leaf
    results.write_arrays(settings.output / "trajectories.npz", arrays)
    ratios = (
        "reached",
        "left",
        "loss_ratio",
        "stable_loss_ratio",
        "squared_gradient_ratio",
        "squared_gradient_total_ratio",
        "distance_ratio",
        "sharpness",
    )
    summary = {
        "table": rows,
        "threshold": 2.0,
        **{name: getattr(study, name) for name in ratios},
        **{name: getattr(study, name) for name in ("loss_ratios", "distance_ratios")},
        "central_flow": {name: getattr(study, name) for name in OF_CENTRAL} if chosen.central else None,
        "approach_time": np.asarray(study.approach_times)[-1] if study.approach_times.size else None,
        "window": study.window,
        "seconds": seconds,
        "settings": dataclasses.asdict(settings)
        | {"hyperparameters": jf.optim.hyperparameters(chosen.optimizer)},
        **results.provenance(),
    }
    results.write_json(settings.output / "summary.json", summary)
    _figure(settings, chosen, study)


def _figure(settings: Edge, chosen: Plan, study: jf.EdgeStudy) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(16, 5), layout="constrained")
    jf.plot.edge(study, list(panels))
    shape = "–".join(map(str, settings.hidden))
    figure.suptitle(
        f"{settings.data}, {settings.activation} network {shape}: {chosen.optimizer}", fontsize=11
    )
    results.write_figure(settings.output / "edge.png", figure)
    plt.close(figure)
