"""What SGD, its SDE and its density share: a loss over one or two coordinates, its noise, a start and a grid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxflow as jf
from jaxflow import _check
from jaxflow.problems.losses import PredictionLosses, cross_entropy, squared_error

TILTS = 64  # vectors that the noisy gradients of a function are drawn from
WIDTHS = 8.0  # standard deviations of the law at a minimum that fit on the grid of a data set's loss
AWAY = 3.0  # as many deviations in each coordinate all begin from that minimum
CELLS = {1: 400, 2: 96}  # along each axis


class Scene(NamedTuple):
    """Where a function is looked at: a temperature at which it is escaped from in the time, and a box around."""

    temperature: float
    learning_rate: float
    steps: int
    width: float
    low: Any
    high: Any


SCENES = {
    "double_well": Scene(0.08, 0.02, 1620, 0.1, -2.4, 2.4),
    "sines_minus_parabola": Scene(8.0, 0.003, 1620, 0.2, -15.0, 15.0),
    "himmelblau": Scene(8.0, 5e-4, 1620, 0.2, (-6.0, -6.0), (6.0, 6.0)),
    "muller_brown": Scene(8.0, 1e-5, 1620, 0.05, (-1.9, -0.9), (1.5, 2.5)),
}
ON_A_LINE = ("double_well", "sines_minus_parabola")
RATE, STEPS = 0.1, 405  # for data sets


@dataclass(frozen=True)
class NoisyProblem:
    """The three levels' common ground.

    - `described`: what it is, in words.
    - `loss(x)`: the loss of a point (d,).
    - `objective`: the same with data, whose mini-batches have the noise.
    - `sde`: its stochastic differential equation.
    - `temperature`: T, with the noise averaged over coordinates, at the minimum where it depends on the place.
    - `isotropic`: whether the noise is the same in every direction and place.
    - `start`, `width`: the mean (d,) and the standard deviation of the normal law that all begin with.
    """

    described: str
    loss: Callable[[jax.Array], jax.Array]
    objective: jf.Objective
    sde: jf.dynamics.Dynamics
    learning_rate: float
    batch_size: int
    steps: int
    temperature: float
    isotropic: bool
    start: np.ndarray
    width: float
    grid: jf.density.Grid


@dataclass(frozen=True)
class Tilted:
    """A loss with a linear term of each example's own: its gradients are the loss's and that example."""

    loss: Callable

    def __call__(self, params: jax.Array, tilts: jax.Array) -> jax.Array:
        """The losses (B,) of a batch of tilts (B, d)."""
        return self.loss(params) + tilts @ params


@dataclass(frozen=True)
class Penalised:
    """The losses of examples, each with ½ µ|θ|²."""

    losses: Callable
    penalty: float

    def __call__(self, params: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
        """The losses (B,)."""
        return self.losses(params, batch) + 0.5 * self.penalty * jnp.sum(params**2)


def from_function(settings: Any) -> NoisyProblem:
    """A function of the library's, with Gaussian noise of one temperature on its gradients."""
    scene, problem = SCENES[settings.problem], jf.problems.FUNCTIONS[settings.problem]()
    rate = scene.learning_rate if settings.learning_rate is None else settings.learning_rate
    temperature = scene.temperature if settings.temperature is None else settings.temperature
    loss: Any = problem.objective
    grid = jf.density.Grid(scene.low, scene.high, _cells(settings, problem.params.size))
    deviation = np.sqrt(2 * settings.batch_size * temperature / rate)
    data = jnp.asarray(deviation * _white_vectors(problem.params.size, settings.seed))
    return NoisyProblem(
        described=f"{settings.problem}, with noise of standard deviation {deviation:.4g} on the gradients",
        loss=loss,
        objective=jf.Objective(Tilted(loss), data),
        sde=jf.dynamics.langevin(loss, temperature),
        learning_rate=rate,
        batch_size=settings.batch_size,
        steps=scene.steps if settings.steps is None else settings.steps,
        temperature=temperature,
        isotropic=True,
        start=np.asarray(problem.params, float),
        width=scene.width,
        grid=grid,
    )


