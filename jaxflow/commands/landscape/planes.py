"""The three planes that the command draws, with what is projected on them."""

from typing import Any, NamedTuple

import jax

import jaxflow as jf
from jaxflow.commands.landscape.between_two import bend_of
from jaxflow.commands.landscape.networks import network
from jaxflow.landscape import Projection, Slice, between, project, random_directions


class Plane(NamedTuple):
    """A slice, and the paths on it by name."""

    slice: Slice
    paths: dict[str, Projection]


def slices_of(settings: Any, objective: jf.Objective, found: dict[str, Any]) -> dict[str, Plane]:
    """The loss around the first network, through three minima, and in the plane of the curve."""
    runs, paths = found["runs"], found["paths"]
    ends = [network(runs.ends, i) for i in range(settings.networks)]
    runs_by_name = {f"network {i + 1}": network(runs.values, i) for i in range(settings.networks)}
    key = jax.random.fold_in(jax.random.key(settings.seed), 2)
    around = random_directions(ends[0], key)
    through = between(*ends[:3])
    curved = between(ends[0], ends[1], bend_of(paths.bent))
    draw = lambda directions, span: jf.landscape.slice(objective, ends[0], directions, span, settings.points)
    planes = {
        "random": (draw(around, settings.span), runs_by_name),
        "minima": (draw(through, None), runs_by_name),
        "curve": (draw(curved, None), {"straight": paths.straight, "bent": paths.bent}),
    }
    return {
        name: Plane(plane, {label: project(path, plane) for label, path in on.items()})
        for name, (plane, on) in planes.items()
    }
