"""Changes of a game that make its descent converge, or follow its flow: other fields that rest where it does."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow.games.vector_field import VectorField, like_players, require_field, require_players

PyTree = Any


def consensus(game: VectorField, gamma: Any) -> VectorField:
    r"""Consensus optimization: every player also descends the length of the field, $V + \gamma\nabla\frac12|V|^2$.

    $\nabla\frac12|V|^2 = V'(\theta)^\top V(\theta)$. All points of rest of V remain such; others may appear where
    $V$ is orthogonal to its derivatives. It costs two evaluations of V.

    **Arguments**

    - `game`: a `VectorField`, such as `jaxflow.game` makes, of real parameters.
    - `gamma` γ: the strength, a number at least 0, in units of time of the flow; a leaf of the result.

    **Returns** a `VectorField`.

    **Raises** `TypeError` for a game that is not a `VectorField`; `ValueError` for γ < 0.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> bilinear = jf.game(lambda p: (p[0] * p[1], -p[0] * p[1]))
    >>> [float(v) for v in jf.games.consensus(bilinear, 0.5)((jnp.array(2.0), jnp.array(3.0)))]
    [4.0, -0.5]

    Source: Mescheder, Nowozin & Geiger (2017, 1705.10461).
    """
    require_field(game)
    _check.require_nonnegative(gamma=gamma)
    return VectorField(_consensus, (game, gamma))


def _consensus(params, game, gamma):
    velocity, pull_back = jax.vjp(game, params)
    (slope,) = pull_back(velocity)
    return _add(velocity, slope, gamma)


def extragradient(game: VectorField, step: Any) -> VectorField:
    r"""The field at a point looked ahead to, $V(\theta - hV(\theta))$: descent on it is the extragradient method.

    With `jaxflow.optim.gd(h)` of the same h a step is $\theta \leftarrow \theta - hV(\theta - hV(\theta))$; a
    rotation of speed ω is multiplied by $\sqrt{1 - h^2\omega^2 + h^4\omega^4}$. It costs two evaluations of V. The
    method that remembers the last field instead of evaluating it twice, optimistic descent, is
    `optax.optimistic_gradient_descent`, which `iterate` takes.

    **Arguments**

    - `game`: a `VectorField`, such as `jaxflow.game` makes.
    - `step` h: how far to look ahead, a number at least 0, or a tuple of them, one for each player; a leaf of the
      result.

    **Returns** a `VectorField`.

    **Raises** `TypeError` for a game that is not a `VectorField`; `ValueError` for h < 0, or, when it is called,
    for another number of steps than of players.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> bilinear = jf.game(lambda p: (p[0] * p[1], -p[0] * p[1]))
    >>> ahead = jf.games.extragradient(bilinear, 0.4)
    >>> run = jf.iterate(jf.optim.gd(0.4), ahead, (jnp.array(1.0), jnp.array(0.0)), steps=1)
    >>> [round(float(x), 3) for x in run.params]
    [0.84, 0.4]

    Source: Korpelevich (1976); in machine learning, Gidel et al. (2019, 1802.10551).
    """
    require_field(game)
    _require_steps(step)
    return VectorField(_extragradient, (game, step))


def _extragradient(params, game, step):
    return game(_add(params, _scale_by_speeds(step, game(params)), -1.0))


def cancel_drift(game: VectorField, step: Any, *, alternating: bool = False) -> VectorField:
    r"""Explicit cancellation of the discretization drift: a game whose descent follows the flow of V to order 2.

    A step of descent with the rates $h_i$ is the time 1 of the flow of $-hV - \frac12 (hV)'(hV)$, up to third order
    in the rates, where the second term is the drift. Subtracting it beforehand leaves

    $$V_i - \tfrac12 \sum_j \pm\, \partial_j V_i\, h_j V_j,$$

    with + for players at once; in turn, with − where j moves before i. The losses whose gradients these are have
    the terms of Rosca et al. with opposite signs, both those of a player's own gradient and those of the
    interaction. In a rotation of speed ω a step then multiplies the radius by $\sqrt{1 + h^4\omega^4/4}$ only. It
    costs two evaluations of V for players at once, and n + 1 for players in turn.

    **Arguments**

    - `game`: a `VectorField`, such as `jaxflow.game` makes.
    - `step` h: the learning rate of the descent, a number at least 0, or a tuple of them, one for each player; a leaf
      of the result.
    - `alternating`: whether the players move in turn, as in `jaxflow.optim.alternating`, or at once (static).

    **Returns** a `VectorField`, for descent with that rate.

    **Raises** `TypeError` for a game that is not a `VectorField`; `ValueError` for h < 0, or, when it is called,
    for another number of steps than of players, or parameters in turn that are not a tuple or list.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> bilinear = jf.game(lambda p: (p[0] * p[1], -p[0] * p[1]))
    >>> calm = jf.games.cancel_drift(bilinear, 0.2)
    >>> run = jf.iterate(jf.optim.gd(0.2), calm, (jnp.array(1.0), jnp.array(0.0)), steps=1)
    >>> [round(float(x), 3) for x in run.params]
    [0.98, 0.2]

    Source: Rosca, Wu, Dherin & Barrett (2021, 2105.13922).
    """
    require_field(game)
    _require_steps(step)
    return VectorField(_cancelled_in_turn if alternating else _cancelled, (game, step))


def _cancelled(params, game, step):
    velocity = game(params)
    along = jax.jvp(game, (params,), (_scale_by_speeds(step, velocity),))[1]
    return _add(velocity, along, -0.5)


def _cancelled_in_turn(params, game, step):
    require_players(params)
    velocity = game(params)
    moves = _scale_by_speeds(step, velocity)
    entries = []
    for i, own in enumerate(velocity):
        signed = [jax.tree.map(jnp.negative, move) if j < i else move for j, move in enumerate(moves)]
        along = jax.jvp(game, (params,), (like_players(params, signed),))[1][i]
        entries.append(_add(own, along, -0.5))
    return like_players(params, entries)


def _require_steps(step: Any) -> None:
    for rate in step if isinstance(step, (tuple, list)) else [step]:
        _check.require_nonnegative(step=rate)


def _add(tree: PyTree, other: PyTree, factor: Any) -> PyTree:
    return jax.tree.map(lambda x, y: x + _scale(factor, y), tree, other)


def _scale(factor: Any, leaf: jax.Array) -> jax.Array:
    return jnp.asarray(factor).astype(leaf.real.dtype) * leaf


def _scale_by_speeds(step: Any, velocity: PyTree) -> PyTree:
    """What each player would move by, except for the sign."""
    times: Callable = lambda factor, tree: jax.tree.map(lambda leaf: _scale(factor, leaf), tree)
    if not isinstance(step, (tuple, list)):
        return times(step, velocity)
    require_players(velocity)
    if len(step) != len(velocity):
        raise ValueError(f"step must hold one number for each of {len(velocity)} players, got {len(step)}.")
    return like_players(velocity, [times(*pair) for pair in zip(step, velocity, strict=True)])
