"""The one table of what is known about each optimizer: one entry for each, which `entry_of` looks up.

An entry names formulas that are defined elsewhere, some of them in packages above this one, so they are imported when
they are needed. Where there is no formula the entry says why.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import optax

from jaxflow.optim import schedules
from jaxflow.optim.methods import adaptive, descent, evolution, squared_gradients, switching
from jaxflow.optim.optimizer import Optimizer


@dataclass(frozen=True)
class Without:
    """There is no formula. `why` is a sentence without its subject, the optimizer: "uses no gradient"."""

    why: str


@dataclass(frozen=True)
class Inherited:
    """The formula is that of the optimizer that this argument of the constructor holds."""

    argument: str


Fact = str | Without | Inherited

# Where the formula of a fact is found by the name that an entry gives it.
HOMES = {
    "family": "jaxflow.optim.rules.families",
    "scaling": "jaxflow.optim.rules.batch_size",
    "preconditioner": "jaxflow.curvature.stability.preconditioners",
    "flow": "jaxflow.dynamics",
    "sde": "jaxflow.dynamics",
    "central_flow": "jaxflow.dynamics.edge.methods",
    "shares": "jaxflow.kernels.shares_of_step",
}
# Why there is none, where an entry says nothing else.
NO_FAMILY = Without("has no family that is known here")
NO_RULE = Without("has no SDE that is known here, which a scaling rule would keep")
NO_PRECONDITIONER = Without("has no preconditioner that is known here")
EVERY_STEP = Without("does the same at every step")
NO_THRESHOLD = Without("has no closed form that is known here; stability_threshold finds it")
NO_FLOW = Without("has no textbook equation; modified(optimizer, objective) finds that of any optimizer")
NO_SDE = Without("has no SDE that is known here")
NOT_DESCENT = Without("is not a preconditioned gradient descent that is known here")
NO_SHARES = Without("has steps that are not known here as sums over examples")


@dataclass(frozen=True)
class Entry:
    """What is known about one optimizer.

    - `family`: how its hyperparameters change with the step size, for `family_of`.
    - `scaling`: how they change with the batch size, for `rescale`.
    - `preconditioner`: what it divides the gradient by, as a function of the second moment, for `preconditioner_of`.
    - `threshold`: the largest stable sharpness late in a run, in units of the preconditioner, written in the
      hyperparameters as Python. `stability_threshold` does not need it: it finds the threshold of any optimizer.
    - `period`: the hyperparameter that tells after how many steps it repeats itself, for `stability_threshold`.
    - `flow`: its textbook ODE, for `limit_of`. `sde`: its SDE on mini-batches, for `sde_of`. An equation that does
      not take one of the hyperparameters as an argument holds where that is off (the learning rate is the clock).
    - `central_flow`: the memory of its preconditioner, for `central_flow` and `stable_flow`.
    - `shares`: how it averages gradients, for the examples' shares of its steps in `path_kernel`.
    """

    constructor: Callable[..., Any]
    _: KW_ONLY
    family: Fact = NO_FAMILY
    scaling: Fact = NO_RULE
    preconditioner: Fact = NO_PRECONDITIONER
    threshold: Fact = NO_THRESHOLD
    period: Fact = EVERY_STEP
    flow: Fact = NO_FLOW
    sde: Fact = NO_SDE
    central_flow: Fact = NOT_DESCENT
    shares: Fact = NO_SHARES

    @property
    def name(self) -> str:
        """The name of the constructor."""
        return self.constructor.__name__

    def formula(self, fact: str) -> Any:
        """The formula that the entry names for one of `HOMES`; `None` where it names none."""
        named = getattr(self, fact)
        if not isinstance(named, str):
            return None
        # A colon tells the module inside the home from the name in it.
        return pkgutil.resolve_name(f"{HOMES[fact]}.{named}" if ":" in named else f"{HOMES[fact]}:{named}")


GRADIENT_FREE = Without("uses no gradient")
TWO_METHODS = Without("turns from Adam into gradient descent with momentum, and each has a rule of its own")
MOMENTUM = Without(
    "has momentum, for which no closed central flow is known: putting the effective learning rate in its place is "
    "2.5 % off at β = .5 and diverges at β = .9 (the rod flow of 2605.06821 is another equation)"
)
# Thresholds of gradient descent and of an average of gradients.
DESCENT = "2 / learning_rate"
AVERAGE = "2 * (1 + b1) / ((1 - b1) * learning_rate)"

ENTRIES = (
    Entry(descent.gd, family="PLAIN", scaling="linear", preconditioner="constant_one", threshold=DESCENT,
          flow="gradient_flow", sde="sgd", central_flow="no_memory", shares="ONE_GRADIENT"),
    Entry(descent.momentum, family="momentum_powers", scaling="linear", preconditioner="constant_one",
          threshold="2 * (1 + beta) / ((1 - beta if ema else 1) * learning_rate)",
          flow="named_by_optimizer:heavy_ball_of_momentum", sde="momentum_sgd", central_flow=MOMENTUM,
          shares="VELOCITY"),
    Entry(descent.nesterov, family="SUMS", scaling="linear", preconditioner="constant_one",
          threshold="(2 + 2 * beta) / ((1 + 2 * beta) * learning_rate)",
          flow="named_by_optimizer:heavy_ball_of_nesterov", sde="nesterov_sgd", central_flow=MOMENTUM,
          shares="VELOCITY_AHEAD"),
    Entry(descent.sgdw, family="sgdw_powers", scaling="linear", preconditioner="constant_one",
          threshold="(1 + beta) * (2 - learning_rate * weight_decay) / learning_rate",
          flow="named_by_optimizer:sgdw_flow", sde="named_by_optimizer:sgdw_sde", central_flow=MOMENTUM,
          shares="VELOCITY"),
    Entry(squared_gradients.adagrad, family="adagrad_powers", preconditioner="root_plus_eps", threshold=DESCENT,
          flow="adagrad", central_flow="sum_of_each", shares="ONE_GRADIENT"),
    Entry(squared_gradients.rmsprop, family="AVERAGES", scaling="square_root", preconditioner="root_plus_eps",
          threshold=DESCENT, flow="rmsprop", sde="rmsprop_sde", central_flow="average_of_each",
          shares="ONE_GRADIENT"),
    Entry(squared_gradients.scalar_rmsprop, preconditioner="root_plus_eps", threshold=DESCENT,
          flow=Without("has no textbook equation other than its stable_flow"),
          central_flow="average_of_all"),
    Entry(adaptive.adam, family="AVERAGES", scaling="square_root", preconditioner="adam",
          threshold=AVERAGE, flow="adam", sde="adam_sde", central_flow=MOMENTUM, shares="AVERAGE"),
    Entry(adaptive.adamw, family="adamw_powers", scaling="square_root", preconditioner="adam",
          threshold="(1 + b1) * (2 - learning_rate * weight_decay) / ((1 - b1) * learning_rate)",
          flow="named_by_optimizer:adamw_flow", sde="named_by_optimizer:adamw_sde", central_flow=MOMENTUM,
          shares="AVERAGE"),
    Entry(adaptive.amsgrad, family="AVERAGES", scaling="square_root", preconditioner="adam",
          threshold=AVERAGE, central_flow=MOMENTUM, shares="AVERAGE"),
    Entry(switching.adabound, family="ADABOUND", scaling=TWO_METHODS, preconditioner="adabound",
          threshold="2 * (1 + b1) / ((1 - b1) * final_learning_rate)", central_flow=MOMENTUM),
    Entry(adaptive.radam, family="AVERAGES",
          scaling=Without("has a rectification that counts steps, for which no rule is known"),
          preconditioner="radam", threshold=AVERAGE, central_flow=MOMENTUM),
    Entry(adaptive.nadam, family="nadam_powers", scaling="square_root", preconditioner="nadam",
          threshold="(2 + 2 * b1) / ((1 + 2 * b1) * (1 - b1) * learning_rate)", central_flow=MOMENTUM),
    Entry(switching.swats,
          family=Without("turns into another method after a number of steps that it chooses itself"),
          scaling=TWO_METHODS, preconditioner="swats", threshold=AVERAGE, central_flow=MOMENTUM),
    Entry(switching.lookahead,
          family=Without("synchronizes after a number of steps that stays the same when a step is shorter"),
          preconditioner=Inherited("inner"),
          threshold=Without("has no closed form except for a few inner optimizers; stability_threshold finds it"),
          period="steps"),
    Entry(descent.newton, family="PLAIN", preconditioner="constant_one",
          threshold=Without("is stable at every sharpness when its rate is below 2"), flow="newton_flow"),
    Entry(descent.sign, family="PLAIN",
          scaling=Without("has an SDE whose drift changes its shape with the batch size, which no rate undoes"),
          preconditioner="constant_one", threshold=Without("has an update that does not shrink with the gradient"),
          flow="sign_descent", sde="sign_sgd"),
    Entry(evolution.genetic, family=GRADIENT_FREE, scaling=GRADIENT_FREE, preconditioner=GRADIENT_FREE,
          threshold=GRADIENT_FREE, flow=GRADIENT_FREE, sde=GRADIENT_FREE),
)  # fmt: skip
OF_OPTAX = (
    Entry(optax.sgd, family="optional_momentum_powers"),
    Entry(optax.rmsprop, family="optional_momentum_powers"),
    Entry(optax.adagrad, family="OPTAX_ADAGRAD"),
    Entry(optax.lars, family="SUMS"),
    Entry(optax.novograd, family="SUMS"),
    Entry(optax.sign_sgd, family="PLAIN"),
    Entry(optax.contrib.schedule_free_adamw, family="SCHEDULE_FREE", central_flow=MOMENTUM),
)
OPTIMIZERS: dict[str, Callable[..., Any]] = {entry.name: entry.constructor for entry in ENTRIES}
_BY_CONSTRUCTOR = {entry.constructor: entry for entry in (*ENTRIES, *OF_OPTAX)}


def entry_of(optimizer: Any) -> Entry | None:
    """The entry of an optimizer, ours or one of optax's under `traceable`; `None` where there is none.

    >>> import jaxflow as jf
    >>> from jaxflow.optim.table import entry_of
    >>> entry_of(jf.optim.adam(0.1)).preconditioner
    'adam'
    """
    if not isinstance(optimizer, Optimizer):
        return None
    constructor = optimizer.constructor
    return _BY_CONSTRUCTOR.get(constructor) or _BY_CONSTRUCTOR.get(constructor.body)


def formula_of(optimizer: Any, fact: str) -> Any:
    """The formula of an optimizer for one of `HOMES`; `None` where the table has none."""
    entry = entry_of(optimizer)
    return None if entry is None else entry.formula(fact)


def names_with(fact: str) -> list[str]:
    """The optimizers that have a formula for it, for messages."""
    found = (entry.name for entry in (*ENTRIES, *OF_OPTAX) if isinstance(getattr(entry, fact), str))
    return list(dict.fromkeys(found))


SCHEDULES: dict[str, Callable[..., Any]] = {
    constructor.__name__: constructor
    for constructor in (
        schedules.constant,
        schedules.inverse_sqrt,
        schedules.warmup,
        schedules.triangular,
        schedules.sgdr,
        schedules.one_cycle,
        schedules.one_cycle_momentum,
    )
}
