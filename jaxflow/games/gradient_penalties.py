"""The penalty on the discriminator's gradient in its input: R1, R2 and WGAN-GP are one formula on other samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._losses.drawn_losses import lacks_key
from jaxflow._norms import root
from jaxflow._text.shapes import show
from jaxflow.games.vector_field import VectorField, like_players, require_field, require_players

PyTree = Any


def gradient_penalty(
    game: VectorField,
    discriminator: Callable[[PyTree, Any], jax.Array],
    samples: Any,
    *,
    player: int,
    gamma: Any,
    target: Any = 0.0,
    data: tuple = (),
    draws: int | None = None,
) -> VectorField:
    r"""A game in which one player also descends $\frac\gamma2\,\mathrm{mean}_b\,(|\nabla_x D(x_b)| - g_0)^2$.

    Its name depends on the samples:

    - *R1*: $x_b$ are the data, $g_0 = 0$.
    - *R2*: $x_b$ are generated, $g_0 = 0$.
    - *WGAN-GP*: $x_b$ lie between data and generated ones (`interpolate`), $g_0 = 1$.

    The weight is γ/2, as in Mescheder et al.; the λ of Gulrajani et al. is γ/2. Only the player's own loss has the
    penalty: no other player feels it, though its parameters may generate the samples. Where $\nabla_x D = 0$ the
    derivative of the norm is taken as 0.

    **Arguments**

    - `game`: a `VectorField`, such as `jaxflow.game` makes, of real parameters.
    - `discriminator`: a function `discriminator(params, x (B, ...)) -> (B,)` of the penalised player's own
      parameters, whose every output depends on its own input only.
    - `samples`: the inputs (B, ...) as an array, a leaf of the result; or a function `samples(players, *data) ->
      (B, ...)` of all players' parameters. A function `samples(players, *data, key)` draws them anew at each step of
      `iterate`; it is given the same key as the game's losses, and so can have the same mini-batch.
    - `player`: the index of the penalised player (static).
    - `gamma` γ: the weight, a number at least 0; a leaf of the result.
    - `target` $g_0$: the norm that costs nothing, a number at least 0; a leaf of the result.
    - `data`: a tuple of arrays (or pytrees of them, or random keys), the further arguments of the function
      `samples`. They are the same at every step of a run, and so are the numbers drawn with a key among them.
    - `draws`: for samples that take a key, the number of draws that stands for their expectation where there is no
      step to draw for, as in `VectorField` (static); by default that of the game.

    **Returns** a `VectorField`.

    **Raises** `TypeError` for a game that is not a `VectorField`, a discriminator that is not a function, samples
    that are neither an array nor a function, data that are not a tuple, or a player that is not an integer;
    `ValueError` for γ < 0, $g_0$ < 0, no samples, data without a function, or, when it is called, parameters that
    are not a tuple or list, a player that does not exist, or a discriminator that does not return one output for
    each sample.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> bilinear = jf.game(lambda p: (p[0] @ p[1], -p[0] @ p[1]))
    >>> linear = lambda psi, x: x @ psi
    >>> r1 = jf.games.gradient_penalty(bilinear, linear, jnp.zeros((1, 2)), player=1, gamma=0.5)
    >>> print(r1((jnp.ones(2), jnp.array([2.0, 4.0])))[1])
    [0. 1.]

    Source: R1, R2: Mescheder, Geiger & Nowozin (2018, 1801.04406); WGAN-GP: Gulrajani et al. (2017, 1704.00028).
    """
    require_field(game)
    if not callable(discriminator):
        raise TypeError(f"discriminator must be a function (params, x) -> (B,), got {discriminator!r}.")
    _check.require_integer("player", player, 0)
    _check.require_nonnegative(gamma=gamma, target=target)
    if not isinstance(data, tuple):
        raise TypeError(f"data must be a tuple of the further arguments of samples, got {data!r}.")
    if callable(samples):
        anew = lacks_key(samples, 1 + len(data))
        penalised = (_PenalisedAnew if anew else _Penalised)(discriminator, samples, player)
        return VectorField(penalised, (game, gamma, target, data), (draws or game.draws) if anew else draws)
    if not hasattr(samples, "shape"):
        raise TypeError(f"samples must be an array (B, ...) or a function of the players, got {samples!r}.")
    _require_samples(samples)
    if data:
        raise ValueError("data must be left out where samples is an array.")
    return VectorField(_Penalised(discriminator, _given, player), (game, gamma, target, (samples,)), draws)


def interpolate(real: Any, generated: Any, key: Any) -> jax.Array:
    r"""Random points between pairs of samples, $\epsilon_b x_b + (1 - \epsilon_b) y_b$ with $\epsilon_b$ uniform.

    **Arguments**

    - `real` x, `generated` y: arrays (B, ...) of one shape.
    - `key`: a random key; each sample draws its own ε in [0, 1).

    **Returns** an array (B, ...).

    **Raises** `ValueError` for arrays of different shapes; `TypeError` when `key` is not a random key.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> between = jf.games.interpolate(jnp.zeros((3, 2)), jnp.ones((3, 2)), jax.random.key(0))
    >>> between.shape, bool((between[:, 0] == between[:, 1]).all())
    ((3, 2), True)

    Source: Gulrajani et al. (2017, 1704.00028).
    """
    key = _check.random_key(key)
    real, generated = jnp.asarray(real), jnp.asarray(generated)
    if real.shape != generated.shape or not real.ndim:
        raise ValueError(
            f"real and generated must be samples (B, ...) of one shape, got {real.shape}, {generated.shape}."
        )
    share = jax.random.uniform(key, (real.shape[0], *(1,) * (real.ndim - 1)), real.dtype)
    return share * real + (1 - share) * generated


def _given(players, samples):
    del players
    return samples


def _require_samples(samples: Any) -> None:
    if not samples.ndim or not samples.shape[0]:
        raise ValueError(f"samples must hold at least one sample (B, ...), got shape {samples.shape}.")


@dataclass(frozen=True)
class _Penalised:
    discriminator: Callable[[PyTree, Any], jax.Array]
    samples: Callable[..., Any]
    player: int

    def __repr__(self):
        return f"penalised({show(self.discriminator)}, player {self.player})"

    def __call__(self, params: PyTree, game: VectorField, gamma: Any, target: Any, data: tuple) -> PyTree:
        return self.add(params, game, gamma, target, lambda: self.samples(params, *data))

    def add(self, params: PyTree, game: VectorField, gamma: Any, target: Any, samples: Callable) -> PyTree:
        require_players(params)
        if self.player >= len(params):
            raise ValueError(f"player must be one of {len(params)}, counted from 0, got {self.player}.")
        x = jnp.asarray(samples())
        _require_samples(x)
        slope = jax.grad(self.penalty)(params[self.player], x, target)
        pull = lambda v, s: v + jnp.asarray(gamma).astype(s.dtype) * s
        entries = list(game(params))
        entries[self.player] = jax.tree.map(pull, entries[self.player], slope)
        return like_players(params, entries)

    def penalty(self, own: PyTree, x: jax.Array, target: Any) -> jax.Array:
        outputs, pull_back = jax.vjp(lambda x: self.discriminator(own, x), x)
        if outputs.shape != x.shape[:1]:
            raise ValueError(
                f"discriminator must return one output for each of {x.shape[0]} samples, got shape {outputs.shape}."
            )
        (slopes,) = pull_back(jnp.ones_like(outputs))
        squares = jnp.sum(slopes.reshape(x.shape[0], -1) ** 2, axis=1)
        # Squares by themselves, as at the target 0 there is then no norm to differentiate.
        target = jnp.asarray(target).astype(squares.dtype)
        return 0.5 * jnp.mean(squares - 2 * target * root(squares) + target**2)


class _PenalisedAnew(_Penalised):
    """With samples that are drawn by the key of the step."""

    def __call__(self, params: PyTree, game: VectorField, gamma: Any, target: Any, data: tuple, *, key: Any):
        return self.add(params, game, gamma, target, lambda: self.samples(params, *data, key=key))