def _white_vectors(dimension: int, seed: int) -> np.ndarray:
    """Vectors of mean 0 and covariance I, exactly, and symmetric about 0."""
    half = np.random.default_rng(seed).standard_normal((TILTS // 2, dimension))
    root = np.linalg.cholesky(half.T @ half / len(half))
    half = np.linalg.solve(root, half.T).T
    return np.concatenate([half, -half])


def from_data(settings: Any) -> NoisyProblem:
    """A linear model of two features of a data set, whose mini-batches make the noise."""
    losses, batch, described = _two_features(settings)
    rate = RATE if settings.learning_rate is None else settings.learning_rate
    objective = jf.Objective(losses, batch)
    minimum = jf.iterate(jf.optim.newton(), objective, jnp.zeros(2), steps=20, every=None).params
    # Turned so that the noise has the axes of the grid, whose chain then needs no long jumps. SGD turns with them.
    axes = jnp.linalg.eigh(jf.gradient_covariance(objective, minimum))[1]
    objective, minimum = jf.Objective(losses, batch | {"x": batch["x"] @ axes}), minimum @ axes
    law = jf.density.ou_limit(objective, minimum, rate, settings.batch_size)
    middle, spread = np.asarray(minimum, float), np.sqrt(np.diag(law.covariance))
    if not (np.isfinite(middle).all() and (spread > 0).all()):
        raise ValueError(
            f"data must have a minimum about which SGD spreads, got {settings.data!r} with the minimum "
            f"{middle.tolist()} and the deviations {spread.tolist()}."
        )
    start, width = middle + AWAY * spread, float(spread.min()) / 2
    low, high = middle - WIDTHS * spread, np.maximum(middle, start) + WIDTHS * spread
    noise = float(np.trace(jf.gradient_covariance(objective, minimum))) / 2
    return NoisyProblem(
        described=described,
        loss=objective,
        objective=objective,
        sde=jf.dynamics.sgd(objective, rate, settings.batch_size),
        learning_rate=rate,
        batch_size=settings.batch_size,
        steps=STEPS if settings.steps is None else settings.steps,
        temperature=float(jf.temperature(rate, settings.batch_size)) * noise,
        isotropic=False,
        start=start,
        width=width,
        grid=jf.density.Grid(tuple(low), tuple(high), _cells(settings, 2)),
    )


def _two_features(settings: Any) -> tuple[Penalised, dict[str, jax.Array], str]:
    """Logistic regression, or least squares, on the two leading principal components, scaled to variance 1."""
    data = jf.problems.load(settings.data)
    x, y = np.asarray(data.x, float)[: settings.examples], np.asarray(data.y)[: settings.examples]
    if x.shape[1] < 2 or len(x) < 3:
        raise ValueError(
            f"data must have two features and three examples at least, got {len(x)} examples of {x.shape[1]}."
        )
    deviation = x.std(0)
    x = (x - x.mean(0)) / np.where(deviation > 0, deviation, 1)
    features = np.linalg.svd(x, full_matrices=False)[0][:, :2] * np.sqrt(len(x))
    if data.classes is None:
        y = y.reshape(len(y), -1)[:, 0]
        y, error, model = (y - y.mean()) / (y.std() or 1.0), squared_error, "least squares"
    else:
        half = len(data.classes) // 2
        y, error = (y >= half).astype(np.int32), cross_entropy
        model = f"logistic regression of the {len(data.classes) - half} last classes against the others"
    losses = Penalised(PredictionLosses(_linear, error), settings.penalty)
    described = (
        f"{settings.data}: {model}, {len(x)} examples, 2 principal components, penalty {settings.penalty:g}"
    )
    return losses, {"x": jnp.asarray(features), "y": jnp.asarray(y)}, described


def _linear(params: jax.Array, x: jax.Array) -> jax.Array:
    return x @ params


def _cells(settings: Any, dimensions: int) -> tuple[int, ...]:
    cells = CELLS[dimensions] if settings.cells is None else settings.cells
    _check.require_integer("cells", cells, 8)
    return (cells,) * dimensions
