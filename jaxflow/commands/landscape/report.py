"""What the command says: a heading, the tables, sentences on planes and paths; and the files it writes."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxflow._disk import results
from jaxflow._text.text_table import text_table
from jaxflow.commands.landscape import pictures
from jaxflow.commands.landscape.between_two import Along, Paths
from jaxflow.commands.landscape.networks import Runs
from jaxflow.commands.landscape.planes import Plane
from jaxflow.commands.shared.interruption import NOTHING
from jaxflow.commands.shared.training import score_name

ARRAYS = "landscape.npz"
FILES = ("landscape.png", "summary.json", ARRAYS)


class Found(NamedTuple):
    """All that the command finds."""

    runs: Runs
    ends: list[dict[str, float]]
    paths: Paths
    along: dict[str, Along]
    slices: dict[str, Plane]


def heading(settings: Any, problem: Any, optimizer: Any, size: int) -> str:
    """What is about to be run."""
    trained = f"{settings.networks} networks of {size} parameters, penalty {settings.penalty:g}·|θ|²"
    steps = (
        f"{settings.steps} steps on mini-batches of {settings.batch_size}, then {settings.settle} on all data"
    )
    examples = f"{problem.objective.size} training examples"
    return f"{settings.describe(problem)}: {examples}, {trained}\n{optimizer}: {steps}"


def text(problem: Any, found: Found) -> str:
    """The tables and the sentences under them."""
    ends, between = _ends(problem, found), _rows_between(problem, found)
    return "\n\n".join([text_table(ends, head=1), text_table(between, head=2), _sentences(found)])


def _ends(problem: Any, found: Found) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("network", "training loss", "test loss", score_name(problem), "gradient norm")
    ]
    for i, at in enumerate(found.ends):
        losses = (f"{at[name]:.5f}" for name in ("training_loss", "test_loss"))
        rows.append((str(i + 1), *losses, f"{at['score']:.4f}", f"{at['gradient_norm']:.2g}"))
    return rows


def _rows_between(problem: Any, found: Found) -> list[tuple[str, ...]]:
    rows = [
        (
            "path from 1 to 2",
            "length",
            "barrier of the",
            "barrier of the",
            f"lowest {score_name(problem)}",
            "below the",
        ),
        ("", "", "training loss", "test loss", "", "lower end"),
    ]
    for name, path in found.paths.paths_by_name().items():
        along = found.along[name]
        rows.append(
            (
                name,
                f"{float(path.arclength[-1]):.4g}",
                f"{along.barrier('train'):.4g}",
                f"{along.barrier('test'):.4g}",
                f"{along.test_score.min():.4f}",
                f"{along.drop('test_score'):.4f}",
            )
        )
    return rows


def _sentences(found: Found) -> str:
    """What the planes hold, and what the alignment did."""
    shares = lambda name: ", ".join(f"{float(on.share):.2g}" for on in found.slices[name].paths.values())
    directions = found.slices["random"].slice.directions
    return "\n".join(
        [
            f"Of the motion of the runs the random plane holds {shares('random')}, and the plane through three "
            f"minima {shares('minima')}.",
            f"Random plane: {directions.message}.",
            f"Alignment: {found.paths.alignment.message}.",
            f"Bent: {found.paths.bent.message}.",
        ]
    )


def keep(settings: Any, found: dict[str, Any]) -> str:
    """Write what is finished when the command is interrupted, and say what it is."""
    if not found:
        return NOTHING
    results.write_arrays(settings.output / ARRAYS, _arrays(found))
    names = {
        "runs": "the runs",
        "ends": "their ends",
        "paths": "the paths",
        "along": "losses along them",
        "slices": "the slices",
    }
    return f"Kept in {settings.output / ARRAYS}: {', '.join(names[name] for name in found)}."


def _arrays(found: dict[str, Any]) -> dict[str, Any]:
    """All numbers, by names such as `paths/bent/0/w`."""
    arrays: dict[str, Any] = {}

    def put(prefix: str, tree: Any) -> None:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            arrays[f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}".rstrip("/")] = leaf

    put("runs", found["runs"].values)
    arrays["steps"] = np.asarray(found["runs"].steps)
    if "paths" in found:
        for name, path in found["paths"].paths_by_name().items():
            put(f"paths/{name}", path.params)
            arrays[f"paths/{name}/losses"] = path.losses
            arrays[f"paths/{name}/arclength"] = path.arclength
        for i, order in enumerate(found["paths"].alignment.permutations):
            arrays[f"permutation/{i}"] = order
    for name, along in found.get("along", {}).items():
        for what, values in along._asdict().items():
            arrays[f"along/{name}/{what}"] = values
    for name, (plane, on) in found.get("slices", {}).items():
        arrays[f"slices/{name}/losses"] = plane.losses
        for i, x in enumerate(plane.coordinates):
            arrays[f"slices/{name}/x{i + 1}"] = x
        put(f"slices/{name}/directions", plane.directions.vectors)
        for label, projection in on.items():
            arrays[f"slices/{name}/{label}"] = projection.coordinates
    return arrays


def write(settings: Any, problem: Any, found: Found) -> None:
    """The arrays, the summary and the figure."""
    results.write_arrays(settings.output / ARRAYS, _arrays(found._asdict()))
    results.write_json(settings.output / "summary.json", _summary(settings, problem, found))
    results.write_figure(settings.output / "landscape.png", pictures.figure(settings, problem, found))


def _summary(settings: Any, problem: Any, found: Found) -> dict[str, Any]:
    paths = {}
    for name, path in found.paths.paths_by_name().items():
        along = found.along[name]
        paths[name] = {
            "length": path.arclength[-1],
            "barrier": {"train": along.barrier("train"), "test": along.barrier("test")},
            "lowest_test_score": along.test_score.min(),
            "test_score_below_the_lower_end": along.drop("test_score"),
            "message": path.message,
        }
    return {
        "data": settings.data,
        "score": score_name(problem),
        "networks": found.ends,
        "paths": paths,
        "alignment": found.paths.alignment.message,
        "share_of_motion": {
            name: {label: on.share for label, on in plane.paths.items()}
            for name, plane in found.slices.items()
        },
        "settings": dataclasses.asdict(settings),
        **results.provenance(),
    }
