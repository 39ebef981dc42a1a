"""`python -m jaxflow order`: the orders at which an optimizer's modified equations approach its iterates."""

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

import jaxflow as jf
from jaxflow import _check
from jaxflow._disk import results
from jaxflow.commands.shared.interruption import NOTHING, keep_on_interrupt
from jaxflow.commands.shared.progress import Progress
from jaxflow.commands.shared.training import Training
from jaxflow.comparison.orders.modified_equations import fit_each_order
from jaxflow.comparison.orders.study_plan import plan
from jaxflow.optim.rules.families import Family

FILES = ("order.png", "order.json")


@dataclass(frozen=True)
class Orders(Training):
    """Measure the order of an optimizer's modified equations: how fast their error falls with the step size.

    The optimizer is run at eight step sizes. Its decay rates and its learning rate are scaled so that its iterates
    keep one limit. After a warm-up it is compared with the modified equation of each order p, whose error should fall
    as h^p. The command computes in float64, as these errors are soon below what float32 resolves, prints a table of
    errors and slopes, and writes order.png and order.json.
    """

    optimizer: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[NAME]")] = "adam"
    """Any optimizer that `python -m jaxflow optimizers` lists, if it has such a limit."""
    orders: tuple[int, ...] = (1, 2, 3, 4)
    """Orders of the modified equations, 1 to 8."""
    time: float | None = None
    """The time over which both are compared; the steps are time/80 down to time/960. Default: 40 learning rates."""
    warmup: float | None = None
    """The time before that, for the warm-up. Default: time/2."""
    hidden: tuple[int, ...] = (16,)
    """Widths of the hidden layers."""
    examples: int = 300
    """The number of training examples: the first ones of the data, or all if there are fewer."""
    output: Path = Path("results/order")
    """Folder for the results."""
    batch_size: tyro.conf.Suppress[int] = 1
    x64: tyro.conf.Suppress[bool] = True


def prepare(settings: Orders) -> tuple[jf.Objective, Any, Family]:
    """The objective, the parameters and the family; every bad setting is refused here."""
    _check.require_integer("examples", settings.examples, 1)
    results.check_folder(settings.output, *FILES)
    problem, optimizer = settings.make()
    family = jf.family_of(optimizer)
    plan(family, problem.params, settings.orders, settings.time, settings.warmup)
    objective: Any = problem.objective
    some = jax.tree.map(lambda leaf: leaf[: settings.examples], objective.data)
    return jf.Objective(objective.losses, some), problem.params, family


def run(settings: Orders, objective: jf.Objective, params: Any, family: Family) -> jf.OrderStudy:
    """Study what `prepare` made, order by order; print and write everything."""
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    what = f"{settings.data}: {objective.size} training examples, {size} parameters; {family.optimizer}"
    print(f"{what}, in float64", flush=True)
    study, said = _study(settings, objective, params, family)
    _write(settings, study, family, said)
    for message in said:
        print(f"Note: {message}")
    print(f"\nError over the distance travelled, and its slope:\n{study}")
    print(f"Wrote order.png and order.json to {settings.output}")
    return study


def _study(settings: Orders, objective, params, family) -> tuple[jf.OrderStudy, list[str]]:
    """The study, with a bar that moves at each order, and the warnings given."""
    chosen = plan(family, params, settings.orders, settings.time, settings.warmup)
    parts: list[Any] = []
    with (
        keep_on_interrupt(lambda: _keep(settings, parts, family, _messages(caught))),
        warnings.catch_warnings(record=True) as caught,
        Progress({f"order {order}": 1.0 for order in chosen.orders}) as progress,
    ):
        warnings.simplefilter("always")
        progress.start()
        for part in fit_each_order(chosen, family, objective, params):
            parts.append(part)
            progress.reach(1.0)
            if len(parts) < len(chosen.orders):
                progress.start()
    return jf.OrderStudy.of(parts), _messages(caught)


def _messages(caught: list[warnings.WarningMessage]) -> list[str]:
    return list(dict.fromkeys(str(warning.message) for warning in caught))


def _keep(settings: Orders, parts: list[Any], family: Family, said: list[str]) -> str:
    """Write the orders that are finished when the command is interrupted, and say which they are."""
    if not parts:
        return NOTHING
    study = jf.OrderStudy.of(parts)
    _write(settings, study, family, said)
    return f"Kept in {settings.output}: {' and '.join(FILES)} of order {', '.join(map(str, study.fits))}."


def _write(settings: Orders, study: jf.OrderStudy, family: Family, said: list[str]) -> None:
    hyperparameters = jf.optim.hyperparameters(family.optimizer)
    summary = {
        "step_sizes": next(iter(study.fits.values())).step_sizes,
        "orders": {
            order: {
                "slope": fit.slope,
                "uncertainty": fit.uncertainty,
                "errors": fit.errors,
                "fitted": study.used[order],
            }
            for order, fit in study.fits.items()
        },
        "notes": said,
        "settings": dataclasses.asdict(settings) | {"hyperparameters": hyperparameters},
        **results.provenance(),
    }
    results.write_json(settings.output / "order.json", summary)
    _figure(settings, study, family)


def _figure(settings: Orders, study: jf.OrderStudy, family: Family) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 5), layout="constrained")
    jf.plot.order(study, ax)
    ax.set_ylabel("error / distance travelled")
    ax.set_title(f"{settings.data}, {settings.activation} network: {family.optimizer}", fontsize=9)
    results.write_figure(settings.output / "order.png", figure)
    plt.close(figure)
