"""Optimizers named on the command line: from words to a constructor's arguments."""

import inspect
from typing import Any

import jax

from jaxflow import _check
from jaxflow.optim import OPTIMIZERS, SCHEDULES, Optimizer, gd

FALLBACK_RATE = 0.1


def make_optimizer(name: str, learning_rate: float | None, words: tuple[str, ...], seed: int) -> Optimizer:
    """The optimizer of that name; `words` are NAME=VALUE pairs for its other hyperparameters.

    Raises `ValueError` for an unknown optimizer or hyperparameter (the nearest name is suggested), a value that
    is no number, or one the optimizer refuses.
    """
    _check.require_choice("optimizer", name, OPTIMIZERS)
    constructor = OPTIMIZERS[name]
    parameters = inspect.signature(constructor).parameters
    arguments = dict(_pair(name, word, parameters) for word in words)
    if "inner" in parameters:
        arguments["inner"] = gd(FALLBACK_RATE if learning_rate is None else learning_rate)
    elif "learning_rate" in parameters:
        default = parameters["learning_rate"].default
        if learning_rate is not None:
            arguments["learning_rate"] = learning_rate
        elif default is inspect.Parameter.empty:
            arguments["learning_rate"] = FALLBACK_RATE
    elif learning_rate is not None:
        raise ValueError(f"learning-rate must be left out: {name} has none, got {learning_rate!r}.")
    if "key" in parameters:
        arguments["key"] = jax.random.key(seed)
    return constructor(**arguments)


def _pair(optimizer: str, word: str, parameters: Any) -> tuple[str, Any]:
    name, equals, text = word.partition("=")
    if not equals:
        raise ValueError(f"set takes NAME=VALUE pairs, got {word!r}.")
    settable = [p for p in parameters if p not in ("learning_rate", "inner", "key")]
    if not settable:
        raise ValueError(f"set must be left out: {optimizer} has no other hyperparameter, got {word!r}.")
    _check.require_choice(f"set, for {optimizer},", name, settable)
    if text.lower() in ("true", "false"):
        return name, text.lower() == "true"
    kind = int if parameters[name].annotation is int else float
    try:
        return name, kind(text)
    except ValueError:
        raise ValueError(f"set {name} must be a number, true or false, got {text!r}.") from None


def listing() -> str:
    """Every optimizer and schedule: its arguments with their defaults, and the first line of its docstring."""
    lines = []
    for title, table in (("Optimizers", OPTIMIZERS), ("Schedules", SCHEDULES)):
        lines.append(f"{title}:")
        for name, constructor in table.items():
            first = (inspect.getdoc(constructor) or "").splitlines()[0]
            parameters = inspect.signature(constructor).parameters.values()
            bare = (str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters)
            lines += [f"  {name}({', '.join(bare)})", f"      {first}"]
        lines.append("")
    lines.append("Every optax optimizer works too: jaxflow.optim.traceable(optax.lion)(1e-4).")
    return "\n".join(lines)
