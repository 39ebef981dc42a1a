"""Generative adversarial networks on points and small images: two networks, each with a loss of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow.games import game, gradient_penalty, interpolate
from jaxflow.problems.data.datasets import load, split
from jaxflow.problems.models.networks import ACTIVATIONS, Network, check_widths, draw_layers, require_room
from jaxflow.problems.problem import Problem, as_floats, as_key


class GANPlayers(NamedTuple):
    """The parameters of the two networks of a GAN: layers `{"w": (m, n), "b": (n,)}` each, as those of `mlp`.

    - `generator`: moves first where players move in turn.
    - `discriminator`: its one output is high for samples that it takes for generated ones.
    """

    generator: Any
    discriminator: Any


def _linear(t):
    return t


def _logistic(t):
    return -jax.nn.softplus(-t)


# What the generator descends, of what the discriminator says of generated samples, and f of the discriminator.
LOSSES = {
    "gan": (_logistic, _logistic),
    "nonsaturating": (jax.nn.softplus, _logistic),
    "wgan": (_linear, _linear),
}
PENALTIES = ("r1", "r2", "wgan_gp")


@dataclass(frozen=True)
class _Batch:
    """The samples of a step, real and generated; equal for equal settings, so that new games compile nothing."""

    network: Network
    latent: int
    size: int

    def __call__(self, generator: Any, data: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows, latent = jax.random.split(key)
        real = data[jax.random.randint(rows, (self.size,), 0, data.shape[0])]
        return real, self.network(generator, jax.random.normal(latent, (self.size, self.latent), data.dtype))


@dataclass(frozen=True)
class _Losses:
    batch: _Batch
    kind: str

    def __call__(
        self, players: GANPlayers, data: jax.Array, *, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        real, generated = self.batch(players[0], data, key)
        judge, (own, f) = _Judge(self.batch.network), LOSSES[self.kind]
        said = judge(players[1], generated)
        return jnp.mean(own(said)), -jnp.mean(f(said)) - jnp.mean(f(-judge(players[1], real)))


@dataclass(frozen=True)
class _Judge:
    network: Network

    def __call__(self, discriminator: Any, x: jax.Array) -> jax.Array:
        return self.network(discriminator, x)[:, 0]


@dataclass(frozen=True)
class _Penalised:
    """Where the slope of the discriminator is penalised, on the batch of the step."""

    batch: _Batch
    penalty: str

    def __call__(self, players: GANPlayers, data: jax.Array, *, key: jax.Array) -> jax.Array:
        real, generated = self.batch(players[0], data, key)
        if self.penalty == "wgan_gp":
            return interpolate(real, generated, jax.random.fold_in(key, 0))
        return real if self.penalty == "r1" else generated


def gan(
    data: Any,
    *,
    latent: int = 16,
    generator: Sequence[int] = (64, 64),
    discriminator: Sequence[int] = (64, 64),
    activation: str = "relu",
    kind: str = "nonsaturating",
    batch_size: int = 128,
    penalty: str | None = None,
    gamma: Any = None,
    draws: int = 16,
    key: jax.Array | None = None,
) -> Problem:
    r"""A generative adversarial network on points or small images: a game that draws a mini-batch at each step.

    The generator G makes samples from standard normal numbers z, and the discriminator D gives each sample a
    number, which is high for generated ones. With $f(t) = -\log(1 + e^{-t})$ the discriminator descends

    $$-\mathrm{mean}_b f(D(G(z_b))) - \mathrm{mean}_b f(-D(x_b)).$$

    Both networks are fully connected, with the first weights of `mlp`.

    **Arguments**

    - `data`: the name of a data set, or a path or pair as `mlp` takes it, whose labels are left out; all its features
      are shifted by one number and scaled by another, to mean 0 and standard deviation 1 over all of them together.
      Or an array (N, d) of examples, which is taken as it is.
    - `latent`: the dimension of z, an integer at least 1.
    - `generator`, `discriminator`: the widths of their hidden layers, `()` for a linear network.
    - `activation`: of both, as in `mlp`.
    - `kind`: `"gan"`: the generator descends $\mathrm{mean}_b f(D(G(z_b)))$. `"nonsaturating"`: it descends
      $-\mathrm{mean}_b f(-D(G(z_b)))$, whose slope does not vanish where D is sure. `"wgan"`: f(t) = t.
    - `batch_size`: the number of real and of generated samples of a step, an integer at least 1.
    - `penalty`: `"r1"`, `"r2"` or `"wgan_gp"`, as in `jaxflow.games.gradient_penalty`, on the batch of the step.
      `None`: no penalty.
    - `gamma` γ: the weight of the penalty, a number at least 0, by default 1; a leaf.
    - `draws`: the number of batches whose mean stands for the expectation in a flow.
    - `key`: the random key of the weights; by default `jax.random.key(0)`.

    **Returns** a `Problem` whose objective is a `VectorField` and whose `params` are `GANPlayers`. Its
    `predict(params.generator, z (B, latent)) -> (B, d)` makes samples. Of a data set a fifth is held out, as
    `test["x"]`. `iterate` needs a key.

    **Raises** `ValueError` for an unknown kind, penalty or activation, a number out of range, γ without a penalty,
    data that are not examples (N, d) of finite numbers, or more weights than memory holds; `TypeError` for widths
    that are not a sequence of integers; and whatever `load` raises.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> ring = jf.problems.ring_of_gaussians()
    >>> problem = jf.problems.gan(ring, latent=2, generator=(8,), discriminator=(8,), penalty="r1")
    >>> run = jf.iterate(jf.optim.adam(1e-3), problem.objective, problem.params, steps=3, key=jax.random.key(1))
    >>> problem.predict(run.params.generator, jnp.zeros((5, 2))).shape
    (5, 2)

    Source: Goodfellow et al. (2014, 1406.2661); Arjovsky, Chintala & Bottou (2017, 1701.07875); Mescheder, Geiger &
    Nowozin (2018, 1801.04406).
    """
    _check.require_choice("kind", kind, LOSSES)
    _check.require_choice("activation", activation, ACTIVATIONS)
    for name, value in (("latent", latent), ("batch_size", batch_size), ("draws", draws)):
        _check.require_integer(name, value, 1)
    check_widths("generator", generator)
    check_widths("discriminator", discriminator)
    if penalty is not None:
        _check.require_choice("penalty", penalty, PENALTIES)
    elif gamma is not None:
        raise ValueError(f"gamma must be left out without a penalty, got {gamma!r}.")
    real, held_out, name = _examples(data)
    makes = (int(latent), *map(int, generator), real.shape[1])
    judges = (real.shape[1], *map(int, discriminator), 1)
    require_room("generator", generator, makes)
    require_room("discriminator", discriminator, judges)
    network = Network("silu" if activation == "swish" else activation)
    batch = _Batch(network, int(latent), int(batch_size))
    objective = game(_Losses(batch, kind), (real,), draws=int(draws))
    if penalty is not None:
        objective = gradient_penalty(
            objective,
            _Judge(network),
            _Penalised(batch, penalty),
            player=1,
            gamma=1.0 if gamma is None else gamma,
            target=1.0 if penalty == "wgan_gp" else 0.0,
            data=(real,),
        )
    first, second = jax.random.split(as_key(key))
    players = GANPlayers(draw_layers(first, makes), draw_layers(second, judges))
    return Problem(objective=objective, params=players, test=held_out, predict=network, name=f"gan on {name}")


def _examples(data: Any) -> tuple[jax.Array, Any, str]:
    """The real samples (N, d), those held out, and the name of the data."""
    if hasattr(data, "shape"):
        real = as_floats("data", data)
        if real.ndim != 2 or not real.size:
            raise ValueError(f"data must be an array (N, d) of examples, got shape {real.shape}.")
        return real, None, "the given data"
    dataset = load(data)
    train, test = split(dataset, standardize=False)
    mean, spread = train["x"].mean(), train["x"].std()
    scaled = lambda part: (part["x"] - mean) / spread
    return scaled(train), None if test is None else {"x": scaled(test)}, dataset.name


def ring_of_gaussians(
    modes: int = 8, *, radius: Any = 1.5, deviation: Any = 0.05, size: int = 4096, key: Any = None
) -> jax.Array:
    r"""Points of a mixture of Gaussians with equal weights around a circle, on which GANs are tried.

    Their centres are $r(\cos(2\pi j/n), \sin(2\pi j/n))$ for j = 0 … n − 1.

    **Arguments**

    - `modes` n: the number of Gaussians, an integer at least 1.
    - `radius` r: of the circle, a number above 0.
    - `deviation`: the standard deviation of each Gaussian in both directions, a number at least 0.
    - `size`: the number of points.
    - `key`: a random key; by default `jax.random.key(0)`.

    **Returns** an array (size, 2).

    **Raises** `ValueError` or `TypeError` for a number out of range.

    >>> import jaxflow as jf
    >>> points = jf.problems.ring_of_gaussians(4, radius=1.0, deviation=0.0, size=3)
    >>> points.shape, bool(abs((points**2).sum(1) - 1).max() < 1e-6)
    ((3, 2), True)

    Source: Metz, Poole, Pfau & Sohl-Dickstein (2016, 1611.02163).
    """
    _check.require_integer("modes", modes, 1)
    _check.require_integer("size", size, 1)
    _check.require_positive(radius=radius)
    _check.require_nonnegative(deviation=deviation)
    which, around = jax.random.split(as_key(key))
    angle = 2 * jnp.pi * jax.random.randint(which, (size,), 0, modes) / modes
    centres = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return centres + deviation * jax.random.normal(around, (size, 2))
