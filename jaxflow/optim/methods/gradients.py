"""Transformations of the gradient, to be chained before an optimizer: noise and L2 regularization."""

import jax
import jax.numpy as jnp
import optax

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.optim.methods.moments import keep_in_single


@traceable
def gradient_noise(eta, gamma=0.55, *, key):
    r"""Annealed Gaussian gradient noise (Neelakantan et al. 2015, 1511.06807): $g + \xi_t$.

    $\mathrm{Var}\,\xi_t = \eta/(1+t)^\gamma$ for every coordinate; t counts steps from 0.

    **Arguments**

    - `eta` η: the variance at t = 0, a number at least 0, in units of a squared gradient.
    - `gamma` γ: the exponent, a number at least 0.
    - `key`: a JAX PRNG key. It is a leaf, so `vmap` over keys gives independent noise.

    **Returns** an `Optimizer`, to be put before another one in a `chain`.

    **Raises** `ValueError` for a negative `eta` or `gamma`; `TypeError` for a hyperparameter that is not a number,
    or when `key` is not a PRNG key.

    >>> import jax, jax.numpy as jnp, jaxflow as jf
    >>> noisy = jf.optim.chain(jf.optim.gradient_noise(0.01, key=jax.random.key(0)), jf.optim.gd(0.1))
    >>> noisy.update(jnp.ones(3), noisy.init(jnp.zeros(3)))[0].shape
    (3,)
    """
    _check.require_nonnegative(eta=eta, gamma=gamma)
    if not hasattr(key, "dtype"):
        raise TypeError(f"key must be a PRNG key such as jax.random.key(0), got {key!r}.")
    if jnp.issubdtype(key.dtype, jnp.unsignedinteger):  # the raw form, as `jax.random.PRNGKey` makes it
        key = jax.random.wrap_key_data(key)
    return keep_in_single(optax.add_noise(eta, gamma, key))


@traceable
def l2_regularization(strength):
    r"""Add $\lambda\theta$ to the gradient: the gradient of the penalty $\frac\lambda2|\theta|^2$ in the loss.

    With adaptive methods this is not decoupled weight decay (`adamw`): the penalty is divided by their
    preconditioner too.

    **Arguments**

    - `strength` λ: a number at least 0, in units of the Hessian.

    **Returns** an `Optimizer`, to be put before another one in a `chain`.

    **Raises** `ValueError` for a negative `strength`; `TypeError` for a hyperparameter that is not a number.

    >>> import jax.numpy as jnp, jaxflow as jf
    >>> ridge = jf.optim.chain(jf.optim.l2_regularization(0.5), jf.optim.gd(0.1))
    >>> print(ridge.update(jnp.zeros(1), ridge.init(jnp.ones(1)), jnp.ones(1))[0])
    [-0.05]
    """
    _check.require_nonnegative(strength=strength)
    return keep_in_single(optax.add_decayed_weights(strength))
