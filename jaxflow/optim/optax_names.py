"""Which of optax's constructors are optimizers of ours under another name, hyperparameter by hyperparameter.

What is known of ours, in `jaxflow.optim.table`, is then known of optax's where those are made `traceable`.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from jaxflow import _check
from jaxflow._traceable import function_of
from jaxflow.optim.methods import adaptive, descent, gradients, squared_gradients
from jaxflow.optim.optimizer import Optimizer
from jaxflow.optim.table import Without

HIDDEN = (
    "a transformation that hides its numbers (optax.adam tells them as jf.optim.traceable(optax.adam)(1e-3))"
)
NESTEROV = Without("adds Nesterov's momentum to a method for which no such form is known here")
DTYPE = Without("keeps its average of gradients in a dtype of its own, which rounds it")
EPS_ROOT = Without("has an eps_root, which must be 0: every ε that is known here is outside the root")
INITIAL_SCALE = Without("has an initial_scale, which must be 0: v starts at 0 in all that is known here")
MASK = Without("decays the parameters of a mask only, for which no equation is known here")
DECAY_SCHEDULE = Without("has a schedule as its weight decay, for which no equation is known here")


def _is_on(value: Any) -> bool:
    """Whether a number, or one of an array, is known to be other than 0; what is traced is not known."""
    found = _check.values(value)
    return found is not None and bool(found.any())


def _require_zero(eps: Any, value: Any) -> Any:
    """ε where `value` is 0, and NaN where a traced `value` is not, so that no wrong equation is solved."""
    return eps if _check.values(value) is not None else jnp.where(value == 0, eps, jnp.nan)


def _sgd(learning_rate, momentum, nesterov, accumulator_dtype):
    if momentum is None:
        return descent.gd(learning_rate)
    if accumulator_dtype is not None:
        return DTYPE
    return (descent.nesterov if nesterov else descent.momentum)(learning_rate, momentum)


def _adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=False):
    if mu_dtype is not None:
        return DTYPE
    if _is_on(eps_root):
        return EPS_ROOT
    eps = _require_zero(eps, eps_root)
    return (adaptive.nadam if nesterov else adaptive.adam)(learning_rate, b1, b2, eps)


def _adamw(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=False):
    if nesterov:
        return NESTEROV
    plain, decay = _adam(learning_rate, b1, b2, eps, eps_root, mu_dtype), _decay(weight_decay, mask)
    if isinstance(plain, Without) or isinstance(decay, Without):
        return plain if isinstance(plain, Without) else decay
    return adaptive.adamw(learning_rate, b1, b2, plain.hyperparameters["eps"], weight_decay)


def _amsgrad(
    learning_rate, b1, b2, eps, eps_root, mu_dtype, bias_correction_mu=True, bias_correction_nu=True
):
    if bias_correction_mu or bias_correction_nu:
        return Without("takes the maximum over the corrected second moment, which is a method of its own")
    plain = _adam(learning_rate, b1, b2, eps, eps_root, mu_dtype)
    if isinstance(plain, Without):
        return plain
    return adaptive.amsgrad(learning_rate, b1, b2, plain.hyperparameters["eps"], bias_correction=False)


def _radam(learning_rate, b1, b2, eps, eps_root, threshold, nesterov=False):
    if nesterov:
        return NESTEROV
    if _is_on(eps_root):
        return EPS_ROOT
    return adaptive.radam(learning_rate, b1, b2, _require_zero(eps, eps_root), threshold)


def _rmsprop(
    learning_rate, decay, eps, initial_scale, eps_in_sqrt, centered, momentum, nesterov, bias_correction=False
):
    del nesterov  # it says nothing without momentum
    if centered:
        return Without("divides by the spread of the gradients, not by their mean square")
    if momentum is not None:
        return Without("adds momentum to RMSProp, for which no equation is known here")
    if bias_correction:
        return Without("corrects the bias of its second moment, for which no equation is known here")
    if _is_on(initial_scale):
        return INITIAL_SCALE
    eps = _require_zero(eps, initial_scale)
    return squared_gradients.rmsprop(learning_rate, decay, eps, eps_in_sqrt=eps_in_sqrt)


def _adagrad(learning_rate, initial_accumulator_value, eps):
    return squared_gradients.adagrad(
        learning_rate, eps, initial_accumulator=initial_accumulator_value, eps_in_sqrt=True
    )


def _decay(weight_decay, mask):
    if mask is not None:
        return MASK
    return DECAY_SCHEDULE if callable(weight_decay) else gradients.l2_regularization(weight_decay)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Optimizer | Without]] = {
    optax.sgd: _sgd,
    optax.sign_sgd: descent.sign,
    optax.adam: _adam,
    optax.adamw: _adamw,
    optax.amsgrad: _amsgrad,
    optax.radam: _radam,
    optax.rmsprop: _rmsprop,
    optax.adagrad: _adagrad,
    optax.add_decayed_weights: _decay,
}


def as_ours(optimizer: Any) -> Any:
    """The optimizer of ours that takes the same steps as one of optax's under `traceable`.

    Anything else is returned as it is. Returns `Without` where the flags make optax's another method than ours.
    Where a number that would have to be 0 is traced, the ε of the result is NaN if it is not.

    >>> import optax, jaxflow as jf
    >>> from jaxflow.optim.optax_names import as_ours
    >>> as_ours(jf.optim.traceable(optax.sgd)(0.1, momentum=0.9))
    momentum(learning_rate=0.1, beta=0.9, ema=False, debias=False)
    """
    if not isinstance(optimizer, Optimizer):
        return optimizer
    translate = TRANSLATIONS.get(
        function_of(optimizer.constructor.body)
    )  # optax.nadam is a partial of optax.adam
    return optimizer if translate is None else translate(**optimizer.hyperparameters)


def shown(optimizer: Any) -> str:
    """An optimizer as a refusal names it, with the reason where it is another method than ours.

    >>> import optax, jaxflow as jf
    >>> from jaxflow.optim.optax_names import shown
    >>> shown(optax.adam(1e-3))
    'a transformation that hides its numbers (optax.adam tells them as jf.optim.traceable(optax.adam)(1e-3))'
    """
    if not isinstance(optimizer, Optimizer):
        return HIDDEN
    ours = as_ours(optimizer)
    return f"{optimizer!r}, which {ours.why}" if isinstance(ours, Without) else repr(optimizer)
