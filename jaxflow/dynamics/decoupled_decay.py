"""Weight decay that is not a part of the gradient: a drift towards 0, added to the equation of a method."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.dynamics.base import Dynamics, Field

PyTree = Any


@traceable
def decayed(dynamics: Dynamics, weight_decay: Any) -> Field:
    r"""A dynamics with $-\lambda\theta\,dt$ added to its $d\theta$: decoupled weight decay on the clock t = kη.

    **Arguments**

    - `dynamics`: the equation without decay, whose state has the parameters in a field `params`.
    - `weight_decay` λ: a number at least 0, per unit of the clock.

    **Returns** a `Dynamics` of the same state and noise. Where the dynamics has a step of its own, that is taken
    between two half steps of exact decay.

    **Raises** `ValueError` for a negative decay.

    **Derivation.** $\theta \leftarrow \theta - \eta(u + \lambda\theta)$ (Loshchilov & Hutter 2019, 1711.05101) moves
    by $-\eta u$ and by $-\eta\lambda\theta$ in a time η. Terms of second order in η in which λ takes part are left
    out, so that the result is of first order in ηλ, whatever the order of the equation without decay.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> flow = decayed(jf.dynamics.heavy_ball(jnp.sum, 1.0, 1.0), 0.5)
    >>> print(flow.drift(0.0, flow.init(jnp.ones(1))).params)
    [-0.5]
    """
    _check.require_nonnegative(weight_decay=weight_decay)
    undecayed = dynamics.build()
    step_between = undecayed.step

    def shrink(params, share):
        return jax.tree.map(lambda p: jnp.asarray(share).astype(p.real.dtype) * p, params)

    def drift(t, state):
        velocity = undecayed.drift(t, state)
        pull = shrink(state.params, weight_decay)
        return velocity._replace(params=jax.tree.map(jnp.subtract, velocity.params, pull))

    def step(t, state, dt, xi):
        assert step_between is not None
        kept = jnp.exp(-weight_decay * dt / 2)
        state = step_between(t, state._replace(params=shrink(state.params, kept)), dt, xi)
        return state._replace(params=shrink(state.params, kept))

    return undecayed._replace(drift=drift, step=None if step_between is None else step)
