"""Another batch size, the same stochastic differential equation: the linear and the square-root scaling rule."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.optim import Optimizer
from jaxflow.optim.multi_steps import accumulation_of
from jaxflow.optim.optax_names import as_ours, shown
from jaxflow.optim.rules.chains import change_inside
from jaxflow.optim.table import formula_of, names_with


@traceable
def compress_schedule(schedule, factor, speed):
    """`factor` times a schedule, `speed` times as fast: k ↦ factor · schedule(speed · k)."""
    return lambda k: factor * schedule(speed * k)


def _rate(rate: Any, factor: Any, ratio: Any) -> Any:
    return compress_schedule(rate, factor, ratio) if callable(rate) else factor * rate


def linear(chosen: dict[str, Any], ratio: Any, batch_size: Any) -> dict[str, Any]:
    changes = {"learning_rate": _rate(chosen["learning_rate"], ratio, ratio)}
    if callable(chosen.get("beta")):
        changes["beta"] = compress_schedule(chosen["beta"], 1.0, ratio)
    return changes | _paper_decay(chosen, ratio)


def _paper_decay(chosen: dict[str, Any], ratio: Any) -> dict[str, Any]:
    """Weight decay that no rate multiplies: the same amount of it for the same number of examples."""
    multiplier = chosen.get("multiplier")
    if multiplier is None:
        return {}
    return {"weight_decay": ratio * chosen["weight_decay"], "multiplier": _rate(multiplier, 1.0, ratio)}


def square_root(chosen: dict[str, Any], ratio: Any, batch_size: Any) -> dict[str, Any]:
    if chosen.get("momentum_decay") is not None:
        raise ValueError(
            f"momentum_decay must be None to rescale nadam, got {chosen['momentum_decay']!r}: no rule is known."
        )
    root = ratio**0.5
    changes = {
        "learning_rate": _rate(chosen["learning_rate"], root, ratio),
        "eps": chosen["eps"] / (ratio if chosen.get("eps_in_sqrt") else root),
    }
    for name in ("decay", "b1", "b2"):
        if name in chosen:
            changes[name] = _decay(name, chosen[name], ratio, batch_size)
    if "weight_decay" in chosen and chosen["multiplier"] is None:
        changes["weight_decay"] = root * chosen["weight_decay"]
    return changes | _paper_decay(chosen, ratio)


def _decay(name: str, beta: Any, ratio: Any, batch_size: Any) -> Any:
    """1 − κ(1 − β); refused where that is negative."""
    forgotten = ratio * (1 - beta)
    found = _check.values(forgotten)
    if found is None:
        return 1 - forgotten
    wrong = found > 1 + 1e-6
    if wrong.any():
        at = lambda x: np.broadcast_to(x, wrong.shape)[wrong].flat[0]
        raise ValueError(
            f"new_batch_size must be at most {at(batch_size / (1 - beta)):g} for {name}={at(beta):g}, whose rescaled "
            f"value would be negative, got {at(ratio * batch_size):g}."
        )
    return jnp.maximum(0, 1 - forgotten) if isinstance(forgotten, jax.Array) else max(0.0, 1 - forgotten)


def rescale(optimizer: Any, batch_size: Any, new_batch_size: Any) -> Any:
    r"""The optimizer that on batches of `new_batch_size` follows the same SDE as `optimizer` on `batch_size`.

    With κ = B′/B, and 1/κ times the number of steps for the same number of examples:

    - **Linear rule**, for `gd`, `momentum`, `nesterov`, `sgdw`: η → κη (Goyal et al. 2017, 1706.02677). It keeps
      $d\theta = -\nabla L\,dt + \sqrt{\eta\Sigma/B}\,dW$ on the clock t = kη, as η/B stays. β is kept, as in
      practice (Smith et al. 2018, 1711.00489): with momentum the temperature η/(2B(1−β)) stays and so does the
      limit η → 0, but the velocity's memory, η/(1−β), grows with η.
    - **Square-root rule**, for `rmsprop`, `adam`, `adamw`: η → √κ η, 1 − β → κ(1 − β) for every β, ε → ε/√κ (Malladi,
      Lyu, Panigrahi & Arora 2022, 2205.10287; ε inside the root → ε/κ). It keeps $\sigma_0 = \eta/\sqrt B$, $c_i$
      and $\epsilon_0$ of `jaxflow.dynamics.adam_sde(malladi=True)` on the clock t = kη². `nadam` and `amsgrad` are
      made of the same averages and share their limit; for them it is not proved.
    - **Weight decay**: the amount taken off per example is kept. λ stays where ηλ is taken off and η is linear,
      becomes √κ λ in `adamw`, and κλ with a `multiplier`, a form in which no rate multiplies λ.
    - **Schedules** become κ times as fast: $\eta'_k = \kappa\,\eta_{\kappa k}$ or $\sqrt\kappa\,\eta_{\kappa k}$.
      They are asked for values between the steps.
    - A `chain` is rescaled if it consists of one such optimizer and `l2_regularization`, which stays. An
      `optax.MultiSteps` keeps its number of mini-batches for an update. The groups of an `optax.multi_transform`,
      made `traceable`, are each rescaled by their own rule, as every rule keeps the number of examples.

    **Arguments**

    - `optimizer`: one of those named above, or an optimizer of optax, made `traceable`, that takes the same steps.
    - `batch_size` B, `new_batch_size` B′: numbers of examples per gradient, above 0; they may be traced.

    **Returns** an optimizer of the same kind with other numbers; a new `optax.MultiSteps` where one is given.

    **Raises** `TypeError` when `optimizer` is not an optimizer; `ValueError` for batch sizes that are not positive,
    an optimizer (or part) for which no rule is known, or κ(1 − β) > 1, naming the largest batch size.

    **The rules break** where the SDE does. The linear rule breaks once κη times the sharpness is not small compared
    with 2, and so at batch sizes near the noise scale tr Σ/|∇L|² (`noise_scale`; Li, Malladi & Arora 2021,
    2102.12470; McCandlish et al. 2018, 1812.06162), and early in training, which is why Goyal et al. warm up. The
    square-root rule breaks where the noise of a mini-batch no longer outweighs its gradient, or κ(1 − β) is not
    small compared with 1. Both take Σ/B for the covariance: for batches without replacement that are not a small
    part of N, give $1/s_B$ for the batch sizes.

    >>> import jaxflow as jf
    >>> jf.rescale(jf.optim.gd(0.1), 32, 128)
    gd(learning_rate=0.4)
    >>> print(round(jf.rescale(jf.optim.adam(1e-3), 32, 128).hyperparameters["b1"], 6))
    0.6
    """
    accumulation = accumulation_of(optimizer)
    if accumulation is not None:
        inner, every = accumulation
        return optax.MultiSteps(rescale(inner, batch_size, new_batch_size), every)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be one of jaxflow.optim, got {optimizer!r}.")
    _check.require_positive(batch_size=batch_size, new_batch_size=new_batch_size)
    ratio = new_batch_size / batch_size
    return change_inside(optimizer, lambda member: _rescale_member(member, ratio, batch_size), "be rescaled")


def _rescale_member(optimizer: Any, ratio: Any, batch_size: Any) -> Optimizer:
    ours = as_ours(optimizer)
    rule = formula_of(ours, "scaling")
    if rule is None:
        known = ", ".join(names_with("scaling"))
        raise ValueError(
            f"optimizer must be one with a known scaling rule ({known}), got {shown(optimizer)}."
        )
    # What a rule changes is called the same in optax as in ours.
    return optimizer.replace(**rule(ours.hyperparameters, ratio, batch_size))
