"""Vector fields that stand in the place of a gradient, for games and other motions that minimise no single loss.

Where several players each descend a loss of their own, what they follow together is the gradient of no function.
Everything that only needs a gradient accepts a `VectorField` as an objective: `iterate`, `gradient_flow`,
`modified`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxflow import _check
from jaxflow._losses.drawn_losses import lacks_key
from jaxflow._moved import alias_of
from jaxflow._programs.checkpoint import checkpoint
from jaxflow._text.shapes import show

PyTree = Any


@dataclass(frozen=True)
class VectorField:
    r"""A vector field $V(\theta)$ in the place of a gradient: descent is $\theta \leftarrow \theta - \eta V(\theta)$.

    **Arguments**

    - `field`: a function `field(params, *data) -> pytree` of the structure and shapes of `params`. A field that draws
      random numbers (mini-batches, latent variables, noise) is a function `field(params, *data, key)`, whose last
      argument has this name.
    - `data`: a tuple of arrays (or pytrees of them) that enter compiled code as arguments, so that two vector fields
      with one `field` share a compilation. Other vector fields may be among them.
    - `draws`: for a field that draws random numbers, the number of draws whose mean stands for its expectation
      (static). Each step of `iterate` draws its own, from the step's key. Flows, Jacobians and a plain call need a
      function of the parameters alone: there the field is its mean over this number of draws, which are the same
      every time. Without `draws` it is refused.
    - `key`: the random key with which all numbers are drawn; `with_key` sets it.

    There is no loss: where an optimizer asks for its value it is NaN, so a line search has nothing to search along.

    **Raises** `TypeError` when `field` is not callable or `data` is not a tuple; `ValueError` for `draws` < 1, or
    for `draws` of a field without a key; and, when it is called, for a field whose structure or shapes are not
    those of the parameters, or one that draws and has neither `draws` nor a key.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> rotation = jf.VectorField(lambda z, speed: speed * jnp.array([-z[1], z[0]]), (1.0,))
    >>> run = jf.iterate(jf.optim.gd(0.1), rotation, jnp.array([1.0, 0.0]), steps=1)
    >>> print(run.params)
    [ 1.  -0.1]
    """

    field: Callable[..., PyTree]
    data: tuple = ()
    draws: int | None = None
    key: Any = None

    def __post_init__(self):
        if not callable(self.field):
            raise TypeError(f"field must be a function (params, *data) -> pytree, got {self.field!r}.")
        if not isinstance(self.data, tuple):
            raise TypeError(f"data must be a tuple of the field's further arguments, got {self.data!r}.")
        if self.draws is not None:
            _check.require_integer("draws", self.draws, 1)
            if not self._lacks_key:
                raise ValueError(
                    f"draws must be None for a field without an argument named key, got {self.draws!r}."
                )

    def __repr__(self):
        return f"VectorField({show(self.field)}, {show(self.data)})"

    def __call__(self, params: PyTree) -> PyTree:
        """The field at `params`, checked to be of their structure and shapes."""
        if not self._lacks_key:
            velocity = self.field(params, *self.data)
        elif self.key is not None:
            velocity = self.field(params, *self.data, key=self.key)
        else:
            velocity = self._mean_of_draws(params)
        _check.require_like("field", velocity, params, "return shapes like params")
        return velocity

    def _mean_of_draws(self, params: PyTree) -> PyTree:
        if self.draws is None:
            raise ValueError(
                "draws must be given to a VectorField that draws random numbers, outside the steps of iterate, which "
                "draw their own: the mean over draws=n draws then takes the place of the expectation; got "
                f"{show(self.field)} without draws."
            )

        @checkpoint
        def one(number):
            return self.field(params, *self.data, key=jax.random.fold_in(jax.random.key(0), number))

        return jax.tree.map(lambda v: v.mean(0), lax.map(one, jnp.arange(self.draws)))

    @property
    def _lacks_key(self) -> bool:
        return lacks_key(self.field, 1 + len(self.data))

    @property
    def is_random(self) -> bool:
        """Whether the field, or one among its data, draws random numbers."""
        return self._lacks_key or any(part.is_random for part in self.data if _is_field(part))

    def with_key(self, key: jax.Array) -> "VectorField":
        """The field with the numbers that `key` draws, in fields among its data too: it is no longer random.

        >>> import jax, jax.numpy as jnp, jaxflow as jf
        >>> shaken = jf.VectorField(lambda x, key: x + jax.random.normal(key), draws=100)
        >>> one = shaken.with_key(jax.random.key(0))
        >>> bool(one(1.0) == one(1.0)), bool(one(1.0) == shaken(1.0))
        (True, False)
        """
        data = tuple(part.with_key(key) if _is_field(part) and part.is_random else part for part in self.data)
        return replace(self, data=data, key=key if self._lacks_key else self.key)


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


def _is_field(part: Any) -> bool:
    return isinstance(part, VectorField)


def _flatten(field: VectorField) -> tuple[tuple, tuple]:
    keys = map(jax.tree_util.GetAttrKey, ("data", "key"))
    return tuple(zip(keys, (field.data, field.key), strict=True)), (field.field, field.draws)


def _unflatten(static, children) -> VectorField:
    """An instance made without the constructor, which refuses what pytree operations may put in the data's place."""
    made = object.__new__(VectorField)
    for name, value in zip(("field", "draws", "data", "key"), (*static, *children), strict=True):
        object.__setattr__(made, name, value)
    return made


