"""Vector fields that stand in the place of a gradient, for games and other motions that minimise no single loss.

Where several players each descend a loss of their own, what they follow together is the gradient of no function.
Everything that only needs a gradient accepts a `VectorField` as an objective: `iterate`, `gradient_flow`,
`modified`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxflow import _check
from jaxflow._moved import alias_of
from jaxflow._shapes import show

PyTree = Any


@dataclass(frozen=True)
class VectorField:
    r"""A vector field $V(\theta)$ in the place of a gradient: descent is $\theta \leftarrow \theta - \eta V(\theta)$.

    **Arguments**

    - `field`: a function `field(params, *data) -> pytree` of the structure and shapes of `params`.
    - `data`: a tuple of arrays (or pytrees of them) that enter compiled code as arguments, so that two vector fields
      with one `field` share a compilation.

    There is no loss: where an optimizer asks for its value it is NaN, so a line search has nothing to search along.

    **Raises** `TypeError` when `field` is not callable or `data` is no tuple; `ValueError`, when it is called, for a
    field whose structure or shapes are not those of the parameters.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> rotation = jf.VectorField(lambda z, speed: speed * jnp.array([-z[1], z[0]]), (1.0,))
    >>> run = jf.iterate(jf.optim.gd(0.1), rotation, jnp.array([1.0, 0.0]), steps=1)
    >>> print(run.params)
    [ 1.  -0.1]
    """

    field: Callable[..., PyTree]
    data: tuple = ()

    def __post_init__(self):
        if not callable(self.field):
            raise TypeError(f"field must be a function (params, *data) -> pytree, got {self.field!r}.")
        if not isinstance(self.data, tuple):
            raise TypeError(f"data must be a tuple of the field's further arguments, got {self.data!r}.")

    def __repr__(self):
        return f"VectorField({show(self.field)}, {show(self.data)})"

    def __call__(self, params: PyTree) -> PyTree:
        """The field at `params`, checked to be of their structure and shapes."""
        velocity = self.field(params, *self.data)
        _check.require_like("field", velocity, params, "return shapes like params")
        return velocity


def like_players(players: Any, entries: list) -> Any:
    """Put entries into a container of the same type as that of the players: a tuple, a named tuple or a list.

    **Arguments**

    - `players`: the container whose type counts.
    - `entries`: a list of the new entries, one for each player.

    **Returns** the entries in a container of that type.

    >>> from jaxflow.games import like_players
    >>> like_players((1.0, 2.0), [3.0, 4.0])
    (3.0, 4.0)
    """
    return type(players)(*entries) if hasattr(players, "_fields") else type(players)(entries)


def _unflatten(field, data) -> VectorField:
    """An instance made without the constructor, which refuses what pytree operations may put in the data's place."""
    made = object.__new__(VectorField)
    object.__setattr__(made, "field", field)
    object.__setattr__(made, "data", data[0])
    return made


jax.tree_util.register_pytree_with_keys(
    VectorField, lambda v: (((jax.tree_util.GetAttrKey("data"), v.data),), v.field), _unflatten
)


def game(losses: Callable[..., Any], data: tuple = ()) -> VectorField:
    r"""The game in which player i descends its own loss in its own parameters: $V_i = \nabla_{\theta_i} L_i(\theta)$.

    **Arguments**

    - `losses`: a function `losses(params, *data) -> (L_1, …, L_n)` of scalars, one for each entry of `params`,
      which is a tuple or a list with one entry (any pytree) for each player. A zero-sum game has $L_2 = -L_1$.
    - `data`: a tuple of arrays (or pytrees of them) that enter compiled code as arguments.

    **Returns** a `VectorField`. Under one optimizer all players move at once; `jaxflow.optim.alternating` moves
    them in turn. An evaluation costs one backward pass for each player.

    **Raises** `TypeError` when `losses` is not callable or `data` is no tuple; `ValueError`, when it is called, where
    losses and players differ in number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> bilinear = jf.game(lambda players: (players[0] * players[1], -players[0] * players[1]))
    >>> [float(v) for v in bilinear((jnp.array(2.0), jnp.array(3.0)))]
    [3.0, -2.0]
    """
    if not callable(losses):
        raise TypeError(
            f"losses must be a function (params, *data) -> one scalar for each player, got {losses!r}."
        )
    return VectorField(_players(losses), data)


@functools.lru_cache(maxsize=256)
def _players(losses):
    """One function object for each `losses`, so that compiled programs are found again."""

    def field(params, *data):
        require_players(params)
        count = len(jax.eval_shape(losses, params, *data))
        if count != len(params):
            raise ValueError(f"losses must return one scalar for each player, {len(params)}, got {count}.")

        def loss(own, i):
            return losses(like_players(params, [*params[:i], own, *params[i + 1 :]]), *data)[i]

        slope = lambda own, i: jax.tree.map(jax.numpy.conj, jax.grad(loss)(own, i))
        return like_players(params, [slope(own, i) for i, own in enumerate(params)])

    return field


def require_players(params: Any) -> None:
    """Refuse parameters that are not one entry for each player."""
    if not isinstance(params, (tuple, list)):
        raise ValueError(f"params must be a tuple or list with one entry for each player, got {params!r}.")


def require_field(game: Any) -> None:
    """Refuse what is no vector field."""
    if not isinstance(game, VectorField):
        raise TypeError(f"game must be a VectorField, such as jaxflow.game makes, got {game!r}.")


like = alias_of("jaxflow.games.like", "jaxflow.games.like_players", like_players)
