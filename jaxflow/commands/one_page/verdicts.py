"""What the results of each command amount to, in sentences, and values of JSON as text."""

from typing import Any

from jaxflow.commands.sweep.cells import number_of
from jaxflow.comparison.edge.results import NAMES


def show(value: Any) -> str:
    """A value of JSON as text: numbers to five digits, and a dash for what was not finite or not there."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ", ".join(map(show, value)) if len(value) <= 12 else f"{len(value)} values"
    if isinstance(value, dict):
        return "; ".join(f"{name} {show(one)}" for name, one in value.items())
    return str(value)


def judge_compare(content: dict[str, Any]) -> list[str]:
    """Whether the SDE describes the runs."""
    verdict = content["verdict"]
    if verdict is None:
        return []
    return [f"No verdict on the SDE: {verdict}" if isinstance(verdict, str) else verdict["sentence"]]


def judge_density(content: dict[str, Any]) -> list[str]:
    """Whether the runs and the paths have the density."""
    names = {"sgd": "Runs of SGD", "sde": "Paths of the SDE"}
    return [f"{names.get(name, name)}: {one['sentence']}" for name, one in content["verdicts"].items()]


def judge_edge(content: dict[str, Any]) -> list[str]:
    """How well the central flow, or without one the flow of pairs, predicts the iterates."""
    flow = NAMES["pairs" if content["central_flow"] is None else "central"]
    return [
        f"Mean loss over the last half of the time, over that of the iterates: predicted by the {flow} "
        f"{show(content['loss_ratio'])}, of the stable flow {show(content['stable_loss_ratio'])}. "
        f"Last distance of the {flow} from the iterates, over the stable flow's: "
        f"{show(content['distance_ratio'])}."
    ]


def judge_landscape(content: dict[str, Any]) -> list[str]:
    """What lies between two networks."""
    barriers = {name: path["barrier"]["train"] for name, path in content["paths"].items()}
    told = ", ".join(f"{name} {show(barrier)}" for name, barrier in barriers.items())
    return [f"Barrier of the training loss between the first two networks: {told}."]


def judge_order(content: dict[str, Any]) -> list[str]:
    """The slopes of the modified equations."""
    fits = content["orders"].items()
    return [
        f"Order {order}: slope {show(fit['slope'])} ± {show(fit['uncertainty'])}, expected {order}."
        for order, fit in fits
    ]


def judge_sweep(content: dict[str, Any]) -> list[str]:
    """The best cell, what diverged, and where the SDE holds."""
    winner, sde = content["best"], content.get("sde")
    told = ["No cell finished with all its seeds."]
    if winner is not None:
        told = [
            f"Best: learning rate {show(winner['learning_rate'])}, batch {winner['batch_size']}: loss "
            f"{show(winner['final_loss'])}, {content['score']} {show(winner['test_score'])}."
        ]
    told.append(f"Diverged: {content['diverged']} of {number_of(content['trials'], 'run')}.")
    if sde is not None:
        told.append(
            f"The SDE's law is told apart from that of the runs in {sde['apart']} of {sde['cells']} cells."
        )
    return told


def judge_experiment(content: dict[str, Any]) -> list[str]:
    """How many claims were reached."""
    verdicts = [line.get("reached") for line in content["headlines"].values()]
    claims = len(verdicts) - verdicts.count(None)
    form = " (the quick version)" if content.get("quick") else ""
    return [f"{verdicts.count(True)} of {number_of(claims, 'claim')} reached{form}."] if claims else []
