"""Every optimizer and schedule by name: for the command line, and for tests that must cover all of them."""

from collections.abc import Callable
from typing import Any

from jaxflow.optim import adaptive, descent, evolution, schedules, switching

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    constructor.__name__: constructor
    for constructor in (
        descent.gd,
        descent.momentum,
        descent.nesterov,
        descent.sgdw,
        adaptive.adagrad,
        adaptive.rmsprop,
        adaptive.scalar_rmsprop,
        adaptive.adam,
        adaptive.adamw,
        adaptive.amsgrad,
        switching.adabound,
        adaptive.radam,
        adaptive.nadam,
        switching.swats,
        switching.lookahead,
        descent.newton,
        descent.sign,
        evolution.genetic,
    )
}

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
