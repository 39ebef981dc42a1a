"""Players that move in turn; each sees the moves of those before it."""

from typing import Any

import optax

from jaxflow._traceable import traceable
from jaxflow.games import like_players

PyTree = Any


@traceable
def alternating(*optimizers: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Alternating descent: entry i of the parameters is stepped by `optimizers[i]`, at the others' newest values.

    $\theta_i \leftarrow \theta_i - \eta_i V_i(\theta_1^{new}, …, \theta_{i-1}^{new}, \theta_i, …, \theta_n)$ for
    i = 1 … n. On a loss instead of a game it is block coordinate (Gauss–Seidel) descent. A step evaluates the
    gradient n times. `update` needs `params` and `grad_fn=` (`iterate` hands them over). The optimizers see the
    gradient (as a function too) and the parameters of their own player, and no value.

    **Arguments**

    - `optimizers`: one for each entry of the parameters, which are a tuple or a list with one entry (any pytree)
      for each player; or a single one, which all entries use.

    **Returns** an `Optimizer`.

    **Raises** `TypeError` when an argument is not a transformation; `ValueError` when there are no optimizers, when
    `init` finds another number of entries than of optimizers, or for an `update` without `grad_fn=`.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> bilinear = jf.game(lambda p: (p[0] * p[1], -p[0] * p[1]))
    >>> players = (jnp.array(1.0), jnp.array(1.0))
    >>> run = jf.iterate(jf.optim.alternating(jf.optim.gd(0.1)), bilinear, players, steps=1)
    >>> [round(float(x), 3) for x in run.params]
    [0.9, 1.09]
    """
    if not optimizers:
        raise ValueError("alternating needs at least one optimizer, got no argument.")
    for optimizer in optimizers:
        if not isinstance(optimizer, optax.GradientTransformation):
            raise TypeError(f"alternating takes optax transformations, got {optimizer!r}.")
    extended = [optax.with_extra_args_support(optimizer) for optimizer in optimizers]

    def players(params) -> list[tuple[int, Any]]:
        if not isinstance(params, (tuple, list)) or len(optimizers) not in (1, len(params)):
            raise ValueError(
                "params must be a tuple or list with one entry for each optimizer "
                f"({len(optimizers)} of them), got {params!r}."
            )
        return list(enumerate(extended * len(params) if len(extended) == 1 else extended))

    def init(params):
        return tuple(optimizer.init(params[i]) for i, optimizer in players(params))

    def update(updates, state, params=None, *, grad_fn=None, **extra):
        del extra
        if grad_fn is None or params is None:
            raise ValueError("alternating needs params and grad_fn=, the gradient as a function.")
        moved, moves, states = list(params), [], []
        for i, optimizer in players(params):
            slope = lambda own, i=i, at=tuple(moved): grad_fn(
                like_players(params, [*at[:i], own, *at[i + 1 :]])
            )[i]
            own = updates[i] if i == 0 else slope(params[i])
            move, inner = optimizer.update(own, state[i], params[i], grad_fn=slope)
            moved[i] = optax.apply_updates(params[i], move)
            moves, states = [*moves, move], [*states, inner]
        return like_players(params, moves), tuple(states)

    return optax.GradientTransformationExtraArgs(init, update)
