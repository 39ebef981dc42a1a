"""Players that move in turn, some more often than others; each sees the moves of those before it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.games import like_players
from jaxflow.optim.multi_steps import as_transformation

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
      for each player; or a single one, which all entries use. `repeated` makes one that takes several steps in its
      turn.

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
    members = [as_transformation(optimizer, "each of optimizers") for optimizer in optimizers]
    extended = [optax.with_extra_args_support(member) for member in members]

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


@traceable
def repeated(optimizer: optax.GradientTransformation, times: int) -> optax.GradientTransformationExtraArgs:
    r"""Several steps of an optimizer as one, for a player that moves more often than the others.

    `alternating(gd(h), repeated(gd(h), 5))` trains a discriminator 5 times for each step of the generator. A step
    evaluates the gradient `times` times, all on the same mini-batch. `update` needs `params` and, for more than one
    step, `grad_fn=` (`iterate` and `alternating` hand them over). The optimizer sees the gradient (as a function too)
    and the parameters, and no value. In a chain, what stands before it changes the first gradient only.

    **Arguments**

    - `optimizer`: any optax transformation.
    - `times`: the number of steps, an integer at least 1 (static).

    **Returns** an `Optimizer`. Its learning rate, and so the time of a step by default, is that of `optimizer`: one
    step of the others.

    **Raises** `TypeError` when `optimizer` is not a transformation or `times` no integer; `ValueError` for `times`
    < 1, or for an `update` without `grad_fn=`.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> bilinear = jf.game(lambda p: (p[0] * p[1], -p[0] * p[1]))
    >>> turns = jf.optim.alternating(jf.optim.gd(0.1), jf.optim.repeated(jf.optim.gd(0.1), 5))
    >>> run = jf.iterate(turns, bilinear, (jnp.array(1.0), jnp.array(1.0)), steps=1, time_step=0.1)
    >>> [round(float(x), 3) for x in run.params]
    [0.9, 1.45]

    Source: the k steps of the discriminator in Goodfellow et al. (2014, 1406.2661).
    """
    optimizer = as_transformation(optimizer)
    _check.require_integer("times", times, 1)
    extended = optax.with_extra_args_support(optimizer)

    def update(updates, state, params=None, *, grad_fn=None, **extra):
        del extra
        if times > 1 and (grad_fn is None or params is None):
            raise ValueError("repeated needs params and grad_fn=, the gradient as a function.")
        start: Any = params
        slope: Any = grad_fn
        move, state = extended.update(updates, state, params, grad_fn=grad_fn)

        def again(_, carry):
            moved, state = carry
            at = optax.apply_updates(start, moved)
            more, state = extended.update(slope(at), state, at, grad_fn=slope)
            return jax.tree.map(jnp.add, moved, more), state

        return jax.lax.fori_loop(1, times, again, (move, state))

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