jax.tree_util.register_pytree_with_keys(VectorField, _flatten, _unflatten)


def game(losses: Callable[..., Any], data: tuple = (), *, draws: int | None = None) -> VectorField:
    r"""The game in which player i descends its own loss in its own parameters: $V_i = \nabla_{\theta_i} L_i(\theta)$.

    **Arguments**

    - `losses`: a function `losses(params, *data) -> (L_1, …, L_n)` of scalars, one for each entry of `params`,
      which is a tuple or a list with one entry (any pytree) for each player. A zero-sum game has $L_2 = -L_1$.
      Losses that draw random numbers, such as mini-batches of the data and latent variables, are a function
      `losses(params, *data, key)`.
    - `data`: a tuple of arrays (or pytrees of them) that enter compiled code as arguments.
    - `draws`: for losses that draw random numbers, the number of draws that stands for their expectation where there
      is no step to draw for, as in `VectorField` (static).

    **Returns** a `VectorField`. Under one optimizer all players move at once; `jaxflow.optim.alternating` moves
    them in turn. An evaluation costs one backward pass for each player.

    **Raises** `TypeError` when `losses` is not callable or `data` is not a tuple; `ValueError` for `draws` of
    losses without a key, and, when it is called, where losses and players differ in number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> bilinear = jf.game(lambda players: (players[0] * players[1], -players[0] * players[1]))
    >>> [float(v) for v in bilinear((jnp.array(2.0), jnp.array(3.0)))]
    [3.0, -2.0]
    """
    if not callable(losses):
        raise TypeError(
            f"losses must be a function (params, *data) -> one scalar for each player, got {losses!r}."
        )
    is_random = isinstance(data, tuple) and lacks_key(losses, 1 + len(data))
    return VectorField(_players(losses, is_random), data, draws)


@functools.lru_cache(maxsize=256)
def _players(losses, is_random):
    """One function object for each `losses`, so that compiled programs are found again."""

    def field(params, *data, **drawn):
        require_players(params)
        count = len(jax.eval_shape(losses, params, *data, **drawn))
        if count != len(params):
            raise ValueError(f"losses must return one scalar for each player, {len(params)}, got {count}.")

        def loss(own, i):
            return losses(like_players(params, [*params[:i], own, *params[i + 1 :]]), *data, **drawn)[i]

        slope = lambda own, i: jax.tree.map(jnp.conj, jax.grad(loss)(own, i))
        return like_players(params, [slope(own, i) for i, own in enumerate(params)])

    def random_field(params, *data, key):
        return field(params, *data, key=key)

    return random_field if is_random else field


def require_players(params: Any) -> None:
    """Refuse parameters that are not one entry for each player."""
    if not isinstance(params, (tuple, list)):
        raise ValueError(f"params must be a tuple or list with one entry for each player, got {params!r}.")


def require_field(game: Any) -> None:
    """Refuse anything but a vector field."""
    if not isinstance(game, VectorField):
        raise TypeError(f"game must be a VectorField, such as jaxflow.game makes, got {game!r}.")


like = alias_of("jaxflow.games.like", "jaxflow.games.like_players", like_players)
