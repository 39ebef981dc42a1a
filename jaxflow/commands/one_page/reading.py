"""Which command wrote a folder, and what it found there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxflow.commands.one_page import verdicts


class Kind(NamedTuple):
    """The results of a command: how its JSON is known, its pictures with their texts, and its verdict."""

    name: str
    known_by: frozenset[str]
    pictures: dict[str, str]
    verdict: Callable[[dict[str, Any]], list[str]]


class Results(NamedTuple):
    """The results in a folder; `pictures` are paths with their alternative texts."""

    kind: Kind
    title: str
    content: dict[str, Any]
    pictures: dict[Path, str]


OF_EXPERIMENT = ("experiment", "headlines", "quick", "seconds", "versions", "device", "x64")
KINDS = (
    Kind(
        "compare",
        frozenset({"table", "noise_scale", "verdict"}),
        {
            "comparison.png": "Losses of the iterates, the flows and the SDE, and their distances from the iterates"
        },
        verdicts.judge_compare,
    ),
    Kind(
        "density",
        frozenset({"at_rest", "over_time", "verdicts"}),
        {
            "density.png": "The density at several times, with the runs of SGD and the paths of its SDE",
            "density.gif": "The density as it moves, with the runs of SGD",
        },
        verdicts.judge_density,
    ),
    Kind(
        "edge",
        frozenset({"table", "central_flow", "loss_ratio"}),
        {"edge.png": "Loss, effective sharpness and distance of the iterates and of the flows"},
        verdicts.judge_edge,
    ),
    Kind(
        "landscape",
        frozenset({"networks", "paths", "alignment"}),
        {"landscape.png": "The loss on three planes with the runs, and along the paths between two networks"},
        verdicts.judge_landscape,
    ),
    Kind(
        "order",
        frozenset({"orders", "step_sizes"}),
        {"order.png": "Errors of the modified equations against the step size, with the slopes fitted"},
        verdicts.judge_order,
    ),
    Kind(
        "sweep",
        frozenset({"best", "diverged", "trials"}),
        {
            "sweep.png": "Maps over learning rate and batch size: loss, distance from gradient flow and from the SDE"
        },
        verdicts.judge_sweep,
    ),
    Kind("experiment", frozenset({"experiment", "headlines"}), {}, verdicts.judge_experiment),
)


def read_results(folder: Path) -> Results:
    """The results in a folder. Raises `ValueError`, in a sentence, where it holds none, several or others."""
    if not folder.is_dir():
        there = "is a file" if folder.exists() else "is not there"
        raise ValueError(f"folder must be the output folder of a command, but {str(folder)!r} {there}.")
    files = sorted(folder.glob("*.json"))
    known = [(path, *told) for path in files if (told := _recognize(path)) is not None]
    if not files:
        raise ValueError(
            f"folder must hold the results of a command, but {str(folder)!r} holds no JSON file."
        )
    if not known:
        names = ", ".join(path.name for path in files)
        raise ValueError(
            f"folder must hold the results of a command, but {names} is in a format that report does not know."
        )
    if len(known) > 1:
        names = ", ".join(path.name for path, *_ in known)
        raise ValueError(f"folder must hold the results of one command, but has those of several: {names}.")
    ((_, kind, content),) = known
    name = content.get("experiment", kind.name)
    if kind.name == "experiment":  # without the numbers behind the figure
        content = {part: content[part] for part in OF_EXPERIMENT if part in content}
    texts = kind.pictures or {f"{name}.png": f"The figure of the experiment {name}"}
    pictures = {folder / file: text for file, text in texts.items() if (folder / file).is_file()}
    if not pictures:
        raise ValueError(
            f"folder must hold the figure {next(iter(texts))} too, and {str(folder)!r} does not."
        )
    return Results(kind, f"jaxflow {name}" if kind.pictures else name, content, pictures)


def _recognize(path: Path) -> tuple[Kind, dict[str, Any]] | None:
    """The command that wrote a JSON file, with what the file holds; `None` where it was none of ours."""
    try:
        content = json.loads(path.read_text())
    except ValueError:  # no JSON, or no text
        return None
    if not (isinstance(content, dict) and isinstance(content.get("versions"), dict)):
        return None
    return next(((kind, content) for kind in KINDS if kind.known_by <= content.keys()), None)
