"""Families of optimizers: one optimizer at every step size, so that all have one limit equation.

An order of accuracy needs a limit. As the time h of a step falls, an optimizer's iterates follow one differential
equation only if its other numbers change with it: averages must forget the same per unit of time, sums must weigh the
same.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from jaxflow import _check
from jaxflow._traceable import traceable
from jaxflow.optim import Optimizer, hyperparameters, learning_rate_of
from jaxflow.optim.multi_steps import refuse_accumulation
from jaxflow.optim.optax_names import HIDDEN
from jaxflow.optim.rules.batch_size import compress_schedule
from jaxflow.optim.rules.chains import change_inside
from jaxflow.optim.table import entry_of, formula_of, names_with

# How each hyperparameter goes with s = h/h₀: the power of s it is multiplied by, or `DECAY`.
Powers = dict[str, Any]

DECAY = "decay"  # β ↦ β^s
PLAIN: Powers = {"learning_rate": 1, "weight_decay": 0, "multiplier": 0}
AVERAGES: Powers = PLAIN | dict.fromkeys(("b1", "b2", "b3", "decay"), DECAY)
# Here b1 says where, between two sequences, the gradient is taken: it is not a decay.
SCHEDULE_FREE: Powers = AVERAGES | {"b1": 0}
# A velocity that is a sum, v ← βv + g, is of size 1/h: a rate of order h² moves the parameters by order h.
SUMS: Powers = AVERAGES | {"learning_rate": 2} | dict.fromkeys(("beta", "momentum"), DECAY)
ADABOUND: Powers = AVERAGES | {"final_learning_rate": 1, "gamma": 1}
# The sum of g² is of size 1/h.
OPTAX_ADAGRAD: Powers = PLAIN | {"learning_rate": 0.5, "eps": -1, "initial_accumulator_value": -1}


@traceable
def power_of_schedule(schedule, speed):
    """A decay rate that is a schedule, for steps `speed` times as long: k ↦ schedule(speed · k)^speed."""
    return lambda k: schedule(speed * k) ** speed


def momentum_powers(chosen: dict[str, Any]) -> Powers:
    return SUMS | ({"learning_rate": 1} if chosen["ema"] else {})


def sgdw_powers(chosen: dict[str, Any]) -> Powers:
    """A rate of order h² takes off ηλ, which is to be of order h."""
    return SUMS | {"weight_decay": -1 if chosen["multiplier"] is None else 1}


def adamw_powers(chosen: dict[str, Any]) -> Powers:
    return AVERAGES | {"weight_decay": 0 if chosen["multiplier"] is None else 1}


def adagrad_powers(chosen: dict[str, Any]) -> Powers:
    return PLAIN | {
        "learning_rate": 0.5,
        "eps": -1 if chosen["eps_in_sqrt"] else -0.5,
        "initial_accumulator": -1,
    }


def nadam_powers(chosen: dict[str, Any]) -> Powers:
    if chosen["momentum_decay"] is not None:
        raise ValueError(
            f"momentum_decay must be None for nadam to have a family, got {chosen['momentum_decay']!r}."
        )
    return AVERAGES


def optional_momentum_powers(chosen: dict[str, Any]) -> Powers:
    return AVERAGES if chosen["momentum"] is None else SUMS


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Family:
    """`family(h)` is the optimizer whose step takes the time h; a pytree of `optimizer` and its own `time_step`."""

    optimizer: Any
    time_step: Any

    def __call__(self, h: Any) -> Optimizer:
        _check.require_positive(h=h)
        return _optimizer_at(self.optimizer, h / self.time_step)


def family_of(optimizer: optax.GradientTransformation, time_step: Any = None) -> Family:
    r"""The optimizers h ↦ `family(h)` through this one whose iterates, on the clock t = kh, share a limit as h → 0.

    With h₀ = `time_step` and s = h/h₀, `family(h₀)` is the optimizer itself and

    - decay rates forget the same per unit of time, $\beta(h) = \beta^s$;
    - the learning rate is $\eta s^q$. **q = 1** where the update is a gradient or an average: `gd`, `newton`,
      `sign`, `momentum(ema=True)`, `rmsprop`, `adam`, `adamw`, `amsgrad`, `nadam`, `radam`, `adabound` (its final
      rate and γ as well). **q = 2** where a velocity adds gradients up to a size of 1/h: `momentum`, `nesterov`,
      `sgdw` (whose decay becomes λ/s); the limit is $\ddot\theta - \frac{\ln\beta}{h_0}\dot\theta +
      \frac\eta{h_0^2}\nabla L = 0$; **q = ½** where the rate is divided by the root of a sum of squares, of size
      1/h: `adagrad` ($\epsilon/\sqrt s$, and the initial sum over s; from an empty sum its first steps are of size
      √h, and it approaches its limit as slowly);
    - schedules are stretched in time, $\eta_k(h) = s^q \eta_{sk}$, and asked for values between the steps;
    - weight decay keeps what it takes off per unit of time; ε and all else stay.

    **Arguments**

    - `optimizer`: one of those above, or `traceable` versions of optax's `sgd`, `rmsprop`, `adagrad`, `lars`,
      `novograd`, `sign_sgd`, and of any constructor with `learning_rate`, `b1` and `b2`, which is taken for a method
      of averages, q = 1 (`lamb`, `lion`, `adabelief`, `ademamix`, …; the b1 of `schedule_free_adamw` stays, as it is
      not a decay); or a `chain` of one such optimizer and `l2_regularization`; or a traceable
      `optax.multi_transform` of such groups. For another optimizer write the function h ↦ optimizer yourself.
    - `time_step` h₀: the time of a step, a number above 0. Default: the learning rate; under a schedule it must be
      given.

    **Returns** a `Family`, a pytree that is called as `family(h)`; h may be traced. Hand `time_step=h` to `iterate`
    and `modified` along with `family(h)`, because the rate is not the time where q ≠ 1.

    **Raises** `TypeError` when `optimizer` is not an optimizer; `ValueError` for one without a known family
    (`lookahead`, `swats`, `genetic`, …) or a time step that is missing or not positive.

    >>> import jaxflow as jf
    >>> jf.family_of(jf.optim.momentum(0.1, 0.81))(0.05)
    momentum(learning_rate=0.025, beta=0.9, ema=False, debias=False)
    >>> jf.family_of(jf.optim.adam(1e-3, 0.81, 0.9604))(5e-4)
    adam(learning_rate=0.0005, b1=0.9, b2=0.98, eps=1e-08)
    """
    refuse_accumulation(optimizer, "to have a family, as MultiSteps is no pytree of its numbers")
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be one of jaxflow.optim, got {optimizer!r}.")
    _optimizer_at(optimizer, 1.0)  # refuses one that has no family
    if time_step is None:
        time_step = learning_rate_of(optimizer)
    if time_step is None or callable(time_step):
        raise ValueError(
            f"time_step must be a number above 0 where the learning rate is not a number, got {time_step!r}."
        )
    _check.require_positive(time_step=time_step)
    if isinstance(time_step, np.ndarray) and time_step.ndim:
        raise ValueError(f"time_step must be one number, got shape {time_step.shape}.")
    return Family(optimizer, time_step)


def _powers(optimizer: Any) -> Powers:
    rule = formula_of(optimizer, "family")
    chosen = hyperparameters(optimizer)
    if entry_of(optimizer) is None and {"learning_rate", "b1", "b2"} <= chosen.keys():
        rule = AVERAGES
    if rule is None:
        ours = isinstance(optimizer, Optimizer)
        shown = optimizer.constructor.__name__ if ours else HIDDEN
        names = ", ".join(sorted(names_with("family")))
        raise ValueError(
            f"optimizer must be one with a known family ({names}, or a traceable one with learning_rate, b1 and b2), "
            f"got {shown}."
        )
    powers: Powers = rule if isinstance(rule, dict) else rule(chosen)
    memory = [chosen.get(name) for name in ("beta", "momentum")]
    if powers["learning_rate"] == 2 and any(_check.is_concrete(beta) and beta == 0 for beta in memory):
        raise ValueError(f"beta must be above 0 for a family with momentum, got {optimizer!r}.")
    return powers


def _optimizer_at(optimizer: Any, s: Any) -> Optimizer:
    return change_inside(optimizer, lambda member: _member_at(member, s), "have a family")


def _member_at(optimizer: Any, s: Any) -> Optimizer:
    powers = _powers(optimizer)
    chosen = {name: value for name, value in optimizer.hyperparameters.items() if value is not None}
    return optimizer.replace(
        **{name: _rescale_value(chosen[name], power, s) for name, power in powers.items() if name in chosen}
    )


def _rescale_value(value: Any, power: Any, s: Any) -> Any:
    if power == DECAY:
        return power_of_schedule(value, s) if callable(value) else value**s
    if callable(value):
        return compress_schedule(value, s**power, s)
    return value if power == 0 else s**power * value
