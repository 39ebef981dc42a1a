"""Methods whose only memory is of squared gradients: AdaGrad and RMSProp.

Each divides the gradient by the root of a sum or an average of its squares. Gradients *through* a step are finite
also where a coordinate of the gradient is exactly 0.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.optim.methods.moments import divisor, ema, scale_by_rate, square, tree_map, zeros
from jaxflow.optim.schedules import check_rate

PyTree = Any


class SecondMomentState(NamedTuple):
    """An average or sum of squared gradients; real, shaped like the parameters."""

    nu: PyTree


@traceable
def adagrad(learning_rate, eps=1e-10, *, initial_accumulator=0.0, eps_in_sqrt=False):
    r"""AdaGrad (Duchi, Hazan & Singer 2011): $r \leftarrow r + g^2,\ \theta \leftarrow \theta - \eta g/(\sqrt r +
    \epsilon)$.

    The form with rate $\eta/\sqrt{t+1}$ over the root-*mean*-square of past gradients is the same method: the factors
    cancel.

    **Arguments**

    - `learning_rate` η: a number at least 0 or a schedule, in units of the parameters.
    - `eps` ε: a number at least 0, in units of the gradient.
    - `initial_accumulator`: the start of r, a number at least 0; 0 in the paper and PyTorch (optax: 0.1).
    - `eps_in_sqrt`: whether to divide by $\sqrt{r + \epsilon}$, optax's form (static).

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate, `eps` or accumulator; `TypeError` for a hyperparameter that is not
    a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.adagrad(0.1)
    >>> print(optimizer.update(jnp.array([5.0, -2.0]), optimizer.init(jnp.zeros(2)))[0])
    [-0.1  0.1]
    """
    check_rate(learning_rate)
    _check.require_nonnegative(eps=eps, initial_accumulator=initial_accumulator)

    def init(params):
        return SecondMomentState(tree_map(lambda z: z + initial_accumulator, zeros(params, real=True)))

    def update(updates, state, params=None):
        nu = tree_map(lambda g, r: r + square(g), updates, state.nu)
        return tree_map(lambda g, v: g / divisor(v, eps, eps_in_sqrt), updates, nu), SecondMomentState(nu)

    return scale_by_rate(init, update, learning_rate)


@traceable
def rmsprop(learning_rate, decay=0.9, eps=1e-8, *, eps_in_sqrt=False):
    r"""RMSProp (Tieleman & Hinton 2012).

    $v \leftarrow \alpha v + (1-\alpha)g^2,\ \theta \leftarrow \theta - \eta g/(\sqrt v + \epsilon)$, from v = 0.

    **Arguments**

    - `learning_rate` η: a number at least 0 or a schedule, in units of the parameters.
    - `decay` α: a number in [0, 1).
    - `eps` ε: a number at least 0, in units of the gradient.
    - `eps_in_sqrt`: whether to divide by $\sqrt{v + \epsilon}$, optax's default (static).

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate or `eps`, or `decay` outside [0, 1); `TypeError` for a
    hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.rmsprop(0.1, decay=0.75)
    >>> print(optimizer.update(jnp.array([5.0, -2.0]), optimizer.init(jnp.zeros(2)))[0])
    [-0.2  0.2]
    """
    check_rate(learning_rate)
    _check.require_fraction(decay=decay)
    _check.require_nonnegative(eps=eps)

    def update(updates, state, params=None):
        nu = ema(state.nu, tree_map(square, updates), decay)
        return tree_map(lambda g, v: g / divisor(v, eps, eps_in_sqrt), updates, nu), SecondMomentState(nu)

    return scale_by_rate(lambda params: SecondMomentState(zeros(params, real=True)), update, learning_rate)


@traceable
def scalar_rmsprop(learning_rate, decay=0.9, eps=1e-8):
    r"""RMSProp with one second moment, that of the whole gradient (Cohen et al. 2024, 2410.24206).

    $v \leftarrow \alpha v + (1-\alpha)|g|^2,\ \theta \leftarrow \theta - \eta g/(\sqrt v + \epsilon)$.
    v is a scalar, and |g|² the sum over all arrays.

    **Arguments**

    - `learning_rate` η: a number at least 0 or a schedule, in units of the parameters.
    - `decay` α: a number in [0, 1).
    - `eps` ε: a number at least 0, in units of the gradient.

    **Returns** an `Optimizer`.

    **Raises** `ValueError` for a negative rate or `eps`, or `decay` outside [0, 1); `TypeError` for a
    hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> optimizer = jf.optim.scalar_rmsprop(0.1, decay=0.75)
    >>> print(optimizer.update(jnp.array([3.0, -4.0]), optimizer.init(jnp.zeros(2)))[0])
    [-0.12  0.16]
    """
    check_rate(learning_rate)
    _check.require_fraction(decay=decay)
    _check.require_nonnegative(eps=eps)

    dtypes = lambda params: [leaf.dtype for leaf in jax.tree.leaves(zeros(params, real=True))]
    init = lambda params: SecondMomentState(jnp.zeros([], np.result_type(np.float32, *dtypes(params))))

    def update(updates, state, params=None):
        nu = ema(state.nu, sum(map(jnp.sum, jax.tree.leaves(tree_map(square, updates)))), decay)
        return tree_map(lambda g: g / divisor(nu, eps), updates), SecondMomentState(nu)

    return scale_by_rate(init, update, learning_rate)
