"""The fields that two-branch models descend: a gradient of which a part is stopped is the gradient of nothing."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow.problems.models.networks import Network

PyTree = Any


class SimSiamPlayers(NamedTuple):
    """The parameters of SimSiam: a network that both views pass, and a predictor that one of them passes after it.

    - `online`: the matrix W (k, d) of a linear model, or a tuple of layers `{"w": (m, n), "b": (n,)}`.
    - `predictor`: the matrix $W_p$ (k, k), which acts on a representation z as $W_p z$; `None` where there is none.
    """

    online: PyTree
    predictor: Any


class BYOLPlayers(NamedTuple):
    """The parameters of BYOL: the online network, its predictor, and the teacher, a moving average of the former.

    - `online`: the matrix W (k, d) of a linear model, or a tuple of layers `{"w": (m, n), "b": (n,)}`.
    - `predictor`: the matrix $W_p$ (k, k), which acts on a representation z as $W_p z$; `None` where there is none.
    - `teacher`: of the structure of `online`.
    """

    online: PyTree
    predictor: Any
    teacher: PyTree


@dataclass(frozen=True)
class ExpectedLoss:
    """Half the mean square distance of the branches of a linear model, over all examples and augmentations.

    `views` is the covariance X (d, d) of the examples. Only X and that of the augmentation, which is diagonal, enter.
    """

    def __call__(self, online, predictor, target, views, settings) -> jax.Array:
        predicted = online if predictor is None else predictor @ online
        across, own = self.correlations(predicted, target, views, settings)
        scaled = _cast(settings["teacher_scale"], target) * target
        _, others = self.correlations(scaled, scaled, views, settings)
        return 0.5 * jnp.trace(own) - jnp.trace(across) + 0.5 * jnp.trace(others)

    def correlations(self, online, target, views, settings) -> tuple[jax.Array, jax.Array]:
        """Means (k, k) over views: of the target of one with what is online of the other, and of the latter alone."""
        variance = _deviations_by_feature(settings["augmentation"], views) ** 2
        shared = online @ views
        across = _cast(settings["teacher_scale"], target) * target @ shared.T
        return across, shared @ online.T + (variance[None] * online) @ online.T


@dataclass(frozen=True)
class DrawnLoss:
    """The mean distance of the branches of a network over drawn pairs of views, each view being once the target.

    `views` holds the examples `x` (N, d) and standard normal draws `noise` (2, K, N, d).
    """

    network: Network
    cosine: bool

    def __call__(self, online, predictor, target, views, settings) -> jax.Array:
        x, noise = views["x"], views["noise"]
        seen = x[None, None] + _deviations_by_feature(settings["augmentation"], x)[None, None, None] * noise
        seen = seen.reshape(2, -1, x.shape[-1])
        predicted = self.network(online, seen.reshape(-1, x.shape[-1]))
        predicted = predicted if predictor is None else predicted @ predictor.T
        aimed = self.network(target, seen[::-1].reshape(-1, x.shape[-1]))
        if self.cosine:
            return 1 - jnp.mean(jnp.sum(_unit(predicted) * _unit(aimed), 1))
        aimed = _cast(settings["teacher_scale"], aimed) * aimed
        return 0.5 * jnp.mean(jnp.sum((predicted - aimed) ** 2, 1))


def _unit(x: jax.Array) -> jax.Array:
    # The small number keeps the derivative at 0 finite.
    return x * jax.lax.rsqrt(jnp.sum(x**2, 1, keepdims=True) + jnp.finfo(x.dtype).tiny ** 0.5)


@dataclass(frozen=True)
class BranchDescent:
    """The field that a two-branch model descends, a function of its players, its views and its numbers."""

    loss: ExpectedLoss | DrawnLoss
    stopped: bool

    def __call__(self, params: Any, views: PyTree, settings: dict[str, Any]) -> Any:
        taught = isinstance(params, BYOLPlayers)

        def loss(online, predictor):
            target = params.teacher if taught else online
            target = jax.lax.stop_gradient(target) if self.stopped else target
            return self.loss(online, predictor, target, views, settings)

        online, predictor = jax.grad(loss, (0, 1))(params.online, params.predictor)
        decay, speed = settings["weight_decay"], settings["predictor_speed"]
        pulled = lambda v, p: v + _cast(decay, p) * p
        online = jax.tree.map(pulled, online, params.online)
        predictor = jax.tree.map(lambda v, p: pulled(_cast(speed, v) * v, p), predictor, params.predictor)
        if not taught:
            return SimSiamPlayers(online, predictor)
        follows = lambda t, o: _cast(settings["teacher_rate"], t) * (t - o)
        return BYOLPlayers(online, predictor, jax.tree.map(follows, params.teacher, params.online))


def _deviations_by_feature(augmentation: Any, like: jax.Array) -> jax.Array:
    """Standard deviations (d,) of the augmentation, given as one number or as one for each feature."""
    return jnp.broadcast_to(_cast(augmentation, like), like.shape[-1:])


def _cast(number: Any, like: jax.Array) -> jax.Array:
    return jnp.asarray(number).astype(like.dtype)


@dataclass(frozen=True)
class Represent:
    """`represent(players, x (B, d)) -> (B, k)`: what the online network makes of centred and scaled examples."""

    network: Network | None

    def __call__(self, params: Any, x: jax.Array) -> jax.Array:
        return x @ params.online.T if self.network is None else self.network(params.online, x)
