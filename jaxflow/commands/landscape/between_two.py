"""Between two networks: the straight line, the line after their units were put into one order, a curve; and what the
losses and scores are along them.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

import jaxflow as jf
from jaxflow.commands.landscape.networks import Losses, Runs, network
from jaxflow.landscape import Alignment

ALONG = 61  # points of each path
RATE = 3e-3  # of Adam, for the bend
ODD = ("tanh", "identity")  # activations for which the sign of a unit is free as well


class Paths(NamedTuple):
    """The paths between the first two networks, and how the second was put into the order of the first."""

    straight: jf.landscape.Path
    aligned: jf.landscape.Path
    bent: jf.landscape.Path
    alignment: Alignment

    def paths_by_name(self) -> dict[str, jf.landscape.Path]:
        """The paths by their names."""
        return {"straight": self.straight, "aligned": self.aligned, "bent": self.bent}


class Along(NamedTuple):
    """What is measured along a path (n,): the share of its length, losses and scores of both kinds of data."""

    share: np.ndarray
    train: np.ndarray
    test: np.ndarray
    train_score: np.ndarray
    test_score: np.ndarray

    def barrier(self, name: str) -> float:
        """How far a loss rises above the line between its ends."""
        loss = getattr(self, name)
        return max(float(np.max(loss - (1 - self.share) * loss[0] - self.share * loss[-1])), 0.0)

    def drop(self, name: str) -> float:
        """How far a score falls below the lower end."""
        score = getattr(self, name)
        return max(float(min(score[0], score[-1]) - np.min(score)), 0.0)


def connect_two(settings: Any, objective: jf.Objective, runs: Runs) -> Paths:
    """The three paths between the first two networks."""
    a, b = (network(runs.ends, i) for i in range(2))
    found = jf.landscape.align(a, b, signs=settings.activation in ODD)
    key = jax.random.fold_in(jax.random.key(settings.seed), 1)
    bent = jf.landscape.curve(
        objective, a, b, key=key, optimizer=jf.optim.adam(RATE), steps=settings.curve_steps, points=ALONG
    )
    straight, aligned = (
        jf.landscape.interpolate(objective, a, end, points=ALONG) for end in (b, found.params)
    )
    return Paths(straight, aligned, bent, found)


def measure_along(problem: Any, losses: Losses, paths: Paths) -> dict[str, Along]:
    """Losses and scores along each path, by one program."""
    score = lambda params, batch: problem.score(params, batch)
    examples = losses.train.data[0]

    @jax.jit
    def measure(points, train, test, examples, held_out):
        one = lambda p: (train(p), test(p), score(p, examples), score(p, held_out))
        return jax.lax.map(one, points, batch_size=8)

    found = {}
    for name, path in paths.paths_by_name().items():
        numbers = jax.device_get(measure(path.params, losses.train, losses.test, examples, problem.test))
        length = np.asarray(path.arclength)
        share = length / length[-1] if length[-1] > 0 else np.linspace(0, 1, len(length))
        found[name] = Along(share, *map(np.asarray, numbers))
    return found


def bend_of(path: jf.landscape.Path) -> Any:
    """The point that pulls a Bézier curve with one bend: its middle is (a + 2·bend + b)/4."""
    middle = path.losses.shape[0] // 2
    return jax.tree.map(lambda x: 2 * x[middle] - (x[0] + x[-1]) / 2, path.params)
